"""The declared sets on real rows: against lm-eval's own evaluate(), item by item, and their perplexities and drops."""

import json
import math
from pathlib import Path

import pytest
import yaml

from pipeline import accuracy
from pipeline.errors import ConfigError, DataError
from pipeline.requests import Answer, Generate, LogLikelihood, Rolling
from tests.accuracy.conftest import ROOT, Chatting, chatted, hashed

SETS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "conf" / "accuracy").glob("*.yaml"))}


def exam(name, real_data, limit=6, chat=None, **changed):
    settings = SETS[name] | changed
    return settings, accuracy.load(
        settings, {key: real_data / file["path"] for key, file in settings["files"].items()}, limit, chat=chat
    )


def said(asked):
    """A fake model with firm but senseless opinions on requests of all kinds."""
    if isinstance(asked, LogLikelihood):
        return Answer(*hashed(asked.context, asked.continuation)[:2], 1)
    if isinstance(asked, Rolling):
        return Answer(-float(len(asked.text)), False, 1)
    return Answer(math.nan, False, 1, texts=(f" so it is #### {len(asked.prompt) % 40}",))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """lm-eval's evaluate() of the same fake model on a bundled task with given rows: the metrics of every item."""
    from lm_eval.api.model import LM
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    class FakeLM(Chatting, LM):
        def loglikelihood(self, requests):
            return [said(LogLikelihood(*request.args))[:2] for request in requests]

        def loglikelihood_rolling(self, requests):
            return [said(Rolling(*request.args)).loglikelihood for request in requests]

        def generate_until(self, requests):
            return [said(Generate(request.args[0])).texts[0] for request in requests]

    def run(definition, rows, examples=None, num_fewshot=0, limit=6, chat=False):
        import lm_eval

        folder = tmp_path_factory.mktemp("task")
        files = {"validation": str(rows)} | ({"train": str(examples)} if examples else {})
        (folder / "task.yaml").write_text(
            yaml.safe_dump(
                {
                    "include": str(Path(lm_eval.__file__).parent / "tasks" / definition),
                    "task": "redirected",
                    "dataset_path": "json",
                    "dataset_name": None,
                    "dataset_kwargs": {"data_files": files, "cache_dir": str(folder)},
                    "training_split": None,
                    "fewshot_split": "train" if examples else None,
                    "validation_split": "validation",
                    "test_split": None,
                    "num_fewshot": num_fewshot,
                }
            )
        )
        task = TaskManager(include_defaults=False).load(str(folder / "task.yaml"))["tasks"]["redirected"]
        task.set_fewshot_seed(1234)  # as the command line does
        output = evaluate(
            FakeLM(),
            {"redirected": task},
            limit=limit,
            bootstrap_iters=0,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
        return output["results"]["redirected"], output["samples"]["redirected"]

    return run


@pytest.mark.parametrize("name", ["reasoning", "language", "robust"])
def test_every_task_equals_lm_eval_item_by_item(name, real_data, evaluated):
    settings, opened = exam(name, real_data)
    marks = opened.judge([said(asked) for asked in opened.requests()])
    numbers = opened.metrics(marks)
    for task, keys in settings["tasks"].items():
        if keys.get("perturb") or keys["rows"] is None or keys["rows"].endswith(".raw"):
            continue
        result, samples = evaluated(
            keys["definition"].removeprefix("lm_eval:"), real_data / settings["files"][keys["rows"]]["path"]
        )
        assert numbers[task] == pytest.approx(result[f"{keys['metric']},none"], rel=1e-9), task
        if keys.get("scale", "share") == "share":
            found = [sample[keys["metric"]] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
            assert marks.loc[marks["group"] == task, "value"].tolist() == found, task


def test_what_is_written_is_judged_as_lm_eval_does_with_examples_in_the_prompt(real_data, evaluated):
    settings, opened = exam("generation", real_data)
    requests = opened.requests()
    marks = opened.judge([said(asked) for asked in requests])
    assert set(marks["group"]) == {"gsm8k", "math500"}  # nobody allowed programs to run
    place = {name: real_data / file["path"] for name, file in settings["files"].items()}
    result, samples = evaluated("gsm8k/gsm8k.yaml", place["gsm8k.test.jsonl"], place["gsm8k.train.jsonl"], 5)
    lenient = sorted((s for s in samples if s["filter"] == "flexible-extract"), key=lambda sample: sample["doc_id"])
    assert marks.loc[marks["group"] == "gsm8k", "value"].tolist() == [sample["exact_match"] for sample in lenient]
    assert [asked.prompt for asked in requests[:6]] == [sample["arguments"][0][0] for sample in lenient]
    assert requests[0].prompt.count("Question:") == 6 and requests[0].max_tokens == 256
    assert opened.metrics(marks)["gsm8k"] == pytest.approx(result["exact_match,flexible-extract"])


def test_a_chat_is_put_as_lm_eval_puts_it_with_examples_and_two_contexts(real_data, evaluated):
    """Solved examples are turns of their own; WinoGrande's options are contexts; LAMBADA keeps the space of its word."""
    for name in ("generation", "reasoning", "language"):
        settings = SETS[name]
        place = {file: real_data / spec["path"] for file, spec in settings["files"].items()}
        wanted = {"gsm8k", "winogrande", "hellaswag", "lambada"} & settings["tasks"].keys()
        tasks = {task: settings["tasks"][task] for task in wanted}
        _, opened = exam(name, real_data, tasks=tasks, chat=chatted)
        for task, keys in tasks.items():
            few = ("gsm8k.train.jsonl",) if task == "gsm8k" else ()
            rows = [place[file] for file in (keys["rows"], *few)]
            definition = keys["definition"].removeprefix("lm_eval:")
            _, samples = evaluated(definition, *rows, num_fewshot=5 if few else 0, chat=True)
            theirs = {}
            for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
                theirs[sample["doc_id"]] = [arguments[:2] for arguments in sample["arguments"]]
            places = [numbers for row, _, numbers in opened.items() if row.startswith(f"{task}/")]
            asked = opened.requests()
            for numbers, expected in zip(places, theirs.values(), strict=True):
                for number, (context, rest) in zip(numbers, expected, strict=True):
                    one = asked[number]
                    assert (one.prompt if isinstance(one, Generate) else one.context) == context
                    assert isinstance(one, Generate) or one.continuation == rest
                    assert context.startswith("<user>") and context.endswith("<assistant>")
                    assert context.count("<user>") == (6 if task == "gsm8k" else 1)


def test_programs_are_asked_and_run_where_that_is_allowed(real_data):
    settings, opened = exam("generation", real_data, limit=2, allow_code_execution=True)
    rows = [json.loads(line) for line in (real_data / "humaneval" / "HumanEval.jsonl").read_text().splitlines()[:2]]
    answers = [said(asked) for asked in opened.requests()]
    answers[4:6] = [
        Answer(math.nan, False, 1, texts=(rows[0]["canonical_solution"],)),
        Answer(math.nan, False, 1, texts=("",)),
    ]
    marks = opened.judge(answers)
    assert marks.loc[marks["group"] == "humaneval", "value"].tolist() == [1.0, 0.0]
    assert (marks["group"] == "mbpp").sum() == 2
    assert accuracy.left_out(SETS["generation"]) == ["humaneval", "mbpp"] and accuracy.left_out(settings) == []


def test_wikitext_is_62_articles_and_its_perplexity_is_by_word(real_data):
    tasks = SETS["language"]["tasks"]
    chosen = {"wikitext": tasks["wikitext_unspaced_word_perplexity"], "lambada": tasks["lambada"]}
    _, opened = exam("language", real_data, limit=None, tasks=chosen)
    requests = [asked for asked in opened.requests() if isinstance(asked, Rolling)]
    assert len(requests) == 62
    answers = [said(asked) for asked in opened.requests()]
    marks = opened.judge(answers)
    part = marks[marks["group"] == "wikitext"]
    loss = sum(len(asked.text) for asked in requests)
    assert part["value"].sum() == loss and 220_000 < part["weight"].sum() < 260_000
    assert opened.metrics(marks)["wikitext"] == pytest.approx(math.exp(loss / part["weight"].sum()))


def test_drop_rates_by_hand(real_data):
    _, opened = exam("robust", real_data)
    requests = opened.requests()
    marks = opened.judge([said(asked) for asked in requests])
    marks["value"] = [0.5 if group == "piqa" else 0.4 if group == "piqa_typos" else 0.0 for group in marks["group"]]
    numbers = opened.metrics(marks)
    assert numbers["piqa_typos.drop"] == pytest.approx(0.2) and numbers["piqa_negation.drop"] == 1
    assert math.isnan(numbers["rte_typos.drop"])  # of nothing no share can be lost
    assert numbers["tasks_in_mean"] == 3
    texts = [asked.context for asked in requests]
    assert sum("and false is not true" in text for text in texts) > 0


def test_skills_are_means_of_their_tasks():
    assert accuracy.skills(SETS["reasoning"]) == {
        "commonsense": ["hellaswag", "piqa", "winogrande"],
        "knowledge": ["arc_easy", "arc_challenge"],
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"filter": "loose"}, "filter of task piqa should be one of none"),
        ({"perturb": "typos", "text": ["goals"]}, "text of task piqa should name columns"),
        ({"perturb": "typos"}, "perturb and text"),
        ({"scale": "perplexity"}, "perplexity is in no mean"),
        ({"scale": "loss"}, "scale of piqa"),
        ({"num_fewshot": -1}, "num_fewshot of piqa"),
        ({"hub": {"repository": "a/b", "revision": "main"}}, "40 hex digits"),
    ],
)
def test_declarations_are_refused(real_data, change, words):
    task = SETS["reasoning"]["tasks"]["piqa"] | change
    with pytest.raises(ConfigError, match=words):
        exam("reasoning", real_data, tasks={"piqa": task}, limit=2)


def test_any_task_by_name_from_a_folder(real_data, tmp_path):
    unit = {"name": "lm_eval", "version": 1, "tasks": ["piqa", "arc_easy"], "metric": None, "num_fewshot": None}
    found = accuracy.expanded(unit, real_data, tmp_path)
    assert list(found["tasks"]) == ["piqa", "arc_easy"] and set(found["files"]) == {
        "piqa.validation.jsonl",
        "arc_easy.test.jsonl",
    }
    opened = accuracy.load(found, {name: real_data / file["path"] for name, file in found["files"].items()}, 3)
    assert len(opened.judge([said(asked) for asked in opened.requests()])) == 6
    with pytest.raises(DataError, match=r"piqa/train\.jsonl"):
        accuracy.expanded(unit | {"num_fewshot": 5}, real_data, tmp_path)
    with pytest.raises(ConfigError, match="nothing should be a single task of lm-eval"):
        accuracy.expanded(unit | {"tasks": ["nothing"]}, real_data, tmp_path)
    with pytest.raises(DataError, match=r"sciq/test\.jsonl"):
        accuracy.expanded(unit | {"tasks": ["sciq"]}, real_data, tmp_path)
