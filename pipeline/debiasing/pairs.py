"""Two texts that differ in one place, in tokens, and how a model scores either: what all tuning on pairs rests on.

Shapes: B texts, L tokens, A log-probabilities asked for, V the vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

SCOPES = ("suffix", "span", "sentence")
OBJECTIVES = ("log_probability", "logit")


class Side(NamedTuple):
    """One text: what the model reads, and the token that its output at each of `places` is asked for."""

    tokens: tuple[int, ...]
    places: tuple[int, ...]
    targets: tuple[int, ...]


class TokenPair(NamedTuple):
    """The two sides of one pair. Of a masked model both read the same tokens."""

    stereotype: Side
    anti_stereotype: Side


def difference(one: Sequence[int], other: Sequence[int]) -> tuple[int, int]:
    """Tokens that two texts share at their beginning, and at their end after that."""
    shortest = min(len(one), len(other))
    start = next((place for place in range(shortest) if one[place] != other[place]), shortest)
    end = next((place for place in range(shortest - start) if one[-1 - place] != other[-1 - place]), shortest - start)
    return start, end


def causal(stereotype: Sequence[int], anti_stereotype: Sequence[int], scope: str = "suffix") -> TokenPair | None:
    """Two sentences, the prefix token first, for a causal model; None where their tokens are the same.

    scope  what of a sentence is scored: `suffix`, from the first token that differs to the end, for what follows
           depends on it; `span`, what differs alone, and one token after it where a side has nothing there;
           `sentence`, all but the prefix token, which lets the common beginning outweigh the difference
    """
    if tuple(stereotype) == tuple(anti_stereotype):
        return None
    start, end = difference(stereotype, anti_stereotype)
    if scope == "span":
        end -= len(stereotype) - end == start or len(anti_stereotype) - end == start
    sides = []
    for tokens in (stereotype, anti_stereotype):
        last = len(tokens) - (max(end, 0) if scope == "span" else 0)
        places = range(1 if scope == "sentence" else max(start, 1), last)
        if not places:
            return None  # one text is the beginning of the other
        sides.append(
            Side(
                tuple(tokens[: last - 1]),
                tuple(place - 1 for place in places),
                tuple(tokens[place] for place in places),
            )
        )
    return TokenPair(*sides)


def masked(stereotype: Sequence[int], anti_stereotype: Sequence[int], mask: int) -> TokenPair | None:
    """Two sentences, special tokens included, for a masked model: what differs is hidden, one mask a token.

    None where the two differ in how many tokens that takes, as in the paper of PCGU: a model that reads one mask cannot
    be asked for two tokens.
    """
    start, end = difference(stereotype, anti_stereotype)
    span = range(start, len(stereotype) - end)
    if len(stereotype) != len(anti_stereotype) or not span:
        return None
    shown = tuple(mask if place in span else token for place, token in enumerate(stereotype))
    return TokenPair(
        *(Side(shown, tuple(span), tuple(tokens[place] for place in span)) for tokens in (stereotype, anti_stereotype))
    )


def text(side: Side, family: str) -> tuple[int, ...]:
    """All tokens of a side with nothing hidden; of a causal model's span, as far as the span goes."""
    if family == "causal":
        return (*side.tokens, side.targets[-1])
    shown = dict(zip(side.places, side.targets, strict=True))
    return tuple(shown.get(place, token) for place, token in enumerate(side.tokens))


def scores(model, sides: Sequence[Side], objective: str = "log_probability") -> torch.Tensor:
    """score_B: of each text, the sum over its places of log p(target), in nats, or of the target's raw logit.

    Differentiable. Texts are padded on the right; a causal model never looks there, a masked one is told not to.
    """
    return scores_in(outputs(model, sides)[0], sides, objective)


def outputs(model, sides: Sequence[Side]) -> tuple[torch.Tensor, torch.Tensor]:
    """logits_BLV of the model on each text, and seen_BL, 1 where a text is and 0 where it is padded."""
    ids_BL, seen_BL = (tensor.to(model.device) for tensor in padded([side.tokens for side in sides]))
    return model(input_ids=ids_BL, attention_mask=seen_BL).logits, seen_BL


def scores_in(logits_BLV: torch.Tensor, sides: Sequence[Side], objective: str = "log_probability") -> torch.Tensor:
    """score_B, see `scores`, out of the logits that a model gave."""
    rows_A, places_A, targets_A = (
        torch.tensor(values, device=logits_BLV.device)
        for values in (
            [row for row, side in enumerate(sides) for _ in side.places],
            [place for side in sides for place in side.places],
            [target for side in sides for target in side.targets],
        )
    )
    logits_AV = logits_BLV[rows_A, places_A].float()
    wanted_A = logits_AV.gather(1, targets_A[:, None])[:, 0]
    if objective == "log_probability":
        wanted_A = wanted_A - logits_AV.logsumexp(1)
    return torch.zeros(len(sides), device=logits_BLV.device).index_add(0, rows_A, wanted_A)


def margins(model, pairs: Sequence[TokenPair]) -> torch.Tensor:
    """margin_B = score of the stereotype - score of the anti-stereotype, in nats; both sides in one pass."""
    stereotype_B, anti_B = scores(model, both(pairs)).chunk(2)
    return stereotype_B - anti_B


@torch.no_grad()
def margins_of_all(model, pairs: Sequence[TokenPair], batch_size: int = 16) -> torch.Tensor:
    """margin_N of any number of pairs, without a gradient, some at a time."""
    return torch.cat([margins(model, pairs[start : start + batch_size]) for start in range(0, len(pairs), batch_size)])


def both(pairs: Sequence[TokenPair]) -> list[Side]:
    """All stereotypes, then all anti-stereotypes."""
    return [pair.stereotype for pair in pairs] + [pair.anti_stereotype for pair in pairs]


def padded(texts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """ids_BL, padded on the right with token 0, and seen_BL, 1 where a text is and 0 where it is not."""
    ids_BL = torch.zeros((len(texts), max(map(len, texts))), dtype=torch.long)
    seen_BL = torch.zeros_like(ids_BL)
    for row, tokens in enumerate(texts):
        ids_BL[row, : len(tokens)], seen_BL[row, : len(tokens)] = torch.tensor(tokens), 1
    return ids_BL, seen_BL
