"""The summaries of one cell: by hand, by law, and by simulation."""

import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.bias import bbq, crows_pairs
from pipeline.statistics import (
    accuracy_change,
    accuracy_summary,
    accuracy_undefined,
    bias_change,
    bias_summary,
    bias_undefined,
    holm,
)

KEYS = {
    "bias_score",
    "bias_low",
    "bias_high",
    "bias_signed",
    "bias_signed_low",
    "bias_signed_high",
    "bias_change",
    "bias_change_low",
    "bias_change_high",
    "bias_change_p",
    "bias_change_effect",
    "bias_p",
    "noise_floor",
    "items",
    "clusters",
}


def pairs(more, clusters):
    """CrowS-Pairs marks: who preferred the stereotype, in which cluster."""
    more = np.asarray(more, dtype=float)
    return pd.DataFrame(
        {
            "id": [f"i{n:05}" for n in range(len(more))],
            "group": "g",
            "cluster": [f"c{c:05}" for c in clusters],
            "pairs": 1.0,
            "more": more,
            "less": 1 - more,
        }
    )


def simulated(random, p, clusters=30, size=4, alike=0.15):
    """A benchmark with templates that differ: their own p is Beta with mean p and correlation `alike` within one."""
    own = random.beta(p * (1 / alike - 1), (1 - p) * (1 / alike - 1), clusters)
    of = np.repeat(np.arange(clusters), size)
    return own, of, pairs(random.random(len(of)) < own[of], of)


# ---- bias


def test_by_hand():
    summary = bias_summary(crows_pairs, pairs([1] * 75 + [0] * 25, range(100)), None, seed=0)
    assert set(summary) == KEYS
    assert (summary["bias_score"], summary["bias_signed"], summary["items"], summary["clusters"]) == (
        0.5,
        0.5,
        100,
        100,
    )
    # artanh 0.5 ± t(0.975, 99) · (2·√(0.75·0.25/99)) / 0.75
    reach = 1.98422 * 2 * np.sqrt(0.75 * 0.25 / 99) / 0.75
    assert summary["bias_low"] == pytest.approx(np.tanh(np.arctanh(0.5) - reach), abs=0.005)
    assert summary["bias_high"] == pytest.approx(np.tanh(np.arctanh(0.5) + reach), abs=0.005)
    assert summary["bias_p"] < 0.001
    assert summary["noise_floor"] == pytest.approx(0.2, abs=0.021)  # 95% of |2k/100 - 1|, k ~ binomial(100, ½)
    assert np.isnan([summary["bias_change"], summary["bias_change_low"], summary["bias_change_p"]]).all()


def test_folded_at_zero():
    summary = bias_summary(crows_pairs, pairs([1] * 49 + [0] * 51, range(100)), None, seed=0)
    assert summary["bias_signed"] == pytest.approx(-0.02) and summary["bias_score"] == pytest.approx(0.02)
    assert summary["bias_low"] == 0 and summary["bias_high"] == pytest.approx(-summary["bias_signed_low"], abs=1e-6)
    assert summary["bias_p"] > 0.5


def test_turning_the_marks_turns_the_sign_and_nothing_else():
    random = np.random.default_rng(1)
    _, _, marks = simulated(random, 0.7)
    there = bias_summary(crows_pairs, marks, None, 3)
    back = bias_summary(crows_pairs, marks.rename(columns={"more": "less", "less": "more"}), None, 3)
    assert back["bias_signed"] == -there["bias_signed"]
    assert back["bias_score"] == there["bias_score"]
    assert back["bias_low"] == pytest.approx(there["bias_low"], abs=0.02)


def test_order_of_rows_changes_no_bit():
    random = np.random.default_rng(2)
    _, of, marks = simulated(random, 0.6)
    base = pairs(random.random(len(marks)) < 0.5, of)
    there = bias_summary(crows_pairs, marks, base, 3)
    assert there == bias_summary(
        crows_pairs, marks.sample(frac=1, random_state=4), base.sample(frac=1, random_state=5), 3
    )
    assert there["bias_high"] != bias_summary(crows_pairs, marks, base, 4)["bias_high"]


