"""From the command line to checked cells, before anything runs."""

import difflib
import os
import re
import sys
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pipeline import config as configuration
from pipeline import sources
from pipeline.errors import CheckpointError, ConfigError, DataError, PipelineError, SourceError, StoreError
from pipeline.recipe.cell import CLASSIFIERS
from pipeline.stages.aggregate import axes
from pipeline.store import Store
from pipeline.sweep.words import cell_name


def expand(overrides: list[str], multirun: bool) -> tuple[list[dict], bool]:
    """Compose and check every cell of the grid. Returns them, and whether Hydra will treat it as a multirun.

    Hydra composes a cell only when its turn comes: a misspelt name in the last cell would show after hours.
    """
    from hydra import initialize_config_dir

    with initialize_config_dir(version_base="1.3", config_dir=str(configuration.CONF)):
        loader = GlobalHydra.instance().config_loader()

        def compose(these: list[str], mode: RunMode) -> DictConfig:
            return loader.load_configuration(config_name="config", overrides=these, run_mode=mode)

        try:
            parser = OverridesParser.create(config_loader=loader)
            parsed = parser.parse_overrides(overrides)
            swept_groups = tuple(f"{one.key_or_group}." for one in parsed if one.is_sweep_override())
            # a setting of a group that is swept belongs to its choices, not to the default one
            steady = [
                one.input_line
                for one in parsed
                if not one.is_sweep_override() and not one.key_or_group.startswith(swept_groups or ("\0",))
            ]
            head = compose(steady, RunMode.MULTIRUN)
            multirun = multirun or head.hydra.mode == RunMode.MULTIRUN
            if not multirun:
                swept = [one.input_line for one in parsed if one.is_sweep_override()]
                if swept:
                    raise ConfigError(f"{swept[0]} has several values and needs a multirun; add -m")
                grid = [overrides]
            else:
                declared = [f"{key}={value}" for key, value in (head.hydra.sweeper.get("params") or {}).items()]
                task = [
                    one
                    for one in parser.parse_overrides(declared)
                    if one.key_or_group not in {o.key_or_group for o in parsed}
                ] + parsed
                (grid,) = BasicSweeper.split_arguments(task, None)
            workers = head.hydra.launcher.get("n_jobs", 1)
            cells = [configuration.plain(_without_hydra(compose(list(each), RunMode.RUN))) for each in grid]
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_one_sentence(error)) from error
    for cell, each in zip(cells, grid, strict=True):
        configuration.check(cell)
        if any(key.startswith("merge.") or key in ("donor.models", "donor.shares") for key in as_dict(each)):
            _refuse_settings(cell)
        if any(key.startswith(("debias.", "donor.settings")) for key in as_dict(each)):
            _refuse_debiasing(cell)
    asked = [
        settle(cell, as_dict(each), workers) | {"overrides": as_dict(each)}
        for cell, each in zip(cells, grid, strict=True)
        if not configuration.excluded(cell)
    ]
    for entry in cells[0]["exclude"]:
        if not any(configuration.excluded(cell | {"exclude": [entry]}) for cell in cells):
            raise ConfigError(
                f"every entry of exclude should match a cell of the grid, found {entry} that matches none; change exclude="
            )
    for key in ("export", "push_to"):
        targets = [cell[key] for cell in asked if cell[key]]
        if len(set(targets)) < len(targets):
            raise ConfigError(
                f"{key} should be another place for every cell of a grid, found {targets[0]} twice; run the cells one by one"
            )
    if not asked:
        raise ConfigError("the grid should leave at least one cell, found every cell excluded; change exclude=")
    swept = axes(asked) if len(asked) > 1 else None
    for cell in asked:
        _refuse_on_this_model(cell, swept)
    return asked, multirun


