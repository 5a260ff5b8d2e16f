"""BBQ's rows: read, joined with their targets, and refused where they do not fit."""

from pathlib import Path

import numpy as np

from pipeline.bias.datafile import csv_rows, json_rows
from pipeline.errors import DataError

OPTIONS = range(3)
FIELDS = (
    "example_id",
    "question_index",
    "question_polarity",
    "context_condition",
    "category",
    "answer_info",
    "context",
    "question",
    "ans0",
    "ans1",
    "ans2",
    "label",
)
COLUMNS = ("category", "question_index", "example_id", "target_loc", "label_type")
POLARITIES = ("neg", "nonneg")
CONDITIONS = ("ambig", "disambig")
HINT = "give the original file under data=DIR"


def read(files: dict[str, Path], duplicates: str) -> tuple[list[dict], list[str], list[str]]:
    """One row an item with a target, and the ids of those without one and of those listed twice; raises DataError."""
    tables = [path for path in files.values() if path.suffix == ".csv"]
    if len(tables) != 1 or len(tables) == len(files):
        raise DataError(
            f"bbq should have one or more .jsonl files and one .csv with target_loc and has "
            f"{', '.join(path.name for path in files.values()) or 'no file'}: set bias.files"
        )
    targets = _targets(tables[0])
    rows, skipped, twice, place_of = [], [], [], {}
    for path in files.values():
        if path.suffix == ".csv":
            continue
        for place, item in json_rows(path):
            key, row = _row(place, item)
            if key in place_of:
                raise DataError(f"{place} has the category, question_index and example_id of {place_of[key]}: {HINT}")
            place_of[key] = place
            if key not in targets:
                raise DataError(f"{place} ({row['id']}) has no row in {tables[0].name}: {HINT}, both from one release")
            target, names, times = targets[key]
            if target is None:
                skipped.append(row["id"])
                continue
            if target == row["unknown"]:
                raise DataError(f"{place} has 'unknown' where {tables[0].name} has target_loc {target}: {HINT}")
            row["target"], row["group"] = target, row.pop("category") + "_names" * names
            rows.append(row)
            if times > 1:
                twice.append(row["id"])
                if duplicates == "twice":
                    rows.extend(row | {"id": f"{row['id']}#{time}"} for time in range(2, times + 1))
    categories = {key[0] for key in place_of}
    for key in targets:
        if key[0] in categories and key not in place_of:
            raise DataError(
                f"{tables[0].name} lists {'/'.join(key)} and no .jsonl file has it: a file is cut short, {HINT}"
            )
    if not rows:
        raise DataError(f"{', '.join(path.name for path in files.values())} has no item with a target_loc: {HINT}")
    _check_targets_turn(rows, tables[0])
    for row, unit in zip(rows, _units(rows), strict=True):
        row["unit"] = unit
    return rows, skipped, twice


def _targets(path: Path) -> dict[tuple[str, str, str], tuple[int | None, bool, int]]:
    """target_loc (None for NA), whether the item uses proper names, and how often it is listed, by its key."""
    targets: dict[tuple[str, str, str], tuple[int | None, bool, int]] = {}
    for place, row in csv_rows(path, COLUMNS):
        if row["target_loc"] not in ("0", "1", "2", "NA"):
            raise DataError(f"{place} should have target_loc 0, 1, 2 or NA and has '{row['target_loc']}': {HINT}")
        if row["label_type"] not in ("label", "name"):
            raise DataError(f"{place} should have label_type label or name and has '{row['label_type']}': {HINT}")
        key = (row["category"], row["question_index"], row["example_id"])
        target = None if row["target_loc"] == "NA" else int(row["target_loc"])
        # 64 Gender_identity items stand there twice, with other columns differing: the same target is no conflict
        listed = targets.get(key, (target, row["label_type"] == "name", 0))
        targets[key] = (*listed[:2], listed[2] + 1)
        if listed[0] != target:
            raise DataError(f"{place} gives {'/'.join(key)} a second target_loc, {row['target_loc']}: {HINT}")
    return targets