def test_change_is_signed_so_over_correction_shows():
    base = pairs([1] * 90 + [0] * 10, range(100))
    cell = pairs([0] * 90 + [1] * 10, range(100))
    summary = bias_summary(crows_pairs, cell, base, 0)
    assert summary["bias_score"] == pytest.approx(0.8)
    assert summary["bias_change"] == pytest.approx(-1.6)
    assert summary["bias_change_low"] < -1.6 < summary["bias_change_high"] < 0
    assert summary["bias_change_p"] < 0.001


def test_same_as_the_base_is_no_change():
    marks = pairs([1] * 60 + [0] * 40, range(100))
    summary = bias_summary(crows_pairs, marks, marks, 0)
    assert (summary["bias_change"], summary["bias_change_low"], summary["bias_change_high"]) == (0, 0, 0)
    assert summary["bias_change_p"] == 1


def test_pairing_narrows_the_change():
    random = np.random.default_rng(3)
    _, _, base = simulated(random, 0.6, clusters=100)
    cell = base.copy()
    turned = random.choice(len(cell), 20, replace=False)
    cell.loc[turned, ["more", "less"]] = cell.loc[turned, ["less", "more"]].to_numpy()
    close = bias_summary(crows_pairs, cell, base, 0)
    assert close["bias_change_high"] - close["bias_change_low"] < 0.6 * (
        close["bias_signed_high"] - close["bias_signed_low"]
    )


def test_different_items_are_refused():
    marks = pairs([1, 0] * 50, range(100))
    with pytest.raises(ValueError, match="is not in both"):
        bias_summary(crows_pairs, marks, marks.iloc[:-1], 0)


def test_nan_and_nothing_stay_undefined():
    marks = pairs([1, 0] * 50, range(100))
    marks.loc[3, ["more", "less"]] = np.nan
    summary = bias_summary(crows_pairs, marks, pairs([1, 0] * 50, range(100)), 0)
    assert all(np.isnan(value) for key, value in summary.items() if key not in ("items", "clusters"))
    empty = bias_summary(crows_pairs, marks.iloc[:0], None, 0)
    assert empty["items"] == empty["clusters"] == 0 and np.isnan(empty["bias_score"])


def test_one_template_shows_nothing():
    summary = bias_summary(crows_pairs, pairs([1] * 30, [0] * 30), None, 0)
    assert summary["bias_score"] == 1 and np.isnan([summary["bias_low"], summary["bias_high"]]).all()
    assert summary["bias_p"] == 1


def test_two_components():
    """BBQ: the score is the mean of two absolute values, and lies in its interval though they disagree in sign."""
    clusters = 60
    marks = pd.DataFrame(
        {
            "id": [f"i{n}" for n in range(clusters)],
            "group": "g",
            "cluster": [f"c{n}" for n in range(clusters)],
            "ambiguous": 4.0,
            "ambiguous_biased": 2.0,
            "ambiguous_counter": 1.0,
            "disambiguated_biased": 1.0,
            "disambiguated_counter": 3.0,
        }
    )
    marks.loc[:20, ["ambiguous_biased", "disambiguated_biased"]] = 1.0, 2.0
    summary = bias_summary(bbq, marks, None, 0)
    first, second = bbq.components(marks[list(bbq.COUNTS)].to_numpy().sum(axis=0))
    assert first > 0 > second
    assert summary["bias_score"] == pytest.approx((first - second) / 2)
    assert summary["bias_signed"] == pytest.approx((first + second) / 2)
    assert 0 < summary["bias_low"] < summary["bias_score"] < summary["bias_high"]


