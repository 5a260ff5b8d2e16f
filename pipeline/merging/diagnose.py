"""How much of the donor is in a merge, and what else."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.merging.blocks import Lazy, dot, lazy, working_dtype
from pipeline.merging.line import mean

ROW = 256  # entries whose products are summed in float32
MANY = 1 << 14  # entries from which on the rounding of the rows averages out
SMALL = 1e-20  # a sum of products that float32 may not hold


class Sums(NamedTuple):
    """Sums over entries, in float64, of d = donor - base and m = merged - base. They add up over tensors."""

    dd: float = 0.0
    dm: float = 0.0
    mm: float = 0.0
    base: float = 0.0  # ||base||^2
    merged: float = 0.0  # ||merged||^2

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(mine + its for mine, its in zip(self, other, strict=True)))

    @property
    def effective_weight(self) -> float:
        """<m, d> / ||d||^2; nan where the donor is the base."""
        return self.dm / self.dd if self.dd > 0 else math.nan

    @property
    def off_axis(self) -> float:
        """||m - effective_weight d|| / ||d||, no finer than about 1e-8 (of 16-bit merges 1e-4); nan where the donor is the base."""
        return math.sqrt(max(0.0, self.mm - self.dm**2 / self.dd) / self.dd) if self.dd > 0 else math.nan

    @property
    def norm_ratio(self) -> float:
        """||merged|| / ||base||; nan where the base is zero."""
        return math.sqrt(self.merged / self.base) if self.base > 0 else math.nan


def diagnose(
    base: Tensor | Lazy, donors: Sequence[Tensor | Lazy], merged: Tensor | Lazy, shares: Sequence[float] | None = None
) -> Sums:
    """The sums of one tensor. Several donors count as their mean, weighted by the shares."""
    tensors = [lazy(tensor) for tensor in (base, *donors, merged)]
    dtype = working_dtype(tensors[0])
    short = tensors[-1].dtype.itemsize == 2
    blocks = ([tensor.read(start, stop, dtype) for tensor in tensors] for start, stop in tensors[0].ranges())
    return sum((of_block(block[0], block[1:-1], block[-1], shares, short) for block in blocks), Sums())


def of_block(
    base: Tensor, donors: Sequence[Tensor], merged: Tensor, shares: Sequence[float] | None = None, short: bool = False
) -> Sums:
    """The sums of one flat block in the working dtype. A sum that is not finite tells of an entry that is not.

    short  the merge has been rounded to 16 bits, which leaves more off the axis than sums in float32 of many entries do
    """
    step = merged - base
    way = mean(donors, shares) - base if donors else torch.zeros_like(step)
    product = _dot if short and len(step) >= MANY else dot
    return Sums(product(way, way), product(way, step), product(step, step), _dot(base, base), _dot(merged, merged))


def _dot(x: Tensor, y: Tensor) -> float:
    """<x, y>, in float32 for each ROW of entries, and in float64 where that leaves its range; right to about 1e-8 of MANY entries."""
    if x.device.type != "cpu":
        return dot(x, y)
    a, b = x.numpy(), y.numpy()
    whole = len(a) // ROW * ROW
    with np.errstate(all="ignore"):
        rows = np.vecdot(a[:whole].reshape(-1, ROW), b[:whole].reshape(-1, ROW))
        found = float(np.add.reduce(rows, dtype=np.float64)) + float(np.vecdot(a[whole:], b[whole:]))
    return found if SMALL < abs(found) < math.inf else dot(x, y)


def layer(name: str) -> str:
    """The layer that a tensor belongs to: its name up to the first number, or without its last part."""
    numbered = re.match(r"(?:[^.]+\.)*?\d+(?=\.|$)", name)
    return numbered.group() if numbered else name.rpartition(".")[0] or name
