"""Our models behind lm-eval's `LM` interface, and answers that were given before behind the same interface."""

from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs

from pipeline.errors import ConfigError, DataError
from pipeline.language_model.scorer import Scorer
from pipeline.requests import Answer, Generate, LogLikelihood, Request, Rolling, request

# What transformers' sampling does where a task does not say; lm-eval leaves it at that.
USUAL_TOP_K = 50


class HarnessLM(LM):
    """A scorer as lm-eval sees it."""

    def __init__(self, scorer: Scorer):
        super().__init__()
        self.scorer = scorer
        self._device = scorer.device

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


def generation(prompt: str, settings: dict) -> Generate:
    """One of lm-eval's requests for a text.

    until          stop strings
    max_gen_toks   256 where it does not say, as in its HFLM; its other names for it count too
    do_sample, temperature, top_k, top_p, num_beams
    Raises ConfigError for a setting that is not known here, and for sampling at temperature 0.
    """
    told = dict(normalize_gen_kwargs(settings, 256))
    temperature = float(told.pop("temperature", 0.0))
    sampled, until = told.pop("do_sample"), told.pop("until")
    if sampled and temperature <= 0:
        raise ConfigError(
            f"generation_kwargs should have a temperature above 0 with do_sample, found {temperature}: change the task"
        )
    asked = Generate(
        prompt,
        max_tokens=told.pop("max_gen_toks"),
        stop=tuple(stop for stop in until if stop),
        temperature=temperature if sampled else 0.0,
        top_k=int(told.pop("top_k", USUAL_TOP_K)) if sampled else 0,
        top_p=float(told.pop("top_p", 1.0)) if sampled else 1.0,
        beams=int(told.pop("num_beams", 1)),
    )
    unknown = sorted(set(told) - {"top_k", "top_p"})
    if unknown:
        raise ConfigError(
            f"generation_kwargs should hold until, max_gen_toks, do_sample, temperature, top_k, top_p or num_beams, "
            f"found {', '.join(unknown)}: change the task"
        )
    return asked


def _texts(answers: list[Answer], places: list[tuple[int, int]]) -> list[str]:
    return [answers[number].texts[sample] for number, sample in places]
