"""Which token comes next: the random numbers of a sample, and the token that each of them picks.

The numbers belong to (seed, prompt, sample, token) and come from nowhere else; each picks one token by the inverse of the
cumulative distribution. Two models asked the same draw the same numbers.
"""

import hashlib

import numpy as np
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from pipeline.requests import Generate

# Logits looked at a time: 2 MB in float32, which a cache holds.
LOOKED_AT = 2**19
# Tokens that are added up at a time.
BLOCK = 256


def uniforms(asked: Generate, sample: int) -> np.ndarray:
    """A number in [0, 1) for each token of a sample; the beginning does not depend on how many there are."""
    key = hashlib.sha256(repr((asked.seed, asked.prompt, sample)).encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(key[:16], "little"))).random(asked.max_tokens)


def choose(logits_PV: torch.Tensor, asked: Generate, numbers: list, rows: list[int]) -> list[int]:
    """The next token of each line: by its number, or the likeliest at temperature 0; `rows` says which logits are its."""
    if asked.temperature == 0:
        likeliest = logits_PV.argmax(-1).tolist()
        return [likeliest[row] for row in rows]
    many, chosen = max(1, LOOKED_AT // logits_PV.shape[1]), [0] * len(rows)
    for start in range(0, len(logits_PV), many):
        some = probabilities(logits_PV[start : start + many], asked.temperature, asked.top_k, asked.top_p)
        here = [line for line, row in enumerate(rows) if start <= row < start + len(some)]
        picked = pick(some, [numbers[line] for line in here], [rows[line] - start for line in here])
        for line, token in zip(here, picked, strict=True):
            chosen[line] = token
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


def pick(probabilities_PV: torch.Tensor, numbers: list[float], rows: list[int]) -> list[int]:
    """For each number the first token up to which the probabilities of its row add up to more than its share of them all.

    Blocks of tokens are added up first, then those of the block in which the sum goes beyond: only within blocks is that
    done in the precision of these. Its float32 and torch's softmax on a CPU are right to a part in 10^5 of a token's share.
    """
    device, lacking = probabilities_PV.device, -probabilities_PV.shape[1] % BLOCK
    if lacking:
        probabilities_PV = torch.nn.functional.pad(probabilities_PV, (0, lacking))
    blocks_PNB, row_A = probabilities_PV.unflatten(1, (-1, BLOCK)), torch.tensor(rows, device=device)
    sums_AN = blocks_PNB.sum(-1).cumsum(-1, dtype=torch.float64)[row_A]
    # a number below 1 times the total is below the total, in floats too: what is picked has some probability
    wanted_A1 = torch.tensor(numbers, dtype=torch.float64, device=device)[:, None] * sums_AN[:, -1:]
    block = torch.searchsorted(sums_AN, wanted_A1, right=True)
    before_A1 = torch.nn.functional.pad(sums_AN, (1, 0)).gather(1, block)
    inside_AB = blocks_PNB[row_A, block[:, 0]].cumsum(-1, dtype=torch.float64)
    place = torch.searchsorted(inside_AB, wanted_A1 - before_A1, right=True)
    # added up in another order, a block may come to a little less: then it is the last that has some probability
    last = torch.searchsorted(inside_AB, inside_AB[:, -1:].contiguous())
    return (block * BLOCK + torch.minimum(place, last))[:, 0].tolist()
