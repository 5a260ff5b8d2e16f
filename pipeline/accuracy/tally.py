"""From marks to metrics. Needs neither lm-eval nor the items."""

import math

import pandas as pd

from pipeline.accuracy import settings as declared


def metrics(settings: dict, marks: pd.DataFrame) -> dict[str, float]:
    """Accuracy of every task, and over the tasks with `in_mean`:

        accuracy = (1/T) Σ_t mean_i value_ti,   chance likewise

    `accuracy` is a mean over tasks, not over items: a large task weighs no more than a small one. `tasks_in_mean`
    is T, which is smaller where a task is not in the local data. An item without a value makes its task nan.
    """
    tasks = [task for task in declared.tasks(settings) if (marks["group"] == task.name).any()]
    counted = [task.name for task in tasks if task.in_mean]
    by_task = _means(marks, "value") | perplexities(settings, marks)
    guessing = chance(marks)
    return {
        "accuracy": _mean([by_task[task] for task in counted]),
        "chance": _mean([guessing[task] for task in counted]),
        "tasks_in_mean": float(len(counted)),
        **by_task,
        **{f"{name}.drop": value for name, value in drops(settings, by_task).items()},
    }


def perplexities(settings: dict, marks: pd.DataFrame) -> dict[str, float]:
    """Of every task on that scale: exp(sum of losses / sum of words, bytes or items)."""
    found = {}
    for task in declared.tasks(settings):
        part = marks[marks["group"] == task.name]
        if task.scale == "perplexity" and len(part):
            mean = part["value"].sum(skipna=False) / part["weight"].sum()
            found[task.name] = math.nan if math.isnan(mean) else math.inf if mean > 700 else math.exp(mean)
    return found


def drops(settings: dict, by_task: dict[str, float]) -> dict[str, float]:
    """Performance drop rate of every perturbed task: (accuracy without - accuracy with) / accuracy without; nan for 0.

    Reference: Zhu et al. (2023), PromptRobust, arXiv 2306.04528.
    """
    found = {}
    for task in declared.tasks(settings):
        if task.clean is not None and task.name in by_task and task.clean in by_task:
            clean = by_task[task.clean]
            found[task.name] = (clean - by_task[task.name]) / clean if clean else math.nan
    return found


def skills(settings: dict) -> dict[str, list[str]]:
    """skill -> its tasks that count in means."""
    found: dict[str, list[str]] = {}
    for task in declared.tasks(settings):
        if task.skill and task.in_mean:
            found.setdefault(task.skill, []).append(task.name)
    return found


def chance(marks: pd.DataFrame) -> dict[str, float]:
    """The expectation of each task's metric under uniform guessing among the options."""
    return _means(marks, "chance")


def _means(marks: pd.DataFrame, column: str) -> dict[str, float]:
    # skipna: pandas leaves nan out of a mean unless told, and a broken model would score on what is left.
    return {task: float(part[column].mean(skipna=False)) for task, part in marks.groupby("group", sort=False)}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
