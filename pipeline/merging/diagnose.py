"""How much of the donor is in a merge, and what else."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.merging import compiled
from pipeline.merging.blocks import Lazy, arrays, dot, lazy, widened, working_dtype
from pipeline.merging.line import mean, steps


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
    return sum((rounded(block[0], block[1:-1], block[-1], dtype, shares)[1] for block in blocks), Sums())


def rounded(
    base: Tensor, donors: Sequence[Tensor], merged: Tensor, dtype: torch.dtype, shares: Sequence[float] | None = None
) -> tuple[Tensor, Sums]:
    """A flat block of a merge in the dtype that it is stored in, and the sums of what is stored.

    base, donors  in the working dtype, which `merged` is in, or as stored in bfloat16

    A sum that is not finite tells of an entry that is not.
    """
    donors, shares = (donors, shares) if donors else ([base], None)
    ways = steps([1.0] * len(donors) if shares is None else shares)
    donors = [donors[i] for i, _ in ways]
    if len({donor.dtype for donor in donors}) > 1:
        donors = widened(*donors)
    if (flat := arrays(base, *donors, merged)) is None:
        stored = merged.to(dtype)
        base, *donors, merged = widened(base, *donors, stored.to(merged.dtype))
        donor = mean(donors, shares and [shares[i] for i, _ in ways])
        way, step = donor - base, merged - base
        return stored, Sums(dot(way, way), dot(way, step), dot(step, step), dot(base, base), dot(merged, merged))
    if dtype == torch.bfloat16 and merged.dtype == torch.float32:
        stored = torch.empty_like(merged, dtype=dtype)
        [out] = arrays(stored)
    else:  # 16 bits that no loop rounds to, or the working dtype itself
        stored = merged.to(dtype)
        [out] = flat[-1:] = arrays(stored.to(merged.dtype))
    nearer = np.array([t >= 0.5 for _, t in ways])  # as `line` does
    parts = np.array([1 - t if t >= 0.5 else t for _, t in ways], flat[-1].dtype)
    return stored, Sums(*compiled.measured(flat[0], tuple(flat[1:-1]), parts, nearer, flat[-1], out))


def layer(name: str) -> str:
    """The layer that a tensor belongs to: its name up to the first number, or without its last part."""
    numbered = re.match(r"(?:[^.]+\.)*?\d+(?=\.|$)", name)
    return numbered.group() if numbered else name.rpartition(".")[0] or name
