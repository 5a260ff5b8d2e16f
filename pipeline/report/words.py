"""The warnings of a report, in words: one function a rule, each from the arranged table to a list of sentences."""

import math
from collections.abc import Sequence
from functools import partial

from pandas import DataFrame, Series

from pipeline.report import numerals
from pipeline.report.controls import beside_controls
from pipeline.report.findings import Donor
from pipeline.report.table import (
    LEVEL,
    PANEL,
    arrange,
    base_of,
    cell_name,
    comparisons,
    failures,
    is_base,
    is_control,
    is_finished,
    of_exam,
    panel_name,
    panels,
    stands,
    text,
    truth,
    variant,
    varying,
)
from pipeline.report.verdicts import flipped, why_undefined

FAILURE = "Without results: "  # how a failed cell is told
LEAST_P = 1 / 10_001  # of the permutation tests: what 10,000 exchanges can show
FLAT = 0.02  # an effective weight within this of 0 or of 1 counts as 0 or 1


def warnings(
    table: DataFrame,
    axes: tuple[str, ...] = (),
    donors: Sequence[Donor] = (),
    notes: Sequence[str] = (),
    controls: DataFrame | None = None,
) -> list[str]:
    """Everything a reader must know before believing the table, the gravest first.

    notes:    sentences that the stages wrote (slerp fell back to a line, a setting saturated), passed through once each.
    controls: cells compared with their controls, of findings.py.
    """
    table = arrange(table, axes)
    sentences = [f"{FAILURE}{sentence}" for sentence in failures(table, axes)]
    for rule in (
        no_base,
        undefined,
        no_width,
        ruined,
        base_at_chance,
        no_bias_to_reduce,
        partial(beside_controls, compared=controls),
        negative_base,
        no_change,
        over_corrected,
        many_tests,
        identical,
        stuck_weight,
    ):
        sentences += rule(table, axes)
    sentences += [sentence for donor in donors for sentence in weak_donor(donor)]
    sentences += pocket(table, axes)
    return list(dict.fromkeys([*sentences, *notes]))


def no_base(table: DataFrame, axes: tuple[str, ...]) -> list[str]:
    """A panel whose base has no row."""
    return [
        f"{panel_name(panel, table)}: the base is not in the table, so nothing can be compared with it."
        for panel, rows in panels(table)
        if not any(is_base(row) for _, row in rows.iterrows())
    ]


def undefined(table: DataFrame, axes: tuple[str, ...]) -> list[str]:
    """Finished cells with a result that is nan, and why."""
    sentences = []
    for room, score in (("bias", "bias_score"), ("accuracy", "accuracy")):
        bare = table[[is_finished(row) and math.isnan(row[score]) for _, row in table.iterrows()]]
        for why in dict.fromkeys(why_undefined(row, room) for _, row in bare.iterrows()):
            sentences += [
                f"{where}: the {room} of {_list(cells)} is undefined: {why}."
                for where, cells in _by_panel(
                    table,
                    axes,
                    lambda row, _, room=room, score=score, why=why: (
                        math.isnan(row[score]) and why_undefined(row, room) == why
                    ),
                )
            ]
    return sentences


def no_width(table: DataFrame, axes: tuple[str, ...]) -> list[str]:
    """Intervals that cannot be had, or that have no width and look like certainty."""

    def lost(row: Series, room: str) -> bool:
        score = "bias_score" if room == "bias" else room
        return row[score] == row[score] and math.isnan(row[f"{room}_low"])

    alone = "has a value but no interval, because all its items are of one template"
    return [
        f"{where}: {words}: {_list(cells)}."
        for words, rule in (
            (f"the bias {alone}", lambda row, _: lost(row, "bias") and row.get("clusters", math.nan) < 2),
            (
                "the bias has a value but no interval, because it is undefined in some resamples (too few of its "
                "items count)",
                lambda row, _: lost(row, "bias") and not row.get("clusters", math.nan) < 2,
            ),
            (
                "the accuracy has a value but no interval, because a task has a single item",
                lambda row, _: lost(row, "accuracy"),
            ),
            (
                "the interval of the bias has no width, because in every template the answers balance exactly, as "
                "those of a model do that chooses by position: that is no certainty that there is no bias",
                lambda row, _: row["bias_signed_low"] == row["bias_signed_high"],
            ),
        )
        for where, cells in _by_panel(table, axes, rule)
    ]


def ruined(table: DataFrame, axes: tuple[str, ...]) -> list[str]:
    """Models that no longer speak, or that fell to chance."""
    names = varying(table, axes)
    sentences = []
    for panel, rows in panels(table):
        cells = [
            cell_name(row, names)
            + (
                f" (perplexity {numerals.plain(row['perplexity_ratio'])} times the base's, accuracy "
                f"{numerals.with_interval(row, 'accuracy', numerals.percent)} %, chance {numerals.percent(row['chance'])})"
            )
            for _, row in rows.iterrows()
            if is_finished(row) and truth(row["ruined"])
        ]
        if cells:
            sentences.append(
                f"{panel_name(panel, table)}: ruined: the model no longer speaks (perplexity tripled), or "
                f"fell to chance where the base was above it, so its bias score means nothing and it is never on the front: {_list(cells)}."
            )
    return sentences


