"""The exam against lm-eval's own evaluate(), on the shipped tasks."""

import json
import math

import pytest

from pipeline.accuracy import chance, identity, load, metrics
from pipeline.errors import ConfigError, DataError
from tests.accuracy.conftest import chatted

TASKS = ["pocket_facts", "pocket_causes", "pocket_reading"]


@pytest.mark.parametrize("limit", [None, 7])
@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
def test_equals_lm_eval(pocket, answer, evaluated, tmp_path, limit, metric):
    settings, files = pocket
    for task in settings["tasks"].values():
        task["metric"] = metric
    exam = load(settings, files, limit)
    marks = exam.judge(answer(exam.requests()))
    found = exam.metrics(marks)
    requests = []
    for task in TASKS:
        result, samples = evaluated(files[f"{task}.yaml"].parent, task, files[f"{task}.jsonl"], limit, tmp_path)
        assert found[task] == pytest.approx(result[f"{metric},none"], abs=1e-12)
        part = marks[marks["group"] == task]
        assert part["value"].tolist() == [sample[metric] for sample in samples]
        assert part["id"].tolist() == [f"{task}/{sample['doc_id']}" for sample in samples]
        requests += [tuple(arguments) for sample in samples for arguments in sample["arguments"]]
    assert [request[:2] for request in exam.requests()] == requests
    assert found["accuracy"] == pytest.approx(sum(found[task] for task in TASKS) / 3)


def test_a_chat_is_put_as_lm_eval_puts_it(pocket, answer, evaluated, tmp_path):
    """As many requests as without, in the same order, so that the same judge reads the answers."""
    settings, files = pocket
    plain, spoken = load(settings, files, 7), load(settings, files, 7, chat=chatted)
    asked, requests, values = spoken.requests(), [], []
    marks = plain.judge(answer(asked))
    for task in TASKS:
        _, samples = evaluated(files[f"{task}.yaml"].parent, task, files[f"{task}.jsonl"], 7, tmp_path, chat=True)
        requests += [tuple(arguments) for sample in samples for arguments in sample["arguments"]]
        values += [sample[settings["tasks"][task]["metric"]] for sample in samples]
    assert [request[:2] for request in asked] == requests and marks["value"].tolist() == values
    assert all(request.context.startswith("<user>") and request.context.endswith("<assistant>") for request in asked)
    for one, other in zip(plain.requests(), asked, strict=True):
        assert f"<user>{one.context}</user>" in other.context and one.continuation == f" {other.continuation}"


def test_judging_twice_gives_the_same(pocket, answer):
    exam = load(*pocket, 5)
    answers = answer(exam.requests())
    first = exam.judge(answers)
    exam.judge([one._replace(loglikelihood=-one.loglikelihood) for one in answers])
    assert exam.judge(answers).equals(first)


def test_marks(pocket, answer):
    exam = load(*pocket, None)
    marks = exam.judge(answer(exam.requests()))
    assert list(marks.columns) == ["id", "group", "cluster", "value", "chance", "weight"]
    assert marks["id"].is_unique
    assert (marks["cluster"] == marks["id"]).all()
    assert set(marks["value"]) <= {0.0, 1.0}
    assert marks["group"].value_counts().to_dict() == {"pocket_facts": 80, "pocket_causes": 72, "pocket_reading": 60}
    assert chance(marks) == {"pocket_facts": 0.25, "pocket_causes": 0.5, "pocket_reading": 0.25}


def test_declared_chance_is_what_guessing_gives(pocket, answer):
    settings, files = pocket
    exam = load(settings, files, None)
    declared = chance(exam.judge(answer(exam.requests())))
    for task in settings["tasks"].values():
        task["chance"] = None
    exam = load(settings, files, None)
    assert chance(exam.judge(answer(exam.requests()))) == pytest.approx(declared)


def test_a_model_that_knows_the_answers_gets_them_all(pocket, answer):
    settings, files = pocket
    exam = load(settings, files, None)
    labels = [json.loads(line)["label"] for task in TASKS for line in files[f"{task}.jsonl"].read_text().splitlines()]
    sizes = [4] * 80 + [2] * 72 + [4] * 60
    right = [option == label for label, size in zip(labels, sizes, strict=True) for option in range(size)]
    answers = [
        one._replace(loglikelihood=0.0 if yes else -50.0)
        for one, yes in zip(answer(exam.requests()), right, strict=True)
    ]
    assert exam.metrics(exam.judge(answers))["accuracy"] == 1


def test_limit_takes_the_first_of_each_task(pocket):
    everything = load(*pocket, None).requests()
    few = load(*pocket, 3).requests()
    assert few[:12] == everything[:12] and len(few) == 3 * (4 + 2 + 4)
    assert load(*pocket, 10**6).requests() == everything


@pytest.mark.parametrize("limit", [0, -1, 0.5, 1.0, True, "3"])
def test_limit_is_a_whole_number(pocket, limit):
    with pytest.raises(ConfigError, match="limit should be null"):
        load(*pocket, limit)


def test_wrong_number_of_answers(pocket, answer):
    exam = load(*pocket, 2)
    answers = answer(exam.requests())
    for wrong in (answers[:-1], [*answers, answers[0]], []):
        with pytest.raises(DataError, match="expected 20 answers"):
            exam.judge(wrong)


