"""Many cells, one table: rows, Pareto front, flipped answers, and the report."""

import json
import math
import re
from pathlib import Path

from pipeline.stages import comparisons

PLACE = ("model", "donor", "merge", "weight", "debias", "bias", "accuracy_set", "seed")
GROUPS = (
    "model",
    "donor",
    "merge",
    "weight",
    "debias",
    "bias",
    "accuracy",
    "seed",
)  # overrides that have a column already
FLIPS = 10


def axes(records: list[dict]) -> tuple[str, ...]:
    """Overrides besides the groups of which a sweep has more than one value: each gets a column."""
    values: dict[str, set] = {}
    for record in records:
        for key, value in record["overrides"].items():
            values.setdefault(key, set()).add(value)
    everywhere = {key for key in values if all(key in record["overrides"] for record in records)}
    return tuple(
        sorted(
            key
            for key, found in values.items()
            if key not in GROUPS and not key.startswith("hydra") and (len(found) > 1 or key not in everywhere)
        )
    )


def table(records: list[dict]):
    """One row a cell, in every state, and one for each unmerged base; the columns of the report room.

    A cell without a result keeps its place in the grid, its status and its error. Cells that differ in nothing but a
    weight that their method does not use are one row. The front is taken among the finished, unruined rows that were
    examined in the same way, with their own base.
    """
    import pandas

    from pipeline.report.table import COLUMNS, TEXTS
    from pipeline.statistics import pareto_front

    named = axes(records)
    rows = _base_rows(records, named)
    names = _model_names(records)
    for record in records:
        row = dict(record["result"]["row"]) if record.get("result") else dict(record["choices"])
        if row["merge"] == "keep" and row.get("debias") == "none" and record.get("result"):
            continue  # this is the base's own row
        rows.append(
            row
            | shown(record, named)
            | {"status": record["status"], "error": record["error"], "run_id": record.get("run_id")}
        )
    rows = _without_twins(rows, named)
    frame = pandas.DataFrame([row | {"model": names.get(row.get("base_key"), row["model"])} for row in rows])
    for column in (*COLUMNS, *named, "base_id", "base_key"):
        if column not in frame:
            frame[column] = None
    numbers = [column for column in COLUMNS if column not in (*TEXTS, "seed", "ruined", "on_front")]
    frame[numbers] = frame[numbers].astype("float64")
    frame["on_front"] = False
    eligible = frame.status.isin(("done", "found")) & ~frame.ruined.eq(True)
    for _, panel in frame.groupby("base_id", dropna=False):
        frame.loc[panel.index, "on_front"] = pareto_front(
            panel.bias_score.to_numpy(), panel.accuracy.to_numpy(), eligible[panel.index].to_numpy()
        )
    return _corrected(frame).drop(columns=["uses_weight", "base_key"], errors="ignore")


def _without_twins(rows: list[dict], named: tuple[str, ...]) -> list[dict]:
    """The rows, the first of those that a sweep over weights repeats: the same cell with the same end."""
    kept: dict[str, dict] = {}
    for place, row in enumerate(rows):
        end = ("merge_key", row["merge_key"]) if row.get("merge_key") else ("error", row["error"])
        twin = [*(row.get(key) for key in (*PLACE, *named, "base_id")), end, row["status"] in ("done", "found")]
        alone = row.get("weight") is not None or (row["merge"] == "keep" and row.get("debias") == "none")
        kept.setdefault(str(place) if alone else json.dumps(twin, default=str), row)
    return list(kept.values())


def twins(records: list[dict]) -> list[str]:
    """Of every method that uses no weight and was swept over several: how many cells are one, in a sentence."""
    named, cells = axes(records), {}
    for record in records:
        row = (record.get("result") or {}).get("row")
        if row and row.get("weight") is None and not (row["merge"] == "keep" and row["debias"] == "none"):
            cells.setdefault(
                (row["merge_key"], *(row.get(key) for key in PLACE), *shown(record, named).values()), []
            ).append(row)
    counts: dict[str, int] = {}
    for same in cells.values():
        counts[same[0]["merge"]] = max(len(same), counts.get(same[0]["merge"], 0))
    return [
        f"{name} uses no weight: its {count} cells at different weights are one model, with one row and one test."
        for name, count in counts.items()
        if count > 1
    ]


def _corrected(frame):
    """With Holm's corrected p of each change, and the items with which a change of its size would stand.

    Bias and accuracy are a family each, over all cells of the sweep that were compared with a base; models with the same
    weights, compared on the same items, are one comparison, which counts with the largest of their p.
    """
    from pipeline.report.table import comparisons
    from pipeline.statistics import holm, needed_items

    for room, items in (("bias", "items"), ("accuracy", "accuracy_items")):
        same, change = comparisons(frame, room), f"{room}_change"
        p = frame.groupby(same)[f"{change}_p"].max()
        frame[f"{change}_p_holm"] = same.map(dict(zip(p.index, holm(p.to_numpy()), strict=True))).astype("float64")
        count = frame[items] if items in frame else [math.nan] * len(frame)
        frame[f"{room}_items_needed"] = [
            math.nan if test != test else needed_items(*numbers, float(each), tests=len(p))
            for test, each, *numbers in zip(
                same, count, frame[change], frame[f"{change}_low"], frame[f"{change}_high"], strict=True
            )
        ]
    return frame


def shown(record: dict, named: tuple[str, ...]) -> dict:
    """The values of the axes as the table shows them: of a path only the last part."""
    return {
        key: value and re.sub(r"(path:)[^,\]]*/", r"\1", value)
        for key in named
        for value in [record["overrides"].get(key)]
    }


