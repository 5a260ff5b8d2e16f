"""An accuracy set, ready to ask: requests out, answers in, marks out. Knows no model."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.accuracy import harness_tasks, tally
from pipeline.accuracy import settings as declared
from pipeline.accuracy.settings import TaskSettings
from pipeline.errors import ConfigError, DataError


class Exam:
    """The tasks of one accuracy set with their requests; made by `load`."""

    def __init__(
        self, settings: dict, tasks: list[tuple[TaskSettings, object]], between: tuple[float, float] = (0.0, 1.0)
    ):
        self.settings = settings
        self._tasks = tasks
        self._between = between

    def requests(self) -> list[tuple[str, str]]:
        """(context, continuation) of every option of every item, as lm-eval builds them, task after task."""
        return [tuple(instance.args) for _, task in self._tasks for instance in task.instances]

    def judge(self, answers: Sequence) -> pd.DataFrame:
        """One row an item: id, group (the task), cluster, value (the task's metric), chance (its expectation).

        `answers`: in the order of `requests`, each with `loglikelihood` (nats) and `greedy`. The value is what
        lm-eval's own process_results makes of them; nan where a log-likelihood is nan, because argmax would take
        the nan for the best option.

        Raises: DataError where there are not as many answers as requests; ConfigError where the metric is not a
        number per item.
        """
        expected = sum(len(task.instances) for _, task in self._tasks)
        if len(answers) != expected:
            raise DataError(
                f"accuracy set {self.settings['name']}: expected {expected} answers, one a request, "
                f"found {len(answers)}; the answers are those of another set or limit"
            )
        marks, start = [], 0
        for settings, task in self._tasks:
            end = start + len(task.instances)
            marks += _judge_task(settings, task, answers[start:end], self._between)
            start = end
        return pd.DataFrame(marks, columns=["id", "group", "cluster", "value", "chance"])

    def items(self) -> list[tuple[str, dict, list[int]]]:
        """(id, row, which of `requests` ask about it, in the order of the options) of every item, as `judge` has them."""
        told, start = [], 0
        for settings, task in self._tasks:
            place = {id(instance): start + number for number, instance in enumerate(task.instances)}
            for number, instances in harness_tasks.items(task):
                name = f"{settings.name}/{number}"
                told.append((name, instances[0].doc, [place[id(instance)] for instance in instances]))
            start += len(task.instances)
        return told

    def aggregations(self) -> dict[str, str]:
        """By task, the name of lm-eval's function that makes one number of the metric's values."""
        return {
            settings.name: getattr(task.aggregation().get(settings.metric), "__name__", "none")
            for settings, task in self._tasks
        }

    def metrics(self, marks: pd.DataFrame) -> dict[str, float]:
        """Accuracy of every task and their mean; see `tally.metrics`."""
        return tally.metrics(self.settings, marks)


def load(
    settings: dict, files: dict[str, Path], limit: int | None = None, between: tuple[float, float] = (0.0, 1.0)
) -> Exam:
    """The exam of conf/accuracy/<name>.yaml.

    settings: the YAML.
    files: where the files of the YAML's `files` lie, by name. The set's rows come from there; where `files` is
        empty, from the hub at the pinned revision, which then has every task with `hub: true`.
    limit: the first so many items of each task, at least 1; None = all.
    between: the range in which the metric gives each item a number.

    Raises: ConfigError, DataError.
    Reference: Gao et al., A framework for few-shot language model evaluation (lm-eval), 2024.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ConfigError(
            f"limit should be null (all items) or a whole number of at least 1, found {limit!r}; change limit="
        )
    tasks = declared.tasks(settings)
    hub = None if files else settings.get("hub")
    if not files and hub is None:
        raise DataError(f"accuracy set {settings['name']} is not on the hub and needs its files, found none")
    chosen = [task for task in tasks if (task.hub if hub else task.rows is not None)]
    wanted = {task.rows for task in chosen} | {_file(task) for task in chosen} - {None}
    missing = [] if hub else sorted(wanted - set(files))
    if missing:
        raise DataError(
            f"accuracy set {settings['name']} needs the files {', '.join(missing)}, "
            f"found only {', '.join(sorted(files))}"
        )
    exam = Exam(settings, [(task, harness_tasks.build(task, files, hub, limit)) for task in chosen], between)
    for task, built in exam._tasks:
        _refuse_unfit_metric(task, built, between)
    return exam


def _file(task: TaskSettings) -> str | None:
    kind, _, name = task.definition.partition(":")
    return name if kind == "file" else None


def _judge_task(settings: TaskSettings, task, answers: Sequence, between: tuple[float, float]) -> list[tuple]:
    for instance, answer in zip(task.instances, answers, strict=True):
        instance.resps, instance.filtered_resps = [(answer.loglikelihood, answer.greedy)], {}
    task.apply_filters()
    marks = []
    for number, instances in harness_tasks.items(task):
        doc = instances[0].doc
        results = [next(iter(instance.filtered_resps.values())) for instance in instances]
        broken = any(math.isnan(loglikelihood) for loglikelihood, _ in results)
        value = math.nan if broken else _value(settings, task, doc, results, between)
        chance = settings.chance if settings.chance is not None else _chance(settings, task, doc, len(instances))
        name = f"{settings.name}/{number}"
        marks.append((name, settings.name, _cluster(settings, doc) or name, value, float(chance)))
    return marks


def _value(
    settings: TaskSettings,
    task,
    doc: dict,
    results: list[tuple[float, bool]],
    between: tuple[float, float] = (0.0, 1.0),
) -> float:
    value = task.process_results(doc, results).get(settings.metric)
    if not isinstance(value, (int, float, np.number)) or not between[0] <= value <= between[1]:
        raise ConfigError(
            f"metric of task {settings.name} should give each item a number in [{between[0]:g}, {between[1]:g}], "
            f"found {settings.metric} = {value!r}; choose another metric or range"
        )
    return float(value)


def _chance(settings: TaskSettings, task, doc: dict, options: int) -> float:
    """The mean of the metric over all options, each in turn taken for the model's choice."""
    choices = [[(0.0 if one == choice else -1e6, one == choice) for one in range(options)] for choice in range(options)]
    return float(np.mean([_value(settings, task, doc, results) for results in choices]))


def _cluster(settings: TaskSettings, doc: dict) -> str | None:
    if settings.cluster is None:
        return None
    if settings.cluster not in doc:
        raise ConfigError(
            f"cluster of task {settings.name} should be a column of its rows ({', '.join(doc)}), "
            f"found {settings.cluster!r}; change conf/accuracy"
        )
    text = str(doc[settings.cluster])
    return f"{settings.name}/{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _refuse_unfit_metric(settings: TaskSettings, task, between: tuple[float, float]) -> None:
    """Judge one item on made-up answers, so that a metric that fits no item is refused before the model is asked."""
    _, instances = harness_tasks.items(task)[0]
    _value(settings, task, instances[0].doc, [(-1.0 - instance.idx, False) for instance in instances], between)
    _cluster(settings, instances[0].doc)
