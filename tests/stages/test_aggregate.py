"""A sweep's cells as one table: one row for cells that are one, Holm over the sweep, and each cell against each."""

import copy
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.bias import lm_eval
from pipeline.errors import ConfigError
from pipeline.stages import aggregate, comparisons
from pipeline.stages.evaluate import difference
from pipeline.statistics import holm

NAN = float("nan")
CROWS = {"room": "bias", "benchmark": "crows_pairs"}
EXAM = {"room": "accuracy", "settings": {"tasks": {"facts": {"in_mean": True}}}}


def crows_marks(folder, more):
    folder.mkdir(parents=True, exist_ok=True)
    more = np.asarray(more, dtype=float)
    ids = [f"i{n:03}" for n in range(len(more))]
    table = pd.DataFrame({"id": ids, "group": "g", "cluster": ids, "pairs": 1.0, "more": more, "less": 1 - more})
    table.to_parquet(folder / "marks.parquet")
    return str(folder)


def facts_marks(folder, right):
    folder.mkdir(parents=True, exist_ok=True)
    ids = [f"f{n:03}" for n in range(len(right))]
    table = pd.DataFrame(
        {"id": ids, "group": "facts", "cluster": ids, "value": np.asarray(right, float), "chance": 0.25}
    )
    table.to_parquet(folder / "marks.parquet")
    return str(folder)


def record(merge, weight, p=0.01, *, change=-0.1, asked=None, **more):
    """One cell, as cell.json has it."""
    weights = f"w-{merge}-{weight}"
    row = {
        "model": "m", "base_key": "fetch-1", "donor": "d", "merge": merge, "weight": weight, "debias": "none", "bias": "b", "accuracy_set": "a",
        "seed": 0, "merge_key": f"merge-{merge}-{weight}", "weights_sha256": weights, "base_id": "id", "items": 100, "accuracy_items": 60,
        "bias_score": 0.2, "accuracy": 0.5, "ruined": False, "uses_weight": weight is not None,
        "bias_change": change, "bias_change_low": change - 0.05, "bias_change_high": change + 0.05, "bias_change_p": p,
        "accuracy_change": 0.0, "accuracy_change_low": -0.1, "accuracy_change_high": 0.1, "accuracy_change_p": 1.0,
    } | more  # fmt: skip
    base = {
        **dict.fromkeys(row, None),
        **{k: row[k] for k in ("model", "base_key", "bias", "accuracy_set", "seed", "base_id", "items")},
    }
    base |= {
        "merge": "keep",
        "debias": "none",
        "merge_key": "fetch-1",
        "bias_score": 0.3,
        "accuracy": 0.5,
        "ruined": False,
    }
    return {
        "overrides": {"merge": merge, "weight": str(weight if asked is None else asked)},
        "choices": {k: row[k] for k in aggregate.PLACE},
        "status": "done",
        "error": None,
        "run_id": None,
        "result": {"row": row, "base_row": base, "notes": [], "donor": None, "marks": {}, "exams": {"bias": CROWS, "accuracy": EXAM}},
    }  # fmt: skip


def failed(merge, weight, asked, error="it broke"):
    lost = record(merge, weight, asked=asked)
    return lost | {"status": "failed", "error": error, "result": None}


def cells(frame):
    return frame[frame["merge"].ne("keep")].reset_index(drop=True)


# ---- Holm over the sweep


def test_holm_is_over_all_cells_of_the_sweep_bias_and_accuracy_apart():
    p = [0.001, 0.02, 0.03, 0.2]
    other = record("ties", 0.4, p[3], bias="another", base_id="other", accuracy_change_p=0.01)
    frame = cells(aggregate.table([*(record("ties", place / 10, each) for place, each in enumerate(p[:3])), other]))
    assert sorted(frame.bias_change_p_holm) == pytest.approx(sorted(holm(p)))
    assert sorted(frame.accuracy_change_p_holm) == pytest.approx([0.04, 1, 1, 1])


