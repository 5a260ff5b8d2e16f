"""Which token comes next: the random numbers of a sample, and the token that each of them picks.

The numbers belong to (seed, prompt, sample, token) and come from nowhere else; each picks one token by the inverse of the
cumulative distribution. Two models asked the same draw the same numbers.
"""

import hashlib

import numpy as np
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from pipeline.requests import Generate

# Logits looked at a time: 16 MB in float32.
LOOKED_AT = 2**22
# Tokens that are added up at a time.
BLOCK = 256


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
        chosen += pick(probabilities(logits_AV[some], asked.temperature, asked.top_k, asked.top_p), numbers[some])
    return chosen


def probabilities(logits_AV: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """softmax(logits / temperature) in float32: 0 outside the top_k likeliest and the least set that has top_p of these."""
    warpers = (
        TemperatureLogitsWarper(float(temperature)) if temperature != 1 else None,
        TopKLogitsWarper(top_k) if top_k else None,
        TopPLogitsWarper(float(top_p)) if top_p < 1 else None,
    )
    scores = logits_AV
    if any(warpers):
        # the best at 0 first: what is near it then has no more than its own rounding, however low the temperature
        scores = (scores - scores.amax(-1, keepdim=True)).double()
    for warper in filter(None, warpers):
        scores = warper(None, scores)
    return scores.softmax(-1).float()


def pick(probabilities_AV: torch.Tensor, numbers: list[float]) -> list[int]:
    """In each row the first token up to which the probabilities add up to more than its number of all of them.

    Blocks of tokens are added up first, then those of the block in which the sum goes beyond: only within blocks is that
    done in the precision of these. Its float32 and torch's softmax on a CPU are right to a part in 10^5 of a token's share.
    """
    device, lacking = probabilities_AV.device, -probabilities_AV.shape[1] % BLOCK
    if lacking:
        probabilities_AV = torch.nn.functional.pad(probabilities_AV, (0, lacking))
    blocks_ANB = probabilities_AV.unflatten(1, (-1, BLOCK))
    sums_AN = blocks_ANB.sum(-1).cumsum(-1, dtype=torch.float64)
    # a number below 1 times the total is below the total, in floats too: what is picked has some probability
    wanted_A1 = torch.tensor(numbers, dtype=torch.float64, device=device)[:, None] * sums_AN[:, -1:]
    block = torch.searchsorted(sums_AN, wanted_A1, right=True)
    before_A1 = torch.nn.functional.pad(sums_AN, (1, 0)).gather(1, block)
    inside_AB = blocks_ANB[torch.arange(len(block), device=device), block[:, 0]].cumsum(-1, dtype=torch.float64)
    place = torch.searchsorted(inside_AB, wanted_A1 - before_A1, right=True)
    # added up in another order, a block may come to a little less: then it is the last that has some probability
    last = torch.searchsorted(inside_AB, inside_AB[:, -1:].contiguous())
    return (block * BLOCK + torch.minimum(place, last))[:, 0].tolist()