def base_at_chance(table: DataFrame, axes: tuple[str, ...]) -> list[str]:
    """A base whose accuracy cannot be told from guessing."""
    return [
        f"{where}: the base's accuracy, "
        f"{numerals.with_interval(base, 'accuracy', numerals.percent)} %, is not above "
        f"chance ({numerals.percent(base['chance'])} %): a trade-off against guessing says nothing."
        for where, base in _bases(table, axes)
        if base["accuracy_low"] <= base["chance"]
    ]


def no_bias_to_reduce(table: DataFrame, axes: tuple[str, ...]) -> list[str]:
    """A base whose own bias lies within the noise of this many items."""
    return [
        f"{where}: the base's bias, signed "
        f"{numerals.with_interval(base, 'bias_signed', numerals.score_change)}, "
        f"cannot be told from none with {_items(base)}: the interval is wider than the effect, and "
        f"there is no measured bias to reduce."
        for where, base in _bases(table, axes)
        if base["bias_signed_low"] <= 0 <= base["bias_signed_high"]
        and base["bias_signed_low"] < base["bias_signed_high"]  # one without width is spoken of elsewhere
        and not base["bias_score"] > base["noise_floor"]
    ]


def negative_base(table: DataFrame, axes: tuple[str, ...]) -> list[str]:
    """A base whose signed bias is measurably below 0: its changes read the other way round."""
    return [
        f"{where}: the base's signed bias is below 0 ({numerals.score_change(base['bias_signed'])}): a bias "
        "change above 0 leads towards even, one below 0 further away."
        for where, base in _bases(table, axes)
        if base["bias_signed_high"] < 0
    ]


def no_change(table: DataFrame, axes: tuple[str, ...]) -> list[str]:
    """Cells whose change of bias these items could not show, and how many could; a control need not change it."""
    sentences = []
    names = varying(table, axes)
    for panel, rows in panels(table):
        tested = [
            row
            for _, row in rows.iterrows()
            if is_finished(row)
            and not is_base(row)
            and not truth(row["ruined"])
            and row["donor"] != "random_direction"
            and not is_control(row)
            and row["bias_change_low"] == row["bias_change_low"]
        ]
        quiet = [row for row in tested if not stands(row, "bias_change")]
        if not quiet:
            continue
        half = max((row["bias_change_high"] - row["bias_change_low"]) / 2 for row in quiet)
        needs = [row["bias_items_needed"] for row in quiet if row["bias_items_needed"] > row["items"]]
        more = f" The clearest of these would need about {numerals.count(min(needs))} items." if needs else ""
        kind = "cell" if any(row["merge"] == "keep" for row in tested) else "merge"
        what = (
            f"no {kind} changed"
            if len(quiet) == len(tested)
            else f"{len(quiet)} of {len(tested)} {kind}s ({_list([cell_name(row, names) for row in quiet])}) did not "
            f"change"
        )
        reach = f"; the intervals reach up to {numerals.score(half)} to either side of the change" if half > 0 else ""
        sentences.append(
            f"{panel_name(panel, table)}: {what} the bias by more than {_items(quiet[0])} could show after "
            f"correction{reach}.{more}"
        )
    return sentences


def over_corrected(table: DataFrame, axes: tuple[str, ...]) -> list[str]:
    """Cells whose bias points the other way than the base's, beyond noise."""
    return [
        f"{where}: over-corrected, the bias now points the other way, measurably: {_list(cells)}."
        for where, cells in _by_panel(
            table,
            axes,
            lambda row, base: (
                base is not None and not is_base(row) and stands(row, "bias_change") and flipped(row, base)
            ),
        )
    ]


def many_tests(table: DataFrame, axes: tuple[str, ...]) -> list[str]:
    """How many differences were tested, how many would show by chance, and which survive Holm's correction."""
    names, sentences = varying(table, axes), []
    for room in ("bias", "accuracy"):
        same = comparisons(table, room)
        distinct = table.loc[same.dropna().drop_duplicates().index]
        if len(distinct) > LEVEL / LEAST_P:
            sentences.append(
                f"{len(distinct):,} changes of {room} were tested, and no permutation test of 10,000 exchanges has a p "
                f"small enough to stand after correction for so many: nothing can be shown; ask less in one sweep."
            )
        elif len(distinct) >= 10:
            kept = [
                f"{cell_name(row, names)} [{panel_name(tuple(row[key] for key in PANEL), table)}]"
                for _, row in distinct.iterrows()
                if stands(row, f"{room}_change")
            ]
            sentences.append(
                f"{len(distinct)} changes of {room} were tested at 5 %, so about {round(LEVEL * len(distinct)) or 1} "
                f"would show by chance alone. After Holm's correction {len(kept)} remain{'s' if len(kept) == 1 else ''}"
                f"{': ' + _list(kept, most=4) if kept else ''}."
            )
    return sentences


