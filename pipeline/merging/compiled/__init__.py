"""Loops that numba compiles: one pass over the operands, where a chain of tensor calls takes one for each.

They take arrays, of models also the bits of bfloat16 (tiles.py), write into the last of them, and let other threads run.
What is compiled is kept beside the files, or in the user's cache, for the next process.
"""

import numpy as np

from pipeline.merging.compiled.entries import away, blended, distance, masked, moved, trimmed, voted
from pipeline.merging.compiled.numbers import uniform
from pipeline.merging.compiled.order import counted, keyed, pruned, settled
from pipeline.merging.compiled.sums import dot, measured, products

__all__ = [
    "away",
    "blended",
    "counted",
    "distance",
    "dot",
    "keyed",
    "load",
    "masked",
    "measured",
    "moved",
    "products",
    "pruned",
    "settled",
    "trimmed",
    "uniform",
    "voted",
]


def load() -> None:
    """Load what the first call of any loop loads: most of it is numba's own."""
    dot(np.zeros(1, np.float32), np.zeros(1, np.float32))
