"""What one cell's marks say about accuracy, and how surely.

    accuracy = mean over tasks of (mean over items)

Tasks are fixed, items are drawn: the bootstrap is stratified by task, and the variances of the tasks' means add up.
The degrees of freedom of the sum are Welch and Satterthwaite's.
"""

import numpy as np
import pandas as pd

from pipeline.statistics.generator import generator
from pipeline.statistics.interval import effect_size, interval, standard_error
from pipeline.statistics.paired import paired
from pipeline.statistics.resampling import bootstrap, cluster_sums, exchange, p_value

CHANGE = (
    "accuracy_change",
    "accuracy_change_low",
    "accuracy_change_high",
    "accuracy_change_p",
    "accuracy_change_effect",
)


def accuracy_summary(
    marks: pd.DataFrame, base_marks: pd.DataFrame | None, tasks: dict[str, dict], seed: int, resamples: int = 10_000
) -> dict[str, float]:
    """accuracy with interval and paired change, chance, and under each task's name its mean.

    marks: one row an item, `group` = task, `value` in [0, 1]. tasks: {task: {chance: …, in_mean: …}}; a task outside
    the mean has its value and nothing more. A task without marks, or with a nan, makes the mean nan.
    Raises ValueError for marks of a task that is not declared, or where cell and base do not have the same items.
    """
    strange = sorted(set(marks["group"]) - set(tasks))
    if strange:
        raise ValueError(f"the marks have the task {strange[0]!r}, which is none of {', '.join(tasks)}")
    inside, sums = _inside(tasks), _sums(marks, base_marks, tasks)
    means = {task: _ratio(sums[task].sum(axis=0), 1) for task in tasks}
    summary = {
        "accuracy": _mean([means[task] for task in inside]),
        "chance": _mean([float(tasks[task]["chance"]) for task in inside]),
    }
    spread = [
        _spread(sums[task][:, :2], resamples, generator(seed, "accuracy", task), lambda each: _ratio(each, 1))
        for task in inside
    ]
    if len(inside) > 1:
        spread = [(max(error, _floor(sums[task])), count) for task, (error, count) in zip(inside, spread, strict=True)]
    summary["accuracy_low"], summary["accuracy_high"] = interval(
        summary["accuracy"], *_together(spread), ends=(0.0, 1.0)
    )
    return summary | _change(inside, sums, seed, resamples) | means


def accuracy_change(
    marks: pd.DataFrame, base_marks: pd.DataFrame, tasks: dict[str, dict], seed: int, resamples: int = 10_000
) -> dict[str, float]:
    """accuracy_change = accuracy(marks) - accuracy(base_marks), its interval, p and effect size: of any two models.

    All nan where the change is undefined. Raises ValueError where the two do not have the same items.
    """
    return _change(_inside(tasks), _sums(marks, base_marks, tasks), seed, resamples)


def _inside(tasks: dict[str, dict]) -> list[str]:
    return sorted(task for task in tasks if tasks[task]["in_mean"])


def _sums(marks: pd.DataFrame, base_marks: pd.DataFrame | None, tasks: dict[str, dict]) -> dict[str, np.ndarray]:
    """Of each task sums_GK over its clusters: items, the cell's values, the base's."""
    both = marks.assign(n=1.0, base=np.nan)
    if base_marks is not None:
        both["base"] = paired(marks, base_marks)["value"].to_numpy()
    return {task: cluster_sums(both[both["group"] == task], ["n", "value", "base"]) for task in tasks}


def _change(inside: list[str], sums: dict[str, np.ndarray], seed: int, resamples: int) -> dict[str, float]:
    change = _mean([_difference(sums[task].sum(axis=0)) for task in inside])
    if np.isnan(change):
        return dict.fromkeys(CHANGE, float("nan"))
    spread = [_spread(sums[task], resamples, generator(seed, "accuracy change", task), _difference) for task in inside]
    error, freedom = _together(spread)
    low, high = interval(change, error, freedom, ends=None)
    null_B = np.mean(
        [
            _difference(
                exchange(sums[task], sums[task][:, [0, 2, 1]], resamples, generator(seed, "accuracy exchange", task))
            )
            for task in inside
        ],
        axis=0,
    )
    clusters = sum(len(sums[task]) for task in inside)
    return dict(
        zip(CHANGE, (change, low, high, p_value(change, null_B), effect_size(change, error, clusters)), strict=True)
    )


def _ratio(sums: np.ndarray, column: int) -> np.ndarray | float:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = sums[..., column] / sums[..., 0]
    return ratio if np.ndim(ratio) else float(ratio)


def _difference(sums: np.ndarray) -> np.ndarray:
    return _ratio(sums, 1) - _ratio(sums, 2)


def _mean(numbers: list[float]) -> float:
    return float(np.mean(numbers)) if numbers else float("nan")


def _spread(sums_GK: np.ndarray, resamples: int, random: np.random.Generator, statistic) -> tuple[float, int]:
    """(standard error of one task's statistic, clusters); nan for a task with fewer than two clusters."""
    clusters = len(sums_GK)
    if clusters < 2 or np.isnan(sums_GK).any():
        return float("nan"), clusters
    return standard_error(statistic(bootstrap(sums_GK, resamples, random)), clusters), clusters


def _floor(sums_GK: np.ndarray) -> float:
    """The standard error of a share of which too few items stand aside to tell: sqrt(p (1 - p) / G), p = (x + 1/2) / (G + 1).

    For fewer than five right or wrong clusters the bootstrap sees less spread than there is, for none it sees none, and
    among other tasks such a one would count as known exactly. 0 elsewhere.
    Reference: Agresti, Coull (1998), The American Statistician 52 (why adding halves helps).
    """
    clusters = len(sums_GK)
    right = clusters * _ratio(sums_GK.sum(axis=0), 1)
    if not min(right, clusters - right) < 5:
        return 0.0
    share = (right + 0.5) / (clusters + 1)
    return float(np.sqrt(share * (1 - share) / clusters))


def _together(spread: list[tuple[float, int]]) -> tuple[float, float]:
    """Standard error of the mean over tasks, and its degrees of freedom."""
    errors, clusters = np.array(spread, dtype=float).reshape(-1, 2).T
    variances = (errors / max(len(spread), 1)) ** 2
    total = float(variances.sum()) if len(spread) else float("nan")
    if not total > 0:
        return (0.0 if total == 0 else float("nan")), float((clusters - 1).sum())
    return float(np.sqrt(total)), float(total**2 / (variances**2 / (clusters - 1)).sum())
