"""Ask a model, mark its answers, compare the marks: three stages, so that a corrected metric needs no model.

answer   what the model said to every request         costly, kept
mark     one verdict an item                           cheap
compare  score, intervals, change against the base     cheap
health   whether it still speaks: perplexity on a fixed text
"""

import functools
import json
from pathlib import Path

from pipeline import datafiles
from pipeline.errors import DataError
from pipeline.requests import Answer, shown
from pipeline.stages.donor import device_of
from pipeline.stages.exams import open_exam
from pipeline.store import stage

FAMILY = "family"  # the file beside the answers


@stage(version=5, unkeyed=("where", "machine"), resumable=True)
def answer(
    folder: Path,
    *,
    model: Path,
    exam: dict,
    prefix_token: str | None,
    dtype: str,
    where: dict,
    machine: dict,
    scratch: Path,
    chat_template: int = 0,
) -> dict:
    """Put every request of an exam to the model: answers.parquet, one row a request, in the exam's order.

    `family` says whether the model is causal or masked: a benchmark may ask the two differently.
    chat_template  above 0, questions are put as the user's turn of a chat, by the model's own template; what is recorded is
                   the request without it. The number is a version, of how that is done
    """
    import pandas

    from pipeline.requests import written

    scorer = _loaded(model, prefix_token, dtype, json.dumps(machine, sort_keys=True))
    opened = open_exam(exam, where)
    requests = opened.requests(scorer.family)
    before = scorer.cut
    answers = scorer.answer(
        opened.spoken(_chat(scorer)) if chat_template else requests, label=exam["name"], scratch=scratch
    )
    pandas.DataFrame(
        {"request": [written(asked) for asked in requests]}
        | {field: [getattr(answer, field) for answer in answers] for field in Answer._fields}
    ).to_parquet(folder / "answers.parquet")
    (folder / FAMILY).write_text(scorer.family)
    return {
        "family": scorer.family,
        "requests": len(requests),
        "cut": scorer.cut - before,  # that lost their beginning to the model's limit
        "tokens": sum(answer.tokens for answer in answers),
    }


@stage(version=2, unkeyed=("machine",))
def classify(folder: Path, *, answers: Path, model: Path, machine: dict) -> dict:
    """What a text classifier makes of every completion, with its prompt and without: scores.parquet, one row a text."""
    import pandas

    from pipeline.bias.generation import whole
    from pipeline.language_model.classifier import probabilities

    said = pandas.read_parquet(answers / "answers.parquet")
    prompts = [json.loads(asked)[1] for asked in said["request"]]
    texts = [(prompt, text) for prompt, told in zip(prompts, said["texts"], strict=True) for text in told]
    distinct = sorted({read for prompt, text in texts for read in (text, whole(prompt, text))})
    device, threads = device_of(machine["device"]), machine["threads"]
    found = probabilities(model, distinct, device=device, threads=threads)
    pandas.DataFrame({"text": distinct, **found}).to_parquet(folder / "scores.parquet")
    return {"texts": len(distinct), "labels": list(found)}


@stage(version=2, unkeyed=("where",))
def mark(
    folder: Path,
    *,
    answers: Path,
    exam: dict,
    judging: dict,
    where: dict,
    classified: dict[str, Path] | None = None,
) -> dict:
    """Judge recorded answers: marks.parquet, one row an item; the summary holds the exam's own metrics.

    classified  what text classifiers made of the answers, by what they measure
    """
    import pandas

    from pipeline.requests import written

    opened = open_exam(exam, where)
    table, family = pandas.read_parquet(answers / "answers.parquet"), (answers / FAMILY).read_text()
    if table["request"].tolist() != [written(asked) for asked in opened.requests(family)]:
        raise DataError(
            f"the recorded answers of {exam['name']} should belong to today's {len(table)} requests, found other requests: "
            f"the benchmark's code changed without its version; raise `version` in conf/{exam['room']}/{exam['name']}.yaml"
        )
    said = [
        Answer(row.loglikelihood, bool(row.greedy), int(row.tokens), row.probability, tuple(row.texts))
        for row in table.itertuples()
    ]
    scores = {name: pandas.read_parquet(each / "scores.parquet") for name, each in (classified or {}).items()}
    marks = opened.judge(said, judging, family, scores)
    marks.to_parquet(folder / "marks.parquet")
    return {"items": len(marks), "metrics": opened.metrics(marks)}


@stage(version=3)
def compare(folder: Path, *, marks: Path, base_marks: Path | None, exam: dict, seed: int) -> dict:
    """Score marks and, where the base's are given, the paired change against them, with intervals.

    <room>_undefined says why the statistic is nan, where it is.
    """
    import pandas

    from pipeline import statistics

    table = pandas.read_parquet(marks / "marks.parquet")
    base = None if base_marks is None else pandas.read_parquet(base_marks / "marks.parquet")
    if exam["room"] == "bias":
        module = _benchmark(exam)
        summary = statistics.bias_summary(module, table, base, seed=seed)
        why = statistics.bias_undefined(module, table)
        return summary | ({"bias_undefined": why} if why else {})
    tasks = _tasks(exam, table)
    summary = statistics.accuracy_summary(table, base, tasks, seed=seed)
    why = statistics.accuracy_undefined(table, tasks)
    return {
        "tasks": {name: summary.pop(name) for name in tasks} | _more_of_tasks(exam, table, base, tasks, seed),
        "accuracy_items": int(table["group"].isin([name for name in tasks if tasks[name]["in_mean"]]).sum()),
        "tasks_in_mean": sum(task["in_mean"] for task in tasks.values()),
        **summary,
        **({"accuracy_undefined": why} if why else {}),
    }


