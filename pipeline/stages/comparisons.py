"""Cells compared with each other and not only with their base: each with each, and each with its control."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

OUTCOME = ("change", "low", "high", "p", "p_holm", "effect")  # of a comparison, of bias and of accuracy
PANEL = ("model", "bias", "accuracy_set", "seed")
OF_CONTROLS = ("donor.draw", "debias.draw", "debias.control")  # settings in which a control differs from its cell

Named = Callable[[dict], str]  # what the report calls the cell of a record


def pairs(records: list[dict], called: Named, most: int, models: dict[str, str] | None = None):
    """Every cell against every other of the same base, examined in the same way: cell minus other, paired by item.

    Of each room change, low, high, p, p_holm (over all pairs here, bias and accuracy apart) and effect (Cohen's d_z).
    Cells with the same weights stand for one. A base with more than `most` cells is left out.
    models: what the table calls a base, by its key.
    """
    return _compared(
        (
            ({"cell": called(one), "other": called(other)}, one["result"], other["result"])
            for cells in comparable(records).values()
            if len(cells) <= most
            for one, other in itertools.combinations(cells, 2)
        ),
        ("cell", "other"),
        models or {},
    )


def controls(
    records: list[dict], called: Named, settings: Callable[[dict], dict], models: dict[str, str] | None = None
):
    """Every cell against its control, which went as far in every tensor, in a random direction: cell minus control.

    of        bias_inverted, whose control is donor=random_direction; or the debiasing, whose control has debias.control
    settings  of a record, the overrides by which cells differ

    Columns as `pairs`, but that p_holm is over these comparisons alone: they are the ones that a control is made for.
    """
    return _compared(
        (
            ({"of": of, "cell": called(cell), "control": called(control)}, cell["result"], control["result"])
            for of, cell, control in _controlled(records, settings)
        ),
        ("of", "cell", "control"),
        models or {},
    )


def _controlled(records: list[dict], settings: Callable[[dict], dict]) -> Iterator[tuple[str, dict, dict]]:
    """(of, record, record of its control)"""
    for cells in comparable(records).values():
        for one, other in itertools.permutations(cells, 2):
            row, control = one["result"]["row"], other["result"]["row"]
            alike = all(str(row[key]) == str(control[key]) for key in ("merge", "weight"))
            if not alike or _fixed(settings(one)) != _fixed(settings(other)):
                continue
            if control["debias"] == f"{row['debias']} control" and row["donor"] == control["donor"]:
                yield row["debias"], one, other
            if (row["donor"], control["donor"]) == ("bias_inverted", "random_direction") and (
                row["debias"] == control["debias"] == "none"
            ):
                yield "bias_inverted", one, other


def _fixed(settings: dict) -> dict:
    """The settings that a cell and its control share."""
    return {key: value for key, value in settings.items() if key not in OF_CONTROLS}


def comparable(records: list[dict]) -> dict[str, list[dict]]:
    """The finished merges by what they were compared with, those of the same weights once."""
    groups: dict[str, dict[str, dict]] = {}
    for record in records:
        result = record.get("result")
        row = result and result["row"]
        if (
            row
            and row.get("base_id")
            and not (row["merge"] == "keep" and row["debias"] == "none")
            and not row["ruined"]
        ):
            same = row.get("weights_sha256") or row["merge_key"]
            groups.setdefault(row["base_id"], {}).setdefault(same, record)
    return {base: list(cells.values()) for base, cells in groups.items()}


def too_many(records: list[dict], most: int) -> list[str]:
    """Bases with more cells than are compared pair by pair, in a sentence."""
    told = []
    for cells in comparable(records).values():
        count, row = len(cells), cells[0]["result"]["row"]
        if count > most > 0:
            told.append(
                f"{row['model']} · {row['bias']}: {count} cells, so they were not compared with each other, pair by "
                f"pair; stages=[aggregate] sweep=DIR pairs={count} does so, for {count * (count - 1) // 2:,} pairs."
            )
    return told


def _compared(asked: Iterable[tuple[dict, dict, dict]], heads: tuple[str, ...], models: dict[str, str]):
    """One row a comparison: (what it is called, the result of one cell, that of the other).

    Rows that rest on the same marks (of accuracy, where several bias sets were asked) are one test for Holm's correction.
    """
    import pandas

    from pipeline.statistics import holm

    columns = {f"{room}_{part}": float for room in ("bias", "accuracy") for part in OUTCOME}
    rows, tests = [], {"bias": [], "accuracy": []}
    for words, one, other in asked:
        panel = {key: one["row"][key] for key in PANEL}
        panel["model"] = models.get(one["row"]["base_key"], panel["model"])
        rows.append(panel | words | _differences(one, other))
        for room, made in tests.items():
            made.append(str([result["marks"].get(room) for result in (one, other)]))
    found = pandas.DataFrame(rows, columns=[*PANEL, *heads, *columns]).astype(columns)
    for room, made in tests.items():
        p = found.groupby(pandas.Series(made, dtype=object))[f"{room}_p"].max()
        corrected = dict(zip(p.index, holm(p.to_numpy()), strict=True))
        found[f"{room}_p_holm"] = pandas.Series(made, dtype=object).map(corrected).astype(float)
    return found


def _differences(one: dict, other: dict) -> dict[str, float]:
    """Of bias and accuracy, one result minus the other; nothing where the marks of either are lost."""
    from pipeline.stages.evaluate import difference

    told = {}
    for room in ("bias", "accuracy"):
        folders = [Path(result["marks"].get(room, ["", ""])[1]) for result in (one, other)]
        if all((folder / "marks.parquet").is_file() for folder in folders) and room in one.get("exams", {}):
            outcome = difference(one["exams"][room], *folders, seed=one["row"]["seed"])
            told |= {
                f"{room}_{part}": outcome.get(f"{room}_change{'' if part == 'change' else f'_{part}'}")
                for part in OUTCOME
            }
    return told
