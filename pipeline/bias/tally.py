"""The published metrics of a benchmark from predictions made elsewhere: no model is asked."""

import inspect
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pandas as pd

from pipeline.bias import predictions
from pipeline.bias.predictions import Predicted, Rows
from pipeline.errors import ConfigError, DataError

GIVEN = ("files", "family", "scores")  # what a judge is given besides its settings
CLASSIFIERS = ("toxicity", "regard")  # settings of a judge that name a model


class Tally(NamedTuple):
    """One model's metrics, and what they leave out."""

    name: str
    metrics: dict[str, float]
    items: int
    missing: int
    left_out: dict[str, int]
    notes: tuple[str, ...]


def tally(
    module: ModuleType,
    files: dict[str, Path],
    rows: Rows,
    settings: dict,
    chosen: dict,
    columns: list[str] | None = None,
    partial: bool = False,
) -> list[Tally]:
    """The metrics of every column of predictions in `rows`.

    settings: of the questions and the judging, from the YAML; the rows' own wishes overrule them, `chosen` both.
    partial: items without a prediction are allowed, and counted; otherwise refused.
    Raises ConfigError for a setting that the benchmark lacks, DataError for predictions that do not fit its items.
    """
    name = module.__name__.rpartition(".")[2]
    if not hasattr(module, "items"):
        raise ConfigError(
            f"the tally should be of a benchmark with items of its own, and {name} has none: choose another"
        )
    reader = predictions.reader(name)
    wishes = reader.defaults(rows) if hasattr(reader, "defaults") else {}
    asking, judging = _known(module.items, "files"), _known(module.judge, "items", "answers", *GIVEN)
    for key in chosen:
        if key not in asking | judging:
            raise ConfigError(
                f"--set should name one of {', '.join(sorted(asking | judging))} and names {key}: change it"
            )
        if key in CLASSIFIERS:
            raise ConfigError(f"--set {key}= should be left out: the tally asks no text classifier")
    wanted = settings | wishes | chosen
    items = module.items(files, **{key: value for key, value in wanted.items() if key in asking})
    if reader is None and columns:
        raise ConfigError(f"--column should be left out: predictions for {name} have one column")
    found = predictions.read(module, items, rows) if reader is None else reader.read(items, rows, columns)
    given = {"files": files, "family": "scores", "scores": {}} | {
        key: value for key, value in wanted.items() if key in judging
    }
    taken = set(inspect.signature(module.judge).parameters)
    return [
        _judged(module, items, each, {key: value for key, value in given.items() if key in taken}, partial)
        for each in found
    ]


def _judged(module: ModuleType, items: pd.DataFrame, predicted: Predicted, judging: dict, partial: bool) -> Tally:
    of = f" by {predicted.name}" if predicted.name else ""
    has = items["id"].isin(predicted.answers.keys())
    missing = int((~has & ~items["id"].isin(predicted.excused)).sum())
    if missing and not partial:
        example = items["id"][~has & ~items["id"].isin(predicted.excused)].iloc[0]
        raise DataError(
            f"every one of the {len(items)} items should have a prediction{of} and {missing} have none, {example} for one: "
            f"give all files at once, or add --partial to tally the rest"
        )
    if not has.any():
        raise DataError(f"at least one item should have a prediction{of} that counts and none has: check the file")
    some = items[has].reset_index(drop=True)
    marks = module.judge(some, [predicted.answers[name] for name in some["id"]], **judging)
    return Tally(predicted.name, module.metrics(marks), len(some), missing, predicted.left_out, predicted.notes)


def _known(function, *leave_out: str) -> set[str]:
    return set(inspect.signature(function).parameters) - set(leave_out)