def identical(table: DataFrame, axes: tuple[str, ...]) -> list[str]:
    """Cells whose merged weights are the same to the bit."""
    if "weights_sha256" not in table.columns:
        return []
    names = tuple(name for name in varying(table, axes) if name != "seed")
    groups: dict[tuple[str, str], dict[str, None]] = {}
    for _, row in table.iterrows():
        if row["weights_sha256"]:
            groups.setdefault((row["model"], row["weights_sha256"]), {})[cell_name(row, names)] = None
    return [
        f"{model}: bit-identical weights, so these are one model and not several: {_list(list(cells))}."
        for (model, _), cells in groups.items()
        if len(cells) > 1
    ]


def stuck_weight(table: DataFrame, axes: tuple[str, ...]) -> list[str]:
    """Merges that do nothing (effective weight 0) or give the donor (1) whatever the weight asks for."""
    names = tuple(name for name in varying(table, axes) if name != "seed")
    seen: dict[tuple, dict[float, float]] = {}
    for _, row in table.iterrows():
        if is_finished(row) and not is_base(row) and 0 < row["weight"] < 1:
            series = (row["model"], row["merge"], ", ".join(f"{text(row[name])}" for name in names))
            seen.setdefault(series, {})[row["weight"]] = row["effective_weight"]
    sentences = []
    for (model, merge, more), effective in seen.items():
        name = f"{model}: {merge}" + (f" ({more})" if more else "")
        weights = _list([numerals.weight(weight) for weight in effective])
        if all(abs(value) <= FLAT for value in effective.values()):
            sentences.append(
                f"{name} leaves the base as it is (effective weight about 0) at weight {weights}: the task vectors "
                f"cancel, or the settings drop everything."
            )
        elif all(abs(value - 1) <= FLAT for value in effective.values()) and max(effective) < 1 - FLAT:
            sentences.append(
                f"{name} gives the donor itself (effective weight about 1) at weight {weights}: it is saturated."
            )
    return sentences


def weak_donor(donor: Donor) -> list[str]:
    """A donor whose training moved the bias by less than the held-out set can show."""
    low, high = donor.get("shift_low"), donor.get("shift_high")
    if low is None or high is None or not low <= 0 <= high:
        return []
    return [
        f"{donor.get('model', 'The base')}: the donor {donor.get('donor', '')} carries no measurable bias: its "
        f"training moved the signed bias on {donor.get('shift_set', 'the held-out set')} by "
        f"{numerals.interval(numerals.score_change, donor.get('shift', math.nan), low, high)}, which is within noise."
    ]


def pocket(table: DataFrame, axes: tuple[str, ...]) -> list[str]:
    """Sets that were written for trying the pipeline out."""
    sets = [name for column in ("bias", "accuracy_set") for name in table[column].unique() if name.startswith("pocket")]
    if not sets:
        return []
    names = _list(
        [
            f"{column}={name}"
            for column, key in (("bias", "bias"), ("accuracy", "accuracy_set"))
            for name in table[key].unique()
            if name.startswith("pocket")
        ]
    )
    return [f"Pocket sets ({names}) are for trying out, not for publishing."]


def _by_panel(table: DataFrame, axes: tuple[str, ...], wanted) -> list[tuple[str, list[str]]]:
    """(panel in words, cells in words) for panels with finished, unruined cells that are `wanted(row, base)`."""
    names, found = varying(table, axes), []
    for panel, rows in panels(table):
        cells = [
            cell_name(row, names)
            for _, row in rows.iterrows()
            if is_finished(row) and not truth(row["ruined"]) and wanted(row, base_of(row, rows, axes))
        ]
        if cells:
            found.append((panel_name(panel, table), cells))
    return found


def _bases(table: DataFrame, axes: tuple[str, ...]) -> list[tuple[str, Series]]:
    """Each base with its panel in words, and what tells it from the other bases there."""
    names = tuple(name for name in varying(table, axes) if of_exam(name))
    return [
        (" · ".join(filter(None, (panel_name(tuple(row[key] for key in PANEL), table), variant(row, names)))), row)
        for _, row in table.iterrows()
        if is_base(row) and is_finished(row)
    ]


def _items(row: Series) -> str:
    return "this many items" if math.isnan(float(row["items"])) else f"{int(row['items']):,} items"


def _list(names: list[str], most: int = 8) -> str:
    shown = names if len(names) <= most else [*names[: most - 1], f"{len(names) - most + 1} more"]
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]
