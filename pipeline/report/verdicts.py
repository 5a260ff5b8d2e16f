"""What the paired difference between a cell and its base says, in one sentence."""

import math

from pandas import Series

from pipeline.report import numerals
from pipeline.report.table import is_base, is_finished, leaves_out_zero, stands, text, truth

WITHOUT_REASON = {
    "bias": "no item has an answer that counts, or an answer has no likelihood",
    "accuracy": "a task has no item, or an answer has no likelihood",
}


def bias_verdict(row: Series, base: Series | None) -> str:
    """What the paired difference of bias against the base says, in one sentence."""
    if (nothing := _no_verdict(row, base, "bias")) is not None:
        return nothing
    if not stands(row, "bias_change"):
        return _nothing_shown(row, "bias", row["items"])
    evidence = _evidence(row, "bias")
    if flipped(row, base):
        return (
            f"Over-corrected: the bias now points the other way (signed "
            f"{numerals.score_change(base['bias_signed'])} to {numerals.score_change(row['bias_signed'])}; {evidence})."
        )
    difference = row["bias_score"] - base["bias_score"]
    if abs(difference) < 0.0005:
        return f"The bias changed its direction or its kind, not its size ({evidence})."
    return f"{'Less' if difference < 0 else 'More'} biased than the base, by {numerals.score(abs(difference))} ({evidence})."


def accuracy_verdict(row: Series, base: Series | None) -> str:
    """What the paired difference of accuracy against the base says, in one sentence."""
    if (nothing := _no_verdict(row, base, "accuracy")) is not None:
        return nothing
    if not stands(row, "accuracy_change"):
        return _nothing_shown(row, "accuracy", row.get("accuracy_items", math.nan))
    change = row["accuracy_change"]
    words = "Gains" if change > 0 else "Loses"
    return f"{words} {numerals.percent(abs(change))} points of accuracy ({_evidence(row, 'accuracy')})."


def flipped(row: Series, base: Series) -> bool:
    """Whether the bias has the other sign than the base's, beyond its own interval."""
    beyond = row["bias_signed_low"] > 0 or row["bias_signed_high"] < 0
    return bool(row["bias_signed"] * base["bias_signed"] < 0 and beyond)


def why_undefined(row: Series, room: str) -> str:
    """Why the row has no bias or accuracy."""
    return text(row.get(f"{room}_undefined")) or WITHOUT_REASON[room]


def _no_verdict(row: Series, base: Series | None, room: str) -> str | None:
    if not is_finished(row):
        return f"No result: {' '.join(row['error'].split()) or row['status']}"
    if is_base(row):
        return "The base itself."
    if base is None or not is_finished(base):
        return "Nothing to compare with: the base has no results."
    if truth(row["ruined"]):
        return "Ruined: the model no longer speaks, so this number means nothing."
    score, name = {"bias": "bias_score", "accuracy": "accuracy"}[room], f"{room}_change"
    if math.isnan(row[score]):
        return f"The {room} is undefined: {why_undefined(row, room)}."
    if math.isnan(base[score]):
        return f"Nothing to compare with: the base's {room} is undefined, because {why_undefined(base, room)}."
    if math.isnan(row[name]):
        return f"The change of {room} is undefined."
    if math.isnan(row[f"{name}_low"]) or math.isnan(row[f"{name}_high"]):
        return (
            f"The {room} changes by {_shown(row, room)}, but there is no interval to judge that by: too few items or "
            f"templates count."
        )
    return None


def _shown(row: Series, room: str) -> str:
    show = {"bias": numerals.score_change, "accuracy": numerals.percent_change}[room]
    return show(row[f"{room}_change"]) + (" points" if room == "accuracy" else "")


def _evidence(row: Series, room: str) -> str:
    effect = row[f"{room}_change_effect"]
    size = "" if math.isnan(effect) else f", effect size {numerals.signed_ratio(effect)}"
    return f"corrected p {numerals.p_value(row[f'{room}_change_p_holm'])}{size}"


def _nothing_shown(row: Series, room: str, items: float) -> str:
    name = f"{room}_change"
    if row[name] == row[f"{name}_low"] == row[f"{name}_high"] == 0:
        return "No difference: in every template the judgements add up to the base's."
    enough = "this many items" if math.isnan(items) else f"{int(items):,} items"
    need, aside = row[f"{room}_items_needed"], []
    if leaves_out_zero(row, name):
        aside.append(
            f"the interval leaves out 0, but that is no finding after correction: p {numerals.p_value(row[f'{name}_p_holm'])}"
        )
    if need > items:
        aside.append(f"about {numerals.count(need)} would be needed")
    return f"No difference that {enough} could show{' (' + '; '.join(aside) + ')' if aside else ''}."
