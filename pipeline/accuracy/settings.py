"""The declaration of an accuracy set, conf/accuracy/<name>.yaml, checked before anything is read."""

import importlib.metadata
import math
import re
from dataclasses import dataclass, fields

from pipeline.errors import ConfigError

RESERVED = ("accuracy", "chance", "tasks_in_mean")  # names of the metrics that are not a task


@dataclass(frozen=True)
class TaskSettings:
    """One task of an accuracy set. Every key stands in the YAML; nothing has a default."""

    name: str  # the column of the table
    definition: str  # lm-eval's YAML: lm_eval:<below lm_eval/tasks>, file:<name in files>, ours:<beside this file>
    rows: str | None  # the name in `files` of its rows, jsonl; null = only the hub has them
    hub: bool  # asked where the rows come from the hub
    metric: str  # one of the task's metrics that gives each item a number in [0, 1]
    chance: float | None  # its expectation under uniform guessing; null = computed item by item
    in_mean: bool  # counts in the mean over the tasks
    cluster: str | None  # the column whose equal values share a passage or question; null = every item for itself


def tasks(settings: dict) -> list[TaskSettings]:
    """The tasks of the set, in the order of the YAML; raises ConfigError."""
    where = f"conf/accuracy/{settings.get('name')}.yaml"
    declared = settings.get("tasks")
    if not isinstance(declared, dict) or not declared:
        raise ConfigError(f"{where}: tasks should map names to tasks, found {declared!r}")
    found = [_task(where, name, keys) for name, keys in declared.items()]
    hub = settings.get("hub")
    if hub is None and any(task.hub for task in found):
        raise ConfigError(f"{where}: a task has hub: true, but hub (repository, revision) is null")
    if hub is not None and not re.fullmatch("[0-9a-f]{40}", str(hub.get("revision"))):
        raise ConfigError(f"{where}: hub.revision should be a commit (40 hex digits), found {hub.get('revision')!r}")
    if not any(task.in_mean for task in found):
        raise ConfigError(f"{where}: at least one task should have in_mean: true, found none")
    return found


def identity(settings: dict) -> dict:
    """What the items and their marks depend on beside the files: the tasks, the hub's revision, lm-eval's version."""
    tasks(settings)
    return {"tasks": settings["tasks"], "hub": settings.get("hub"), "lm_eval": version()}


def version() -> str:
    """lm-eval's version, on which everything depends that it asks and judges."""
    return importlib.metadata.version("lm_eval")


def _task(where: str, name: str, keys: dict) -> TaskSettings:
    wanted = {field.name for field in fields(TaskSettings)} - {"name"}
    if not isinstance(keys, dict) or set(keys) != wanted:
        came = sorted(keys) if isinstance(keys, dict) else keys
        raise ConfigError(f"{where}: task {name} should have the keys {', '.join(sorted(wanted))}, found {came}")
    if name in RESERVED or "/" in name:
        raise ConfigError(f"{where}: a task cannot be called {name!r}; rename it")
    if keys["definition"].partition(":")[0] not in ("lm_eval", "file", "ours"):
        raise ConfigError(
            f"{where}: definition of {name} should start with lm_eval:, file: or ours:, found {keys['definition']!r}"
        )
    if keys["rows"] is None and not keys["hub"]:
        raise ConfigError(f"{where}: task {name} should have rows or hub: true, found neither")
    if keys["hub"] and keys["definition"].startswith("file:"):
        raise ConfigError(
            f"{where}: task {name} has hub: true, so its definition should not be one of the files, "
            f"found {keys['definition']}"
        )
    chance = keys["chance"]
    if chance is not None and not (isinstance(chance, (int, float)) and math.isfinite(chance) and 0 <= chance < 1):
        raise ConfigError(f"{where}: chance of {name} should be null or a share in [0, 1), found {chance!r}")
    return TaskSettings(name=name, **keys)
