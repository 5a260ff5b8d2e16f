"""Points on the straight line between tensors."""

from collections.abc import Sequence

from torch import Tensor

from pipeline.merging import compiled
from pipeline.merging.blocks import filled, widened


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
    start, near, far = widened(start, near, far)
    # separate calls: a fused one rounds differently in the rest of a vector than in its lanes
    return start - ((near - far) * t + zero)


def blend(x: Tensor, a: float, y: Tensor, b: float) -> Tensor:
    """a x + b y, products and sum each rounded."""
    found = filled(compiled.blended, (x, y), a, b)
    if found is None:
        x, y = widened(x, y)
        return x * a + y * b
    return found


def mean(tensors: Sequence[Tensor], shares: Sequence[float] | None = None) -> Tensor:
    """sum_i s_i x_i / sum_i s_i, as a running mean: the mean of equal tensors is that tensor, bit for bit."""
    so_far = None
    for i, t in steps([1.0] * len(tensors) if shares is None else shares):
        so_far = tensors[i] if so_far is None else line(so_far, tensors[i], t)
    return so_far


def steps(shares: Sequence[float]) -> list[tuple[int, float]]:
    """(i, t) of a running mean: it goes the part t of the way to tensor i, and not to one whose share is 0."""
    found, total = [], 0.0
    for i, share in enumerate(shares):
        if share > 0:
            total += share
            found.append((i, share / total))
    return found
