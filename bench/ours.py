"""One merge by the merge stage, as a process of its own: python bench/ours.py METHOD OUT WEIGHTS BASE DONOR... [key=value]

The part of `python -m pipeline stages=[merge]` that merges: the store around it, which hashes what comes in and what goes
out, is left out, because mergekit has none.
"""

import gc
import sys
from pathlib import Path

import yaml

from pipeline import config as configuration
from pipeline.stages import merge as stages

CONF = Path(__file__).resolve().parents[1] / "conf" / "merge"


def main(name: str, out: str, weights: str, *rest: str) -> None:
    changed = {key: yaml.safe_load(value) for key, value in (each.split("=", 1) for each in rest if "=" in each)}
    base, *donors = [Path(each) for each in rest if "=" not in each]
    threads = changed.pop("threads", 2)
    unit = yaml.safe_load((CONF / f"{name}.yaml").read_text()) | changed
    method = {"name": unit["name"], "version": unit["version"], **configuration.settings(unit)}
    shared = {"base": base, "donors": donors, "shares": None, "machine": {"device": "cpu", "threads": threads}}
    if unit.get("keeps_end"):
        shared["end"] = Path(out) / "end"
        shared["end"].mkdir(parents=True)
        along = {key: value for key, value in method.items() if key != "scale"}
        stages.line_end(shared["end"], method=along, **{key: value for key, value in shared.items() if key != "end"})
    for weight in weights.split(","):
        folder = Path(out) / f"weight-{weight}"
        folder.mkdir(parents=True)
        recipe = {"base": {"source": f"path:{base}"}, "donors": [{"source": f"path:{donor}"} for donor in donors]}
        stages.merge(folder, method=method, weight=float(weight), recipe=recipe, **shared)


if __name__ == "__main__":
    gc.disable()  # while modules are imported, as pipeline/preload.py, which imports them once for all cells
    import pipeline.merging.streaming  # noqa: F401

    gc.freeze()
    gc.enable()
    main(*sys.argv[1:])
