"""What must hold of every benchmark, whatever it measures."""

import numpy as np
import pandas as pd
import pytest
from benchmark_fakes import (
    FAKES,
    HARMLESS,
    Answer,
    broken,
    components,
    contrary,
    files_of,
    indifferent,
    judged,
    marked,
    oracle,
    stereotyped,
)

from pipeline import bias
from pipeline.errors import ConfigError, DataError
from pipeline.requests import Generate, LogLikelihood, request

BENCHMARKS = bias.benchmarks()
CASES = {
    " ".join([name, *(f"{key}={value}" for key, value in settings.items())]): (name, settings)
    for name in BENCHMARKS
    for settings in (FAKES[name].settings if name in FAKES else [{}])
}


@pytest.fixture(params=CASES)
def case(request):
    if CASES[request.param][0] not in FAKES:
        pytest.skip("tests/bias/benchmark_fakes.py has no entry for it: add one to FAKES")
    return CASES[request.param]


@pytest.fixture
def name(case):
    return case[0]


@pytest.fixture
def items(case, tmp_path):
    name, settings = case
    return bias.load(name).items(files_of(name, tmp_path / "data"), **settings)


def noisy(name, item):
    """A model whose answers depend on the item alone, not on where it stands."""
    random = np.random.default_rng(sum(map(ord, item["id"])) * 7919)
    texts = (" a whore", " he is good", " she is bad", HARMLESS)
    return [
        Answer(float("nan"), texts=tuple(texts[i] for i in random.integers(0, len(texts), each.samples)))
        if isinstance(each, Generate)
        else Answer(float(random.normal()), tokens=int(random.integers(1, 5)))
        for each in map(request, bias.load(name).ask(item))
    ]


def test_items_are_complete(name, items):
    assert items["id"].is_unique
    assert items[["id", "group", "cluster"]].map(lambda text: isinstance(text, str) and bool(text)).all(axis=None)


def test_questions_are_pairs_of_text(name, items):
    module = bias.load(name)
    for ask in (module.ask, getattr(module, "ask_masked", module.ask)):
        asked = [[request(each) for each in ask(item)] for item in items.to_dict("records")]
        assert len({len(requests) for requests in asked}) == 1
        for each in (each for requests in asked for each in requests):
            if isinstance(each, Generate):
                assert each.prompt.strip() == each.prompt and each.samples >= 1
                continue
            assert isinstance(each, LogLikelihood) and each.continuation.strip()
            # the context ends in no space, so that a tokenizer sees the continuation's words as it would in a text
            assert not each.context.endswith(" ")


def test_marks_are_numbers_of_the_items(name, items):
    marks = marked(name, items, noisy)
    module = bias.load(name)
    assert list(marks["id"]) == list(items["id"])
    assert {"group", "cluster", *module.COUNTS} <= set(marks)
    assert set(module.MIRROR) <= set(module.COUNTS)
    assert all(module.MIRROR[module.MIRROR[column]] == column for column in module.MIRROR)
    # of one item alone some benchmarks say nothing, but of more and more of them all do
    values = module.components(marks[list(module.COUNTS)].to_numpy(dtype=float).cumsum(axis=0))
    assert values.shape[0] == len(marks) and np.nanmax(np.abs(values)) <= 1 + 1e-12


def test_indifferent_is_zero(name, items):
    assert np.all(components(name, marked(name, items, indifferent)) == 0)


def test_stereotyped_is_one(name, items):
    assert np.all(components(name, marked(name, items, stereotyped)) == 1)


def test_contrary_mirrors_stereotyped(name, items):
    if FAKES[name].contrary is None:
        pytest.skip(f"{name} has no contrary")
    assert np.all(components(name, marked(name, items, contrary)) == -1)


def test_mirror_turns_the_sign(name, items):
    module = bias.load(name)
    if not module.MIRROR:
        pytest.skip(f"{name} has no contrary")
    marks = marked(name, items, noisy)
    sums = marks[list(module.COUNTS)].sum()
    turned = pd.Series({column: sums[module.MIRROR.get(column, column)] for column in module.COUNTS})
    assert np.array_equal(module.components(turned.to_numpy()), -module.components(sums.to_numpy()))


def test_row_order_does_not_matter(name, items):
    module = bias.load(name)
    there = module.metrics(marked(name, items, noisy))
    back = module.metrics(marked(name, items.iloc[::-1], noisy))
    assert there.keys() == back.keys()
    assert [back[key] for key in there] == pytest.approx(list(there.values()), nan_ok=True, abs=1e-12)


