"""Any of lm-eval's tasks, by name: a list of names becomes the declaration of a set."""

import functools
import importlib.util
from pathlib import Path

import yaml

from pipeline import hashes
from pipeline.accuracy.find import definition
from pipeline.errors import ConfigError, DataError

SPLITS = ("test", "validation")


def expanded(unit: dict, data: Path | None, cache: Path) -> dict:
    """The set that a list of task names means: tasks, and files where they come from a folder.

    data   the folder with <task>/<split>.jsonl; None = the hub, at its current revision
    cache  remembers hashes of files
    Raises ConfigError for a name that lm-eval has not, or a task that cannot be judged item by item.
    """
    names = unit["tasks"]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"accuracy.tasks should be a list of names of lm-eval's tasks in brackets, found {names!r}")
    tasks, files = {}, {}
    for name in dict.fromkeys(names):
        defined = definition(name)
        task = _read(Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks" / defined.partition(":")[2])
        few = task.get("num_fewshot") or 0 if unit["num_fewshot"] is None else unit["num_fewshot"]
        rows, examples = _files(name, data, bool(few), files, cache)
        tasks[name] = {
            "definition": defined,
            "rows": rows,
            "hub": False if data else _hub(name, task),
            "metric": unit["metric"] or _metric(name, task),
            "chance": None,
            "in_mean": True,
            "cluster": None,
            "num_fewshot": few,
            "fewshot_rows": examples,
            "filter": _filter(task),
        }
        _say(name, tasks[name])
        if task.get("unsafe_code"):
            raise ConfigError(
                f"accuracy.tasks should run no code of a model, found {name}: use accuracy=generation, which limits it"
            )
    return {"name": unit["name"], "version": unit["version"], "hub": None, "tasks": tasks, "files": files}


class _Loader(yaml.SafeLoader):
    """Of a definition only plain values are looked at."""


_Loader.add_multi_constructor("!", lambda loader, tag, node: None)


def _read(path: Path) -> dict:
    told = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    included = told.pop("include", None)
    for each in [included] if isinstance(included, str) else included or []:
        told = _read(path.parent / each) | told
    return told


@functools.cache
def _once(words: str) -> None:
    print(words, flush=True)


def _say(name: str, chosen: dict) -> None:
    """What was chosen for the user, once a process: a metric or a filter by default is no small thing."""
    by = f", filter {chosen['filter']}" if chosen["filter"] else ""
    _once(f"{name}: metric {chosen['metric']}{by}, {chosen['num_fewshot']} solved examples")


def _files(name: str, data: Path | None, few: bool, files: dict, cache: Path) -> tuple[str | None, str | None]:
    if data is None:
        return None, None
    rows = next((split for split in SPLITS if (Path(data) / name / f"{split}.jsonl").is_file()), None)
    if rows is None:
        raise DataError(
            f"{data} should have {name}/test.jsonl or {name}/validation.jsonl, found neither; leave data= out to download"
        )
    wanted = {rows: None, "train": None} if few else {rows: None}
    for split in wanted:
        path = Path(data) / name / f"{split}.jsonl"
        if not path.is_file():
            raise DataError(
                f"{data} should have {name}/train.jsonl for the examples in the prompt, found none; say accuracy.num_fewshot=0"
            )
        files[f"{name}.{split}.jsonl"] = {"path": f"{name}/{split}.jsonl", "sha256": hashes.cached_sha256(path, cache)}
        wanted[split] = f"{name}.{split}.jsonl"
    return wanted[rows], wanted.get("train")


def _hub(name: str, task: dict) -> dict:
    """The repository at the commit that is current now."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    repository = task["dataset_path"]
    try:
        revision = HfApi().dataset_info(repository, timeout=20).sha
    except (HfHubHTTPError, OSError) as error:
        raise DataError(
            f"the rows of {name} should come from {repository} on the hub, which cannot be reached "
            f"({type(error).__name__}): give data=DIR with {name}/test.jsonl or {name}/validation.jsonl"
        ) from error
    print(f"{name}: {repository}@{revision}")
    return {"repository": repository, "revision": revision, "train": True}


def _metric(name: str, task: dict) -> str:
    metrics = [each["metric"] for each in task.get("metric_list") or [] if isinstance(each.get("metric"), str)]
    if not metrics:
        raise ConfigError(f"task {name} names no metric that can be judged item by item: set accuracy.metric")
    return "acc" if "acc" in metrics else metrics[0]


def _filter(task: dict) -> str | None:
    """A task with several filters is judged by its last one, the most lenient as a rule (flexible-extract)."""
    filters = [each["name"] for each in task.get("filter_list") or []]
    return filters[-1] if len(filters) > 1 else None
