"""Cells of one base compared with each other, or with their controls: pairs.csv, controls.csv, and the same as text."""

from pathlib import Path

import pandas as pd
from pandas import DataFrame

from pipeline.report import numerals
from pipeline.report.table import LEVEL

SHOWN = 66  # pairs in report.md; the page and pairs.csv have all
WHERE = ("model", "bias", "accuracy_set", "seed")


def write(pairs: DataFrame | None, folder: Path, name: str = "pairs.csv") -> list[Path]:
    """Write a table of comparisons, which has no row where there are no two cells to compare."""
    (DataFrame() if pairs is None else pairs).to_csv(folder / name, index=False, na_rep="nan", lineterminator="\n")
    return [folder / name]


def short(pairs: DataFrame) -> DataFrame:
    """What a person wants to see, as text: the two cells, the differences with intervals and corrected p; † stands."""
    several = [name for name in WHERE if pairs[name].nunique() > 1]
    shows = {"bias": numerals.score_change, "accuracy": numerals.percent_change}
    return DataFrame(
        [
            {name: str(row[name]) for name in (*several, "cell", "other", "control") if name in pairs}
            | {
                heading: entry
                for room, show in shows.items()
                for heading, entry in (
                    (f"{room} difference", _difference(row, room, show)),
                    (
                        f"{room} p, corrected",
                        numerals.p_value(row[f"{room}_p_holm"]).removeprefix("= ").removeprefix("is "),
                    ),
                )
            }
            for _, row in pairs.iterrows()
        ]
    )


def _difference(row: pd.Series, room: str, show) -> str:
    low, high = row[f"{room}_low"], row[f"{room}_high"]
    sign = "†" if row[f"{room}_p_holm"] <= LEVEL and (low > 0 or high < 0) else ""
    return numerals.interval(show, row[f"{room}_change"], low, high, sign=sign)
