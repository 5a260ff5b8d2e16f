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
    return {
        "room": room,
        **identity(unit, files_of(config, unit)),
        "benchmark": unit.get("benchmark", unit["name"]),
        "settings": settings,
        "limit": config["limit"],
        "seed": seed,
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


def sentences_of(declared: dict) -> dict:
    return identity(declared, declared["files"]) | {"format": declared["format"]}


def training_sets(config: dict) -> dict[str, dict]:
    """The sets of sentences that this cell trains on, by the key that names each."""
    sets = {}
    if "data" in config["donor"] and config["merge"]["name"] != "keep":
        sets["donor.data"] = configuration.stereotypes(config["donor"]["data"])
    if "data" in config["debias"]:
        sets["debias.data"] = configuration.stereotypes(config["debias"]["data"])
    return sets


def place_of(config: dict, files: dict) -> dict:
    return {
        "files": files,
        "data": config["data"] and str(Path(config["data"]).absolute()),
        "cache": str(cache_of(config)),
    }


def cache_of(config: dict) -> Path:
    return Path(config["store"]).absolute() / "downloads"
