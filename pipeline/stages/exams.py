"""An exam with its files found: what a model is asked, and how its answers are judged."""

import functools
import inspect
import json
import math
from pathlib import Path

from pipeline import datafiles
from pipeline.errors import ConfigError, DataError
from pipeline.halves import lies_in
from pipeline.requests import Answer, Chat, Generate, LogLikelihood, request


def open_exam(exam: dict, where: dict):
    """An exam with its files found: `requests(family)`, `judge(answers, judging, family)`, `metrics(marks)`."""
    return _opened(json.dumps(exam), json.dumps(where))


@functools.lru_cache(maxsize=4)  # a cell opens the same exam to look for leaks, to ask and to judge
def _opened(exam: str, where: str):
    told, files = json.loads(exam), datafiles.obtain(**json.loads(where))
    if told["room"] == "accuracy":
        return AccuracyExam(told, files)
    return BorrowedExam(told, files) if told["benchmark"] == "lm_eval" else BiasExam(told, files)


def in_turns(exam: dict) -> bool:
    """Whether an exam asks questions, which may be put as the user's turn of a chat: tasks of lm-eval, and some benchmarks."""
    from pipeline import bias

    return "lm_eval" in exam["settings"] or getattr(bias.load(exam["benchmark"]), "QUESTIONS", False)


def refuse(exam: dict, judging: dict, where: dict, family: str) -> None:
    """Refuse now what would else fail after a model has answered: settings of the judging, a model that cannot write."""
    opened = open_exam(exam, where)
    if family == "masked" and any(isinstance(asked, Generate) for asked in opened.requests(family)):
        raise ConfigError(
            f"{exam['room']}={exam['name']} needs a causal language model, which writes, found a masked one: choose another "
            f"model, or a {exam['room']} set that asks for log-likelihoods"
        )
    if isinstance(opened, BiasExam):  # the judging of the others has no settings
        opened.check(judging, family)


def _looked_up(scores: dict) -> dict:
    """{what is measured: {text: {label: probability}}}"""
    return {name: {row.pop("text"): row for row in table.to_dict("records")} for name, table in scores.items()}


class BiasExam:
    """A benchmark on its items; what it does not ask to be given, its judge is not given."""

    def __init__(self, exam: dict, files: dict[str, Path]):
        from pipeline import bias

        self.benchmark, self.files = bias.load(exam["benchmark"]), files
        everything = self.benchmark.items(files, **exam["settings"])
        if not everything["id"].is_unique:
            twice = everything["id"][everything["id"].duplicated()].iloc[0]
            raise DataError(f"the items of bias={exam['name']} should have ids of their own, found {twice!r} twice")
        if exam.get("half"):
            everything = everything[[lies_in(exam["half"], cluster) for cluster in everything["cluster"]]]
        self.items = bias.sample(everything, exam["limit"], exam["seed"])
        self.rows = bias.records(self.items)
        # prompts are built once, whether to look for leaks, to ask or to judge
        self._asked = functools.cache(self._ask)

    def _ask(self, family: str) -> list[list]:
        ask = getattr(self.benchmark, "ask_masked", self.benchmark.ask) if family == "masked" else self.benchmark.ask
        return [[request(each) for each in ask(row)] for row in self.rows]

    def requests(self, family: str) -> list:
        return [each for asked in self._asked(family) for each in asked]

    def spoken(self, chat: Chat) -> list:
        """As `requests` of a causal model, but that the context is the user's turn, and the continuation the answer."""
        return [
            asked._replace(
                context=chat([{"role": "user", "content": asked.context}]),
                continuation=asked.continuation.removeprefix(" "),
            )
            for asked in self.requests("causal")
        ]

    def judge(self, answers: list, judging: dict, family: str, scores: dict):
        remaining = iter(answers)
        return self._judged(
            self.items, [[next(remaining) for _ in asked] for asked in self._asked(family)], judging, family, scores
        )

    def check(self, judging: dict, family: str) -> None:
        """The benchmark's judge refuses its own settings and files: it is given one item, to which a model said nothing."""
        nothing = [[Answer(float("nan"), False, 1) for _ in asked] for asked in self._asked(family)[:1]]
        self._judged(self.items.iloc[:1], nothing, judging, family, {})

    def _judged(self, items, answers: list, judging: dict, family: str, scores: dict):
        known = inspect.signature(self.benchmark.judge).parameters
        offered = {"files": self.files, "family": family, "scores": _looked_up(scores)}
        given = {name: value for name, value in offered.items() if name in known}
        settings = {key: value for key, value in judging.items() if key != "version"}
        marks = self.benchmark.judge(items, answers, **settings, **given)
        return marks.assign(**self.benchmark.said(items, marks))

    def metrics(self, marks) -> dict:
        return self.benchmark.metrics(marks)

    @property
    def templates(self) -> set[str]:
        """The clusters of its items: what is one template, or about one term."""
        return set(self.items["cluster"])

    def score(self, marks) -> float:
        """The bias score, mean |component|, with the sign of the signed bias; without its interval."""
        if "counts" in marks:
            marks = marks[marks["counts"]]
        sums = marks.sort_values("id")[list(self.benchmark.COUNTS)].sum(skipna=False).to_numpy(dtype=float)
        parts = self.benchmark.components(sums)
        return math.copysign(float(abs(parts).mean()), float(parts.mean()))


