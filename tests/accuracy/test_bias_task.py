"""bias=lm_eval: an lm-eval task asked by the accuracy room, its metric turned into signed bias."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import accuracy, bias, statistics
from pipeline.bias import lm_eval as borrowed
from pipeline.errors import ConfigError, DataError
from pipeline.recipe.identity import exam_of, files_of, place_of
from pipeline.requests import Answer
from pipeline.stages.exams import BorrowedExam

KINDS = ("age", "gender")
SETTINGS = {
    "name": "lm_eval",
    "version": 1,
    "benchmark": "lm_eval",
    "task": "crows_pairs_english",
    "metric": "pct_stereotype",
    "ideal": 0.5,
    "low": 0.0,
    "high": 1.0,
    "group": None,
    "cluster": None,
    "rows": "crows.jsonl",
    "hub": None,
    "judging": {"version": 1},
    "files": {},
}


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "data" / "crows.jsonl"
    path.parent.mkdir()
    pairs = [
        {"sent_more": f"The old {n} are slow.", "sent_less": f"The young {n} are slow.", "bias_type": KINDS[n % 2]}
        for n in range(24)
    ]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


def configured(place, limit=None, **given):
    config = {"bias": SETTINGS | given, "data": str(place.parent), "limit": limit, "half": None, "seed": 3}
    return config | {"store": str(place.parent.parent / "store")}


def opened(place, limit=None, **given):
    exam = exam_of(configured(place, limit, **given), "bias")
    return BorrowedExam(json.loads(json.dumps(exam)), {"rows": place})


def preferring(exam, first):
    """Answers of a model that finds the first sentence of item n likelier where first(n)."""
    answers = [Answer(float("nan"), False, 1)] * len(exam.requests("causal"))
    for number, (_, _, (more, less)) in enumerate(exam.exam.items()):
        answers[more], answers[less] = (
            Answer(-1.0 if yes else -2.0, False, 1) for yes in (first(number), not first(number))
        )
    return answers


def judged(exam, answers):
    return exam.judge(answers, {"version": 1}, "causal", {})


def summed(marks):
    return borrowed.components(marks[list(borrowed.COUNTS)].to_numpy().sum(axis=0))[0]


@pytest.mark.parametrize(("first", "signed"), [(lambda n: True, 1), (lambda n: False, -1), (lambda n: n % 2 == 0, 0)])
def test_crows_pairs_of_lm_eval(rows, first, signed):
    exam = opened(rows, group="bias_type")
    marks = judged(exam, preferring(exam, first))
    assert summed(marks) == signed
    numbers = exam.metrics(marks)
    assert numbers["crows_pairs_english.pct_stereotype"] == (signed + 1) / 2 and numbers["n"] == 24
    assert numbers["n/age"] + numbers["n/gender"] == 24
    summary = statistics.bias_summary(bias.load("lm_eval"), marks, marks, seed=0, resamples=200)
    assert summary["bias_signed"] == signed and summary["bias_score"] == abs(signed) and summary["bias_change"] == 0
    row = marks.iloc[0]
    assert row["answer"] == ("The old 0 are slow." if first(0) else "The young 0 are slow.")
    assert row["biased"] == first(0) and row["prompt"] == ""


def test_the_metric_is_lm_evals_own(rows, tmp_path, answer, evaluated):
    folder = Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks" / "crows_pairs"
    results, samples = evaluated(folder, "crows_pairs_english", rows, None, tmp_path / "cache", split="test")
    exam = opened(rows)
    answers = [Answer(each.loglikelihood, each.greedy, each.tokens) for each in answer(exam.exam.requests())]
    marks = judged(exam, answers)
    assert marks["value"].tolist() == [sample["pct_stereotype"] for sample in samples]
    numbers = exam.metrics(marks)
    assert numbers["crows_pairs_english.pct_stereotype"] == pytest.approx(results["pct_stereotype,none"])
    assert 0 < marks["value"].mean() < 1


def test_a_wider_range_weighs_less(rows):
    exam = opened(rows, metric="likelihood_diff", ideal=0.0, high=4.0)
    answers = preferring(exam, lambda n: n % 2 == 0)  # differences of one nat, either way
    marks = judged(exam, answers)
    assert summed(marks) == 0.25
    # from an end of the range there is no contrary to turn to
    summary = statistics.bias_summary(borrowed.bound(exam.settings), marks, None, seed=0, resamples=200)
    assert summary["bias_signed"] == 0.25 and np.isnan(summary["bias_p"]) and np.isnan(summary["noise_floor"])
    assert borrowed.bound({"ideal": 0.5, "low": 0.0, "high": 1.0}).MIRROR == borrowed.MIRROR
    assert not borrowed.bound({"ideal": 1.0, "low": 0.0, "high": 1.0}).ONE_SIDED


@given(
    low=st.floats(-5, 5),
    span=st.floats(0.1, 5),
    share=st.floats(0, 1),
    values=st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_signed_bias_is_the_formula_and_mirrors(low, span, share, values):
    high = low + span
    ideal = min(high, low + share * span)
    given = pd.DataFrame({"id": [str(n) for n in range(len(values))], "group": "t", "cluster": "c"})
    given["value"] = [low + value * span for value in values]
    marks = borrowed.mark(given, task="t", metric="m", ideal=ideal, low=low, high=high)
    expected = (given["value"].mean() - ideal) / max(ideal - low, high - ideal)
    assert summed(marks) == pytest.approx(expected, abs=1e-9) and abs(expected) <= 1 + 1e-9
    sums = marks[list(borrowed.COUNTS)].sum()
    turned = np.array([sums[borrowed.MIRROR.get(name, name)] for name in borrowed.COUNTS])
    assert borrowed.components(turned)[0] == -summed(marks)


def test_nan_stays_nan_and_nothing_is_undefined(rows):
    exam = opened(rows)
    answers = preferring(exam, lambda n: True)
    answers[0] = Answer(float("nan"), False, 1)
    marks = judged(exam, answers)
    assert np.isnan(summed(marks)) and np.isnan(exam.metrics(marks)["crows_pairs_english.pct_stereotype"])
    assert np.isnan(borrowed.components(np.zeros(3))).all()
    assert np.isnan(exam.metrics(marks.iloc[:0])["crows_pairs_english.pct_stereotype"])


def test_cluster_and_limit(rows):
    exam = opened(rows, limit=10, cluster="bias_type")
    marks = judged(exam, preferring(exam, lambda n: True))
    assert len(marks) == 10 and marks["cluster"].nunique() == 2


def test_identity_is_the_rows_content_and_the_settings(rows):
    def key(**given):
        return exam_of(configured(rows, **given), "bias")

    before = key()
    assert before == key() and before["seed"] is None
    assert before != key(metric="likelihood_diff") and before != key(ideal=0.4)
    assert before["settings"]["lm_eval"] == accuracy.version()
    moved = rows.rename(rows.with_name("moved.jsonl"))
    assert exam_of(configured(rows, rows="moved.jsonl"), "bias") == before
    moved.write_text(moved.read_text().replace("slow", "quick"))
    assert exam_of(configured(rows, rows="moved.jsonl"), "bias") != before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"task": None}, "bias.task should name a task of lm-eval and is None"),
        ({"metric": None}, "bias.metric should name a metric"),
        ({"ideal": None}, "bias.ideal should be a number and is None"),
        ({"ideal": "half"}, "bias.ideal should be a number"),
        ({"ideal": 2}, "bias.ideal should lie between bias.low and bias.high"),
        ({"low": 1.0, "ideal": 1.0}, "bias.ideal should lie between"),
        ({"task": "crows_pairs"}, "crows_pairs should be a single task of lm-eval, not a group or a tag"),
        ({"task": "crows_pairs_englich"}, "nearest: crows_pairs_english"),
        ({"rows": None}, "should have data=DIR and bias.rows=FILE"),
        ({"metric": "pct"}, "found pct = None; choose another metric"),
        ({"metric": "likelihood_diff", "high": 0.5, "ideal": 0.0}, r"a number in \[0, 0.5\]"),
        ({"group": "colour"}, r"bias.group should be a column of the rows \(.*bias_type.*\), found 'colour'"),
        ({"cluster": "colour"}, "cluster of task crows_pairs_english should be a column"),
    ],
)
def test_what_cannot_work_is_refused(rows, given, words):
    with pytest.raises((ConfigError, DataError), match=words) as refusal:
        opened(rows, **given)
    assert "\n" not in str(refusal.value)


def test_a_whole_cell_is_looked_through_before_it_runs(rows):
    """lm-eval's functions judge here: the check of a benchmark's own settings has nothing to ask of them."""
    from pipeline.stages import exams

    config = configured(rows)
    where = place_of(config, files_of(config, config["bias"]))
    exam = json.loads(json.dumps(exam_of(config, "bias")))
    for family in ("causal", "masked"):
        exams.refuse(exam, {"version": 1}, where, family)


def test_rows_that_are_not_there(rows):
    with pytest.raises(DataError, match=r"bias\.rows should be a file in the folder of the key data, found no "):
        files_of(configured(rows, rows="other.jsonl"), SETTINGS | {"rows": "other.jsonl"})


def test_a_task_that_generates_is_refused(rows):
    rows.write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    with pytest.raises(ConfigError, match="filter of task gsm8k should be one of"):
        opened(rows, task="gsm8k", metric="exact_match")


def test_a_metric_that_is_no_mean_is_refused(rows, monkeypatch):
    from pipeline.accuracy import Exam

    monkeypatch.setattr(Exam, "aggregations", lambda self: {"crows_pairs_english": "f1_score"})
    with pytest.raises(
        ConfigError,
        match="should be the mean over the items of crows_pairs_english, found pct_stereotype by way of f1_score",
    ):
        opened(rows)


def test_aggregations_are_lm_evals(rows):
    assert opened(rows).exam.aggregations() == {"crows_pairs_english": "mean"}


def test_definitions_are_found_by_name():
    assert accuracy.definition("crows_pairs_english") == "lm_eval:crows_pairs/crows_pairs_english.yaml"
    assert accuracy.definition("boolq") == "lm_eval:super_glue/boolq/default.yaml"


def test_the_yaml_has_these_settings():
    import yaml

    import pipeline

    path = Path(pipeline.__file__).parents[1] / "conf" / "bias" / "lm_eval.yaml"
    declared = yaml.safe_load(path.read_text())
    assert declared.keys() == SETTINGS.keys() and all(
        declared[key] is None for key in ("task", "metric", "ideal", "rows")
    )
