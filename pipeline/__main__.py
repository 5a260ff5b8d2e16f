"""`python -m pipeline`: Hydra in, a cell or a sweep out; a mistake of the user's as one sentence."""

import sys
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pipeline import config as configuration
from pipeline import sweep
from pipeline.errors import PipelineError


@hydra.main(version_base="1.3", config_path=str(configuration.CONF), config_name="config")
def cell(config: DictConfig) -> None:
    """One cell, in whatever process Hydra's launcher chose."""
    job = HydraConfig.get()
    multirun = job.mode.name == "MULTIRUN"
    folder = Path(job.runtime.output_dir)
    plain = configuration.plain(config)
    if not configuration.excluded(plain):
        sweep.cell(
            plain,
            folder if multirun else folder / "0",
            folder.parent if multirun else folder,
            sweep.as_dict(job.overrides.task),
        )


def main() -> int:
    """Returns the exit code: 0 all well, 1 a cell without result, 2 refused before anything ran, 130 interrupted."""
    arguments = get_args_parser().parse_args()
    if arguments.help or arguments.hydra_help or arguments.cfg or arguments.info or arguments.shell_completion:
        cell()
        return 0
    try:
        cells, multirun = sweep.expand(arguments.overrides, arguments.multirun)
        if cells[0]["plan"]:
            sweep.plan(cells)
            return 0
        if cells[0]["stages"] == ["aggregate"]:
            return sweep.aggregate(sweep.Sweep.read(Path(cells[0]["sweep"])), cells[0]["pairs"])
    except PipelineError as error:
        sweep.complain(type(error).__name__, str(error))
        return 2
    sweep.announce(cells)
    if multirun:
        said = dict(zip(arguments.overrides, sweep.spelled(arguments.overrides), strict=True))
        sys.argv[1:] = [said.get(word, word) for word in sys.argv[1:]]
    interrupted = False
    try:
        cell()
    except KeyboardInterrupt:
        interrupted = True
    except SystemExit as stop:
        if stop.code == 2:  # refused while opening
            return 2
    code = sweep.close()  # whatever happened: a launcher's pool may have died under its cells
    return 130 if interrupted else code


if __name__ == "__main__":
    sys.exit(main())