def difference(exam: dict, marks: Path, other: Path, seed: int) -> dict[str, float]:
    """The paired change from one model to another, whatever they are: <room>_change, its interval, p and effect size."""
    import pandas

    from pipeline import statistics

    one, two = (pandas.read_parquet(folder / "marks.parquet") for folder in (marks, other))
    if exam["room"] == "bias":
        return statistics.bias_change(_benchmark(exam), one, two, seed=seed)
    return statistics.accuracy_change(one, two, _tasks(exam, one), seed=seed)


def _benchmark(exam: dict):
    """What the statistics read of a bias benchmark."""
    from pipeline import bias

    module = bias.load(exam["benchmark"])
    return module.bound(exam["settings"]) if exam["benchmark"] == "lm_eval" else module


def _tasks(exam: dict, table) -> dict[str, dict]:
    """What accuracy_summary must know of the tasks that have marks."""
    declared, chance = exam["settings"]["tasks"], table.groupby("group").chance.mean()
    return {
        name: {"chance": float(chance[name]), "in_mean": declared[name]["in_mean"]}
        for name in declared
        if name in chance.index
    }


def _more_of_tasks(exam: dict, table, base, tasks: dict, seed: int) -> dict[str, float]:
    """Perplexities, performance drop rates, and the mean of every skill with its interval and its change."""
    from pipeline import accuracy, statistics

    settings = exam["settings"]
    found = accuracy.perplexities(settings, table)
    means = {name: float(part.value.mean(skipna=False)) for name, part in table.groupby("group")}
    found |= {f"{name}.drop": value for name, value in accuracy.drops(settings, means | found).items()}
    for skill, names in accuracy.skills(settings).items():
        here = {name: tasks[name] for name in names if name in tasks}
        if not here:
            continue
        parts = [None if each is None else each[each["group"].isin(here)] for each in (table, base)]
        summary = statistics.accuracy_summary(*parts, here, seed=seed)
        found |= {
            f"skill.{skill}{key.removeprefix('accuracy')}": value
            for key, value in summary.items()
            if key.startswith("accuracy") and not key.endswith(("_p", "_effect"))
        }
    return found


@stage(version=1, unkeyed=("machine",))
def health(folder: Path, *, model: Path, prefix_token: str | None, dtype: str, machine: dict) -> dict:
    """Perplexity on the built-in text."""
    from pipeline.language_model.plain_text import perplexity

    scorer = _loaded(model, prefix_token, dtype, json.dumps(machine, sort_keys=True))
    return {"perplexity": perplexity(scorer)}


@stage(version=2, unkeyed=("where", "source"))
def leak(folder: Path, *, exam: dict, where: dict, sentences: dict, source: dict) -> dict:
    """The first training sentence that stands in a text which an exam shows to a model, or None.

    Of one and the same file a template that both use counts too, however differently it is put.
    """
    from pipeline.stages.pairs import read
    from pipeline.training.overlap import Phrases

    pairs = read(sentences, datafiles.obtain(**source))
    opened = open_exam(exam, where)
    if _of_one_file(exam, sentences):
        templates = opened.templates
        found = next((pair.stereotype for pair in pairs if pair.cluster in templates), None)
        if found is not None:
            return {"shared": found}
    trained_on = Phrases(text for pair in pairs for text in (pair.stereotype, pair.anti_stereotype))
    texts = dict.fromkeys(shown(asked) for asked in opened.requests("causal"))
    return {"shared": next((found for text in texts if (found := trained_on.inside(text)) is not None), None)}


@stage(version=2, unkeyed=("where", "other_where"))
def overlap(folder: Path, *, exam: dict, where: dict, other: dict, other_where: dict) -> dict:
    """A text, or of one and the same file a template, that two exams both show to a model; or None."""
    one, two = open_exam(exam, where), open_exam(other, other_where)
    if _of_one_file(exam, other) and (both := sorted(one.templates & two.templates)):
        return {"shared": both[0]}
    texts = {shown(asked) for asked in two.requests("causal")}
    asked = (shown(asked) for asked in one.requests("causal"))
    return {"shared": next((text for text in asked if text in texts), None)}


def _of_one_file(one: dict, other: dict) -> bool:
    """Whether two data sets are read from a file that is the same, by its bytes."""
    return bool(set(one["files"].values()) & set(other["files"].values()))


@functools.lru_cache(maxsize=1)  # the same model answers several exams in a row; two would not fit beside each other
def _loaded(model: Path, prefix_token: str | None, dtype: str, machine: str):
    from pipeline.language_model.load import load

    settings = json.loads(machine)
    return load(
        model,
        device=device_of(settings["device"]),
        dtype=dtype,
        threads=settings["threads"],
        tokens_per_pack=settings["tokens_per_pack"],
        prefix_token=prefix_token,
    )


def _chat(scorer):
    """The chat template of a model's tokenizer; raises ConfigError where it has none."""
    from pipeline.language_model.harness import HarnessLM

    harness = HarnessLM(scorer)
    harness.chat_template(True)
    return harness.apply_chat_template
