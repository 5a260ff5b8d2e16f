"""The table of a sweep: its columns, its order of rows, its cells in words, and its files."""

import math
from pathlib import Path

import pandas as pd
from pandas import DataFrame, Series

from pipeline.errors import DataError
from pipeline.report import numerals
from pipeline.report.pipes import escape, pipes

CELL = ("model", "donor", "merge", "weight", "debias", "bias", "accuracy_set", "seed", "items")
RESULTS = (
    "bias_score",
    "bias_low",
    "bias_high",
    "bias_signed",
    "bias_change",
    "bias_change_low",
    "bias_change_high",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "accuracy_change",
    "accuracy_change_low",
    "accuracy_change_high",
    "effective_weight",
    "off_axis",
    "ruined",
    "on_front",
    "status",
    "error",
    "run_id",
    "merge_key",
)
MORE = (
    "noise_floor",
    "perplexity",
    "perplexity_ratio",
    "chance",
    "bias_p",
    "bias_change_p",
    "bias_signed_low",
    "bias_signed_high",
    "bias_change_p_holm",
    "bias_change_effect",
    "bias_items_needed",
    "accuracy_change_p",
    "accuracy_change_p_holm",
    "accuracy_change_effect",
    "accuracy_items_needed",
)
OPTIONAL = ("accuracy_items", "weights_sha256", "family", "bias_undefined", "accuracy_undefined")
COLUMNS = CELL + RESULTS + MORE
TEXTS = (
    "model",
    "donor",
    "merge",
    "debias",
    "bias",
    "accuracy_set",
    "status",
    "error",
    "run_id",
    "merge_key",
    "weights_sha256",
    "family",
    "bias_undefined",
    "accuracy_undefined",
)
PANEL = ("model", "bias", "accuracy_set")
CONTROL = " control"  # the end of the name of a debiasing's control
FINISHED = ("done", "found")
LEGEND = (
    "* on the Pareto front (no other cell is both less biased and more accurate) · ! ruined (the model no longer "
    "speaks, or fell to chance) · [low, high] 95 % interval · change: of the signed bias and of the accuracy, against the base, paired by item · † a change that stands after Holm's "
    "correction for all comparisons of the sweep"
)
LEVEL = 0.05  # of a corrected p below which a change is said to be there


def arrange(table: DataFrame, axes: tuple[str, ...] = ()) -> DataFrame:
    """Columns in DESIGN 4's order, rows by panel with the base first, then by merge, donor, debias, axes and weight.

    The order of rows does not depend on the order in which cells finished.
    Raises DataError where a column is missing.
    """
    missing = [name for name in (*COLUMNS, *axes) if name not in table.columns]
    if missing:
        raise DataError(f"The results table needs the columns of DESIGN 4; it lacks {', '.join(missing)}.")
    known = (*CELL, *axes, *RESULTS, *MORE, *(name for name in OPTIONAL if name in table.columns))
    rest = [name for name in table.columns if name not in known]
    table = table.loc[:, [*known, *rest]].copy()
    for name in TEXTS:
        if name in table.columns:
            table[name] = [text(value) for value in table[name]]
    for name in ("ruined", "on_front"):
        table[name] = [truth(value) for value in table[name]]
    numbers = [name for name in (*RESULTS, *MORE, "weight") if name not in (*TEXTS, "ruined", "on_front")]
    table[numbers] = table[numbers].astype("float64")
    order = sorted(range(len(table)), key=lambda place: _rank(table.iloc[place], axes))
    return table.iloc[order].reset_index(drop=True)


def text(value) -> str:
    """The value as text; absent is empty."""
    return "" if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)) else str(value)


def truth(value) -> bool | None:
    """True, False, or None where unknown; also from the words of a csv."""
    return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(text(value).lower())


def is_base(row: Series) -> bool:
    """Whether the row is the unmerged model without debiasing."""
    return row["merge"] == "keep" and text(row["debias"]).lower() in ("", "none", "keep")


def is_control(row: Series) -> bool:
    """Whether the cell is the random direction of a debiasing."""
    return text(row["debias"]).endswith(CONTROL)


def is_finished(row: Series) -> bool:
    """Whether the cell has results, computed or found in the store."""
    return row["status"] in FINISHED


def of_exam(axis: str) -> bool:
    """Whether a swept setting is one of the examination, which the base has too, and not of the merge."""
    return axis.startswith(("bias.", "accuracy.", "limit", "model."))


def base_of(row: Series, table: DataFrame, axes: tuple[str, ...] = ()) -> Series | None:
    """The base that the row is compared with: of the same `base_id` where the table has that column (same model, same
    questions, read in the same way); else of the same panel and seed, and the same value of the axes where it has one.
    """
    kept = table[table["merge"] == "keep"]
    if "base_id" in table.columns and text(row["base_id"]):
        same = [base for _, base in kept.iterrows() if is_base(base) and base["base_id"] == row["base_id"]]
        return same[0] if same else None
    found = [
        base
        for _, base in kept.iterrows()
        if is_base(base) and all(base[key] == row[key] for key in PANEL) and text(base["seed"]) == text(row["seed"])
    ]
    return max(
        found, default=None, key=lambda base: sum(text(base[name]) == text(row[name]) for name in (*axes, "items"))
    )


