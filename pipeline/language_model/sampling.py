"""Which token comes next: the random numbers of a sample, and the token that each of them picks.

The numbers belong to (seed, prompt, sample, token) and come from nowhere else; each picks one token by the inverse of the
cumulative distribution. Two models asked the same draw the same numbers.
"""

import hashlib

import numpy as np
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from pipeline.requests import Generate

# Logits looked at a time: 16 MB in float32, 32 MB for their sums.
LOOKED_AT = 2**22


def uniforms(asked: Generate, sample: int) -> np.ndarray:
    """A number in [0, 1) for each token of a sample; the beginning does not depend on how many there are."""
    key = hashlib.sha256(repr((asked.seed, asked.prompt, sample)).encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(key[:16], "little"))).random(asked.max_tokens)


def choose(logits_AV: torch.Tensor, asked: Generate, numbers: list) -> list[int]:
    """The next token of each row: by its number, or the likeliest at temperature 0."""
    if asked.temperature == 0:
        return logits_AV.argmax(-1).tolist()
    rows, chosen = max(1, LOOKED_AT // logits_AV.shape[1]), []
    for start in range(0, len(numbers), rows):
        some = slice(start, start + rows)
        chosen += pick(odds(logits_AV[some], asked.temperature, asked.top_k, asked.top_p), numbers[some])
    return chosen


def odds(logits_AV: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """exp(logits / temperature) in float32, the best at 1: 0 outside the top_k likeliest and the least set that has top_p of these."""
    # the best at 0 first: what is near it then has no more than its own rounding, however low the temperature
    scores = logits_AV - logits_AV.amax(-1, keepdim=True)
    if temperature != 1 or top_k or top_p < 1:
        scores = scores.double()
    for warper in (
        TemperatureLogitsWarper(float(temperature)) if temperature != 1 else None,
        TopKLogitsWarper(top_k) if top_k else None,
        TopPLogitsWarper(float(top_p)) if top_p < 1 else None,
    ):
        scores = scores if warper is None else warper(None, scores)
    return scores.exp().float()


def pick(odds_AV: torch.Tensor, numbers: list[float]) -> list[int]:
    """In each row the first token up to which the odds add up, in float64, to more than its number of all of them."""
    sums = odds_AV.cumsum(-1, dtype=torch.float64)
    # a number below 1 times the total is below the total, in floats too: what is picked has some probability
    wanted = torch.tensor(numbers, dtype=torch.float64, device=sums.device)[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, wanted, right=True)[:, 0].tolist()
