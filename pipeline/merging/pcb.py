"""pcb: parameter competition balancing."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from pipeline.merging.blocks import elementwise, lazy
from pipeline.merging.selection import magnitude, order_statistics
from pipeline.merging.settings import Interval
from pipeline.merging.task_vectors import stepped

LINE = KEPT = True


class Limits(NamedTuple):
    """Of one donor, over the whole model."""

    low: float  # magnitudes are clamped to [low, high]
    high: float
    least: float  # scores are raised to it
    most: float


def pcb(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    shares: Sequence[float] | None = None,
    ratio: Annotated[float, Interval("(0, 1]")] = 0.1,
    clamp: Annotated[float, Interval("[0, 0.5)")] = 0.0001,
    whole: list[Limits] | None = None,
) -> Tensor:
    """Weigh every entry by how it competes within its task vector and with the other ones.

        x_i = s_i (donor_i - base) over the whole model, d entries, N donors
        b_i = |x_i| clamped to its sorted entries int(d clamp) and int(d (1 - clamp) - 1)
        intra = exp(N minmax(b_i)^2),  inter = tanh(x_i sum_j x_j),  score = intra * inter
        q_i = minmax(max(score, its sorted entry int(d (1 - ratio))))
        end = base + sum_i sign(x_i) b_i q_i / max(sum_i q_i, 1e-12),  merged = base + a * scale * (end - base)

    shares  s_i, by which the task vectors are multiplied; all 1 if None, not normalised
    ratio   share of the entries that keep a score, in (0, 1]
    clamp   share of the entries at either end whose magnitude is clamped, in [0, 0.5)
    whole   what `survey` found; None takes the tensor as the whole model

    minmax(x) = (x - min x) / (max x - min x), and 0 where all are equal. Limits are compared in float32. With one donor
    the weights q cancel: what is left is the task vector, its outliers clamped, where q > 0.
    Reference: Du et al. 2024, Parameter competition balancing for model merging, arXiv 2410.02396.
    """
    shares = [1.0] * len(donors) if shares is None else shares
    if base.numel() == 0:
        return elementwise(lambda base, *_: base, base, *donors)
    limits = whole or survey(
        lambda: [("", lazy(base), [lazy(d) for d in donors], None)],
        len(donors),
        ratio=ratio,
        clamp=clamp,
        shares=shares,
    )

    def block(base: Tensor, *donors: Tensor) -> Tensor:
        vectors = _vectors(base, donors, shares)
        total = over = 0.0
        for i, limit in enumerate(limits):
            size = vectors[i].abs().clamp(limit.low, limit.high)
            score = _score(vectors, i, limit).to(torch.float32).to(torch.float64).clamp(min=limit.least)
            q = _minmax(score, limit.least, limit.most)
            total, over = total + vectors[i].sign() * size * q, over + q
        tau = (total / over.clamp(min=1e-12)).to(base.dtype)
        return stepped(base, tau)

    return elementwise(block, base, *donors)


def survey(
    tensors: Callable[[], Iterable[tuple]],
    count: int,
    *,
    ratio: float,
    clamp: float,
    shares: Sequence[float] | None = None,
    **_others,
) -> list[Limits]:
    """The limits of each donor's task vector over the whole model: two selections a donor."""
    shares = [1.0] * count if shares is None else shares
    models = [(base, donors) for _, base, donors, _ in tensors() if base.numel()]
    if not models:
        return []
    found = []
    for i in range(count):
        sizes = [
            magnitude(elementwise(lambda base, donor, i=i: (donor - base) * shares[i], base, donors[i]))
            for base, donors in models
        ]
        low, high = order_statistics(
            sizes, lambda d, _: [min(d - 1, int(d * clamp)), max(0, int(d * (1 - clamp) - 1))], "pcb: survey"
        )
        bounds = Limits(low, high, 0.0, 0.0)
        scores = [
            elementwise(
                lambda base, *donors, i=i, bounds=bounds: _score(_vectors(base, donors, shares), i, bounds),
                base,
                *donors,
            )
            for base, donors in models
        ]
        least, most = order_statistics(
            scores, lambda d, _: [min(d - 1, int(d * (1 - ratio))), d - 1], "pcb: survey of the scores", signed=True
        )
        found.append(Limits(low, high, least, most))
    return found


def _vectors(base: Tensor, donors: Sequence[Tensor], shares: Sequence[float]) -> list[Tensor]:
    return [((donor - base) * share).double() for donor, share in zip(donors, shares, strict=True)]


def _score(vectors: Sequence[Tensor], i: int, limit: Limits) -> Tensor:
    size = vectors[i].abs().clamp(limit.low, limit.high)
    intra = (_minmax(size, limit.low, limit.high).square() * len(vectors)).exp()
    return intra * (vectors[i] * sum(vectors)).tanh()


def _minmax(values: Tensor, least: float, most: float) -> Tensor:
    return (values - least) / (most - least) if most > least else torch.zeros_like(values)