def spelled(overrides: list[str]) -> list[str]:
    """The same overrides, with a setting of a group that is swept as a sweep of one value.

    Hydra looks up what is not swept in the group's default choice, which may not have it (`debias=dpo,negation
    debias.epochs=1`); what is swept belongs to the choice of each cell.
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    swept = tuple(f"{one.key_or_group}." for one in parsed if one.is_sweep_override())
    words = []
    for word, one in zip(overrides, parsed, strict=True):
        key, equals, value = word.partition("=")
        steady = not one.is_sweep_override() and not one.is_delete() and one.key_or_group.startswith(swept or ("\0",))
        words.append(f"{key}=choice({value})" if steady and equals and value else word)
    return words


def _refuse_settings(cell: dict) -> None:
    """Settings of a merge that its method refuses. Those of the YAMLs need no check, and methods import torch."""
    from pipeline import merging

    unit, donor = cell["merge"], cell["donor"]
    if unit["name"] in ("keep", "recipe"):
        return
    donors = len(donor["models"] or []) if "models" in donor else 1
    merging.bind(unit["name"], configuration.settings(unit)).check(
        cell["weight"] if unit["uses_weight"] else None, donor["shares"], donors
    )


def _refuse_debiasing(cell: dict) -> None:
    """Settings that a method which tunes on pairs refuses."""
    from pipeline import debiasing
    from pipeline.recipe.identity import units_on_data

    for group, unit in units_on_data(cell).items():
        if "select_on" in unit:
            with configuration.told_of(group):
                debiasing.settings(configuration.debias_method(unit))


def _refuse_on_this_model(cell: dict, swept: tuple[str, ...] | None) -> None:
    """Settings of a tuning that its base refuses, where that is known already: more units or layers than it has.

    Of a base that is not in the store yet the cell refuses them, before anything is trained or asked; a model that cannot
    be read is the cell's to tell.
    """
    from pipeline import recipe
    from pipeline.recipe.identity import units_on_data

    if not any("select_on" in unit for unit in units_on_data(cell).values()) or cell["stages"] == ["aggregate"]:
        return
    try:
        described = recipe.describe(cell, Store(Path(cell["store"])))
    except PipelineError:
        return
    if not described.base.exists or all(tuned.exists for tuned in described.tuned.values()):
        return
    try:
        recipe.refuse_tuning(described)
    except (CheckpointError, DataError, SourceError, StoreError):
        return
    except ConfigError as error:
        name = "" if swept is None else f" (cell {cell_name(cell, swept)}; exclude= leaves cells out of a grid)"
        raise ConfigError(f"{error}{name}") from error


def settle(config: dict, overrides: dict, workers: int) -> dict:
    """The cell as it will run: what must not be decided anew in every process.

    Another base than the YAML's takes neither its name, nor its prefix token, nor its hash, unless given too.
    Hub names get the revision that is current now. The cores are shared evenly among the launcher's workers.
    """
    given = {key.lstrip("+") for key in overrides}
    model, donor, machine = dict(config["model"]), dict(config["donor"]), dict(config["machine"])
    if config["stages"] == ["aggregate"]:
        return config
    if config["merge"]["name"] == "recipe":
        config = config | _from_recipe(config)
        model, donor = config["model"], config["donor"]
    elif "model.base" in given:
        own = {"name": model["base"].rstrip("/").split("/")[-1].split("@")[0], "prefix_token": None, "sha256": None}
        model |= {key: value for key, value in own.items() if f"model.{key}" not in given}
    cache = Path(config["store"]).absolute() / "downloads"
    model["base"] = sources.settled(model["base"], cache)
    if donor.get("models"):
        donor["models"] = [sources.settled(source, cache) for source in donor["models"]]
    for key in ("trained", "origin"):
        if donor.get(key):
            donor[key] = sources.settled(donor[key], cache)
    bias = dict(config["bias"])
    for key in CLASSIFIERS:
        if bias.get("judging", {}).get(key):
            bias["judging"] = {**bias["judging"], key: sources.settled(bias["judging"][key], cache)}
    accuracy = config["accuracy"]
    if isinstance(accuracy.get("tasks"), list):
        from pipeline import accuracy as room

        accuracy = room.expanded(accuracy, config["data"] and Path(config["data"]).absolute(), cache)
    cores = os.cpu_count() or 1
    machine["threads"] = machine["threads"] or max(1, cores // (cores if workers < 1 else workers))
    return config | {"model": model, "donor": donor, "bias": bias, "accuracy": accuracy, "machine": machine}


def _from_recipe(config: dict) -> dict:
    """merge=recipe: the models and the setting that the mergekit YAML merge.file describes."""
    from pipeline.merging.mergekit import reading

    file = Path(config["merge"]["file"]).expanduser()
    if not file.is_file():
        raise ConfigError(f"merge.file should be a mergekit YAML, found no file {file}; change merge.file=")
    described = reading.read(file.read_text(encoding="utf-8"), lambda name: Path(name).is_dir())
    unit = reading.unit(described)
    if described["dtype"] is not None:
        described["notes"].append(
            f"its dtype {described['dtype']} is not followed: arithmetic is in float32, the result has the base's dtype"
        )
    for note in described["notes"]:
        print(f"{file.name}: {note}", file=sys.stderr)
    base = {"name": unit["base"].rstrip("/").split("/")[-1].split("@")[0], "prefix_token": None, "sha256": None}
    return {
        **({"vocab": "base"} if described["tokenizer"] == "base" else {}),
        "model": {**config["model"], **base, "base": unit["base"]},
        "donor": {
            **configuration.plain_file(configuration.CONF / "donor" / "checkpoints.yaml"),
            "models": unit["donors"],
        },
        "merge": {**config["merge"], "recipe": unit["recipe"]},
    }


def as_dict(overrides) -> dict:
    """Overrides by key, less Hydra's own; Hydra escapes colons and the like when it writes a grid out."""
    pairs = (one.partition("=") for one in overrides if not one.lstrip("+").startswith(("hydra.", "hydra/")))
    return {key: re.sub(r"\\(.)", r"\1", value) for key, _, value in pairs}


