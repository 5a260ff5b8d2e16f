"""One task of lm-eval, its definition untouched, its rows from a given file or from a pinned revision of the hub."""

import contextlib
import importlib.util
import io
import logging
import random
import re
import tempfile
from pathlib import Path

import numpy
import yaml

from pipeline.accuracy import rows
from pipeline.accuracy.perturb import perturbed
from pipeline.accuracy.settings import TaskSettings
from pipeline.errors import ConfigError, DataError
from pipeline.requests import Chat

HERE = Path(__file__).resolve().parent
KINDS = ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until")


FEWSHOT_SEED = 1234  # of lm-eval's command line: the same examples in the prompt


def _fewer(one: int | None, other: int | None) -> int | None:
    """The smaller of two limits, null being none."""
    return min((each for each in (one, other) if each is not None), default=None)


def build(
    settings: TaskSettings,
    files: dict[str, Path],
    hub: dict | None,
    limit: int | None,
    draw: int = 0,
    chat: Chat | None = None,
):
    """lm-eval's task object with its requests built: the first `limit` items.

    hub   {repository, revision, name} where the rows come from the hub; None where they come from `files`
    draw  of the perturbations
    chat  a chat template: the prompt is the user's turn, each solved example two turns before it, as lm-eval builds it

    Raises: ConfigError where the task samples, repeats, or has no such metric or filter;
    DataError where rows are missing, malformed or have a label that is no option.
    """
    from jinja2 import UndefinedError

    path = None if hub else files[settings.rows]
    where = f"{hub['repository']} at {hub['revision']}" if hub else str(path)
    definition = _definition(settings, files)
    if settings.definition.startswith("lm_eval:") and re.search(
        r"^unsafe_code:\s*true", definition.read_text(encoding="utf-8"), re.MULTILINE
    ):
        raise ConfigError(
            f"task {settings.name} runs programs that the model writes: use accuracy=generation, which limits them"
        )
    try:
        with tempfile.TemporaryDirectory(prefix="pipeline-accuracy-") as scratch, _quiet(), _same_chance():
            if path and path.suffix == ".raw":
                path = rows.pages(path, Path(scratch))
            examples = files[settings.fewshot_rows] if path and settings.fewshot_rows else None
            for each in (path, examples):
                if each:
                    rows.check(each, settings.may_be_null)
            task = _load(definition, Path(scratch), settings, _overrides(path, examples, hub, scratch))
            _refuse_other_kinds(task, settings)
            if settings.perturb:
                _perturb(task, settings, draw)
            if task.config.num_fewshot:
                _refuse_lack_of_examples(task, settings, path, examples)
                task.set_fewshot_seed(FEWSHOT_SEED)
            # The bar that lm-eval draws for each task says nothing: building takes a second.
            with contextlib.redirect_stderr(io.StringIO()):
                spoken = (
                    {"apply_chat_template": True, "chat_template": chat, "fewshot_as_multiturn": True} if chat else {}
                )
                least = _fewer(limit, settings.limit)
                task.build_all_requests(limit=least, rank=0, world_size=1, cache_requests=False, **spoken)
    except (UndefinedError, KeyError) as error:
        raise DataError(f"{where} lacks a column that the prompt of task {settings.name} asks for: {error}") from error
    _refuse_unknown_labels(task, where)
    return task


@contextlib.contextmanager
def _same_chance():
    """Some tasks of lm-eval shuffle their options by `random`: built again, to be judged or as a chat, they are the same."""
    python, array = random.getstate(), numpy.random.get_state()
    random.seed(0)  # as lm-eval's command line does, and 1234 for numpy
    numpy.random.seed(1234)
    try:
        yield
    finally:
        random.setstate(python)
        numpy.random.set_state(array)


def items(task) -> list[tuple[int, list]]:
    """(number of the document, its requests in the order of the options) of every item asked."""
    found: dict[int, list] = {}
    for instance in task.instances:
        found.setdefault(instance.doc_id, []).append(instance)
    return [(number, sorted(instances, key=lambda instance: instance.idx)) for number, instances in found.items()]


def _refuse_lack_of_examples(task, settings: TaskSettings, path: Path | None, examples: Path | None) -> None:
    """lm-eval would take the examples from the rows that are asked."""
    own = getattr(task.config.fewshot_config, "samples", None)
    if path and not examples and not own:
        raise ConfigError(
            f"task {settings.name} shows {task.config.num_fewshot} solved examples, which its file of rows has not: "
            "leave data= out, or choose another task"
        )


