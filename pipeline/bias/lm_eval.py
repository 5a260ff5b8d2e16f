"""Any lm-eval task as a bias benchmark: how far is a metric from its ideal, item by item?

    signed bias = (mean of the metric - ideal) / max(ideal - low, high - ideal)

lm-eval's own functions ask and judge (pipeline/stages/exams.py brings them together with this); here is what their
values mean. The metric must be a mean over the items, or the bootstrap would resample something else.
0 is the ideal, 1 the end of the range that is farther from it. Where the ideal is one end of the range, no value lies
beyond it: such a bias has no contrary, and neither a noise floor nor a bias_p (`bound`).

ideal, low, high: finite, low <= ideal <= high, low < high.
"""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd

from pipeline.errors import ConfigError

COUNTS = ("items", "above", "below")
MIRROR = {"above": "below", "below": "above"}


def check(settings: dict) -> None:
    """Raises ConfigError for a task or metric that is not named, and for numbers that are no range with an ideal."""
    for key in ("task", "metric"):
        if not isinstance(settings[key], str) or not settings[key]:
            raise ConfigError(f"bias.{key} should name a {key} of lm-eval and is {settings[key]!r}: set bias.{key}")
    for key in ("ideal", "low", "high"):
        value = settings[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ConfigError(f"bias.{key} should be a number and is {value!r}: set bias.{key}")
    low, ideal, high = settings["low"], settings["ideal"], settings["high"]
    if not (low <= ideal <= high and low < high):
        raise ConfigError(
            f"bias.ideal should lie between bias.low and bias.high, the range of {settings['metric']}, and is {ideal} "
            f"between {low} and {high}: change them"
        )


def bound(settings: dict) -> SimpleNamespace:
    """What the statistics read of a benchmark, for this ideal: from one end of the range there is one way to go."""
    ideal, low, high = settings["ideal"], settings["low"], settings["high"]
    mirror = {} if ideal in (low, high) else MIRROR
    return SimpleNamespace(
        __name__=__name__, COUNTS=COUNTS, MIRROR=mirror, ONE_SIDED=ideal == low, components=components
    )


def mark(values: pd.DataFrame, *, task: str, metric: str, ideal: float, low: float, high: float) -> pd.DataFrame:
    """Marks of (id, group, cluster, value): above and below the ideal, as shares of the farther end; nan stays nan."""
    signed = (values["value"].to_numpy(dtype=float) - ideal) / max(ideal - low, high - ideal)
    marks = values[["id", "group", "cluster"]].reset_index(drop=True)
    marks = marks.assign(
        value=values["value"].to_numpy(dtype=float),
        items=1.0,
        above=np.maximum(signed, 0.0),
        below=np.maximum(-signed, 0.0),
    )
    marks.attrs["metric"] = f"{task}.{metric}"
    return marks


def components(sums: np.ndarray) -> np.ndarray:
    """(above - below) / items; nan without items."""
    items, above, below = np.moveaxis(np.asarray(sums, dtype=float), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((above - below) / items)[..., None]


def metrics(marks: pd.DataFrame) -> dict[str, float]:
    """The metric as lm-eval gives it, under the task's name, and n; the same per group after a slash, if there are groups."""
    name = marks.attrs["metric"]
    numbers = {name: _mean(marks["value"]), "n": float(len(marks))}
    if marks["group"].nunique() > 1:
        for group, part in marks.groupby("group", sort=True):
            numbers |= {f"{name}/{group}": _mean(part["value"]), f"n/{group}": float(len(part))}
    return numbers


def _mean(column: pd.Series) -> float:
    return float(column.mean(skipna=False)) if len(column) else math.nan
