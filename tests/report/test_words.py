import numpy as np
import pytest
from pandas import DataFrame
from report_tables import cell, failed, five_rows

from pipeline.report import warnings
from pipeline.report.table import arrange
from pipeline.report.verdicts import accuracy_verdict, bias_verdict
from pipeline.report.words import many_tests

BASE = cell("keep", signed=0.22, accuracy=0.62)
CLEAR = {"signed": 0.10, "bias_change_p": 0.001}


def said(*rows, base=BASE, **more):
    return "\n".join(warnings(DataFrame([base, *rows]), **more))


def verdict(row, base=BASE, of=bias_verdict):
    table = arrange(DataFrame([base, row]))
    return of(table.iloc[1], table.iloc[0])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([failed()], "ties 0.9 failed: CheckpointError"),
        ([failed(status="missing", error="")], "ties 0.9 missing: it left no error message"),
        ([cell(bias_score=np.nan)], "the bias of slerp 0.3 is undefined: no item has an answer that counts"),
        ([cell(bias_score=np.nan, bias_undefined="a reason")], "the bias of slerp 0.3 is undefined: a reason."),
        ([cell(accuracy=np.nan)], "the accuracy of slerp 0.3 is undefined: a task has no item"),
        ([cell(ruined=True, perplexity_ratio=99.0)], "slerp 0.3 (perplexity 99 times the base's, accuracy"),
        ([cell(signed=0.21)], "no merge changed the bias by more than 400 items could show after correction"),
        ([cell(signed=0.21), cell("ties", **CLEAR)], "1 of 2 merges (slerp 0.3) did not change the bias"),
        ([cell(signed=-0.15)], "over-corrected, the bias now points the other way, measurably: slerp 0.3"),
        ([cell(weights_sha256="x"), cell(weight=0.5, weights_sha256="x")], "bit-identical weights"),
        ([cell(effective_weight=1.0), cell(weight=0.5, effective_weight=0.99)], "saturated"),
        ([cell(effective_weight=0.0), cell(weight=0.5, effective_weight=-0.001)], "leaves the base as it is"),
        ([cell()], "Pocket sets (bias=pocket_bbq and accuracy=pocket) are for trying out, not for publishing."),
        ([cell()], "add donor=bias_inverted,random_direction"),
        ([cell(**CLEAR), cell(donor="random_direction", signed=0.21)], "could not be compared with each other"),
        (
            [cell(weight=w / 20, bias_change_p=0.0001 * w) for w in range(1, 13)],
            "12 changes of bias were tested at 5 %",
        ),
    ],
)
def test_every_rule_speaks(rows, words):
    assert words in said(*rows)


def test_models_that_are_not_merged_are_no_merges():
    tuned = cell("keep", debias="pcgu", signed=0.21, bias_change=-0.01)
    assert "no cell changed the bias" in said(tuned)
    assert "no cell changed the bias" in said(tuned, cell("keep", debias="pcgu control", signed=0.22))
    assert "cell changed" not in said(cell("keep", debias="pcgu control", signed=0.22)), "a control need not change it"


def test_a_base_that_leans_the_other_way_says_how_its_changes_read():
    words = "the base's signed bias is below 0 (-0.220): a bias change above 0 leads towards even"
    assert words in said(cell(signed=-0.2), base=cell("keep", signed=-0.22))
    assert "towards even" not in said(cell()) + said(cell(), base=cell("keep", signed=-0.02))


def test_rules_on_the_base():
    assert "cannot be told from none with 400 items" in said(cell(), base=cell("keep", signed=0.02))
    assert "is not above chance (30.0 %)" in said(cell(), base=cell("keep", signed=0.22, accuracy=0.32))
    assert "the base is not in the table" in "\n".join(warnings(DataFrame([cell()])))


def test_nothing_to_warn_of():
    rows = [cell("ties", **CLEAR), cell("ties", donor="random_direction", signed=0.2201)]
    real = {"bias": "bbq", "accuracy_set": "superglue"}
    compared = DataFrame([against_control(-0.11, 0.001, "bias_inverted", cell="ties 0.3 (bias_inverted)") | real])
    told = warnings(DataFrame([{**row, **real} for row in (BASE, *rows)]), controls=compared)
    assert len(told) == 1 and MORE in told[0]


def test_a_control_that_does_nothing_is_not_a_missing_effect():
    assert "did not change" not in said(cell(**CLEAR), cell(donor="random_direction", signed=0.2199))


def against_control(change, p, of="pcgu", low=None, high=None, **more):
    """One row of `controls`."""
    panel = {key: cell()[key] for key in ("model", "bias", "accuracy_set")}
    low, high = change - 0.04 if low is None else low, change + 0.04 if high is None else high
    panel |= {"cell": f"slerp 0.3 ({of})"}
    return panel | {"of": of, "bias_change": change, "bias_low": low, "bias_high": high, "bias_p_holm": p} | more


