"""breadcrumbs: drop the largest and the smallest entries."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from pipeline.merging import mergekit
from pipeline.merging.blocks import Lazy, elementwise, lazy, matrixwise
from pipeline.merging.selection import distance, order_statistics
from pipeline.merging.settings import Interval
from pipeline.merging.task_vectors import moved, trim

LINE = KEPT = True


def breadcrumbs(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    shares: Sequence[float] | None = None,
    density: Annotated[float, Interval("[0, 1]")] = 0.2,
    gamma: Annotated[float, Interval("[0, 1)")] = 0.01,
    vote: Literal["none", "plain", "weighted"] = "none",
    combine: Literal["sum", "mean", "weighted_mean", "max"] = "sum",
    compat: Literal["none", "mergekit"] = "none",
) -> Tensor:
    """Keep the entries of medium size of each task vector, tensor by tensor, and add up.

        tau_i = donor_i - base, of n entries; n_top = int(gamma n), n_keep = int(density n)
        drop the n_top largest |tau_i|, keep the next n_keep, drop the rest
        end = base + sum_i s_i tau_i,  merged = base + a * scale * (end - base)

    shares   s_i, by which the task vectors are multiplied; all 1 if None, not normalised
    density  share of the entries that are kept, in [0, 1]; 1 keeps all, outliers too
    gamma    share of the entries, the largest, that are dropped as outliers, in [0, 1)
    vote     none: all are merged; plain, weighted: a sign is elected first, as in ties
    combine  sum, as in the paper; mean, weighted_mean, max: see ties
    compat   mergekit: exactly n_keep entries; where n_keep + n_top > n the smallest n_keep are kept

    Equal magnitudes at either limit are all kept.
    Reference: Davari and Belilovsky 2024, Model breadcrumbs, arXiv 2312.06795.
    """
    shares = [1.0] * len(donors) if shares is None else shares
    if compat == "mergekit":
        return matrixwise(
            lambda base, *donors: mergekit.generalised_task_arithmetic(
                base,
                donors,
                shares,
                [density] * len(donors),
                sparsify="magnitude_outliers",
                consensus=vote != "none",
                gamma=gamma,
            ),
            base,
            *donors,
        )
    limits = [_limits(lazy(base), lazy(donor), density, gamma) for donor in donors]

    def block(base: Tensor, *donors: Tensor) -> Tensor:
        vectors = [_between(donor - base, *limit) for donor, limit in zip(donors, limits, strict=True)]
        return moved(base, donors, vectors, shares, vote, combine)

    return elementwise(block, base, *donors)


def _limits(base: Lazy, donor: Lazy, density: float, gamma: float) -> tuple[float, float]:
    """The smallest and the largest magnitude that is kept."""
    n = base.numel()
    top, keep = int(gamma * n), int(density * n)
    keep = min(keep, n - top)
    if density == 1:
        return 0.0, float("inf")
    if keep <= 0:
        return float("inf"), 0.0
    low, high = order_statistics([distance(base, donor)], lambda n, _: [n - top - keep, n - top - 1])
    return low, high


def _between(vector: Tensor, low: float, high: float) -> Tensor:
    return trim(vector, low) * (vector.abs().to(torch.float32) <= high).to(vector.dtype)
