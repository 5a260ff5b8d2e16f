"""How much of the donor is in a merge, and what else."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from pipeline.merging import compiled
from pipeline.merging.blocks import Lazy, arrays, dot, lazy, working_dtype
from pipeline.merging.line import mean


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
        """||m - effective_weight d|| / ||d||, no finer than about 1e-8; nan where the donor is the base."""
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
    blocks = ([tensor.read(start, stop, dtype) for tensor in tensors] for start, stop in tensors[0].ranges())
    return sum((of_block(block[0], block[1:-1], block[-1], shares) for block in blocks), Sums())


def of_block(base: Tensor, donors: Sequence[Tensor], merged: Tensor, shares: Sequence[float] | None = None) -> Sums:
    """The sums of one flat block in the working dtype. A sum that is not finite tells of an entry that is not."""
    donor = mean(donors, shares) if donors else base
    if (flat := arrays(base, donor, merged)) is not None:
        return Sums(*compiled.measured(*flat))
    way, step = donor - base, merged - base
    return Sums(dot(way, way), dot(way, step), dot(step, step), dot(base, base), dot(merged, merged))


def layer(name: str) -> str:
    """The layer that a tensor belongs to: its name up to the first number, or without its last part."""
    numbered = re.match(r"(?:[^.]+\.)*?\d+(?=\.|$)", name)
    return numbered.group() if numbered else name.rpartition(".")[0] or name
