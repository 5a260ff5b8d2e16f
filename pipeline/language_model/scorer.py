"""What every model of this room can do, causal or masked: answer requests of any kind, in their order."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.requests import Answer, Generate, LogLikelihood, Request, Rolling


class Scorer:
    """A model that answers. A family has `log_likelihoods`, `rolling` and `generate`."""

    family: str  # causal or masked

    def answer(self, requests: Sequence[Request], label: str = "", scratch: Path | None = None) -> list[Answer]:
        """The answers to requests, in their order.

        label    of the progress bar
        scratch  a folder that keeps partial answers, for a later call with the same requests; null keeps none
        """
        answers: list[Answer | None] = [None] * len(requests)
        for kind, ask in (
            (LogLikelihood, self.log_likelihoods),
            (Rolling, self.rolling),
            (Generate, self.generate),
        ):
            places = [place for place, asked in enumerate(requests) if isinstance(asked, kind)]
            if places:
                kept = None if scratch is None else Path(scratch) / kind.__name__
                for place, said in zip(places, ask([requests[place] for place in places], label, kept), strict=True):
                    answers[place] = said
        return answers

    def log_likelihoods(self, requests: list[LogLikelihood], label: str, scratch: Path | None) -> list[Answer]:
        raise NotImplementedError

    def rolling(self, requests: list[Rolling], label: str, scratch: Path | None) -> list[Answer]:
        raise NotImplementedError

    def generate(self, requests: list[Generate], label: str, scratch: Path | None) -> list[Answer]:
        raise NotImplementedError