class AccuracyExam:
    templates: frozenset[str] = frozenset()  # its files are no bias set's

    def __init__(self, exam: dict, files: dict[str, Path]):
        from pipeline import accuracy

        self._load = functools.partial(accuracy.load, exam["settings"], files, exam["limit"])
        self.exam = self._load()

    def requests(self, family: str) -> list:
        return [request(each) for each in self.exam.requests()]

    def spoken(self, chat: Chat) -> list:
        """As `requests`, in as many turns of a chat: as lm-eval puts its tasks."""
        return [request(each) for each in self._load(chat=chat).requests()]

    def judge(self, answers: list, judging: dict, family: str, scores: dict):
        return self.exam.judge(answers)

    def metrics(self, marks) -> dict:
        return self.exam.metrics(marks)


class BorrowedExam:
    """An lm-eval task as a bias benchmark: asked and judged as an accuracy set is, marked by its distance from the ideal."""

    templates: frozenset[str] = frozenset()  # told apart by their texts alone

    def __init__(self, exam: dict, files: dict[str, Path]):
        from pipeline import accuracy, bias

        self.benchmark, self.settings = bias.load("lm_eval"), exam["settings"]
        task, metric = self.settings["task"], self.settings["metric"]
        declared = {
            "definition": self.settings["definition"],
            "rows": "rows" if files else None,
            "hub": not files,
            "metric": metric,
            "chance": 0.0,  # of an accuracy; nothing here asks for it
            "in_mean": True,
            "cluster": self.settings["cluster"],
            "num_fewshot": None,
        }
        whole = {"name": exam["name"], "hub": None if files else self.settings["hub"], "tasks": {task: declared}}
        between = (self.settings["low"], self.settings["high"])
        self._load = functools.partial(accuracy.load, whole, files, exam["limit"], between, of_accuracy=False)
        self.exam = self._load()
        if not all(isinstance(asked, LogLikelihood) for asked in self.exam.requests()):
            raise ConfigError(
                f"bias.task should ask for log-likelihoods, and {task} asks for something else: choose another"
            )
        if (aggregation := self.exam.aggregations()[task]) != "mean":
            raise ConfigError(
                f"bias.metric should be the mean over the items of {task}, found {metric} by way of {aggregation}; "
                "choose another bias.metric"
            )
        self.group = self.settings["group"]
        columns = list(self.exam.items()[0][1])
        if self.group is not None and self.group not in columns:
            raise ConfigError(f"bias.group should be a column of the rows ({', '.join(columns)}), found {self.group!r}")

    def requests(self, family: str) -> list:
        return [request(each) for each in self.exam.requests()]

    def spoken(self, chat: Chat) -> list:
        """As `requests`, in as many turns of a chat: as lm-eval puts its tasks."""
        return [request(each) for each in self._load(chat=chat).requests()]

    def judge(self, answers: list, judging: dict, family: str, scores: dict):
        """The marks, and in words which option each item's answer was."""
        items, asked = self.exam.items(), self.requests(family)
        values = self.exam.judge(answers)
        if self.group is not None:
            groups = {name: str(row[self.group]) for name, row, _ in items}
            values["group"] = values["id"].map(groups)
        numbers = {name: self.settings[name] for name in ("task", "metric", "ideal", "low", "high")}
        marks = self.benchmark.mark(values, **numbers)
        likeliest = {name: max(places, key=lambda place: answers[place].loglikelihood) for name, _, places in items}
        chosen = [asked[likeliest[name]] for name in marks["id"]]
        side = marks["above"].fillna(0) - marks["below"].fillna(0)
        return marks.assign(
            prompt=[each.context for each in chosen],
            answer=[each.continuation.strip() for each in chosen],
            biased=side.gt(0).astype("boolean").mask(side.eq(0)),
        )

    def metrics(self, marks) -> dict:
        return self.benchmark.metrics(marks)
