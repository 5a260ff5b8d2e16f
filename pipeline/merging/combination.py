"""Weighted sums of whole models, written so that equal parents give the parent, bit for bit."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from pipeline.merging.blocks import Lazy, elementwise, widened
from pipeline.merging.line import away

# Coefficients that sum to 1 up to the rounding of float64 are taken to sum to 1.
ROUNDING = 1e-12
# Sizes of coefficients from which on what is summed cancels, and the rounding of float32 would be seen in what is left.
CANCELLING = 8.0


def combination(coefficients: Sequence[float], tensors: Sequence[Tensor | Lazy]) -> Tensor | Lazy:
    """sum_i k_i x_i, as x_p - sum_i k_i (x_p - x_i) + (sum_i k_i - 1) x_p, where x_p has the largest coefficient.

    In float64 where coefficients are so large that the x_i must nearly cancel, as those of nearly opposite directions.
    """
    k = np.asarray(coefficients, dtype=np.float64)
    pivot = int(np.argmax(np.abs(k)))
    excess = float(np.add.reduce(k)) - 1
    wide = float(np.add.reduce(np.abs(k))) > CANCELLING
    steps = [(i, float(k[i])) for i in range(len(k)) if i != pivot and k[i] != 0]

    def block(first: Tensor, *rest: Tensor) -> Tensor:
        here = tuple(each.double() for each in (first, *rest)) if wide else (first, *rest)
        result = here[pivot]
        for i, coefficient in steps:
            result = away(result, here[pivot], here[i], coefficient, lift=coefficient < 0)
        if abs(excess) <= ROUNDING:
            return result
        result, centre = widened(result, here[pivot])
        return result + centre * excess

    return elementwise(block, *tensors, raw=True)


def model_weights(weight: float, shares: Sequence[float] | None, donors: int) -> np.ndarray:
    """(1 - a, a s_1 / sum s, a s_2 / sum s, ...): what the base and each donor count, summing to 1."""
    shares = np.ones(donors) if shares is None else np.asarray(shares, dtype=np.float64)
    return np.array([1 - weight, *(weight * shares / np.add.reduce(shares))])
