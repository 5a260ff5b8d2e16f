"""Our models behind lm-eval's `LM` interface, and answers that were given before behind the same interface."""

import datetime
import logging
import re

from jinja2 import TemplateError
from lm_eval.api.model import LM

from pipeline.errors import ConfigError, DataError
from pipeline.harness_requests import generation
from pipeline.language_model.scorer import Scorer
from pipeline.requests import Answer, Generate, LogLikelihood, Request, Rolling, request

log = logging.getLogger(__name__)
DAY = datetime.date(2024, 7, 26)  # that LLaMA 3's template names where it knows no other


class HarnessLM(LM):
    """A scorer as lm-eval sees it."""

    def __init__(self, scorer: Scorer):
        super().__init__()
        self.scorer = scorer
        self._device = scorer.device

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval's cache of requests knows the chat template by."""
        return self.scorer.tokenizer.name_or_path.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The tokenizer's template, which lm-eval records; a text names one of several. Raises ConfigError without one."""
        if chat_template is False:
            return ""
        try:
            return self.scorer.tokenizer.get_chat_template(None if chat_template is True else chat_template)
        except ValueError as error:
            raise ConfigError(
                "apply_chat_template should be the name of a chat template of the tokenizer, or true where it has one "
                f"alone, found {chat_template!r} ({str(error).splitlines()[0]}): ask without it"
            ) from error

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the text that the model reads; it opens with its own BOS, and gets no second one.

        A template that refuses a system message gets the others, with a warning. One that tells the date is told DAY, so that
        a number does not depend on when it was made; lm-eval's own backend tells today's.
        add_generation_prompt  end with the opening of an answer; else the last message is left open, to be continued
        """
        settings = {
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
            "date_string": DAY.strftime("%d %b %Y"),
            "chat_template": _on_that_day(self.scorer.tokenizer.get_chat_template()),
        }
        try:
            return self.scorer.tokenizer.apply_chat_template(chat_history, **settings)
        except TemplateError as error:
            log.warning("the chat template refuses a conversation (%s): it is tried without the system message", error)
            others = [message for message in chat_history if message["role"] != "system"]
            return self.scorer.tokenizer.apply_chat_template(others, **settings)

    def loglikelihood(self, requests) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, greedy) of each continuation."""
        asked = [LogLikelihood(*each.args) for each in requests]
        return [answer[:2] for answer in self.scorer.answer(asked, "log-likelihoods")]

    def loglikelihood_rolling(self, requests) -> list[float]:
        """Log-likelihood of each text in nats, in windows where it is longer than the model's limit."""
        asked = [Rolling(each.args[0]) for each in requests]
        return [answer.loglikelihood for answer in self.scorer.answer(asked, "whole texts")]

    def generate_until(self, requests) -> list[str]:
        """One completion of each prompt; the n-th of equal requests is the n-th sample."""
        asked, places = generations([each.args for each in requests])
        return _texts(self.scorer.answer(asked, "completions"), places)


def _on_that_day(template: str) -> str:
    """A chat template with DAY in the place of today: transformers gives it a clock, and lets nobody set it."""
    told = re.sub(
        r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""",
        lambda found: repr(DAY.strftime(found[2])),
        template,
        flags=re.DOTALL,
    )
    if re.search(r"strftime_now\s*\(", told):
        raise ConfigError(
            "a chat template should ask for the date in a format that is written out, found strftime_now of something else, "
            "by which numbers would depend on the day; set model.chat_template=false"
        )
    return told


class ReplayLM(LM):
    """Answers from a table of what was asked and answered before: marks without the model.

    requests  of pipeline/requests.py; a plain pair is (context, continuation)
    answers   theirs, in the same order
    Raises DataError for a request that is not among them.
    """

    def __init__(self, requests: list[Request], answers: list[Answer]):
        super().__init__()
        self.table = dict(zip(map(request, requests), answers, strict=True))

    def loglikelihood(self, requests) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, greedy) of each continuation."""
        return [self._said(LogLikelihood(*each.args))[:2] for each in requests]

    def loglikelihood_rolling(self, requests) -> list[float]:
        """Log-likelihood of each text in nats."""
        return [self._said(Rolling(each.args[0])).loglikelihood for each in requests]

    def generate_until(self, requests) -> list[str]:
        """The recorded completions."""
        asked, places = generations([each.args for each in requests])
        return _texts([self._said(each) for each in asked], places)

    def _said(self, asked: Request) -> Answer:
        if asked not in self.table:
            kind = {LogLikelihood: "a continuation", Rolling: "a text", Generate: "a completion"}[type(asked)]
            parts = [part[:60] for part in asked if isinstance(part, str)]
            raise DataError(
                f"lm-eval asks for {kind} that was not recorded, {parts}: the task has changed, so ask the model again"
            )
        return self.table[asked]


def generations(asked: list[tuple[str, dict]]) -> tuple[list[Generate], list[tuple[int, int]]]:
    """lm-eval's (prompt, gen_kwargs) as requests: those that are equal become the samples of one.

    Returns the requests, and for each of lm-eval's where its completion is: (request, sample).
    """
    counts: dict[Generate, int] = {}
    found = []
    for prompt, settings in asked:
        one = generation(prompt, settings)
        found.append((one, counts.get(one, 0)))
        counts[one] = counts.get(one, 0) + 1
    number = {one: place for place, one in enumerate(counts)}
    made = [one._replace(samples=count) if one.beams == 1 else one for one, count in counts.items()]
    # of a beam search all have the best
    return made, [(number[one], 0 if one.beams > 1 else sample) for one, sample in found]


def _texts(answers: list[Answer], places: list[tuple[int, int]]) -> list[str]:
    return [answers[number].texts[sample] for number, sample in places]
