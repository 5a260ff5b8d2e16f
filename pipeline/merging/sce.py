"""sce: select, calculate, erase."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.merging.blocks import Lazy, choose, dots, elementwise, lazy
from pipeline.merging.line import line, mean
from pipeline.merging.selection import order_statistics
from pipeline.merging.settings import Interval
from pipeline.merging.task_vectors import elect, stepped

LINE = True


def sce(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    shares: Sequence[float] | None = None,
    density: Annotated[float, Interval("[0, 1]")] = 1.0,
    vote: Literal["plain", "none"] = "plain",
) -> Tensor:
    """Select the entries on which the donors differ most, weigh the donors by their energy, erase what disagrees.

        tau_i = s_i (donor_i - base)
        select:     the int(density * m) entries of largest variance over i, m = entries of variance > 0; all at density 1
        calculate:  w_i = sum over the selected entries of tau_i^2, normalised
        erase:      gamma = sign(sum_i tau_i); keep the tau_i with sign gamma
        end = base + sum_i w_i tau_i / sum_i w_i over those kept,  merged = base + a * scale * (end - base)

    shares   s_i, by which the task vectors are multiplied; all 1 if None, not normalised
    density  share of the differing entries that are selected, in [0, 1]; equal variances at the limit are all kept
    vote     plain: erase as above, an even vote elects nothing; none: no election

    Variances are compared by their roots, in float32. Where all task vectors are zero the donors count equally.
    Reference: Wan et al. 2024, FuseChat: knowledge fusion of chat models, arXiv 2408.07990.
    """
    shares = [1.0] * len(donors) if shares is None else shares

    def vectors(base: Tensor, donors: Sequence[Tensor]) -> list[Tensor]:
        return [(donor - base) * share for donor, share in zip(donors, shares, strict=True)]

    def deviation(base: Tensor, *donors: Tensor) -> Tensor:
        taus = [tau.double() for tau in vectors(base, donors)]
        centre = mean(taus)  # of equal ones exactly theirs
        # its root, because the variance itself leaves the range of float32 at either end
        return (sum((tau - centre).square() for tau in taus) / len(taus)).sqrt().to(torch.float32)

    limit = _limit(elementwise(deviation, lazy(base), *map(lazy, donors)), density) if density < 1 else None

    def selected(base: Tensor, donors: Sequence[Tensor]) -> list[Tensor]:
        taus = vectors(base, donors)
        if limit is None:
            return taus
        taken = deviation(base, *donors) >= limit
        return [tau * taken for tau in taus]

    chosen = [
        elementwise(lambda base, *donors, i=i: selected(base, donors)[i], lazy(base), *map(lazy, donors))
        for i in range(len(donors))
    ]
    energy = np.array([dots(lambda tau: [(tau, tau)], each)[0] for each in chosen])
    weights = energy / np.add.reduce(energy) if np.add.reduce(energy) > 0 else np.full(len(donors), 1 / len(donors))

    def block(base: Tensor, *donors: Tensor) -> Tensor:
        taus = selected(base, donors)
        if len(taus) == 1:
            return choose(taus[0] != 0, line(base, donors[0], shares[0]), base)
        # weights may be as small as energies: the ratio is taken in float64
        total, over = torch.zeros_like(taus[0], dtype=torch.float64), torch.zeros_like(taus[0], dtype=torch.float64)
        sign = elect(taus) if vote == "plain" else None
        for tau, weight in zip(taus, weights.tolist(), strict=True):
            taken = torch.ones_like(tau, dtype=torch.bool) if sign is None else (tau.sign() == sign) & (sign != 0)
            total += tau.double() * weight * taken
            over += taken.double() * weight
        tau = torch.where(over > 0, total / over, 0.0).to(base.dtype)
        return stepped(base, tau)

    return elementwise(block, base, *donors)


def _limit(deviations: Lazy, density: float) -> float:
    """The k-th largest deviation, k = int(density * entries that differ); infinity where k is 0."""
    k = 0

    def ranks(size: int, zeros: int) -> list[int]:
        nonlocal k
        k = int(density * (size - zeros))
        return [size - k] if k else []

    found = order_statistics([deviations], ranks)
    return found[0] if k else float("inf")