def _model_names(records: list[dict]) -> dict[str, str]:
    """What to call each base: two different models of one name are told apart by their keys."""
    called: dict[str, str] = {
        r["result"]["row"]["base_key"]: r["result"]["row"]["model"] for r in records if r.get("result")
    }
    names = list(called.values())
    return {key: f"{name}@{key.split('-')[-1][:6]}" if names.count(name) > 1 else name for key, name in called.items()}


def _base_rows(records: list[dict], named: tuple[str, ...]) -> list[dict]:
    """The unmerged model, once for every way in which it was examined."""
    found: dict[str, tuple[dict, list[dict]]] = {}
    for record in records:
        if record.get("result"):
            base = record["result"]["base_row"]
            found.setdefault(json.dumps(base, sort_keys=True), (base, []))[1].append(record)
    rows = []
    for base, owners in found.values():
        state = "found" if all(owner["status"] == "found" for owner in owners) else "done"
        values = {key: {shown(owner, named)[key] for owner in owners} for key in named}
        alone = {key: next(iter(each)) if len(each) == 1 else None for key, each in values.items()}
        rows.append(dict(base) | alone | {"status": state, "error": None, "run_id": None})
    return rows


def flips(records: list[dict], names: dict[str, str]) -> list[dict]:
    """Up to ten items whose answer differs between the base and a merged model, spread over the cells.

    Items where the verdict on bias changed come first, then by id; every cell gives one before any gives a second.
    """
    import pandas

    queues = []
    for record in records:
        result = record.get("result") or {}
        before, after = result.get("marks", {}).get("bias", [None, None])
        if (
            not before
            or before == after
            or not (Path(before) / "marks.parquet").is_file()
            or not (Path(after) / "marks.parquet").is_file()
        ):
            continue
        joined = pandas.read_parquet(Path(before) / "marks.parquet").merge(
            pandas.read_parquet(Path(after) / "marks.parquet"), on="id", suffixes=("", "_after")
        )
        changed = joined[joined.answer != joined.answer_after].copy()
        changed["turned"] = changed.biased.ne(changed.biased_after).fillna(True)
        row = record["result"]["row"]
        cell = names[_place(record)]
        queues.append(
            [
                {
                    "cell": cell,
                    "bias": row["bias"],
                    "id": each.id,
                    "group": each.group,
                    "prompt": each.prompt,
                    "base_answer": each.answer,
                    "merged_answer": each.answer_after,
                    "base_biased": _maybe(each.biased),
                    "merged_biased": _maybe(each.biased_after),
                }
                for each in changed.sort_values(["turned", "id"], ascending=[False, True]).itertuples()
            ]
        )
    shown, seen = [], set()
    while any(queues) and len(shown) < FLIPS:
        for queue in queues:
            while queue and queue[0]["id"] in seen:
                queue.pop(0)
            if queue and len(shown) < FLIPS:
                seen.add(queue[0]["id"])
                shown.append(queue.pop(0))
    return shown


def _maybe(value) -> bool | None:
    import pandas

    return None if pandas.isna(value) else bool(value)


def donors(records: list[dict]) -> list[dict]:
    """The strength report of every donor that was trained, once."""
    reports: dict[str, dict] = {}
    for record in records:
        result = record.get("result")
        if result and result["donor"]:
            told = result["donor"]
            report = {
                "model": result["row"]["model"],
                "donor": told["donor"],
                "data": told["data"],
                "norm_ratio": told["relative_norm"],
                "loss_before": told["stereotype_loss_before"],
                "loss_after": told["stereotype_loss_after"],
                "shift_set": result["row"]["bias"],
                "shift_items": told["items"],
                "shift": told.get("bias_change"),
                "shift_low": told.get("bias_change_low"),
                "shift_high": told.get("bias_change_high"),
            }
            reports[json.dumps(report, sort_keys=True)] = report
    return list(reports.values())


def findings(records: list[dict], frame, command: str, provenance: dict, most: int = 12):
    """All that the report prints. most: cells of one base that are compared with each other, pair by pair."""
    from pipeline import report

    named, told, names = axes(records), donors(records), _names(records, frame)

    def called(record: dict) -> str:
        return names[_place(record)]

    models = _model_names(records)
    controls = comparisons.controls(
        records, called, lambda record: {key: record["overrides"].get(key) for key in named}, models
    )
    notes = sorted(
        {
            f"{called(record)}: {note}"
            for record in records
            if record.get("result")
            for note in record["result"]["notes"]
        }
    )
    notes = [*notes, *twins(records), *comparisons.too_many(records, most)]
    return report.Findings(
        table=frame,
        pairs=comparisons.pairs(records, called, most, models),
        controls=controls,
        command=command,
        axes=named,
        warnings=report.warnings(frame, named, told, notes, controls),
        donors=told,
        flips=flips(records, names),
        provenance=provenance,
    )


def _names(records: list[dict], frame) -> dict[str, str]:
    """What the report calls each cell, by what makes it that cell."""
    from pipeline.report.table import cell_name, varying

    named = axes(records)
    vary = varying(frame, named)
    rows = {
        json.dumps([row[key] if row[key] == row[key] else None for key in (*PLACE, *named)]): cell_name(row, vary)
        for _, row in frame.iterrows()
    }
    found = {}
    for record in records:
        row = (record.get("result") or {}).get("row") or record["choices"]
        place = json.dumps([*(row.get(key) for key in PLACE), *shown(record, named).values()])
        found[_place(record)] = rows.get(place, "base")
    return found


def _place(record: dict) -> str:
    return json.dumps(record["overrides"], sort_keys=True)
