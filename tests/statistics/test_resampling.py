"""Sums over resampled clusters against plain loops, and what must not change them."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.statistics import generator, holm, needed_items, pareto_front
from pipeline.statistics.interval import effect_size, folded, interval, standard_error
from pipeline.statistics.paired import paired
from pipeline.statistics.resampling import bootstrap, cluster_sums, exchange, p_value


def test_generator_is_keyed_by_what_it_is_for():
    assert generator(1, "a", "b").random() == generator(1, "a", "b").random()
    draws = {
        generator(seed, *labels).random() for seed, labels in product((1, 2), (("a", "b"), ("a",), ("ab",), ("b", "a")))
    }
    assert len(draws) == 8


def test_cluster_sums():
    marks = pd.DataFrame({"id": list("dcba"), "cluster": ["y", "x", "y", "x"], "value": [1.0, 2.0, 3.0, np.nan]})
    assert cluster_sums(marks, ["value"])[1] == [4]
    assert np.isnan(cluster_sums(marks, ["value"])[0])


def test_cluster_sums_do_not_depend_on_the_order_of_rows():
    random = np.random.default_rng(0)
    marks = pd.DataFrame(
        {
            "id": [f"{n:04}" for n in range(300)],
            "cluster": [f"c{n % 7}" for n in range(300)],
            "value": random.choice([1 / 3, 0.1, 1.0], 300),
        }
    )
    assert np.array_equal(cluster_sums(marks, ["value"]), cluster_sums(marks.sample(frac=1, random_state=1), ["value"]))


def test_bootstrap_draws_whole_clusters():
    sums = np.array([[1.0, 10.0], [2.0, 20.0], [2.0, 20.0], [4.0, 40.0]])
    drawn = bootstrap(sums, 4000, generator(0, "test"))
    assert np.array_equal(drawn[:, 1], 10 * drawn[:, 0])
    assert drawn[:, 0].min() >= 4 and drawn[:, 0].max() <= 16
    assert drawn[:, 0].mean() == pytest.approx(9, abs=0.15)
    assert drawn[:, 0].var() == pytest.approx(4 * sums[:, 0].var(), rel=0.1)  # G · the variance of a cluster


def test_bootstrap_of_all_equal_is_constant():
    assert np.ptp(bootstrap(np.full((30, 1), 2.0), 100, generator(0, "test"))) == 0


def test_exchange_against_all_flips():
    one, other = np.array([[1.0], [2.0], [4.0]]), np.array([[-1.0], [-2.0], [-4.0]])
    drawn = exchange(one, other, 20_000, generator(0, "test"))[:, 0]
    values, count = np.unique(drawn, return_counts=True)
    assert values.tolist() == [-7, -5, -3, -1, 1, 3, 5, 7]
    assert count / len(drawn) == pytest.approx(np.full(8, 1 / 8), abs=0.02)


def test_p_value():
    null = np.array([-3.0, -1.0, 0.0, 1.0, 2.0])
    assert p_value(2.0, null) == 3 / 6
    assert p_value(9.0, null) == 1 / 6
    assert np.isnan(p_value(np.nan, null))
    assert p_value(9.0, np.full(5, np.nan)) == 1


def test_interval():
    assert interval(0.0, 0.1, 1e9) == (pytest.approx(-np.tanh(0.1959964)), pytest.approx(np.tanh(0.1959964)))
    assert interval(0.5, 0.1, 1e9, ends=None) == (pytest.approx(0.3040036), pytest.approx(0.6959964))
    assert interval(0.3, 0.0, 9) == (0.3, 0.3)
    assert interval(0.0, 0.1, 4)[1] > interval(0.0, 0.1, 40)[1]
    assert np.isnan(interval(np.nan, 0.1, 9)).all() and np.isnan(interval(0.1, np.nan, 9)).all()
    low, high = interval(0.99, 0.01, 9)
    assert 0.9 < low < 0.99 < high < 1


def test_standard_error():
    assert standard_error(np.array([1.0, 3.0]), 2) == pytest.approx(np.sqrt(2))
    assert np.isnan(standard_error(np.array([1.0, 3.0]), 1))
    assert np.isnan(standard_error(np.array([1.0] * 9 + [np.nan]), 5))
    assert standard_error(np.array([1.0] * 99 + [np.nan]), 5) == 0


def test_paired_finds_the_same_items_in_any_order():
    cell = pd.DataFrame({"id": ["a", "b", "c"], "cluster": ["x", "x", "y"], "value": [1, 2, 3]})
    base = cell.iloc[::-1].assign(value=[30, 20, 10])
    assert paired(cell, base)["value"].tolist() == [10, 20, 30]
    with pytest.raises(ValueError, match="'c' is not in both"):
        paired(cell, base.iloc[1:])
    with pytest.raises(ValueError, match="'z' is not in both"):
        paired(cell, pd.concat([base, pd.DataFrame({"id": ["z"], "cluster": ["y"], "value": [0]})]))
    with pytest.raises(ValueError, match="the base has the id 'b' twice"):
        paired(cell, base.assign(id=["a", "b", "b"]))


# ---- front, power, many tests


def naive_front(bias_score, accuracy, eligible):
    able = [e and not np.isnan(b) and not np.isnan(a) for b, a, e in zip(bias_score, accuracy, eligible, strict=True)]
    return [
        able[i]
        and not any(
            able[j]
            and bias_score[j] <= bias_score[i]
            and accuracy[j] >= accuracy[i]
            and (bias_score[j], accuracy[j]) != (bias_score[i], accuracy[i])
            for j in range(len(able))
        )
        for i in range(len(able))
    ]


@settings(max_examples=200)
@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.1, 0.2, 0.3, float("nan")])] * 2, st.booleans()), max_size=9))
def test_pareto_front_against_the_definition(cells):
    bias_score, accuracy, eligible = (list(column) for column in zip(*cells, strict=True)) if cells else ([], [], [])
    assert pareto_front(bias_score, accuracy, eligible).tolist() == naive_front(bias_score, accuracy, eligible)


def test_pareto_front_keeps_ties_and_never_the_ruined():
    assert pareto_front([0.1, 0.1, 0.0, 0.2], [0.5, 0.5, 0.9, 0.9], [True, True, False, True]).tolist() == [
        True,
        True,
        False,
        True,
    ]
    assert pareto_front([0.1, np.nan], [0.5, 0.9]).tolist() == [True, False]


def test_needed_items():
    # a change of one standard error at n = 100 needs (1.96 + 0.8416)² as many items
    assert needed_items(0.1, 0.1 - 0.196, 0.1 + 0.196, 100) == pytest.approx(785, abs=1)
    assert needed_items(-0.1, -0.296, 0.096, 100) == needed_items(0.1, -0.096, 0.296, 100)
    # ten comparisons: each must pass at 0.005
    assert needed_items(0.1, 0.1 - 0.196, 0.1 + 0.196, 100, tests=10) == pytest.approx(1332, abs=2)
    assert np.isnan(needed_items(0.1, 0.0, 0.2, np.nan)) and np.isnan(needed_items(0.1, 0.1, 0.1, 100))
    assert np.isnan(needed_items(0.0, -1, 1, 100)) and np.isnan(needed_items(0.1, np.nan, np.nan, 100))


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6])[1] == 1.0
    adjusted = holm([np.nan, 0.02, 0.03])
    assert np.isnan(adjusted[0]) and adjusted[1:] == pytest.approx([0.04, 0.04])
    assert holm([]).size == 0


# ---- ends of the scale, folding, effect sizes, reasons


def test_where_all_clusters_stand_at_one_end_the_interval_is_clopper_and_pearsons():
    from scipy.stats import binomtest

    exact = binomtest(30, 30).proportion_ci(0.95, "exact")
    assert interval(1.0, 0.0, 29, (0.0, 1.0)) == (pytest.approx(exact.low), 1.0)
    assert interval(-1.0, 0.0, 29) == (-1.0, pytest.approx(1 - 2 * exact.low))
    assert interval(0.2, 0.0, 29) == (0.2, 0.2)


@settings(max_examples=200)
@given(st.floats(0, 1), st.floats(0, 0.5), st.integers(1, 500))
def test_intervals_hold_their_estimate_and_keep_to_the_scale(share, error, freedom):
    low, high = interval(share, error, freedom, (0.0, 1.0))
    assert 0 <= low <= share <= high <= 1
    there, back = interval(2 * share - 1, 2 * error, freedom), interval(1 - 2 * share, 2 * error, freedom)
    assert there == pytest.approx((2 * low - 1, 2 * high - 1), abs=1e-9)
    assert back == pytest.approx((-there[1], -there[0]), abs=1e-9)
    for signed in (2 * share - 1, 1 - 2 * share):
        least, most = folded(signed, error, freedom)
        assert 0 <= least <= abs(signed) <= most <= 1
        assert (least == 0) == (interval(abs(signed), error, freedom)[0] <= 0)


def test_folded_covers_95_in_100_of_every_size():
    """Against the normal distribution itself, no bootstrap: to fold the signed interval covers 97.5 between 1 and 3."""
    draws = np.random.default_rng(0).standard_normal(2000) * 0.01  # so small that artanh is straight
    for truth in (0.0, 0.01, 0.018, 0.022, 0.03, 0.06):
        ends = np.array([folded(truth + noise, 0.01, 1e9) for noise in draws])
        held = ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean()
        assert held == pytest.approx(0.95, abs=0.015), truth


def test_effect_size_is_cohens_d_z():
    differences = np.random.default_rng(0).normal(0.3, 1, 40)
    error = differences.std(ddof=1) / np.sqrt(40)
    assert effect_size(differences.mean(), error, 40) == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert np.isnan(effect_size(0.1, 0.0, 40)) and np.isnan(effect_size(0.1, np.nan, 40))
