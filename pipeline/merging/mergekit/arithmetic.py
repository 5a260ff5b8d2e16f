"""Sums, dots and combinations of whole tensors, in an order that no number of threads changes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.merging import blocks
from pipeline.merging.blocks import BLOCK, total, working_dtype


def wide(tensors: Sequence[Tensor]) -> list[Tensor]:
    """All in the working dtype of the first."""
    dtype = working_dtype(tensors[0])
    return [tensor.to(dtype) for tensor in tensors]


def add(tensors: Sequence[Tensor]) -> Tensor:
    """From the first to the last: torch's own order depends on the number of threads."""
    result = tensors[0]
    for tensor in tensors[1:]:
        result = result + tensor
    return result


def combination(coefficients: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """sum_i k_i x_i as a walk from the x_i of the largest k_i: equal tensors with k that sum to 1 give that tensor."""
    k = np.asarray(coefficients, dtype=np.float64)
    pivot = int(np.argmax(np.abs(k)))
    excess = float(k.sum()) - 1
    result = tensors[pivot] if abs(excess) < 1e-12 else tensors[pivot] * (1 + excess)
    for i, tensor in enumerate(tensors):
        if i != pivot:
            result = result - (tensors[pivot] - tensor) * float(k[i])
    return result


def dot(x: Tensor, y: Tensor) -> float:
    """<x, y> in float64, block by block in a fixed order."""
    pairs = zip(x.reshape(-1).split(BLOCK), y.reshape(-1).split(BLOCK), strict=True)
    return float(np.add.reduce([blocks.dot(a.double(), b.double()) for a, b in pairs]))


def l1(x: Tensor) -> float:
    """The sum of magnitudes, likewise."""
    return float(np.add.reduce([total(part.double().abs()) for part in x.reshape(-1).split(BLOCK)]))


def first(values: Tensor, count: int) -> Tensor:
    """A mask of the `count` smallest, of equal ones the first."""
    if count <= 0 or count >= values.numel():
        return torch.full_like(values, count > 0, dtype=torch.bool)
    limit = values.reshape(-1).kthvalue(count).values
    below, equal = values < limit, values == limit
    left = count - int(below.sum())
    return below | (equal & (equal.reshape(-1).cumsum(0).reshape(values.shape) <= left))
