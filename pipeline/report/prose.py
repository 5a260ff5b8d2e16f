"""Sentences that the page and report.md share."""

import math

from pandas import DataFrame

from pipeline.report import numerals
from pipeline.report.findings import Donor
from pipeline.report.table import CONTROL, is_base, text

HOW_TO_READ = (
    "Left is less biased, up is more accurate; each curve starts at the base (star) and follows the weight. Bars are "
    "95 % intervals. An unbiased model would score inside the shaded noise floor."
)
HOW_TESTED = (
    "Differences are paired by item, bias on its signed scale. A change is said to be there where its permutation test "
    "is below 5 % after Holm's correction, over all changes of bias of this sweep or over all of accuracy (models with "
    "the same weights count once), and its 95 % interval leaves out 0. The effect size is Cohen's d_z over templates: 0.2 "
    "is small, 0.5 medium, 0.8 large. The number of items needed is that with which a difference of the measured size "
    "would stand in four samples of five, after correction for as many comparisons."
)
HOW_CONTROLLED = (
    "A control went as far in every tensor, in a random direction. Cell minus control, paired by item, bias on its signed "
    "scale; Holm's correction is over these comparisons, bias and accuracy apart."
)
HOW_PAIRED = (
    "Cell minus other, paired by item, bias on its signed scale; Holm's correction is over all pairs of the sweep, bias "
    "and accuracy apart."
)


def question(table: DataFrame) -> str:
    """What the sweep asks, in one sentence."""
    cells = table.loc[[not is_base(row) for _, row in table.iterrows()]]
    merged, kept = cells[cells["merge"] != "keep"], cells[cells["merge"] == "keep"]
    models, donors, asked = names(table["model"]), names(merged["donor"]), []
    if len(merged):
        asked.append(f"merging {models} {'with ' + donors + ' ' if donors else ''}by {names(merged['merge'])}")
    if len(kept):
        what = models if not asked else "them" if table["model"].nunique() > 1 else "it"
        methods = [text(name).removesuffix(CONTROL) for name in kept["debias"]]
        asked.append(f"debiasing {what} by {names(methods)}")
    return (
        f"Does {', or '.join(asked) or 'doing nothing to ' + models}{',' if len(asked) > 1 else ''} "
        f"reduce social bias as measured by {names(table['bias'])}, and what does it cost in accuracy on "
        f"{names(table['accuracy_set'])}?"
    )


def names(column) -> str:
    """The distinct entries: "slerp and ties"."""
    distinct = [value for value in dict.fromkeys(map(text, column)) if value]
    return distinct[0] if len(distinct) == 1 else ", ".join(distinct[:-1]) + " and " + distinct[-1] if distinct else ""


def donor_name(donor: Donor) -> str:
    """The donor in words."""
    return " · ".join(part for part in (donor.get("model"), donor.get("donor")) if part)


def donor_lines(donor: Donor) -> list[str]:
    """The strength report, line by line; what was not measured is said to be so."""
    before, after = _number(donor, "loss_before"), _number(donor, "loss_after")
    loss = (
        "not measured"
        if math.isnan(before) or math.isnan(after)
        else f"{before:.3f} before the training, {after:.3f} after (fall {before - after:.3f} nats a token)"
    )
    norm = _number(donor, "norm_ratio")
    shift, low, high = (_number(donor, name) for name in ("shift", "shift_low", "shift_high"))
    if math.isnan(shift):
        moved = "not measured"
    else:
        verdict = (
            ""
            if math.isnan(low) or math.isnan(high)
            else "within noise: this donor carries no measurable bias"
            if low <= 0 <= high
            else "beyond noise"
        )
        moved = (
            f"{numerals.interval(numerals.score_change, shift, low, high)} signed bias on "
            f"{donor.get('shift_set', 'a held-out set')}"
            + (f", {donor['shift_items']:,} items" if donor.get("shift_items") else "")
            + (f"; {verdict}" if verdict else "")
        )
    known = Donor.__annotations__
    return [
        *([f"trained on: {donor['data']}"] if donor.get("data") else []),
        f"stereotype loss: {loss}",
        "size of the task vector, ‖τ‖/‖θ‖: " + ("not measured" if math.isnan(norm) else f"{norm:.3g}"),
        f"shift of the trained model on the held-out bias set: {moved}",
        *(f"{name}: {value}" for name, value in donor.items() if name not in known),
    ]


def biased(answer: bool | None) -> str:
    """Whether an answer was biased, in words."""
    return {True: "biased answer", False: "unbiased answer"}.get(answer, "the item cannot tell")


def _number(donor: Donor, name: str) -> float:
    value = donor.get(name)
    return math.nan if value is None else float(value)
