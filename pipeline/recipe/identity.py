"""What a configuration means by its models and data: by content, wherever they lie."""

from pathlib import Path

from pipeline import config as configuration
from pipeline import hashes
from pipeline.errors import ConfigError, DataError


def exam_of(config: dict, room: str) -> dict:
    """What is asked, by content: everything that a mark can depend on but the model."""
    unit = config[room]
    if room == "accuracy":
        from pipeline import accuracy

        settings = {"name": unit["name"], **accuracy.identity(unit)}
    elif unit["benchmark"] == "lm_eval":
        from pipeline import accuracy, bias

        settings = configuration.settings(unit, "judging", "rows")
        bias.load("lm_eval").check(settings)
        settings |= {"definition": accuracy.definition(settings["task"]), "lm_eval": accuracy.version()}
        settings["hub"] = None if config["data"] else settings["hub"]
    else:
        settings = configuration.settings(unit, "judging")
    drawn = room == "bias" and unit["benchmark"] != "lm_eval" and config["limit"] is not None
    seed = config["seed"] if drawn else None  # elsewhere nothing is drawn
    halved = {"half": config["half"]} if room == "bias" and config["half"] else {}
    return {
        "room": room,
        **identity(unit, files_of(config, unit)),
        "benchmark": unit.get("benchmark", unit["name"]),
        "settings": settings,
        "limit": config["limit"],
        "seed": seed,
        **halved,
    }


def files_of(config: dict, unit: dict) -> dict:
    """The declared files of a data set; none where its rows come from the hub, because there is no data=DIR.

    Rows that the user names (`rows` of bias=lm_eval) are declared here, by the sha256 that they have now.
    """
    if not config["data"] and (unit.get("hub") or _has_own_hub(unit)):
        return {}
    if unit.get("benchmark") == "lm_eval":
        return {"rows": _named_by_the_user(config, unit)}
    return unit.get("files", {})


def _has_own_hub(unit: dict) -> bool:
    """Whether the tasks of an accuracy set each have a repository of their own."""
    tasks = unit.get("tasks")
    return isinstance(tasks, dict) and any(isinstance(task.get("hub"), dict) for task in tasks.values())


def _named_by_the_user(config: dict, unit: dict) -> dict:
    if not config["data"] or not unit["rows"]:
        raise ConfigError(
            f"bias=lm_eval should have data=DIR and bias.rows=FILE, the task's rows in it, or bias.hub={{repository: …, "
            f"revision: …}}, and has data={config['data']} and bias.rows={unit['rows']}: add them"
        )
    path = Path(config["data"]) / unit["rows"]
    if not path.is_file():
        raise DataError(f"bias.rows should be a file in the folder of the key data, found no {path}: change bias.rows")
    return {"path": unit["rows"], "sha256": hashes.cached_sha256(path, cache_of(config))}


def identity(declared: dict, files: dict) -> dict:
    """A declared data set by its name, version and the bytes of its files: where they lie does not count."""
    return {
        "name": declared["name"],
        "version": declared["version"],
        "files": {name: spec["sha256"] for name, spec in files.items()},
    }


def sentences_of(declared: dict, unit: dict | None = None) -> dict:
    """A set of sentences by content, and what of it a unit takes: `half` and `bias_types`, null for all."""
    asked = {"settings": declared.get("settings")} | {key: (unit or {}).get(key) for key in ("half", "bias_types")}
    told = {key: value for key, value in asked.items() if value}
    return identity(declared, declared["files"]) | {"format": declared["format"]} | told


def units_on_data(config: dict) -> dict[str, dict]:
    """The units of this cell that train on sentences, by their group; a donor that a debiasing makes is that debiasing."""
    donor = config["donor"]
    if donor["name"] == "debiased":
        donor = configuration.debiasing(donor["by"], donor["settings"] or {})
    units = {} if config["merge"]["name"] == "keep" else {"donor": donor}
    return {group: unit for group, unit in (units | {"debias": config["debias"]}).items() if "data" in unit}


def training_sets(config: dict) -> dict[str, tuple[dict, dict]]:
    """The sets of sentences that this cell trains on, each with its unit, by the key that names it."""
    return {
        f"{group}.data": (configuration.stereotypes(unit["data"]), unit)
        for group, unit in units_on_data(config).items()
    }


def selection_sets(config: dict) -> dict[str, tuple[dict, dict]]:
    """The bias sets by which an epoch is chosen, each with its unit, by the key that names it."""
    return {
        f"{group}.select_on": (configuration.bias_set(unit["select_on"]), unit)
        for group, unit in units_on_data(config).items()
        if unit.get("select_on") is not None
    }


def selection_of(config: dict, unit: dict) -> dict | None:
    """The exam that chooses among the epochs of a tuning: all items of one half, or of the whole set."""
    if unit["select_on"] is None:
        return None
    return exam_of(
        config | {"bias": configuration.bias_set(unit["select_on"]), "half": unit["select_half"], "limit": None}, "bias"
    )


def place_of(config: dict, files: dict) -> dict:
    return {
        "files": files,
        "data": config["data"] and str(Path(config["data"]).absolute()),
        "cache": str(cache_of(config)),
    }


def cache_of(config: dict) -> Path:
    return Path(config["store"]).absolute() / "downloads"