def _perturb(task, settings: TaskSettings, draw: int) -> None:
    """The rows that are asked, with a blemish in their declared columns."""
    split = task.config.test_split or task.config.validation_split
    missing = [column for column in settings.text if column not in task.dataset[split].column_names]
    if missing:
        raise ConfigError(
            f"text of task {settings.name} should name columns of its rows "
            f"({', '.join(task.dataset[split].column_names)}), found {missing[0]!r}; change conf/accuracy"
        )
    task.dataset[split] = task.dataset[split].map(
        lambda row: {column: perturbed(row[column], settings.perturb, draw) for column in settings.text},
        load_from_cache_file=False,
    )


def _load(definition: Path, scratch: Path, settings: TaskSettings, overrides: dict):
    """The task of a YAML that includes the definition by its absolute path.

    In 0.4.13 a dict of overrides at the top level loses the include, so the YAML has to be a file.
    """
    from datasets.exceptions import DatasetsError
    from lm_eval.tasks import TaskManager

    name, redirected = settings.name, scratch / "task.yaml"
    few = {} if settings.num_fewshot is None else {"num_fewshot": settings.num_fewshot}
    told = {"include": str(definition), "task": name, **few, **overrides}
    redirected.write_text(yaml.safe_dump(told))
    try:
        return TaskManager(include_defaults=False).load(str(redirected))["tasks"][name]
    except (DatasetsError, OSError) as error:
        if "revision" in overrides["dataset_kwargs"]:
            raise DataError(
                f"the rows of task {name} should come from {overrides['dataset_path']} on the hub, found no way to "
                f"load them ({_first_line(error)}); set data= to a folder that has them"
            ) from error
        raise DataError(f"the rows of task {name} should load as one table, found {_first_line(error)}") from error


def _overrides(path: Path | None, examples: Path | None, hub: dict | None, scratch: str) -> dict:
    """Where the rows come from, and those of the solved examples in a prompt."""
    if hub:
        return {
            "dataset_path": hub["repository"],
            "dataset_kwargs": {"revision": hub["revision"]},
            **({"dataset_name": hub["name"]} if "name" in hub else {}),
            **({} if hub.get("train") else {"training_split": None}),
        }
    # A cache folder of its own, and the table in memory: the shared cache of datasets tells files apart by path and
    # time of change, so it could answer with the rows of an older file.
    return {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {"validation": str(path)} | ({"examples": str(examples)} if examples else {}),
            "cache_dir": scratch,
            "keep_in_memory": True,
        },
        "training_split": None,
        "validation_split": "validation",
        "test_split": None,
        "fewshot_split": "examples" if examples else None,
    }


def _definition(settings: TaskSettings, files: dict[str, Path]) -> Path:
    kind, _, name = settings.definition.partition(":")
    if kind == "file":
        return files[name].resolve()
    folder = Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks" if kind == "lm_eval" else HERE
    path = folder / name
    if not path.is_file():
        raise ConfigError(
            f"definition of task {settings.name} should be a YAML in {folder}, found no {name}; "
            "install the pinned lm-eval or change conf/accuracy"
        )
    return path


def _refuse_other_kinds(task, settings: TaskSettings) -> None:
    if task.OUTPUT_TYPE not in KINDS or task.config.repeats != 1:
        raise ConfigError(
            f"task {settings.name} should be of output_type {', '.join(KINDS)} and ask once, found "
            f"{task.OUTPUT_TYPE}, {task.config.repeats} times; take it out of conf/accuracy"
        )
    names = [each.name for each in task._filters]
    if (settings.filter is None and len(names) != 1) or (settings.filter is not None and settings.filter not in names):
        raise ConfigError(
            f"filter of task {settings.name} should be one of {', '.join(names)}, found {settings.filter}; "
            "change conf/accuracy"
        )


def _refuse_unknown_labels(task, where: str) -> None:
    """lm-eval marks an item whose label is no option as wrong, with a warning at most (-1: without one)."""
    if task.OUTPUT_TYPE != "multiple_choice" or task.config.process_results is not None:
        return
    for number, instances in items(task):
        doc = instances[0].doc
        options = task.doc_to_choice(doc)
        label = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
        labels = label if isinstance(label, list) else [label]
        known = all(0 <= one < len(options) if isinstance(one, int) else one in options for one in labels)
        if not (known and labels):
            raise DataError(
                f"{where}, row {number + 1}: expected a label among the {len(options)} options "
                f"of task {task.config.task}, found {label!r}"
            )


@contextlib.contextmanager
def _quiet():
    """lm-eval warns, task by task, that it uses its own defaults; datasets draws a bar for every step."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger, bars = logging.getLogger("lm_eval"), not are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            enable_progress_bars()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)
