"""Our models behind lm-eval's `LM` interface, and answers that were given before behind the same interface."""

from lm_eval.api.model import LM

from pipeline.errors import ConfigError, DataError
from pipeline.requests import Answer, Rolling


class HarnessLM(LM):
    """A CausalScorer as lm-eval sees it."""

    def __init__(self, scorer):
        super().__init__()
        self.scorer = scorer
        self._device = scorer.device

    def loglikelihood(self, requests) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, greedy) of each continuation."""
        return [answer[:2] for answer in self.scorer.score([request.args for request in requests], "log-likelihoods")]

    def loglikelihood_rolling(self, requests) -> list[float]:
        """Log-likelihood of each text in nats, in windows where it is longer than the model's limit."""
        texts = [Rolling(request.args[0]) for request in requests]
        return [answer.loglikelihood for answer in self.scorer.rolling(texts, "whole texts")]

    def generate_until(self, requests) -> list[str]:
        raise no_generation()


class ReplayLM(LM):
    """Answers from a table of what was asked and answered before: marks without the model.

    requests  (context, continuation) pairs
    answers   theirs, in the same order
    Raises DataError for a request that is not among them.
    """

    def __init__(self, requests: list[tuple[str, str]], answers: list[Answer]):
        super().__init__()
        self.table = dict(zip(map(tuple, requests), answers, strict=True))

    def loglikelihood(self, requests) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, greedy) of each continuation."""
        for request in requests:
            if request.args not in self.table:
                context, continuation = request.args
                raise DataError(
                    f"lm-eval asks for a continuation that was not recorded, {continuation[:60]!r} after "
                    f"{context[-60:]!r}: the task has changed, so score it again with the model"
                )
        return [self.table[request.args][:2] for request in requests]

    def loglikelihood_rolling(self, requests) -> list[float]:
        raise DataError("whole texts are not recorded: choose accuracy tasks of the multiple-choice kind")

    def generate_until(self, requests) -> list[str]:
        raise no_generation()


def no_generation() -> ConfigError:
    """Said to tasks that let the model write."""
    return ConfigError("accuracy must hold tasks that are answered by log-likelihood: generation is not built yet")
