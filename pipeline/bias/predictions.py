"""Predictions made elsewhere, as rows, and the answers to a benchmark's items that they stand for.

A benchmark may have a neighbour `<name>_predictions.py` with

    read(items, rows, columns) -> list of Predicted     rows as `rows_of` gives them; columns: those wanted, None = all
    defaults(rows) -> dict                              settings that the rows ask for; may be absent

Without one, a row has an item's id and `scores`, one for every request of the item in their order, or `texts`, the
completions of every request.
"""

import importlib
import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pandas as pd

from pipeline.bias.datafile import csv_rows, json_document, json_rows
from pipeline.errors import ConfigError, DataError
from pipeline.requests import Answer

Rows = list[tuple[str, dict]]
NAN = float("nan")
HINT = "mend the predictions"


class Predicted(NamedTuple):
    """The answers of one model: by item id; how many rows of each kind are left out, and which items they were for."""

    name: str
    answers: dict[str, list[Answer]]
    left_out: dict[str, int]
    excused: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def rows_of(files: list[Path]) -> Rows:
    """(place, row) of .jsonl and .csv files; a .json file is one row, a folder stands for the files in it."""
    rows: Rows = []
    for path in _files(files):
        if path.suffix == ".csv":
            rows += csv_rows(path, (), hint=HINT)
        elif path.suffix == ".json":
            rows.append((path.name, json_document(path, hint=HINT)))
        elif path.suffix == ".jsonl":
            rows += json_rows(path, hint=HINT)
        else:
            raise DataError(f"predictions should stand in a .jsonl, .json or .csv file and {path} is none: rename it")
    if not rows:
        raise DataError(f"{', '.join(path.name for path in files)} should have predictions and has none: give the file")
    return rows


def reader(benchmark: str) -> ModuleType | None:
    """The neighbour that reads this benchmark's predictions, if it has one."""
    name = f"pipeline.bias.{benchmark}_predictions"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def read(module: ModuleType, items: pd.DataFrame, rows: Rows) -> list[Predicted]:
    """Of a benchmark without a reader of its own: id and scores, or id and texts."""
    from pipeline.bias.sample import records

    expected = {item["id"]: len(module.ask(item)) for item in records(items)}
    answers: dict[str, list[Answer]] = {}
    place_of: dict[str, str] = {}
    for place, row in rows:
        name = row.get("id")
        if name not in expected:
            raise DataError(f"{place} should have the id of an item and has {name!r}: is it of another release?")
        once(place_of, name, place)
        if ("scores" in row) == ("texts" in row):
            raise DataError(f"{place} should have either scores or texts and has {', '.join(row)}: mend it")
        given = numbers(place, row, expected[name]) if "scores" in row else _texts(place, row, expected[name])
        answers[name] = given
    return [Predicted("", answers, {})]


def numbers(place: str, row: dict, count: int) -> list[Answer]:
    """row["scores"], `count` finite numbers, as answers."""
    scores = row["scores"]
    if not (isinstance(scores, list) and len(scores) == count and all(map(is_number, scores))):
        raise DataError(f"{place} should have {count} numbers in scores and has {scores!r}: mend it")
    return [scored(float(score)) for score in scores]


def scored(score: float) -> Answer:
    """A score from elsewhere, wherever a benchmark looks for it."""
    return Answer(score, False, 1, score)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def once(place_of: dict, key: Any, place: str) -> None:
    """Refuse a second prediction for the same item."""
    if key in place_of:
        named = "/".join(key) if isinstance(key, tuple) else key
        raise DataError(f"{place} predicts {named} for the second time, after {place_of[key]}: leave one of them out")
    place_of[key] = place


def _texts(place: str, row: dict, count: int) -> list[Answer]:
    texts = row["texts"]
    lists = isinstance(texts, list) and all(isinstance(each, list) for each in texts)
    if not (lists and len(texts) == count and all(isinstance(text, str) for each in texts for text in each)):
        raise DataError(f"{place} should have {count} lists of completions in texts and has {texts!r}: mend it")
    return [Answer(NAN, False, 0, NAN, tuple(each)) for each in texts]


def _files(given: list[Path]) -> Iterator[Path]:
    for path in given:
        if not path.exists():
            raise ConfigError(f"FILE should be a file of predictions or a folder of them, found no {path}: change it")
        found = sorted(path.glob("*.jsonl")) or sorted(path.glob("*.csv")) if path.is_dir() else [path]
        if not found:
            raise ConfigError(f"{path} should be a folder with .jsonl or .csv files and has none: change FILE")
        yield from found