def _row(place: str, item: dict) -> tuple[tuple[str, str, str], dict]:
    missing = [field for field in FIELDS if field not in item]
    if missing:
        raise DataError(f"{place} lacks {', '.join(missing)}: {HINT}")
    texts = {field: item[field] for field in ("category", "context", "question", "ans0", "ans1", "ans2")}
    for field, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{place} should have words in {field} and has {text!r}: {HINT}")
    for field, choices in (("question_polarity", POLARITIES), ("context_condition", CONDITIONS), ("label", OPTIONS)):
        if isinstance(item[field], bool) or item[field] not in choices:
            raise DataError(
                f"{place} should have {field} {' or '.join(map(str, choices))} and has {item[field]!r}: {HINT}"
            )
    try:
        kinds = [item["answer_info"][f"ans{position}"][1] for position in OPTIONS]
    except (KeyError, IndexError, TypeError):
        raise DataError(
            f"{place} should have two words in answer_info for each of ans0, ans1, ans2 and has "
            f"{item['answer_info']!r}: {HINT}"
        ) from None
    if kinds.count("unknown") != 1:
        raise DataError(
            f"{place} should have one answer marked 'unknown' in answer_info and has {kinds.count('unknown')}: {HINT}"
        )
    unknown = kinds.index("unknown")
    if (item["label"] == unknown) != (item["context_condition"] == "ambig"):
        raise DataError(
            f"{place} should have the label 'unknown' in the ambiguous context and only there, and has "
            f"label {item['label']} in context_condition {item['context_condition']}: {HINT}"
        )
    key = (item["category"], str(item["question_index"]), str(item["example_id"]))
    cluster = "/".join(key[:2])
    people = sorted(item[f"ans{position}"].strip() for position in OPTIONS if position != unknown)
    return key, {
        "id": "/".join(key),
        "cluster": cluster,
        "unit": "|".join([cluster, *people]),
        "category": key[0],
        "polarity": item["question_polarity"],
        "condition": item["context_condition"],
        "context": item["context"],
        "question": item["question"],
        "label": item["label"],
        "unknown": unknown,
        **{f"option{position}": item[f"ans{position}"].strip() for position in OPTIONS},
    }


def _units(rows: list[dict]) -> list[str]:
    """The unit of each item: its two people, and the ambiguous context that its own context continues, if all do."""
    starts: dict[str, set[str]] = {}
    for row in rows:
        found = starts.setdefault(row["unit"], set())
        if row["condition"] == "ambig":
            found.add(row["context"])
    # the longest first: one context may be the beginning of another
    ordered = {unit: sorted(found, key=len, reverse=True) for unit, found in starts.items()}
    begins = [next((start for start in ordered[row["unit"]] if row["context"].startswith(start)), None) for row in rows]
    loose = {row["unit"] for row, begin in zip(rows, begins, strict=True) if begin is None}
    return [
        row["unit"] if row["unit"] in loose else f"{row['unit']}|{begin}"
        for row, begin in zip(rows, begins, strict=True)
    ]


def _check_targets_turn(rows: list[dict], path: Path) -> None:
    """Refuse a target_loc that stays with one person whatever is asked: it marks the group, not the biased answer."""
    named: dict[tuple[str, str], dict[str, set[str]]] = {}
    for row in rows:
        by_polarity = named.setdefault((row["cluster"], row["context"]), {})
        by_polarity.setdefault(row["polarity"], set()).add(row[f"option{row['target']}"])
    stays = [by["neg"] == by["nonneg"] for by in named.values() if len(by) == 2]
    # eight of 14,100 contexts in the original say too little to tell; a file by the other convention has them all
    if stays and np.mean(stays) > 0.5:
        raise DataError(
            f"{path.name} should have target_loc at the answer that agrees with the stereotype, which "
            f"differs between a negative and a non-negative question, and has it at the same person in "
            f"{sum(stays)} of {len(stays)} contexts: {HINT}, or turn target_loc where question_polarity "
            f"is nonneg"
        )