MORE, NO_MORE = "that is more than a random direction of the same size does", "cannot be told from that of any change"
UNKNOWN = "they could not be compared with each other"
BESIDE = [  # change of the cell, of the control, their differences, what is said
    (CLEAR, {"signed": 0.21}, [(-0.11, 0.001)], f"1 of 1 still has it (-0.110† [-0.150, -0.070]): {MORE}"),
    (CLEAR, CLEAR, [(-0.11, 0.001)], MORE),
    (CLEAR, {"signed": 0.21}, [(-0.03, 0.2)], f"0 of 1 still have it (-0.030 [-0.070, 0.010]): the effect {NO_MORE}"),
    (CLEAR, {"signed": 0.21}, [(-0.11, 0.001, -0.2, 0.01)], NO_MORE),
    (CLEAR, CLEAR, [(+0.11, 0.001)], NO_MORE),  # the random direction did more of the same
    (CLEAR, {"signed": 0.21}, [(-0.11, 0.001), (-0.02, 0.9)], NO_MORE),  # one draw of the control did as much
    (CLEAR, {"signed": 0.21}, [(-0.11, 0.001), (-0.12, 0.001)], f"(-0.120† [-0.160, -0.080], the largest): {MORE}"),
    (CLEAR, {"signed": 0.21}, [], UNKNOWN),
    (CLEAR, {"signed": 0.21}, [(np.nan, np.nan)], UNKNOWN),
    ({"signed": 0.21}, CLEAR, [(0.11, 0.001)], "no debiasing is shown"),
    ({"signed": 0.21}, {"signed": 0.21}, [(0.0, 1.0)], "no debiasing is shown"),
    ({"signed": 0.21}, {"signed": 0.21}, [(-0.11, 0.001)], "no debiasing is shown"),
]


@pytest.mark.parametrize("of", ["pcgu", "bias_inverted"])
@pytest.mark.parametrize(("treated", "control", "differences", "words"), BESIDE)
def test_what_is_concluded_is_concluded_from_the_difference(of, treated, control, differences, words):
    kinds = {
        "pcgu": ({"donor": "checkpoints", "debias": "pcgu"}, {"donor": "checkpoints", "debias": "pcgu control"}),
        "bias_inverted": ({"donor": "bias_inverted"}, {"donor": "random_direction"}),
    }[of]
    rows = [cell(**kind | change) for kind, change in zip(kinds, (treated, control), strict=True)]
    compared = [against_control(*each[:2], of, *each[2:]) for each in differences]
    strangers = [
        against_control(-0.5, 0.0, of, bias="another"),
        against_control(-0.5, 0.0, "dpo"),
        against_control(-0.5, 0.0, of, cell="another"),
    ]
    told = [
        line for line in said(*rows, controls=DataFrame(compared + strangers)).split("\n") if "random direction" in line
    ]
    assert len(told) == 1 and words in told[0]


def test_one_cell_stands_and_another_differs_from_its_control():
    """What is concluded is concluded of one and the same cell."""
    rows = [cell(**CLEAR), cell("ties", signed=0.21), cell(donor="random_direction", signed=0.2199)]
    compared = [
        against_control(-0.01, 0.9, "bias_inverted"),
        against_control(-0.11, 0.001, "bias_inverted", cell="ties 0.3 (bias_inverted)"),
    ]
    assert NO_MORE in said(*rows, controls=DataFrame(compared))


def test_a_ruined_control_is_no_missing_one():
    told = said(cell(**CLEAR), cell(donor="random_direction", signed=0.21, ruined=True))
    assert "its control is ruined" in told and "no control is in this sweep" not in told


def test_without_a_control_it_says_how_to_get_one():
    alone = said(cell(**{"donor": "checkpoints", "debias": "pcgu"} | CLEAR))
    assert "pcgu changes the bias measurably in 1 of 1 cell, and no control is in this sweep" in alone
    assert "add debias.control=false,true" in alone


def test_a_tuning_of_which_no_epoch_was_taken_shows_nothing():
    untaken = [{"donor": "checkpoints", "debias": name, "debias.epoch": 0} for name in ("dpo", "dpo control")]
    told = said(*(cell(**each) for each in untaken), cell(donor="checkpoints", debias="pcgu", **{"debias.epoch": 2}))
    assert told.count("took no epoch of its tuning") == 1
    assert "dpo took no epoch of its tuning in 1 cell, which is the base and shows nothing" in told
    assert "dpo changes the bias" not in told and "pcgu changes the bias measurably in 0 of 1 cell" in told


def test_ruined_cells_count_neither_as_effect_nor_as_over_correction():
    told = said(cell(signed=-0.15, ruined=True), cell(donor="random_direction", signed=0.21))
    assert "over-corrected" not in told and "comes from the direction" not in told


def test_seeds_are_not_several_models():
    assert "bit-identical" not in said(cell(weights_sha256="x", seed=0), cell(weights_sha256="x", seed=1))


