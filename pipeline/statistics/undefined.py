"""Why a statistic is nan, in words: a reader of "undefined" asks that first."""

from types import ModuleType

import numpy as np
import pandas as pd


def bias_undefined(module: ModuleType, marks: pd.DataFrame) -> str | None:
    """Why the benchmark's statistic is undefined on these marks; None if it is not."""
    if marks.empty:
        return "there is no item"
    counts = marks[list(module.COUNTS)].to_numpy(dtype=float)
    if (broken := np.isnan(counts).any(axis=1)).any():
        return _broken(int(broken.sum()), len(marks))
    parts = np.isnan(module.components(counts.sum(axis=0)))
    if not parts.any():
        return None
    which = "" if len(parts) == 1 else f" for part {int(np.argmax(parts)) + 1} of the statistic's {len(parts)}"
    return f"none of the {len(marks):,} items has an answer that counts{which}"


def accuracy_undefined(marks: pd.DataFrame, tasks: dict[str, dict]) -> str | None:
    """Why the mean accuracy is undefined on these marks; None if it is not."""
    inside = sorted(task for task in tasks if tasks[task]["in_mean"])
    if not inside:
        return "no task counts in the mean"
    if empty := [task for task in inside if not (marks["group"] == task).any()]:
        return f"the task {empty[0]} has no item"
    broken = marks["value"].isna() & marks["group"].isin(inside)
    return _broken(int(broken.sum()), len(marks)) if broken.any() else None


def _broken(broken: int, items: int) -> str:
    return f"the model gives no number (nan) as the likelihood of an answer in {broken:,} of {items:,} items"
