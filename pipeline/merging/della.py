"""della: drop entries at random, the small ones of a row rather than the large."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.merging import compiled, mergekit
from pipeline.merging.blocks import Lazy, Uniform, difference, dots, matrixwise, rowwise
from pipeline.merging.row_order import ascending
from pipeline.merging.settings import Interval
from pipeline.merging.task_vectors import moved, stepped

LINE = KEPT = True
LEAST = 2**-24  # the step of the uniform numbers: where p is 0 nothing is kept, and nothing may be divided by it


def della(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    shares: Sequence[float] | None = None,
    density: Annotated[float, Interval("[0, 1]")] = 0.5,
    epsilon: Annotated[float, Interval("[0, 0.5]")] = 0.15,
    rescale: Literal["inverse_prob", "l1", "none"] = "inverse_prob",
    vote: Literal["none", "plain", "weighted"] = "plain",
    combine: Literal["mean", "weighted_mean", "sum", "max"] = "mean",
    draw: Annotated[int, Interval("[0, inf)")] = 0,
    compat: Literal["none", "mergekit"] = "none",
    name: str = "",
    transposed: bool = False,
) -> Tensor:
    """Keep an entry with a probability that grows with its rank in its row, rescale, elect a sign, merge.

        tau_i = donor_i - base;  r = rank of |tau_i| in its row of n entries, 0 (smallest) to n - 1
        p = (density - epsilon) + 2 epsilon r / (n - 1),  m_i ~ Bernoulli(p),  tau_i <- m_i tau_i / p
        end = base + mean of s_i tau_i over the i that agree with the elected sign (see ties)
        merged = base + a * scale * (end - base)

    shares      s_i, by which the task vectors are multiplied; all 1 if None, not normalised
    density     mean of p, in [0, 1]; 1 keeps everything and 0 nothing, whatever epsilon is
    epsilon     half the spread of p, in [0, 0.5]; density - epsilon and density + epsilon must lie in [0, 1]
    rescale     inverse_prob: each entry by its own 1 / p, so that the mean over draws is tau_i, as in the paper; l1: to
                the L1 norm that tau_i had in this tensor; none
    vote        plain, weighted: as in ties; none: no election
    combine     mean, weighted_mean, sum, max: as in ties
    draw        which draw of the masks
    compat      mergekit: rescale = l1, a weighted vote in which an even one is positive, the weighted mean
    name        the tensor's name: the masks depend on it, on the draw and on the donor's place alone
    transposed  the tensor is stored as [in, out]: rows are then its first dimension

    A row is what feeds one output. Equal magnitudes rank by their place; a row of one entry has p = density.
    Raises ConfigError where density +- epsilon leaves [0, 1].
    Reference: Deep et al. 2024, DELLA-merging, arXiv 2406.11617.
    """
    shares = [1.0] * len(donors) if shares is None else shares
    uniforms = [Uniform((draw, "della", name, i), base.shape) for i in range(len(donors))]
    if compat == "mergekit":
        return matrixwise(
            lambda base, *rest: mergekit.generalised_task_arithmetic(
                base,
                rest[: len(donors)],
                shares,
                [density] * len(donors),
                sparsify="magprune",
                consensus=vote != "none",
                normalize=True,
                rescale=True,
                epsilon=epsilon,
                uniforms=rest[len(donors) :],
            ),
            base,
            *donors,
            *uniforms,
        )

    def vectors(base: Tensor, rest: Sequence[Tensor], scaling: str) -> list[Tensor]:
        pairs = zip(rest[: len(donors)], rest[len(donors) :], strict=True)
        return [_pruned(difference(donor, base), uniform, density, epsilon, scaling) for donor, uniform in pairs]

    factors = [1.0] * len(donors)
    if rescale == "l1" and 0 < density < 1:
        factors = _factors(base, [*donors, *uniforms], vectors, transposed)

    def block(base: Tensor, *rest: Tensor) -> Tensor:
        pruned = vectors(base, rest, rescale)
        if len(pruned) == 1 and density < 1:
            share = 1.0 if combine == "weighted_mean" else shares[0]
            return stepped(base, pruned[0], share * factors[0])
        scaled = [vector if factor == 1 else vector * factor for vector, factor in zip(pruned, factors, strict=True)]
        return moved(base, rest[: len(donors)], scaled, shares, vote, combine)

    return rowwise(block, base, *donors, *uniforms, transposed=transposed, raw=True)


def refuse(*, density: float, epsilon: float, **_others) -> None:
    """ConfigError for settings that do not go together."""
    if 0 < density < 1 and not (density - epsilon >= 0 and density + epsilon <= 1):
        raise ConfigError(
            f"merge.density - merge.epsilon and merge.density + merge.epsilon should lie between 0 and 1, found "
            f"{density - epsilon:g} and {density + epsilon:g}: change merge.epsilon"
        )


def _pruned(tau: Tensor, uniform: Tensor, density: float, epsilon: float, rescale: str) -> Tensor:
    if density == 1:
        return tau
    if density == 0:
        return torch.zeros_like(tau)
    columns = tau.shape[-1]
    spread = epsilon if columns > 1 else 0.0
    by_rank = (density - spread) + torch.arange(columns, dtype=torch.float64) * (2 * spread / max(1, columns - 1))
    by_rank = by_rank.to(tau)
    order = ascending(tau.to(torch.float32).abs())
    if tau.device.type == "cpu":
        tau, uniform = tau.contiguous(), uniform.contiguous()
        out, least = torch.empty_like(tau), tau.numpy().dtype.type(LEAST)
        given = (each.numpy() for each in (tau, uniform, order, by_rank))
        compiled.pruned(*given, least, rescale == "inverse_prob", out.numpy())
        return out
    return _scattered(tau, uniform, order, by_rank, rescale)


def _scattered(tau: Tensor, uniform: Tensor, order: Tensor, by_rank: Tensor, rescale: str) -> Tensor:
    """What `compiled.pruned` does, by tensor calls."""
    p = torch.empty_like(tau).scatter_(-1, order.long(), by_rank.expand(tau.shape))
    return (tau / p.clamp(min=LEAST) if rescale == "inverse_prob" else tau) * (uniform < p)


def _factors(base: Tensor, rest: Sequence[Tensor | Lazy], vectors, transposed: bool) -> list[float]:
    """For each donor, the L1 norm of its task vector over that of what was kept."""
    count = len(rest) // 2
    kept = [
        rowwise(lambda base, *rest, i=i: vectors(base, rest, "none")[i], base, *rest, transposed=transposed)
        for i in range(count)
    ]
    found = []
    for donor, each in zip(rest[:count], kept, strict=True):
        pairs = dots(
            lambda base, donor, kept: [
                (tau := (donor - base).abs(), torch.ones_like(tau)),
                (kept.abs(), torch.ones_like(kept)),
            ],
            base,
            donor,
            each,
        )
        found.append(pairs[0] / pairs[1] if pairs[1] > 0 else 1.0)
    return found
