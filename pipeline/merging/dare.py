"""dare: drop entries at random and rescale."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from pipeline.merging import compiled, mergekit
from pipeline.merging.blocks import Uniform, dots, elementwise, filled, indicator, lazy, matrixwise, widened
from pipeline.merging.mixup import mixed, refuse_beside_mixup
from pipeline.merging.settings import Interval
from pipeline.merging.task_vectors import moved, voted

LINE = True


def dare(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    shares: Sequence[float] | None = None,
    density: Annotated[float, Interval("[0, 1]")] = 0.5,
    rescale: Literal["inverse_prob", "l1", "none"] = "inverse_prob",
    vote: Literal["none", "plain", "weighted"] = "none",
    combine: Literal["sum", "mean", "weighted_mean", "max"] = "sum",
    mixup: Annotated[float, Interval("(0, inf)")] | None = None,
    draw: Annotated[int, Interval("[0, inf)")] = 0,
    compat: Literal["none", "mergekit"] = "none",
    name: str = "",
) -> Tensor:
    """Keep each entry of a task vector with probability p, rescale, and add up.

        tau_i = donor_i - base,  tau_i <- m_i tau_i / p,  m_i ~ Bernoulli(p), p = density
        end = base + sum_i s_i tau_i,  merged = base + a * scale * (end - base)

    shares   s_i, by which the task vectors are multiplied; all 1 if None, not normalised
    density  p, in [0, 1]: 1 - the paper's drop rate
    rescale  inverse_prob: divided by p, so that the mean over draws is tau_i, as in the paper; l1: to the L1 norm that
             tau_i had in this tensor; none
    vote     none: all entries are merged; plain, weighted: a sign is elected first, as in ties
    combine  sum, as in the paper; mean, weighted_mean, max: see ties
    mixup    draws the shares (M3, see mixup.py), greater than 0; with a vote they split only entries where several
             vectors agree (combine is weighted_mean, vote is plain)
    draw     which draw, of the masks and of the shares
    compat   mergekit: rescale = l1; with a vote, an even one is positive and weights count in it
    name     the tensor's name: the masks depend on it, on the draw and on the donor's place alone

    Called directly, `density` may be one number for each donor.
    Reference: Yu et al. 2024, Language models are super Mario, arXiv 2311.03099.
    """
    densities = [density] * len(donors) if isinstance(density, int | float) else list(density)
    if mixup is not None:
        shares = mixed(shares, mixup, draw, len(donors))
        vote, combine = ("none", "sum") if vote == "none" else ("plain", "weighted_mean")
    shares = [1.0] * len(donors) if shares is None else shares
    uniforms = [Uniform((draw, "dare", name, i), base.shape) for i in range(len(donors))]
    if compat == "mergekit":
        return matrixwise(
            lambda base, *rest: mergekit.generalised_task_arithmetic(
                base,
                rest[: len(donors)],
                shares,
                densities,
                sparsify="bernoulli",
                consensus=vote != "none",
                rescale=True,
                uniforms=rest[len(donors) :],
            ),
            base,
            *donors,
            *uniforms,
        )
    factors = [
        _factor(base, donor, uniform, dense, rescale)
        for donor, uniform, dense in zip(donors, uniforms, densities, strict=True)
    ]

    def block(base: Tensor, *rest: Tensor) -> Tensor:
        donors_, uniforms_ = rest[: len(donors)], rest[len(donors) :]
        vectors = [_masked(base, *each) for each in zip(donors_, uniforms_, densities, strict=True)]
        if len(vectors) == 1:
            return moved(base, donors_, vectors, [factors[0] * _share(shares[0], combine)], "none", "sum")
        if len(set(factors)) == 1:  # after the vote: scaled before it, an even vote would be decided by rounding
            return voted(base, vectors, shares, vote, combine, factors[0])
        scaled = [vector * factor for vector, factor in zip(vectors, factors, strict=True)]
        return moved(base, donors_, scaled, shares, vote, combine)

    return elementwise(block, base, *donors, *uniforms, raw=True)


def refuse(*, mixup: float | None, vote: str, combine: str, **_others) -> None:
    """ConfigError for settings that do not go together."""
    allowed = ("sum",) if vote == "none" else ("sum", "weighted_mean")
    refuse_beside_mixup(mixup, (vote, "plain"), (combine, allowed))


def _masked(base: Tensor, donor: Tensor, uniform: Tensor, density: float) -> Tensor:
    if (found := filled(compiled.masked, (base, donor, uniform), density)) is not None:
        return found
    base, donor = widened(base, donor)
    return (donor - base) * indicator(torch.lt, uniform, density)


def _share(share: float, combine: str) -> float:
    """What a single donor counts."""
    return 1.0 if combine == "weighted_mean" else share


def _factor(base: Tensor, donor: Tensor, uniform: Uniform, density: float, rescale: str) -> float:
    """By what the entries that are kept are multiplied."""
    if rescale == "none" or density in (0, 1):
        return 1.0
    if rescale == "inverse_prob":
        return 1 / density

    def pairs(base: Tensor, donor: Tensor, uniform: Tensor) -> list[tuple[Tensor, Tensor]]:
        size = (donor - base).abs()
        return [(size, torch.ones_like(size)), (size, (uniform < density).to(size.dtype))]

    every, kept = dots(pairs, lazy(base), lazy(donor), uniform)
    return every / kept if kept > 0 else 1.0
