"""Points on the straight line between tensors."""

from collections.abc import Sequence

from torch import Tensor

from pipeline.merging import compiled
from pipeline.merging.blocks import filled


def line(start: Tensor, end: Tensor, t: float) -> Tensor:
    """(1 - t) * start + t * end: exactly `start` at t = 0, `end` at t = 1, and x between x and x.

    Written from the nearer end. Subtracting +0 keeps the sign of a zero, adding it would not.
    """
    if t == 0:
        return start
    if t == 1:
        return end
    if t < 0.5:
        near, far = start, end
    else:
        near, far, t = end, start, 1 - t
    return away(near, near, far, t)


def away(start: Tensor, near: Tensor, far: Tensor, t: float, lift: bool = False) -> Tensor:
    """start - (near - far) t, product and difference each rounded; with `lift` a product that is a zero is +0."""
    zero = 0.0 if lift else -0.0  # adding -0 changes nothing
    if (found := filled(compiled.away, (start, near, far), t, zero)) is not None:
        return found
    # separate calls: a fused one rounds differently in the rest of a vector than in its lanes
    return start - ((near - far) * t + zero)


def blend(x: Tensor, a: float, y: Tensor, b: float) -> Tensor:
    """a x + b y, products and sum each rounded."""
    found = filled(compiled.blended, (x, y), a, b)
    return x * a + y * b if found is None else found


def mean(tensors: Sequence[Tensor], shares: Sequence[float] | None = None) -> Tensor:
    """sum_i s_i x_i / sum_i s_i, as a running mean: the mean of equal tensors is that tensor, bit for bit."""
    shares = [1.0] * len(tensors) if shares is None else shares
    total, so_far = 0.0, None
    for tensor, share in zip(tensors, shares, strict=True):
        if share > 0:
            total += share
            so_far = tensor if so_far is None else line(so_far, tensor, share / total)
    return so_far