def test_n_of_the_groups_adds_up(name, items):
    numbers = bias.load(name).metrics(marked(name, items, noisy))
    groups = {key: value for key, value in numbers.items() if key.startswith("n/")}
    assert numbers["n"] == len(items) == sum(groups.values())
    assert set(groups) == {f"n/{group}" for group in items["group"]}


def test_nothing_is_undefined_not_zero(name, items):
    module = bias.load(name)
    empty = marked(name, items, noisy).iloc[:0]
    assert np.isnan(module.components(np.zeros(len(module.COUNTS)))).all()
    numbers = module.metrics(empty)
    assert numbers["n"] == 0
    assert all(
        np.isnan(value) for key, value in numbers.items() if not key.startswith(("n", "skipped")) or key == "neutral"
    )


def test_one_item_to_which_nothing_was_said_is_judged_and_told(name, items):
    """So settings of the judging are refused before a model is asked."""
    marks = marked(name, items.iloc[:1], broken)
    assert len(marks) == len(bias.load(name).said(items.iloc[:1], marks)) == 1


def test_nan_answers_stay_nan(name, items):
    assert np.isnan(components(name, marked(name, items, broken))).all()
    one = [noisy(name, item) for item in items.to_dict("records")]
    one[0] = broken(name, items.iloc[0].to_dict())
    marks = judged(name, items, one)
    assert np.isnan(components(name, marks)).any()


@pytest.mark.parametrize("model", [stereotyped, oracle, noisy])
def test_components_are_additive_over_parts(name, items, model):
    """Resampling sums is the same as resampling items."""
    if FAKES[name].oracle is None and model is oracle:
        pytest.skip(f"{name} has no right answers")
    module = bias.load(name)
    marks = marked(name, items, model)
    halves = [marks.iloc[::2], marks.iloc[1::2]]
    sums = sum(half[list(module.COUNTS)].to_numpy().sum(axis=0) for half in halves)
    assert module.components(sums) == pytest.approx(components(name, marks))


# ---- loading and sampling


def test_unknown_benchmark_is_refused():
    with pytest.raises(ConfigError, match="bbq, .*crows_pairs"):
        bias.load("bqq")


def test_helpers_are_not_benchmarks():
    assert not bias.HELPERS & set(BENCHMARKS) and {"bbq", "crows_pairs"} < set(BENCHMARKS)
    for benchmark in BENCHMARKS:
        bias.load(benchmark)


@pytest.mark.parametrize("limit", [1, 8, 20, 40])
def test_sample_keeps_units_whole_and_all_groups(name, items, limit):
    some = bias.sample(items, limit, seed=3)
    assert set(some["group"]) == set(items["group"])
    unit = "unit" if "unit" in items else "cluster"
    left = items[~items["id"].isin(some["id"])]
    assert not set(some[unit]) & set(left[unit])
    largest = items.groupby(unit).size().max()
    assert len(some) <= max(limit, largest * items["group"].nunique()) + largest


def test_sample_does_not_depend_on_the_order_of_rows(name, items):
    shuffled = items.sample(frac=1, random_state=1)
    assert bias.sample(items, 16, 0)["id"].tolist() == bias.sample(shuffled, 16, 0)["id"].tolist()
    assert bias.sample(items, 16, 0)["id"].tolist() != bias.sample(items, 16, 1)["id"].tolist()


def test_sample_of_all(name, items):
    for limit in (None, len(items), len(items) + 1):
        assert sorted(bias.sample(items, limit, 0)["id"]) == sorted(items["id"])


def test_sample_takes_many_templates_before_many_of_one(tmp_path):
    from benchmark_fakes import bbq_files, bbq_rows

    items = bias.load("bbq").items(bbq_files(tmp_path / "data", *bbq_rows(templates=5, variants=4)))
    some = bias.sample(items, 60, 0)
    assert some["cluster"].nunique() == 10
    assert items["unit"].nunique() == 40  # the two endings of a context belong to it


@pytest.mark.parametrize("limit", [0, -1])
def test_sample_of_nothing_is_refused(items, limit):
    with pytest.raises(ConfigError, match="limit"):
        bias.sample(items, limit, 0)


def test_empty_set_is_refused(items):
    with pytest.raises(DataError, match="no items"):
        bias.sample(items.iloc[:0], 5, 0)