def test_undefined_component_makes_the_score_undefined():
    marks = pd.DataFrame(
        {
            "id": ["a", "b"],
            "group": "g",
            "cluster": ["a", "b"],
            "ambiguous": 1.0,
            "ambiguous_biased": 1.0,
            "ambiguous_counter": 0.0,
            "disambiguated_biased": 0.0,
            "disambiguated_counter": 0.0,
        }
    )
    summary = bias_summary(bbq, marks, marks, 0)
    assert np.isnan([summary["bias_score"], summary["bias_signed"], summary["bias_change"], summary["bias_p"]]).all()


def test_thousands_of_rows_in_seconds():
    random = np.random.default_rng(0)
    marks = pd.DataFrame(
        {
            "id": [f"i{n}" for n in range(4000)],
            "group": "g",
            "cluster": [f"c{n % 1000}" for n in range(4000)],
            "ambiguous": 1.0,
            **{name: random.random(4000) for name in bbq.COUNTS[1:]},
        }
    )
    start = time.process_time()
    bias_summary(bbq, marks, None, 0)
    assert time.process_time() - start < 15


def test_a_share_keeps_to_its_side_and_has_no_mirror():
    def share(sums):
        return (sums[..., 1] / sums[..., 0])[..., None]

    mine = SimpleNamespace(COUNTS=("n", "hurtful"), MIRROR={}, ONE_SIDED=True, components=share)

    def marks(hurtful):
        ids = [f"i{n}" for n in range(100)]
        return pd.DataFrame({"id": ids, "cluster": ids, "group": "g", "n": 1.0, "hurtful": np.repeat([1.0, 0.0], [hurtful, 100 - hurtful])})  # fmt: skip

    summary = bias_summary(mine, marks(4), marks(10), 0)
    assert np.isnan([summary["noise_floor"], summary["bias_p"]]).all()
    assert 0.01 < summary["bias_low"] < 0.04 < summary["bias_high"] < 0.12
    assert (summary["bias_low"], summary["bias_high"]) == (summary["bias_signed_low"], summary["bias_signed_high"])
    assert summary["bias_change"] == pytest.approx(-0.06) and summary["bias_change_p"] < 0.1
    none = bias_summary(mine, marks(0), None, 0)
    assert none["bias_low"] == 0 and none["bias_high"] == pytest.approx(1 - 0.025**0.01)


def test_effect_size_of_a_change():
    random = np.random.default_rng(0)
    base, cell = (pairs(random.random(200) < 0.5, range(200)) for _ in range(2))
    differences = 2 * (cell["more"] - base["more"])
    expected = differences.mean() / differences.std()
    assert bias_summary(crows_pairs, cell, base, 0)["bias_change_effect"] == pytest.approx(expected, abs=0.003)
    assert bias_summary(crows_pairs, base, base, 0)["bias_change_effect"] != 0  # nan: nothing varies
    tasks = {"facts": {"chance": 0.25, "in_mean": True}}
    right, before = (exam({"facts": table["more"]}) for table in (cell, base))
    got = accuracy_summary(right, before, tasks, 0)["accuracy_change_effect"]
    assert got == pytest.approx(expected, abs=0.003)