def test_a_donor_within_noise_is_told_and_a_strong_one_is_not():
    weak = {
        "model": "m",
        "donor": "bias_inverted",
        "shift": 0.01,
        "shift_low": -0.05,
        "shift_high": 0.07,
        "shift_set": "held",
    }
    assert "carries no measurable bias" in said(cell(), donors=[weak])
    assert "carries no measurable bias" not in said(cell(), donors=[{**weak, "shift_low": 0.005}])
    assert "carries no measurable bias" not in said(cell(), donors=[{"donor": "random_direction"}])


def test_notes_are_passed_through_once():
    assert said(cell(), notes=["slerp is a line here.", "slerp is a line here."]).count("slerp is a line here.") == 1


def test_verdicts_of_bias():
    assert verdict(cell(signed=0.21)) == "No difference that 400 items could show (about 7,400 would be needed)."
    less = "Less biased than the base, by 0.120 (corrected p = 0.002, effect size -0.80)."
    assert verdict(cell(signed=0.10)) == less
    assert verdict(cell(signed=0.30)).startswith("More biased than the base, by 0.080 (")
    assert verdict(cell(signed=-0.15)).startswith("Over-corrected")
    assert (
        verdict(cell(signed=0.22, change_half=0.0))
        == "No difference: in every template the judgements add up to the base's."
    )
    assert verdict(cell(ruined=True)).startswith("Ruined")
    assert verdict(failed()).startswith("No result: CheckpointError")
    assert verdict(cell(bias_score=np.nan)).startswith("The bias is undefined: no item has an answer that counts")
    assert verdict(cell(bias_score=np.nan, bias_undefined="why")) == "The bias is undefined: why."
    assert verdict(cell(), base=cell("keep", bias_score=np.nan, bias_undefined="why")).endswith(
        "undefined, because why."
    )
    assert verdict(cell(bias_change=np.nan)) == "The change of bias is undefined."
    assert "changes by -0.020, but there is no interval" in verdict(cell(bias_change_low=np.nan))
    assert verdict(cell(), base=failed("keep")).startswith("Nothing to compare with")


def test_what_does_not_stand_after_correction_is_no_finding():
    chance = cell(signed=0.18, bias_change_p=0.02, bias_change_p_holm=0.13, bias_items_needed=640.0)
    assert verdict(chance) == (
        "No difference that 400 items could show (the interval leaves out 0, but that is no finding after correction: "
        "p = 0.130; about 640 would be needed)."
    )
    told = said(chance, cell(donor="random_direction", signed=0.2199))
    assert "no merge changed the bias by more than 400 items could show after correction" in told
    assert "no debiasing is shown" in told


def test_a_corrected_p_alone_is_no_finding_either():
    straddles = cell(signed=0.2, bias_change_p_holm=0.04)
    assert verdict(straddles).startswith("No difference that 400 items could show")


def test_no_sentence_says_nan():
    """Of a one-sided statistic: no noise floor, no p of its own; and of one that is undefined in every way."""
    share = {"noise_floor": np.nan, "bias_p": np.nan}
    bare = dict.fromkeys(
        (name for name in cell() if isinstance(cell()[name], float) and name not in ("weight", "items")), np.nan
    )
    lost = {"bias_low": np.nan, "bias_high": np.nan, "bias_signed_low": np.nan, "bias_signed_high": np.nan}
    rows = [cell(**share), cell("ties", **bare), cell("ties", 0.6, **lost), cell("ties", 0.7, bias_change_low=np.nan)]
    for base in (cell("keep", **share), cell("keep", **bare), cell("keep", **lost)):
        text = said(*rows, base=base) + "".join(
            verdict(row, base) + verdict(row, base, accuracy_verdict) for row in rows
        )
        assert "nan" not in text.lower().split() and "(nan)" not in text and "±" not in text


def test_more_comparisons_than_a_permutation_test_can_tell_apart():
    rows = [cell(weight=w / 1000, signed=0.2 + w / 1e5, bias_change_p_holm=0.06) for w in range(501)]
    (told, _) = many_tests(arrange(DataFrame([BASE, *rows])), ())
    assert told.startswith("501 changes of bias were tested, and no permutation test")


def test_verdicts_of_accuracy():
    assert verdict(cell(accuracy=0.55), of=accuracy_verdict).startswith("Loses 7.0 points of accuracy (")
    assert verdict(cell(accuracy=0.66), of=accuracy_verdict).startswith("Gains 4.0 points of accuracy (")
    assert verdict(cell(accuracy=0.61), of=accuracy_verdict) == "No difference that this many items could show."
    assert "500 items" in verdict(cell(accuracy=0.61, accuracy_items=500), of=accuracy_verdict)


def test_the_table_of_the_demo():
    told = warnings(five_rows())
    assert [words for words in told if "2 of 4 merges (slerp 0.3 and slerp 0.5) did not change" in words]