def test_the_base_and_failed_cells_are_no_tests_and_stay_nan():
    frame = aggregate.table([record("ties", 0.1, 0.04), failed("ties", 0.2, 0.2)])
    assert frame.bias_change_p_holm.notna().tolist() == [False, True, False]
    assert frame.bias_change_p_holm[1] == 0.04 and np.isnan(frame.bias_items_needed[[0, 2]]).all()


def test_models_of_the_same_weights_count_once_with_their_largest_p():
    """slerp on parallel tensors is linear; two seeds of the bootstrap give two p for the same test."""
    same = [record(name, 0.3, p, weights_sha256="x", change=-0.2) for name, p in (("slerp", 0.02), ("linear", 0.021))]
    frame = cells(aggregate.table([*same, record("ties", 0.3, 0.5)]))
    assert frame.bias_change_p_holm.tolist() == pytest.approx([0.042, 0.042, 0.5])


def test_an_undefined_change_is_no_test():
    frame = cells(aggregate.table([record("ties", 0.1, 0.03), record("ties", 0.2, NAN, change=NAN)]))
    assert frame.bias_change_p_holm[0] == 0.03 and math.isnan(frame.bias_change_p_holm[1])


def test_the_items_needed_grow_with_the_comparisons():
    alone, many = (
        cells(aggregate.table([record("ties", place / 100, 0.3, change=-0.03) for place in range(count)]))
        for count in (1, 10)
    )
    # (1.960 + 0.842)² and (2.807 + 0.842)² standard errors of 0.05 / 1.96, at 100 items
    assert alone.bias_items_needed[0] == pytest.approx(100 * (2.8016 * 0.05 / 1.96 / 0.03) ** 2, abs=1)
    assert many.bias_items_needed[0] == pytest.approx(100 * (3.6487 * 0.05 / 1.96 / 0.03) ** 2, abs=1)


# ---- cells that are one


def test_a_method_without_a_weight_has_one_row_however_often_it_was_swept():
    swept = [record("model_stock", None, 0.02, asked=w) for w in (0.1, 0.3, 0.5)]
    frame = cells(aggregate.table([*swept, record("ties", 0.1, 0.03)]))
    assert frame["merge"].tolist() == ["model_stock", "ties"]
    assert frame.bias_change_p_holm.tolist() == pytest.approx([0.04, 0.04])
    told = aggregate.twins([*swept, record("ties", 0.1), record("ties", 0.3)])
    assert told == [
        "model_stock uses no weight: its 3 cells at different weights are one model, with one row and one test."
    ]


def test_what_differs_in_anything_else_keeps_its_row():
    swept = [record("model_stock", None, asked=0.1), record("model_stock", None, asked=0.1, seed=1, base_id="1")]
    swept.append(record("model_stock", None, asked=0.1, merge_key="another setting"))
    assert len(cells(aggregate.table(swept))) == 3 and aggregate.twins(swept) == []


def test_a_failed_twin_is_not_hidden_by_a_finished_one():
    frame = cells(aggregate.table([record("model_stock", None, asked=0.1), failed("model_stock", None, 0.3)]))
    assert frame.status.tolist() == ["done", "failed"]
    twice = [
        failed("model_stock", None, 0.1),
        failed("model_stock", None, 0.3),
        failed("model_stock", None, 0.5, "other"),
    ]
    assert cells(aggregate.table([record("ties", 0.1), *twice])).error.tolist()[1:] == ["it broke", "other"]


# ---- each against each


@pytest.fixture
def three(tmp_path):
    """Three merges: the last is clearly less biased, the first two alike."""
    biased = {"ties": [1] * 70 + [0] * 30, "slerp": [1] * 69 + [0] * 31, "dare": [1] * 30 + [0] * 70}
    found = []
    for name, more in biased.items():
        each = record(name, 0.3)
        each["result"]["marks"] = {
            "bias": ["", crows_marks(tmp_path / name / "bias", more)],
            "accuracy": ["", facts_marks(tmp_path / name / "accuracy", [1] * 30 + [0] * 30)],
        }
        found.append(each)
    return found


def called(record) -> str:
    return f"{record['result']['row']['merge']} {record['result']['row']['weight']}"