def _without_hydra(config: DictConfig) -> DictConfig:
    with open_dict(config):
        config.pop("hydra", None)
    OmegaConf.resolve(config)
    return config


def _one_sentence(error: Exception) -> str:
    """Hydra's and OmegaConf's several lines as one sentence: expected, came, which key to change."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, came = error.missing_cfg_file.rpartition("/")
        return f"{group} should be one of {', '.join(error.options)}, found {came!r}; change {group}="
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found.group(1)
        if owners := _owners(key):
            return f"no setting is called {key!r} with this choice; it belongs to {', '.join(owners)}; choose {'it' if len(owners) == 1 else 'one'}, and none that lacks it"
        near = _likest(key)
        hint = f"did you mean {near}?" if near else f"`python -m pipeline --cfg job` lists those of {_group_of(key)}"
        return f"no setting is called {key!r} here; {hint}"
    if found := re.search(r"Missing mandatory value: \w+\s+full_key: ([\w.]+)", text):
        return f"{found.group(1)} has no default and needs a value; add {found.group(1)}="
    if found := re.search(r"Error merging override (\S+?)=", text):
        return f"{found.group(1)} has a value that it cannot take: {str(error.__cause__).splitlines()[0]}; change {found.group(1)}="
    lines = [
        line.strip()
        for line in text.splitlines()
        if line.strip() and not line.strip().startswith(("object_type=", "Config search path", "provider="))
    ]
    return " ".join(lines).replace("\t", " ")


def _likest(key: str) -> str | None:
    """The setting that was probably meant: of the same group, or of a group that was left out or misspelt."""
    group, _, name = key.rpartition(".")
    known = _known_keys()
    siblings = {one.rpartition(".")[2]: one for one in known if one.rpartition(".")[0] == group}
    if not group and (whole := [one for one in known if one.rpartition(".")[2] == name]):
        return whole[0]
    if group and siblings:
        return next((siblings[one] for one in difflib.get_close_matches(name, siblings, n=1)), None)
    return next(
        iter(difflib.get_close_matches(key, [one for one in known if one.count(".") == key.count(".")], n=1)), None
    )


def _group_of(key: str) -> str:
    """The group of a key where there is such a one, else the whole."""
    group = key.rpartition(".")[0]
    return group if any(known.startswith(f"{group}.") for known in _known_keys()) else "the configuration"


def _owners(key: str) -> list[str]:
    """The choices of a group that have this setting."""
    group, _, name = key.partition(".")
    if group not in ("donor", "merge", "debias", "bias", "accuracy"):
        return []
    return [
        f"{group}={choice}"
        for choice in configuration.choices(group)
        if _holds(configuration.plain_file(configuration.CONF / group / f"{choice}.yaml"), name)
    ]


def _holds(part, name: str) -> bool:
    """Whether a dotted name is a key of nested mappings."""
    first, _, rest = name.partition(".")
    return isinstance(part, dict) and first in part and (not rest or _holds(part[first], rest))


def _known_keys() -> list[str]:
    """Every key of the default configuration, dotted, for suggestions."""
    from hydra import compose

    def walk(part, place):
        for key, value in part.items():
            yield f"{place}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{place}{key}.")

    keys = set(walk(configuration.plain(_without_hydra(compose("config"))), ""))
    for group in ("donor", "merge", "debias", "bias", "accuracy"):
        for choice in configuration.choices(group):
            keys |= {f"{group}.{key}" for key in OmegaConf.load(configuration.CONF / group / f"{choice}.yaml")}
    return sorted(keys)