def comparisons(table: DataFrame, room: str) -> Series:
    """Which test of a change in `room` (bias or accuracy) each row is, by number; nan for a row that is none.

    Rows of one number are one test: their weights are the same to the bit, and so are the items and what came out.
    """
    questions = {"bias": ("bias", "items"), "accuracy": ("accuracy_set", "accuracy_items")}[room]
    seen: dict[tuple, int] = {}
    numbers = []
    for place, (_, row) in enumerate(table.iterrows()):
        change, p = float(row[f"{room}_change"]), float(row[f"{room}_change_p"])
        if is_base(row) or not is_finished(row) or math.isnan(change) or math.isnan(p):
            numbers.append(math.nan)
            continue
        weights = text(row.get("weights_sha256")) or text(row["merge_key"]) or place
        asked = tuple(text(row.get(name)) for name in questions)
        numbers.append(seen.setdefault((text(row["model"]), weights, *asked, round(change, 12)), len(seen)))
    return Series(numbers, index=table.index, dtype="float64")


def stands(row: Series, name: str) -> bool:
    """Whether bias_change or accuracy_change is there after correction: its corrected p and its interval say so."""
    return bool(row[f"{name}_p_holm"] <= LEVEL and leaves_out_zero(row, name) and not truth(row["ruined"]))


def leaves_out_zero(row: Series, name: str) -> bool:
    """Whether the 95 % interval of bias_change or accuracy_change does, taken alone."""
    return bool(row[f"{name}_low"] > 0 or row[f"{name}_high"] < 0)


def panels(table: DataFrame) -> list[tuple[tuple[str, str, str], DataFrame]]:
    """(model, bias, accuracy_set) and its rows, in the table's order."""
    return list(table.groupby(list(PANEL), sort=False))