def test_pairs_are_paired_differences_corrected_over_all_of_them(three):
    pairs = comparisons.pairs(three, called, 12).set_index(["cell", "other"])
    assert list(pairs.index) == [("ties 0.3", "slerp 0.3"), ("ties 0.3", "dare 0.3"), ("slerp 0.3", "dare 0.3")]
    assert pairs.bias_change.tolist() == pytest.approx([0.02, 0.8, 0.78])
    assert (pairs.bias_low < pairs.bias_change).all() and (pairs.bias_change < pairs.bias_high).all()
    assert pairs.bias_p_holm.tolist() == pytest.approx(holm(pairs.bias_p)) and (pairs.bias_p_holm[1:] < 0.01).all()
    assert pairs.bias_p_holm.iloc[0] > 0.5 and pairs.accuracy_change.eq(0).all() and pairs.accuracy_p.eq(1).all()


def test_pairs_of_a_borrowed_task_are_judged_by_its_ideal(tmp_path):
    settings = {"task": "t", "metric": "acc", "ideal": 0.5, "low": 0.0, "high": 1.0}
    folders = []
    for name, share in (("one", 0.7), ("other", 0.4)):
        ids = [f"i{n:03}" for n in range(100)]
        values = pd.DataFrame({"id": ids, "group": "g", "cluster": ids, "value": np.arange(100) < 100 * share})
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        marks = lm_eval.mark(values, **settings)
        marks.attrs = {}
        marks.to_parquet(folders[-1] / "marks.parquet")
    exam = {"room": "bias", "benchmark": "lm_eval", "settings": settings}
    assert difference(exam, *folders, seed=0)["bias_change"] == pytest.approx(0.6)


def test_pairs_leave_out_what_cannot_be_compared(three):
    assert comparisons.pairs(three, called, 2).empty and comparisons.pairs(three, called, 0).empty
    assert "stages=[aggregate] sweep=DIR pairs=3 does so, for 3 pairs" in comparisons.too_many(three, 2)[0]
    assert comparisons.too_many(three, 3) == comparisons.too_many(three, 0) == []
    three[0]["result"]["row"] |= {"base_id": "another"}
    assert len(comparisons.pairs(three, called, 12)) == 1
    three[1]["result"]["row"] |= {"ruined": True}
    assert comparisons.pairs(three, called, 12).empty


def test_pairs_of_one_model_are_none_and_lost_marks_are_nan(three):
    three[1]["result"]["row"] |= {"weights_sha256": "w-ties-0.3"}
    assert len(comparisons.pairs(three, called, 12)) == 1
    three[2]["result"]["marks"] = {"bias": ["", "nowhere"]}
    lost = comparisons.pairs(three, called, 12)
    assert lost.filter(regex="bias_|accuracy_[^s]").isna().all(axis=None)


def test_the_report_has_the_pairs(three):
    found = aggregate.findings(three, aggregate.table(three), "command", {})
    from pipeline.report.markdown import report
    from pipeline.report.page import page

    text = report(found)
    assert "## The cells against each other" in text and "+0.800† [0.6" in text
    assert "3 pairs, as in pairs.csv" in page(found)


def beside(tmp_path, of: str, more: dict[str, list], **row):
    """Records of one cell and its controls, by what is their draw; the answers of each."""
    found = []
    for draw, answers in more.items():
        control = draw != "cell"
        changed = {"donor": {"donor": "random_direction" if control else "bias_inverted"}}.get(
            of, {"debias": f"{of} control" if control else of}
        )
        each = record("ties", 0.3, **changed | {"weights_sha256": f"w-{draw}"} | row)
        each["overrides"] |= {f"{'donor' if of == 'donor' else 'debias'}.draw": draw} if control else {}
        each["result"]["marks"] = {"bias": ["", crows_marks(tmp_path / of / draw, answers)]}
        found.append(each)
    return found


