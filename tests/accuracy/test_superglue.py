"""SuperGLUE: real rows where PIPELINE_DATA has them, and the way to the hub."""

import sys
import types
from pathlib import Path

import pytest

from pipeline.accuracy import chance, harness_tasks, load, record
from pipeline.accuracy import settings as declared
from pipeline.errors import DataError

ITEMS = {"boolq": 3270, "cb": 56, "copa": 100, "multirc": 4848, "rte": 277, "wic": 638, "wsc": 104, "record_dev32": 32}
NAMES = {"rte": "sglue_rte"}  # what lm-eval calls them


def bundled(task):
    import lm_eval

    return Path(lm_eval.__file__).parent / "tasks" / "super_glue" / task


@pytest.mark.parametrize("limit", [20])
def test_equals_lm_eval(superglue, answer, evaluated, tmp_path, limit):
    settings, files = superglue
    exam = load(settings, files, limit)
    requests = [asked[:2] for asked in exam.requests()]
    assert all(context and continuation for context, continuation in requests)
    marks = exam.judge(answer(requests))
    assert marks["group"].value_counts().to_dict() == dict.fromkeys(ITEMS, limit)
    found = exam.metrics(marks)
    for task in sorted(set(ITEMS) - {"record_dev32"}):
        rows = files[settings["tasks"][task]["rows"]]
        result, samples = evaluated(bundled(task), NAMES.get(task, task), rows, limit, tmp_path)
        assert found[task] == pytest.approx(result["acc,none"], abs=1e-12), task
        assert marks[marks["group"] == task]["value"].tolist() == [sample["acc"] for sample in samples]
        asked = [tuple(arguments) for sample in samples for arguments in sample["arguments"]]
        start = requests.index(asked[0])
        assert requests[start : start + len(asked)] == asked
    assert found["tasks_in_mean"] == 7
    assert found["accuracy"] == pytest.approx(sum(found[task] for task in ITEMS if task != "record_dev32") / 7)


def test_number_of_items_and_chance(superglue, answer):
    settings, files = superglue
    small = {name: task for name, task in settings["tasks"].items() if name not in ("boolq", "multirc")}
    exam = load({**settings, "tasks": small}, files, None)
    marks = exam.judge(answer(exam.requests()))
    assert marks["group"].value_counts().to_dict() == {task: n for task, n in ITEMS.items() if task in small}
    declared_chance = chance(marks)
    assert 0.05 < declared_chance["record_dev32"] < 0.25
    for task in small.values():
        task["chance"] = None
    exam = load({**settings, "tasks": small}, files, 20)
    computed = chance(exam.judge(answer(exam.requests())))
    assert {task: computed[task] for task in small if task in computed and "record" not in task} == pytest.approx(
        {task: declared_chance[task] for task in small if task in computed and "record" not in task}
    )


def test_items_of_one_multirc_question_are_one_cluster(superglue, answer):
    settings, files = superglue
    settings = {**settings, "tasks": {"multirc": settings["tasks"]["multirc"]}}
    exam = load(settings, files, 40)
    marks = exam.judge(answer(exam.requests()))
    assert 4 < marks["cluster"].nunique() < 20


def test_record_equals_the_definition_bundled_with_lm_eval(superglue, answer, evaluated, tmp_path, monkeypatch):
    """lm-eval's own definition needs a module that transformers 5 lacks; here it gets a stand-in for it."""
    squad = types.ModuleType("transformers.data.metrics.squad_metrics")
    squad.compute_exact = lambda one, other: int(record._plain(one) == record._plain(other))
    squad.compute_f1 = lambda one, other: 0.0
    metrics = types.ModuleType("transformers.data.metrics")
    metrics.squad_metrics = squad
    monkeypatch.setitem(sys.modules, "transformers.data.metrics", metrics)
    monkeypatch.setitem(sys.modules, "transformers.data.metrics.squad_metrics", squad)
    settings, files = superglue
    rows = settings["tasks"]["record_dev32"]["rows"]
    settings["tasks"] = {"record_dev32": settings["tasks"]["record_dev32"] | {"in_mean": True}}
    exam = load(settings, files, None)
    result, samples = evaluated(bundled("record"), "record", files[rows], None, tmp_path)
    asked = [tuple(arguments) for sample in samples for arguments in sample["arguments"]]
    assert [each[:2] for each in exam.requests()] == asked
    marks = exam.judge(answer(asked))
    assert marks["value"].tolist() == [sample["em"] for sample in samples]
    assert exam.metrics(marks)["record_dev32"] == pytest.approx(result["em,none"], abs=1e-12)


def test_answers_are_compared_without_case_punctuation_and_articles():
    doc = {"entities": ["A Coruña", "the U.S."], "answers": ["US"]}
    assert record.marks(doc, [(-2.0, False), (-1.0, False)]) == {"em": 1.0}
    assert record.marks(doc, [(-1.0, False), (-2.0, False)]) == {"em": 0.0}


def test_from_the_hub_at_the_pinned_revision(superglue_declared, monkeypatch):
    """What is asked of the hub, without a hub: repository, config and revision of every task."""
    import datasets

    asked = {}

    def load_dataset(path, name=None, **keywords):
        asked[name] = (path, keywords)
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub = superglue_declared["hub"]
    tasks = [task for task in declared.tasks(superglue_declared) if task.hub]
    for task in tasks:
        with pytest.raises(DataError, match=f"rows of task {task.name} should come from aps/super_glue on the hub"):
            harness_tasks.build(task, {}, hub, None)
    assert [task.name for task in tasks if task.in_mean] == [
        "boolq",
        "cb",
        "copa",
        "multirc",
        "rte",
        "wic",
        "wsc",
        "record",
    ]
    assert set(asked) == {"boolq", "cb", "copa", "multirc", "rte", "wic", "wsc.fixed", "record"}
    assert all(value == (hub["repository"], {"revision": hub["revision"]}) for value in asked.values())


def test_rows_from_the_hub_are_judged_like_rows_from_a_file(superglue, answer, monkeypatch):
    import datasets

    settings, files = superglue
    settings["tasks"] = {name: settings["tasks"][name] for name in ("cb", "wsc")}
    original = datasets.load_dataset

    def load_dataset(path, name=None, **keywords):
        if path == "json":
            return original(path, name, **keywords)
        return datasets.DatasetDict(
            validation=datasets.Dataset.from_json(str(files[f"{name}.validation.jsonl"]), keep_in_memory=True)
        )

    local = load(settings, files, 10)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub = load(settings, {}, 10)
    assert hub.requests() == local.requests()
    assert hub.judge(answer(hub.requests())).equals(local.judge(answer(local.requests())))