def test_changes_are_those_of_the_summary_and_turn_with_the_two():
    random = np.random.default_rng(1)
    base, cell = (pairs(random.random(90) < p, np.arange(90) // 3) for p in (0.5, 0.7))
    there, back = bias_change(crows_pairs, cell, base, 0), bias_change(crows_pairs, base, cell, 0)
    summary = bias_summary(crows_pairs, cell, base, 0)
    assert there == {key: summary[key] for key in there} and len(there) == 5
    assert back["bias_change"] == -there["bias_change"] and back["bias_change_effect"] == pytest.approx(
        -there["bias_change_effect"], rel=0.03
    )
    right, before = (exam({"facts": table["more"]}) for table in (cell, base))
    tasks = {"facts": {"chance": 0.25, "in_mean": True}}
    summary, change = accuracy_summary(right, before, tasks, 0), accuracy_change(right, before, tasks, 0)
    assert change == {key: summary[key] for key in change} and len(change) == 5


def test_undefined_says_why():
    marks = pairs([1, 0] * 5, range(10))
    assert bias_undefined(crows_pairs, marks) is None
    assert bias_undefined(crows_pairs, marks.iloc[:0]) == "there is no item"
    marks.loc[3, "more"] = np.nan
    assert "in 1 of 10 items" in bias_undefined(crows_pairs, marks)
    silent = pd.DataFrame([dict.fromkeys(bbq.COUNTS, 0.0) | {"ambiguous": 1.0}])
    assert (
        bias_undefined(bbq, silent) == "none of the 1 items has an answer that counts for part 2 of the statistic's 2"
    )
    tasks = {"facts": {"chance": 0.25, "in_mean": True}, "extra": {"chance": 0.5, "in_mean": False}}
    assert accuracy_undefined(exam({"facts": [1, 0]}), tasks) is None
    assert accuracy_undefined(exam({"extra": [1, 0]}), tasks) == "the task facts has no item"
    assert accuracy_undefined(exam({"extra": [1]}), {"extra": tasks["extra"]}) == "no task counts in the mean"
    assert "in 1 of 2 items" in accuracy_undefined(exam({"facts": [1, np.nan]}), tasks)


# ---- by simulation

RUNS = 250
NOISE = 3 * np.sqrt(0.05 * 0.95 / RUNS)  # of the simulation itself


@pytest.mark.parametrize("p", [0.5, 0.65, 0.9])
def test_intervals_cover_the_truth(p):
    random = np.random.default_rng(int(100 * p))
    truth = 2 * p - 1
    signed = folded = 0
    for run in range(RUNS):
        _, _, marks = simulated(random, p)
        summary = bias_summary(crows_pairs, marks, None, run, resamples=500)
        signed += summary["bias_signed_low"] <= truth <= summary["bias_signed_high"]
        folded += summary["bias_low"] <= abs(truth) <= summary["bias_high"]
    assert signed / RUNS == pytest.approx(0.95, abs=NOISE)
    assert folded / RUNS == pytest.approx(0.95, abs=NOISE)


def test_no_bias_and_no_change_are_seldom_found():
    random = np.random.default_rng(11)
    found = {"bias_p": 0, "bias_change_p": 0, "floor": 0, "family": 0}
    for run in range(RUNS):
        own, of, base = simulated(random, 0.5)
        cells = [pairs(random.random(len(of)) < own[of], of) for _ in range(2)]
        summaries = [bias_summary(crows_pairs, cell, base, run, resamples=500) for cell in cells]
        found["bias_p"] += summaries[0]["bias_p"] < 0.05
        found["bias_change_p"] += summaries[0]["bias_change_p"] < 0.05
        found["floor"] += summaries[0]["bias_score"] > summaries[0]["noise_floor"]
        found["family"] += bool((holm([each["bias_change_p"] for each in summaries]) < 0.05).any())
    assert all(count / RUNS <= 0.05 + NOISE for count in found.values()), found
    assert found["bias_p"] / RUNS >= 0.05 - NOISE


# ---- accuracy


def exam(values):
    rows = [
        {"id": f"{task}/{n}", "group": task, "cluster": f"{task}/{n}", "value": float(value)}
        for task, column in values.items()
        for n, value in enumerate(column)
    ]
    return pd.DataFrame(rows)


TASKS = {
    "facts": {"chance": 0.25, "in_mean": True},
    "reading": {"chance": 0.5, "in_mean": True},
    "extra": {"chance": 0.5, "in_mean": False},
}


def test_accuracy_by_hand():
    marks = exam({"facts": [1] * 30 + [0] * 10, "reading": [1] * 50 + [0] * 50, "extra": [0] * 10})
    summary = accuracy_summary(marks, None, TASKS, 0)
    assert summary["accuracy"] == pytest.approx((0.75 + 0.5) / 2)  # the mean over tasks, not over items
    assert summary["chance"] == pytest.approx(0.375)
    assert (summary["facts"], summary["reading"], summary["extra"]) == (0.75, 0.5, 0.0)
    error = np.sqrt(0.75 * 0.25 / 39 + 0.25 / 99) / 2
    assert summary["accuracy_high"] - summary["accuracy_low"] == pytest.approx(2 * 1.985 * error, rel=0.05)
    assert np.isnan([summary["accuracy_change"], summary["accuracy_change_low"], summary["accuracy_change_p"]]).all()


def test_accuracy_change_is_paired():
    base = exam({"facts": [1] * 30 + [0] * 10, "reading": [1] * 50 + [0] * 50, "extra": [0] * 10})
    same = accuracy_summary(base, base.iloc[::-1], TASKS, 0)
    assert (same["accuracy_change"], same["accuracy_change_low"], same["accuracy_change_high"]) == (0, 0, 0)
    assert same["accuracy_change_p"] == 1
    worse = exam({"facts": [1] * 20 + [0] * 20, "reading": [1] * 40 + [0] * 60, "extra": [1] * 10})
    summary = accuracy_summary(worse, base, TASKS, 0)
    assert summary["accuracy_change"] == pytest.approx((-0.25 - 0.1) / 2)
    assert summary["accuracy_change_high"] < 0 and summary["accuracy_change_p"] < 0.01
    with pytest.raises(ValueError, match="is not in both"):
        accuracy_summary(worse, base.iloc[1:], TASKS, 0)


def test_accuracy_undefined_and_undeclared():
    marks = exam({"facts": [1, 0, 1], "extra": [1]})
    summary = accuracy_summary(marks, None, TASKS, 0)
    assert summary["facts"] == pytest.approx(2 / 3) and np.isnan(summary["reading"]) and np.isnan(summary["accuracy"])
    with pytest.raises(ValueError, match="'extra'"):
        accuracy_summary(marks, None, {"reading": TASKS["reading"]}, 0)


def test_accuracy_order_of_rows_changes_no_bit():
    random = np.random.default_rng(0)
    marks = exam({task: random.random(50) for task in TASKS})
    base = exam({task: random.random(50) for task in TASKS})
    assert accuracy_summary(marks, base, TASKS, 1) == accuracy_summary(
        marks.sample(frac=1, random_state=1), base.sample(frac=1, random_state=2), dict(reversed(TASKS.items())), 1
    )


def test_accuracy_intervals_cover_the_truth():
    random = np.random.default_rng(8)
    covered = changed = 0
    for run in range(RUNS):
        level = {"facts": (0.8, 40), "reading": (0.6, 80)}
        marks, base = (
            exam({task: random.random(n) < p for task, (p, n) in level.items()} | {"extra": [1]}) for _ in range(2)
        )
        summary = accuracy_summary(marks, base, TASKS, run, resamples=500)
        covered += summary["accuracy_low"] <= 0.7 <= summary["accuracy_high"]
        changed += summary["accuracy_change_low"] <= 0 <= summary["accuracy_change_high"]
    assert covered / RUNS == pytest.approx(0.95, abs=NOISE) and changed / RUNS == pytest.approx(0.95, abs=NOISE)


def test_summaries_need_only_three_names_of_a_benchmark():
    """So that a benchmark of one's own, or of a test, is summarised without a file in pipeline/bias."""
    mine = SimpleNamespace(
        COUNTS=("n", "up"), MIRROR={}, components=lambda sums: (2 * sums[..., 1] / sums[..., 0] - 1)[..., None]
    )
    marks = pd.DataFrame(
        {"id": ["a", "b", "c"], "cluster": ["a", "b", "c"], "group": "g", "n": 1.0, "up": [1.0, 0.0, 1.0]}
    )
    assert bias_summary(mine, marks, None, 0)["bias_signed"] == pytest.approx(1 / 3)
