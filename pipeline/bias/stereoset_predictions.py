"""Predictions for StereoSet's sentences: the authors' JSON, {"intrasentence": [{"id", "score"}], "intersentence": …}.

The id is that of a sentence, the higher score the likelier one. Rows with `id` and `score` are read too.
A file says by its lists which tasks it is about, and is judged as evaluation.py judges it, ties included.
"""

import pandas as pd

from pipeline.bias.predictions import Predicted, Rows, is_number, once, scored
from pipeline.bias.sample import records
from pipeline.errors import ConfigError, DataError

TASKS = ("intrasentence", "intersentence")
OPTIONS = ("stereotype", "antistereotype", "unrelated")


def defaults(rows: Rows) -> dict:
    """task: those with scores; ties: as the authors count them."""
    tasks = [task for task in TASKS if any(row.get(task) for _, row in rows)]
    return {"ties": "authors"} | ({"task": tasks[0] if len(tasks) == 1 else "both"} if tasks else {})


def read(items: pd.DataFrame, rows: Rows, columns: list[str] | None) -> list[Predicted]:
    """Three scores an item. Raises DataError naming the entry for one that is no sentence's, twice there or no number."""
    if columns:
        raise ConfigError("--column should be left out: StereoSet's predictions are one set of scores a file")
    item_of = {item[f"{option}_id"]: (item["id"], option) for item in records(items) for option in OPTIONS}
    tasks = set(items["task"])
    scores: dict[str, dict[str, float]] = {}
    place_of: dict[str, str] = {}
    for place, task, entry in _entries(rows):
        if task is not None and task not in tasks:
            continue  # --set task= asks for the other one alone
        name = entry.get("id")
        if name not in item_of:
            raise DataError(f"{place} scores the sentence {name!r}, which the set does not have: check data and task")
        once(place_of, name, place)
        if not is_number(entry.get("score")):
            raise DataError(f"{place} should have a number in score and has {entry.get('score')!r}: mend it")
        item, option = item_of[name]
        scores.setdefault(item, {})[option] = float(entry["score"])
    for item, given in scores.items():
        if len(given) < len(OPTIONS):
            missing = ", ".join(option for option in OPTIONS if option not in given)
            raise DataError(f"the item {item} should have three scores and lacks that of {missing}: add it")
    return [Predicted("", {item: [scored(given[option]) for option in OPTIONS] for item, given in scores.items()}, {})]


def _entries(rows: Rows):
    for place, row in rows:
        if not set(TASKS) & set(row):
            yield place, None, row
            continue
        for task in TASKS:
            found = row.get(task, [])
            if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
                raise DataError(f"{place} should have a list of id and score in {task} and has something else: mend it")
            for number, entry in enumerate(found, 1):
                yield f"{place} {task} entry {number}", task, entry
