"""The declaration of an accuracy set, conf/accuracy/<name>.yaml, checked before anything is read."""

import importlib.metadata
import math
import re
from dataclasses import MISSING, dataclass, fields

from pipeline.accuracy.perturb import KINDS
from pipeline.errors import ConfigError

RESERVED = ("accuracy", "chance", "tasks_in_mean", "skill")  # names of the metrics that are not a task
SCALES = ("share", "perplexity")


@dataclass(frozen=True)
class TaskSettings:
    """One task of an accuracy set. The first seven keys stand in the YAML of every task."""

    name: str  # the column of the table
    definition: str  # lm-eval's YAML: lm_eval:<below lm_eval/tasks>, file:<name in files>, ours:<beside this file>
    rows: str | None  # the name in `files` of its rows, jsonl; null = only the hub has them
    hub: bool | dict  # asked where the rows come from the hub: the set's, or {repository, revision, name} of its own
    metric: str  # one of the task's metrics that gives each item a number in [0, 1]
    chance: float | None  # its expectation under uniform guessing; null = computed item by item
    in_mean: bool  # counts in the mean over the tasks
    cluster: str | None  # the column whose equal values share a passage or question; null = every item for itself
    skill: str | None = None  # what it takes: tasks of one skill have a mean of their own
    scale: str = "share"  # share: the metric lies in [0, 1]; perplexity: exp of the mean loss a word, byte or item
    filter: str | None = None  # the one of the task's filters whose answers count; null = its only one
    num_fewshot: int | None = 0  # solved examples in the prompt; null = what the task's definition says
    fewshot_rows: str | None = None  # the name in `files` of the examples, jsonl, where rows come from files
    perturb: str | None = None  # typos, word_overlap, negation or length_mismatch: see perturb.py
    text: tuple[str, ...] = ()  # the columns that are perturbed
    clean: str | None = None  # the task that this is the perturbed one of
    runs_code: bool = False  # judged by running what the model wrote
    limit: int | None = (
        None  # the first so many items at most, of a task whose items are long; the key `limit` may say fewer
    )
    may_be_null: tuple[str, ...] = ()  # columns of the rows that no prompt looks at


def tasks(settings: dict) -> list[TaskSettings]:
    """The tasks of the set, in the order of the YAML; raises ConfigError."""
    where = f"conf/accuracy/{settings.get('name')}.yaml"
    declared = settings.get("tasks")
    if not isinstance(declared, dict) or not declared:
        raise ConfigError(f"{where}: tasks should map names to tasks, found {declared!r}")
    found = [_task(where, name, keys) for name, keys in declared.items()]
    hub = settings.get("hub")
    if hub is None and any(task.hub is True for task in found):
        raise ConfigError(f"{where}: a task has hub: true, but hub (repository, revision) is null")
    if hub is not None and not re.fullmatch("[0-9a-f]{40}", str(hub.get("revision"))):
        raise ConfigError(f"{where}: hub.revision should be a commit (40 hex digits), found {hub.get('revision')!r}")
    if not any(task.in_mean for task in found):
        raise ConfigError(f"{where}: at least one task should have in_mean: true, found none")
    return found


def identity(settings: dict) -> dict:
    """What the items and their marks depend on beside the files: the tasks, the hub's revision, lm-eval's version."""
    tasks(settings)
    return {
        "tasks": {task.name: settings["tasks"][task.name] for task in allowed(settings)},
        "allow_code_execution": bool(settings.get("allow_code_execution")),
        "hub": settings.get("hub"),
        "draw": settings.get("draw", 0),
        "lm_eval": version(),
    }


def left_out(settings: dict) -> list[str]:
    """The tasks that are not asked, because nobody allowed code of a model to run."""
    asked = {task.name for task in allowed(settings)}
    return [task.name for task in tasks(settings) if task.name not in asked]


def allowed(settings: dict) -> list[TaskSettings]:
    """The tasks that are asked: those that run what a model wrote only with allow_code_execution=true in the set."""
    found = [task for task in tasks(settings) if settings.get("allow_code_execution") or not task.runs_code]
    if not found:
        raise ConfigError(
            f"every task of conf/accuracy/{settings.get('name')}.yaml runs code that a model wrote: set "
            "accuracy.allow_code_execution=true on a machine where that may do no harm"
        )
    return found


def version() -> str:
    """lm-eval's version, on which everything depends that it asks and judges."""
    return importlib.metadata.version("lm_eval")


def _task(where: str, name: str, keys: dict) -> TaskSettings:
    known = {field.name for field in fields(TaskSettings)} - {"name"}
    wanted = {field.name for field in fields(TaskSettings) if field.default is MISSING} - {"name"}
    if not isinstance(keys, dict) or not wanted <= set(keys) <= known:
        came = sorted(keys) if isinstance(keys, dict) else keys
        raise ConfigError(
            f"{where}: task {name} should have the keys {', '.join(sorted(wanted))} and may have "
            f"{', '.join(sorted(known - wanted))}, found {came}"
        )
    if name in RESERVED or "/" in name:
        raise ConfigError(f"{where}: a task cannot be called {name!r}; rename it")
    if keys["definition"].partition(":")[0] not in ("lm_eval", "file", "ours"):
        raise ConfigError(
            f"{where}: definition of {name} should start with lm_eval:, file: or ours:, found {keys['definition']!r}"
        )
    if isinstance(keys["hub"], dict) and not re.fullmatch("[0-9a-f]{40}", str(keys["hub"].get("revision"))):
        raise ConfigError(
            f"{where}: hub.revision of {name} should be a commit (40 hex digits), found {keys['hub'].get('revision')!r}"
        )
    for key, choices in (("scale", SCALES), ("perturb", (None, *KINDS))):
        if keys.get(key, choices[0]) not in choices:
            raise ConfigError(f"{where}: {key} of {name} should be one of {choices}, found {keys[key]!r}")
    if bool(keys.get("perturb")) != bool(keys.get("text")):
        raise ConfigError(f"{where}: a perturbed task needs perturb and text, and {name} has one of them")
    if keys.get("scale") == "perplexity" and keys["in_mean"]:
        raise ConfigError(f"{where}: a perplexity is in no mean: set in_mean: false for {name}")
    few = keys.get("num_fewshot", 0)
    if few is not None and (isinstance(few, bool) or not isinstance(few, int) or few < 0):
        raise ConfigError(f"{where}: num_fewshot of {name} should be a whole number from 0 on, found {few!r}")
    most = keys.get("limit")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise ConfigError(f"{where}: limit of {name} should be null or a whole number from 1 on, found {most!r}")
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
    return TaskSettings(
        name=name, **{key: tuple(v) if key in ("text", "may_be_null") else v for key, v in keys.items()}
    )
