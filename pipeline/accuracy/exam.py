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
from pipeline.requests import Chat, Request


class Exam:
    """The tasks of one accuracy set with their requests; made by `load`."""

    def __init__(
        self, settings: dict, tasks: list[tuple[TaskSettings, object]], between: tuple[float, float] = (0.0, 1.0)
    ):
        self.settings = settings
        self._tasks = tasks
        self._between = between

    def requests(self) -> list[Request]:
        """Every request of every item, as lm-eval builds them, task after task."""
        from pipeline.harness_requests import request

        return [request(instance) for _, task in self._tasks for instance in task.instances]

    def judge(self, answers: Sequence) -> pd.DataFrame:
        """One row an item: id, group (the task), cluster, value (the task's metric), chance (its expectation), weight.

        Of a perplexity the value is the loss in nats, and the weight the words or bytes that it is of; elsewhere 1.
        `answers`: in the order of `requests`, as pipeline/requests.py has them. The value is what
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
        return pd.DataFrame(marks, columns=["id", "group", "cluster", "value", "chance", "weight"])

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
    settings: dict,
    files: dict[str, Path],
    limit: int | None = None,
    between: tuple[float, float] = (0.0, 1.0),
    of_accuracy: bool = True,
    chat: Chat | None = None,
) -> Exam:
    """The exam of conf/accuracy/<name>.yaml.

    settings: the YAML.
    files: where the files of the YAML's `files` lie, by name. The set's rows come from there; where `files` is
        empty, from the hub at the pinned revision, which then has every task with `hub: true`.
    limit: the first so many items of each task, at least 1; None = all.
    between: the range in which the metric gives each item a number.
    of_accuracy: refuse a metric of which less is better, or that is no mean over the items.
    chat: a chat template, by which every prompt is the user's turn; the requests are as many, in the same order.

    Raises: ConfigError, DataError.
    Reference: Gao et al., A framework for few-shot language model evaluation (lm-eval), 2024.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ConfigError(
            f"limit should be null (all items) or a whole number of at least 1, found {limit!r}; change limit="
        )
    tasks = declared.allowed(settings)
    hub = not files
    if hub and settings.get("hub") is None and not any(isinstance(task.hub, dict) for task in tasks):
        raise DataError(f"accuracy set {settings['name']} is not on the hub and needs its files, found none")
    chosen = [task for task in tasks if (task.hub if hub else task.rows is not None)]
    wanted = {name for task in chosen for name in (task.rows, task.fewshot_rows, _file(task))} - {None}
    missing = [] if hub else sorted(wanted - set(files))
    if missing:
        raise DataError(
            f"accuracy set {settings['name']} needs the files {', '.join(missing)}, "
            f"found only {', '.join(sorted(files))}"
        )
    draw = settings.get("draw", 0)
    places = {task.name: (task.hub if isinstance(task.hub, dict) else settings.get("hub")) for task in chosen}
    built = [
        (task, harness_tasks.build(task, files, places[task.name] if hub else None, limit, draw, chat))
        for task in chosen
    ]
    exam = Exam(settings, built, between)
    for task, made in exam._tasks:
        _refuse_unfit_metric(task, made, between)
        if of_accuracy and task.in_mean:
            _refuse_no_accuracy(exam, task, made)
    return exam


def _refuse_no_accuracy(exam: Exam, task: TaskSettings, made) -> None:
    """Of an accuracy more is better, and it is a mean over items."""
    if made.higher_is_better().get(task.metric) is False:
        raise ConfigError(
            f"metric of task {task.name} should be better where it is higher, and {task.metric} is not; choose another"
        )
    aggregation = exam.aggregations()[task.name]
    if task.scale == "share" and aggregation not in ("mean", "none"):
        raise ConfigError(
            f"metric of task {task.name} should be the mean over the items, found {task.metric} by way of {aggregation}; "
            "choose another metric"
        )


def _file(task: TaskSettings) -> str | None:
    kind, _, name = task.definition.partition(":")
    return name if kind == "file" else None


def _judge_task(settings: TaskSettings, task, answers: Sequence, between: tuple[float, float]) -> list[tuple]:
    said = {id(instance): answer for instance, answer in zip(task.instances, answers, strict=True)}
    for instance, answer in zip(task.instances, answers, strict=True):
        instance.resps, instance.filtered_resps = [_response(task, answer)], {}
    task.apply_filters()
    marks = []
    for number, instances in harness_tasks.items(task):
        doc = instances[0].doc
        results = [_filtered(settings, instance) for instance in instances]
        broken = any(_is_broken(task, said[id(instance)]) for instance in instances)
        value, weight = (math.nan, 1.0) if broken else _judged(settings, task, doc, results, between)
        chance = settings.chance if settings.chance is not None else _chance(settings, task, doc, len(instances))
        name = f"{settings.name}/{number}"
        marks.append((name, settings.name, _cluster(settings, doc) or name, value, float(chance), weight))
    return marks


def _response(task, answer):
    """What lm-eval's own model would have returned."""
    match task.OUTPUT_TYPE:
        case "generate_until":
            return answer.texts[0] if answer.texts else ""
        case "loglikelihood_rolling":
            return answer.loglikelihood
    return answer.loglikelihood, answer.greedy


def _filtered(settings: TaskSettings, instance):
    found = instance.filtered_resps
    return found[settings.filter] if settings.filter else next(iter(found.values()))


def _is_broken(task, answer) -> bool:
    return not answer.texts if task.OUTPUT_TYPE == "generate_until" else math.isnan(answer.loglikelihood)


def _judged(
    settings: TaskSettings, task, doc: dict, results: list, between: tuple[float, float]
) -> tuple[float, float]:
    """(value, weight): a share counts 1; of a perplexity (loss in nats, words or bytes)."""
    if settings.scale == "share":
        return _value(settings, task, doc, results, between), 1.0
    found = task.process_results(doc, results).get(settings.metric)
    loss, weight = found if isinstance(found, tuple) else (found, 1)
    if not isinstance(loss, (int, float, np.number)) or not weight > 0:
        raise ConfigError(
            f"metric of task {settings.name} should give each item a log-likelihood, or one and a number of words, found "
            f"{settings.metric} = {found!r}; choose another in conf/accuracy"
        )
    return -float(loss), float(weight)


def _value(settings: TaskSettings, task, doc: dict, results: list, between: tuple[float, float] = (0.0, 1.0)) -> float:
    value = task.process_results(doc, results).get(settings.metric)
    if not isinstance(value, (int, float, np.number)) or not between[0] <= value <= between[1]:
        raise ConfigError(
            f"metric of task {settings.name} should give each item a number in [{between[0]:g}, {between[1]:g}], "
            f"found {settings.metric} = {value!r}; choose another metric or range"
        )
    return float(value)


def _chance(settings: TaskSettings, task, doc: dict, options: int) -> float:
    """The mean of the metric over all options, each in turn taken for the model's choice; what is written is not guessed."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return 0.0 if settings.scale == "share" else math.nan
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
    _cluster(settings, instances[0].doc)
    if settings.runs_code:
        return
    made_up = {"generate_until": [""] * len(instances), "loglikelihood_rolling": [-1.0]}
    usual = [(-1.0 - instance.idx, False) for instance in instances]
    _judged(settings, task, instances[0].doc, made_up.get(task.OUTPUT_TYPE, usual), between)
