"""Points on the straight line between tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor


def line(start: Tensor, end: Tensor, t: float) -> Tensor:
    """(1 - t) * start + t * end: exactly `start` at t = 0, `end` at t = 1, and x between x and x.

    Written from the nearer end. Subtracting +0 keeps the sign of a zero, adding it would not; products and sums are
    separate calls, because a fused one rounds differently in the rest of a vector than in its lanes.
    """
    if t == 0:
        return start
    if t == 1:
        return end
    if t < 0.5:
        near, far = start, end
    else:
        near, far, t = end, start, 1 - t
    step = near - far  # one buffer for all three: it stays in the cache
    return torch.sub(near, step.mul_(t), out=step)


def mean(tensors: Sequence[Tensor], shares: Sequence[float] | None = None) -> Tensor:
    """sum_i s_i x_i / sum_i s_i, as a running mean: the mean of equal tensors is that tensor, bit for bit."""
    shares = [1.0] * len(tensors) if shares is None else shares
    total, so_far = 0.0, None
    for tensor, share in zip(tensors, shares, strict=True):
        if share > 0:
            total += share
            so_far = tensor if so_far is None else line(so_far, tensor, share / total)
    return so_far
