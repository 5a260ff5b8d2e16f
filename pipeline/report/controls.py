"""Whether a donor or a debiasing does what a random direction of the same size does not, in words.

That one change stands after correction and another does not is no difference between the two (Gelman, Stern 2006, The American
Statistician): cells are set beside their controls item by item, and what is concluded is concluded from that.
"""

from pandas import DataFrame, Series

from pipeline.report import numerals
from pipeline.report.table import (
    CONTROL,
    LEVEL,
    cell_name,
    is_base,
    is_finished,
    panel_name,
    panels,
    stands,
    text,
    truth,
    varying,
)

INVERTED = "bias_inverted"
ADD = {INVERTED: "donor=bias_inverted,random_direction"}  # what makes the control of each; of the others:
ADD_DEBIASING = "debias.control=false,true"


def beside_controls(table: DataFrame, axes: tuple[str, ...], compared: DataFrame | None) -> list[str]:
    """One sentence for a panel and what has, or should have, a control in it; compared: `controls` of findings.py."""
    sentences, names = [], varying(table, axes)
    for panel, rows in panels(table):
        tested, untaken = _tested(rows)
        for of, count in untaken.items():
            if of.endswith(CONTROL):
                continue
            sentences.append(
                f"{panel_name(panel, table)}: {of} took no epoch of its tuning in {count} cell{'s' * (count != 1)}, which "
                f"{'are' if count != 1 else 'is'} the base and show{'s' * (count == 1)} nothing."
            )
        for of in [name for name in tested if not name.endswith(CONTROL)]:
            cells, controls = tested[of], tested.get(f"{of}{CONTROL}", [])
            subject, cell = ("the bias-inverted donor", "merge") if of == INVERTED else (of, "cell")
            head = (
                f"{panel_name(panel, table)}: {subject} changes the bias measurably in "
                f"{sum(stands(row, 'bias_change') for row in cells)} of {len(cells)} {cell}{'s' * (len(cells) != 1)}, "
            )
            if not controls:
                lost = "its control is ruined" if _any_ruined(rows, of) else "no control is in this sweep"
                sentences.append(
                    head + f"and {lost}, so an effect may come from any change of the weights and not from "
                    f"its direction; add {ADD.get(of, ADD_DEBIASING)}."
                )
                continue
            shown = {cell_name(row, names): row["bias_change"] for row in cells if stands(row, "bias_change")}
            sentences.append(
                head
                + f"a random direction of the same size in {sum(stands(row, 'bias_change') for row in controls)} of "
                f"{len(controls)}; {_conclusion(_of(compared, panel, of), shown)}"
            )
    return sentences


def _any_ruined(rows: DataFrame, of: str) -> bool:
    return any(
        truth(row["ruined"])
        and (
            text(row["donor"]) == "random_direction" and text(row["debias"]).lower() in ("", "none")
            if of == INVERTED
            else text(row["debias"]) == f"{of}{CONTROL}"
        )
        for _, row in rows.iterrows()
    )


def _tested(rows: DataFrame) -> tuple[dict[str, list[Series]], dict[str, int]]:
    """The cells of a panel that count, by what is to be shown of them, of controls with the word behind it; and how many do not
    count, because no epoch of their tuning was taken."""
    tested: dict[str, list[Series]] = {}
    untaken: dict[str, int] = {}
    for _, row in rows.iterrows():
        if is_finished(row) and not is_base(row) and not truth(row["ruined"]):
            name = text(row["debias"])
            if name.lower() in ("", "none"):
                name = {INVERTED: INVERTED, "random_direction": f"{INVERTED}{CONTROL}"}.get(text(row["donor"]))
            elif row.get("debias.epoch") == 0:
                untaken[name] = untaken.get(name, 0) + 1
                continue
            if name:
                tested.setdefault(name, []).append(row)
    return dict(sorted(tested.items(), key=lambda entry: entry[0] != INVERTED)), untaken


def _of(compared: DataFrame | None, panel: tuple[str, str, str], of: str) -> DataFrame:
    if compared is None or compared.empty:
        return DataFrame({name: [] for name in ("cell", "bias_change", "bias_low", "bias_high", "bias_p_holm")})
    model, bias, accuracy = panel
    here = (compared["model"] == model) & (compared["bias"] == bias) & (compared["accuracy_set"] == accuracy)
    found = compared[here & (compared["of"] == of)]
    return found[found["bias_change"].notna()]


def _conclusion(found: DataFrame, shown: dict[str, float]) -> str:
    """shown: the changes of bias that stand, by their cells; each must differ that way from all of its controls."""
    if not shown:
        return "no debiasing is shown."
    told = found[found["cell"].isin(shown)]
    if told.empty:
        return (
            "they could not be compared with each other, so it is not known whether an effect comes from its direction."
        )
    beyond = (told["bias_p_holm"] <= LEVEL) & ((told["bias_low"] > 0) | (told["bias_high"] < 0))
    beyond &= told["bias_change"] * told["cell"].map(shown) > 0
    whole = beyond.groupby(told["cell"]).all()
    of_these = told[told["cell"].map(whole)] if whole.any() else told
    largest = of_these.sort_values("bias_change", key=abs, kind="stable").iloc[-1]
    by = numerals.interval(
        numerals.score_change,
        largest["bias_change"],
        largest["bias_low"],
        largest["bias_high"],
        sign="†" * bool(beyond[largest.name]),
    )
    words = f"set beside {'its control' if len(told) == 1 else 'their controls'}, item by item, {whole.sum()} of {len(whole)} "
    words += f"still {'has' if whole.sum() == 1 else 'have'} it ({by}{'' if len(told) == 1 else ', the largest'}): "
    if whole.any():
        return words + "that is more than a random direction of the same size does."
    return words + "the effect cannot be told from that of any change of the weights of this size."