def varying(table: DataFrame, axes: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Which of donor, debias, seed and the axes differ between the cells; between bases, what is of the examination."""
    cells = table.loc[[not is_base(row) for _, row in table.iterrows()]]
    settings = [name for name in axes if name != "debias.control"]  # a control has a name of its own
    return tuple(
        name
        for name in ("donor", "debias", *settings, "seed")
        if (table if of_exam(name) else cells)[name].map(text).nunique() > 1
    )


def variant(row: Series, names: tuple[str, ...]) -> str:
    """What tells the row from others with the same merge and weight: "random_direction, merge.density=0.2"."""
    return ", ".join(
        text(row[name]) if name in ("donor", "debias") else f"{name}={text(row[name])}"
        for name in names
        if text(row[name]) and not (name == "debias" and text(row[name]) == "none")
    )


def cell_name(row: Series, names: tuple[str, ...] = ()) -> str:
    """A cell in words: "base", "ties 0.5", "ties 0.5 (random_direction)", "base (model.chat_template=true)"."""
    base = is_base(row)
    more = variant(row, tuple(name for name in names if of_exam(name)) if base else names)
    name = "base" if base else f"{row['merge']} {numerals.weight(row['weight'])}".strip()
    return name + (f" ({more})" if more else "")


def panel_name(panel: tuple[str, str, str], table: DataFrame) -> str:
    """A panel in words, the accuracy set only where the table has several."""
    model, bias, accuracy = panel
    return f"{model} · {bias}" + (f" · {accuracy}" if table["accuracy_set"].nunique() > 1 else "")


def marks(row: Series) -> str:
    """* for the Pareto front, ! for ruined."""
    return ("*" if truth(row["on_front"]) else "") + ("!" if truth(row["ruined"]) else "")


def status(row: Series) -> str:
    """The status; ruined is said where it applies."""
    return "ruined" if is_finished(row) and truth(row["ruined"]) else row["status"]


def write(table: DataFrame, folder: Path, axes: tuple[str, ...] = ()) -> list[Path]:
    """Write table.csv, table.parquet and table.md into the folder; returns their paths."""
    table = arrange(table, axes)
    for name in ("items", "seed"):
        table[name] = table[name].astype("float64").astype("Int64")
    for name in table.columns:
        if table[name].dtype == object and name not in ("ruined", "on_front"):
            table[name] = _of_one_kind(table[name])
    csv = table.copy()
    for name in table.columns:
        if name == "weight":
            csv[name] = [numerals.weight(value) for value in table[name]]
        elif not pd.api.types.is_float_dtype(table[name]):
            csv[name] = [text(value) for value in table[name]]
    csv.to_csv(folder / "table.csv", index=False, na_rep="nan", lineterminator="\n")
    parquet = table.astype({"ruined": "boolean", "on_front": "boolean"})
    parquet.to_parquet(folder / "table.parquet", index=False)
    (folder / "table.md").write_text(markdown(table, axes), encoding="utf-8")
    return [folder / "table.csv", folder / "table.parquet", folder / "table.md"]


def _of_one_kind(column: Series) -> Series:
    """The column as numbers where all its entries are, else as text: parquet takes no mixture."""
    if any(isinstance(value, bool) for value in column):
        return column.map(text).astype("str")
    try:
        return column.astype("float64")
    except (TypeError, ValueError):
        return column.map(text).astype("str")


def short(table: DataFrame, axes: tuple[str, ...] = ()) -> DataFrame:
    """What a person wants to see, as text: model, donor, merge, weight, results with intervals, marks, status.

    Where models were tuned on pairs, the epoch that was taken too, and how many times the base's the perplexity is.
    """
    rows, tuned = [], is_tuned(table)
    for _, row in table.iterrows():
        rows.append(
            {
                **{name: text(row[name]) for name in ("model", "bias", "accuracy_set") if table[name].nunique() > 1},
                "donor": text(row["donor"]),
                "merge": "base" if is_base(row) else row["merge"],
                "weight": numerals.weight(row["weight"]),
                **{name: text(row[name]) for name in varying(table, axes) if name != "donor"},
                **({"epoch": epoch(row)} if tuned else {}),
                **results(row),
                **({"perplexity ratio": perplexity_ratio(row)} if tuned else {}),
                "": marks(row),
                "status": status(row),
            }
        )
    return DataFrame(rows)


def is_tuned(table: DataFrame) -> bool:
    """Whether a model of the table, or its donor, was tuned on pairs."""
    return any(epoch(row) for _, row in table.iterrows())


def perplexity_ratio(row: Series) -> str:
    """How many times the base's the perplexity is, as text."""
    return "" if is_base(row) else numerals.ratio(row["perplexity_ratio"]) if is_finished(row) else "–"


def epoch(row: Series) -> str:
    """Which epoch of the tuning was taken, 0 for none; of the donor and of the debiasing where both were tuned."""
    taken = [row.get(f"{group}.epoch") for group in ("donor", "debias")]
    return " · ".join(f"{float(each):.0f}" for each in taken if text(each))


def results(row: Series, between: str = " ") -> dict[str, str]:
    """The row's numbers as text, by the heading of their column; a dash where the cell has none to show."""
    if not is_finished(row):
        return dict.fromkeys(("bias score", "bias change", "accuracy %", "accuracy change", "effective weight"), "–")
    base = is_base(row)

    def change(name: str, show) -> str:
        sign = "†" if stands(row, name) else ""
        return "" if base else numerals.with_interval(row, name, show, between, sign)

    return {
        "bias score": numerals.interval(numerals.score, row["bias_score"], row["bias_low"], row["bias_high"], between),
        "bias change": change("bias_change", numerals.score_change),
        "accuracy %": numerals.with_interval(row, "accuracy", numerals.percent, between),
        "accuracy change": change("accuracy_change", numerals.percent_change),
        "effective weight": "" if row["merge"] == "keep" else numerals.ratio(row["effective_weight"]),
    }


def failures(table: DataFrame, axes: tuple[str, ...] = ()) -> list[str]:
    """One sentence for every cell without results: which, its status, its error."""
    names, several, sentences = varying(table, axes), len(panels(table)) > 1, []
    for _, row in table.iterrows():
        if not is_finished(row):
            where = f" [{panel_name(tuple(row[key] for key in PANEL), table)}]" if several else ""
            error = " ".join(row["error"].split()) or "it left no error message"
            sentences.append(f"{cell_name(row, names)}{where} {row['status'] or 'has no status'}: {error}")
    return sentences


def markdown(table: DataFrame, axes: tuple[str, ...] = ()) -> str:
    """table.md: the short table, its legend, and the failed cells in words."""
    table = arrange(table, axes)
    lines = [pipes(short(table, axes)), "", LEGEND.replace("*", r"\*"), ""]
    failed = failures(table, axes)
    if failed:
        lines += ["Cells without results:", "", *(f"- {escape(sentence)}" for sentence in failed), ""]
    return "\n".join(lines)


def _rank(row: Series, axes: tuple[str, ...]) -> tuple:
    seed = [_sortable(row["seed"])]
    return (
        [row[key] for key in PANEL],
        not is_base(row),
        row["merge"] != "keep",
        row["merge"],
        row["donor"],
        row["debias"],
        [_sortable(row[name]) for name in axes],
        seed,
        _sortable(row["weight"]),
        row["merge_key"],
    )


def _sortable(value) -> tuple:
    try:
        number = float(value)
        return (1, 0.0, "") if math.isnan(number) else (0, number, "")
    except (TypeError, ValueError):
        return (2, 0.0, text(value))