@pytest.mark.parametrize(("of", "told"), [("donor", "bias_inverted"), ("pcgu", "pcgu")])
def test_every_cell_is_set_beside_its_controls(tmp_path, of, told):
    """By item and in one direction, cell minus control; corrected over these comparisons, and over no others."""
    answers = {"cell": [1] * 30 + [0] * 70, "0": [1] * 70 + [0] * 30, "1": [1] * 69 + [0] * 31}
    records = beside(tmp_path, of, answers)
    for turned in (records, records[::-1]):
        found = comparisons.controls(turned, called, lambda each: each["overrides"]).sort_values("bias_change")
        assert found.of.tolist() == [told, told] and found.bias_change.tolist() == pytest.approx([-0.8, -0.78])
        assert found.bias_p_holm.tolist() == pytest.approx(holm(found.bias_p)) and found.accuracy_change.isna().all()


@pytest.mark.parametrize(
    "other",
    [{"merge": "slerp"}, {"weight": 0.5}, {"base_id": "another"}, {"ruined": True}, {"debias": "dpo control"}],
)
def test_a_cell_and_another_ones_control_are_not_compared(tmp_path, other):
    cell, control = beside(tmp_path, "pcgu", {"cell": [1, 0], "0": [0, 1]})
    settings = lambda each: {key: value for key, value in each["overrides"].items() if "." in key}  # noqa: E731
    assert len(comparisons.controls([cell, control], called, settings)) == 1
    control["result"]["row"] |= other
    assert comparisons.controls([cell, control], called, settings).empty


def test_other_settings_are_not_controls(tmp_path):
    cell, control = beside(tmp_path, "pcgu", {"cell": [1, 0], "0": [0, 1]})
    for key, value in (("debias.units", "7"), ("merge.draw", "1")):
        other = copy.deepcopy(control)
        other["overrides"][key] = value
        assert comparisons.controls([cell, other], called, lambda each: each["overrides"]).empty
    found = aggregate.findings([cell, control], aggregate.table([cell, control]), "command", {})
    assert len(found.controls) == 1
    cell["overrides"]["donor.trained"], control["overrides"]["donor.trained"] = "path:/a/model", "path:/b/model"
    found = aggregate.findings([cell, control], aggregate.table([cell, control]), "command", {})
    assert found.controls.empty, "the table cuts paths short, a comparison may not"


def test_what_rests_on_the_same_marks_is_one_test(three):
    """Accuracy of two bias sets: four rows, two tests; what Holm's correction multiplies by."""
    for name, right in (("ties", [1] * 40 + [0] * 20), ("dare", [1] * 20 + [0] * 40)):
        folder = next(each for each in three if each["result"]["row"]["merge"] == name)["result"]["marks"]["accuracy"][
            1
        ]
        facts_marks(Path(folder), right)
    again = copy.deepcopy(three)
    for each in again:
        each["result"]["row"] |= {"bias": "other", "base_id": "other"}
        each["result"]["marks"]["bias"] = ["", each["result"]["marks"]["bias"][1] + "/elsewhere"]
    one, both = comparisons.pairs(three, called, 12), comparisons.pairs([*three, *again], called, 12)
    assert len(both) == 6 and both.bias_p.notna().sum() == 3
    assert both.accuracy_p_holm.tolist() == pytest.approx([*one.accuracy_p_holm, *one.accuracy_p_holm])
    assert (one.accuracy_p < 0.05).any()


def test_a_base_is_called_as_in_the_table(three):
    found = comparisons.pairs(three, called, 12, {"fetch-1": "m@1"})
    assert set(found.model) == {"m@1"}


def test_the_report_says_what_a_control_leaves_of_an_effect(tmp_path):
    from pipeline.report.markdown import report
    from pipeline.report.page import page

    answers = {"cell": [1] * 30 + [0] * 70, "0": [1] * 70 + [0] * 30}
    records = beside(tmp_path, "pcgu", answers, bias_change_p=0.001)
    found = aggregate.findings(records, aggregate.table(records), "command", {})
    assert "that is more than a random direction of the same size does" in "\n".join(found.warnings)
    assert "## Beside their controls" in report(found) and "1 pair, as in controls.csv" in page(found)


def test_a_wrong_number_of_pairs_is_refused():
    from pipeline.config import check

    with pytest.raises(ConfigError, match="pairs should be 0"):
        check({"weight": 0.1, "limit": None, "half": None, "keep": "all", "pairs": -1})
