"""What a model can be asked, and what it says: lm-eval's three kinds, known to all who ask and all who answer.

A request is one of `LogLikelihood`, `Rolling`, `Generate`; a plain (context, continuation) counts as the first.
"""

import json
from collections.abc import Callable
from typing import NamedTuple


class LogLikelihood(NamedTuple):
    """How likely is `continuation` after `context`?

    A causal model predicts each token from those before it, and reads neither of the other two. A masked model is shown
    all, one token masked at a time (pseudo-log-likelihood), and
    rival   only the tokens are scored that the continuation shares with this text (CrowS-Pairs), if one is given
    suffix  what stands after the continuation, if that is a blank to be filled in: each of its tokens is then predicted
            from those before it and the suffix, those after it left out (StereoSet)
    """

    context: str
    continuation: str
    suffix: str | None = None
    rival: str | None = None


class Rolling(NamedTuple):
    """How likely is a whole text, of any length?"""

    text: str


class Generate(NamedTuple):
    """What does the model write after `prompt`?

    samples      how many completions
    max_tokens   the longest completion
    stop         strings at which a completion ends; they are not part of it
    temperature  of the sampling; 0 takes the likeliest token each time
    top_k        0 for all
    top_p        1 for all
    beams        above 1: beam search, its `samples` best completions; temperature must be 0
    seed         of the samples: the same completions whatever else is asked
    """

    prompt: str
    samples: int = 1
    max_tokens: int = 20
    stop: tuple[str, ...] = ()
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    beams: int = 1
    seed: int = 0


Request = LogLikelihood | Rolling | Generate
Chat = Callable[[list[dict[str, str]]], str]  # the turns of a chat -> the text that a model reads, its answer opened


class Answer(NamedTuple):
    """What a model says to one request.

    loglikelihood  of the continuation or the text: the sum over its tokens, in nats; nan of what was generated
    greedy         every token is the model's first choice
    tokens         how many tokens were scored, or generated over all samples
    probability    the mean over the tokens of their probability; nan where it was not asked for
    texts          the completions, where they were asked for
    """

    loglikelihood: float
    greedy: bool
    tokens: int
    probability: float = float("nan")
    texts: tuple[str, ...] = ()


def request(asked: tuple) -> Request:
    """A request, whose kind is told; (context, continuation) is a log-likelihood."""
    return asked if isinstance(asked, Request) else LogLikelihood(*asked)


def shown(asked: Request) -> str:
    """All of a request's text that the model is shown."""
    match asked:
        case LogLikelihood(context, continuation, suffix, _):
            return f"{context}{continuation}{suffix or ''}"
        case Rolling(text):
            return text
        case Generate(prompt=prompt):
            return prompt


def written(asked: Request) -> str:
    """A request as one line, to compare and to keep."""
    return json.dumps([type(asked).__name__, *asked], ensure_ascii=False)