def test_a_broken_model_has_no_accuracy(pocket, answer):
    exam = load(*pocket, 3)
    answers = answer(exam.requests())
    answers[1] = answers[1]._replace(loglikelihood=math.nan)
    marks = exam.judge(answers)
    assert marks["value"].isna().tolist() == [True] + [False] * 8
    found = exam.metrics(marks)
    assert math.isnan(found["accuracy"]) and math.isnan(found["pocket_facts"])
    assert not math.isnan(found["pocket_causes"])


def test_mean_is_over_the_tasks_that_count(pocket, answer):
    settings, files = pocket
    settings["tasks"]["pocket_facts"]["in_mean"] = False
    exam = load(settings, files, 10)
    marks = exam.judge(answer(exam.requests()))
    found = metrics(settings, marks)
    assert found["accuracy"] == pytest.approx((found["pocket_causes"] + found["pocket_reading"]) / 2)
    assert found["tasks_in_mean"] == 2 and found["chance"] == pytest.approx(0.375)


def test_items_that_share_a_column_are_one_cluster(pocket, answer):
    settings, files = pocket
    settings["tasks"]["pocket_causes"]["cluster"] = "relation"
    exam = load(settings, files, None)
    marks = exam.judge(answer(exam.requests()))
    assert marks[marks["group"] == "pocket_causes"]["cluster"].nunique() == 2
    settings["tasks"]["pocket_causes"]["cluster"] = "template"
    with pytest.raises(ConfigError, match="cluster of task pocket_causes"):
        load(settings, files, None)


def test_an_edited_file_of_the_same_name_is_read_anew(pocket, tmp_path):
    """The cache of datasets tells files apart by path and time."""
    import os

    settings, files = pocket
    files["pocket_facts.jsonl"] = tmp_path / "facts.jsonl"
    asked = []
    for word in ("first", "later"):
        row = {"question": f"Which is {word}?", "choices": ["one", "two"], "label": 0}
        files["pocket_facts.jsonl"].write_text(json.dumps(row) + "\n")
        os.utime(files["pocket_facts.jsonl"], (10**9, 10**9))
        asked.append(load(settings, files, None).requests()[0][0])
    assert asked == ["Question: Which is first?\nAnswer:", "Question: Which is later?\nAnswer:"]


GOOD = '{"question": "q", "choices": ["a", "b"], "label": 0}\n'
BAD = {
    "empty": ("", "at least one row"),
    "cut short": (GOOD + GOOD[:20], "row 2: expected one JSON object"),
    "a list": (GOOD + "[1]\n", "row 2: expected a JSON object"),
    "a column missing": (GOOD + '{"question": "q", "label": 0}\n', "row 2: expected the columns of row 1"),
    "null": (GOOD + '{"question": null, "choices": ["a", "b"], "label": 0}\n', "row 2: expected a value for question"),
    "label too high": (GOOD + GOOD.replace("0", "2"), "row 2: expected a label among the 2 options"),
    "no label": (GOOD + GOOD.replace("0", "-1"), "row 2: expected a label among the 2 options"),
    "other columns": ('{"text": "q", "choices": ["a"], "label": 0}\n', "lacks a column"),
    "mixed types": (
        GOOD + '{"question": ["q"], "choices": ["a", "b"], "label": 0}\n',
        "row 2: expected the columns of row 1",
    ),
    "not text": (b"\xff\xfe", "jsonl file in UTF-8"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_malformed_rows_are_refused_in_one_sentence(pocket, tmp_path, case):
    content, message = BAD[case]
    settings, files = pocket
    files["pocket_facts.jsonl"] = tmp_path / "facts.jsonl"
    files["pocket_facts.jsonl"].write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as caught:
        load(settings, files, None)
    assert "\n" not in str(caught.value)


def test_missing_files(pocket, tmp_path):
    settings, files = pocket
    with pytest.raises(DataError, match="needs its files"):
        load(settings, {}, None)
    with pytest.raises(DataError, match="should be a readable jsonl file"):
        load(settings, {**files, "pocket_facts.jsonl": tmp_path / "none.jsonl"}, None)
    del files["pocket_reading.jsonl"]
    with pytest.raises(DataError, match=r"needs the files pocket_reading\.jsonl"):
        load(settings, files, None)


def task_yaml(tmp_path, files, **changes):
    import yaml

    definition = yaml.safe_load(files["pocket_facts.yaml"].read_text()) | changes
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in definition.items() if value is not None}))
    return {**files, "pocket_facts.yaml": path}


def test_a_metric_that_the_kind_of_request_does_not_give_is_refused(pocket, tmp_path):
    settings, files = pocket
    changed = task_yaml(
        tmp_path,
        files,
        output_type="generate_until",
        doc_to_choice=None,
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
    with pytest.raises(ConfigError, match=r"pocket_facts should give each item a number.*acc = None"):
        load(settings, changed, 2)


@pytest.mark.parametrize("metric", ["f1", "accuracy"])
def test_a_metric_that_is_no_number_per_item_is_refused(pocket, tmp_path, metric):
    settings, files = pocket
    settings["tasks"]["pocket_facts"]["metric"] = metric
    changed = task_yaml(tmp_path, files, metric_list=[{"metric": "f1"}, {"metric": "acc"}])
    with pytest.raises(ConfigError, match="metric of task pocket_facts"):
        load(settings, changed, 2)


def test_identity_names_the_version_of_lm_eval(pocket):
    import lm_eval

    found = identity(pocket[0])
    assert found["lm_eval"] == lm_eval.__version__
    assert found["tasks"] == pocket[0]["tasks"]
