"""ties: trim, elect sign, merge."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal

from torch import Tensor

from pipeline.merging import mergekit
from pipeline.merging.blocks import elementwise, lazy, matrixwise
from pipeline.merging.mixup import mixed, refuse_beside_mixup, refuse_lone_draw
from pipeline.merging.selection import distance, thresholds
from pipeline.merging.settings import Interval
from pipeline.merging.task_vectors import elected

LINE = KEPT = True


def ties(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    shares: Sequence[float] | None = None,
    density: Annotated[float, Interval("[0, 1]")] = 0.2,
    trim: Literal["model", "tensor"] = "model",
    vote: Literal["plain", "weighted"] = "plain",
    combine: Literal["mean", "weighted_mean", "sum", "max"] = "mean",
    mixup: Annotated[float, Interval("(0, inf)")] | None = None,
    draw: Annotated[int, Interval("[0, inf)")] = 0,
    compat: Literal["none", "mergekit"] = "none",
    whole: list[float] | None = None,
) -> Tensor:
    """Trim each task vector, elect a sign for each entry, merge what agrees with it.

        tau_i = donor_i - base
        trim:   tau_i <- tau_i where |tau_i| >= the k-th largest |tau_i|, k = int(density * entries), else 0
        elect:  gamma = sign(sum_i tau_i)
        merge:  tau = mean of s_i tau_i over the i with sign(tau_i) = gamma
        end = base + tau,  merged = base + a * scale * (end - base); scale is the paper's lambda

    shares   s_i, by which the task vectors are multiplied; all 1 if None, not normalised
    density  share of the entries that are kept, in [0, 1]; equal magnitudes at the limit are all kept
    trim     model: the largest entries of the whole model, as in the paper; tensor: of each tensor
    vote     plain: gamma as above, as in the paper; weighted: gamma = sign(sum_i s_i tau_i)
    combine  mean: divided by the number of vectors that agree, as in the paper; weighted_mean: by the sum of their s_i;
             sum: not divided; max: the s_i tau_i of largest magnitude among them
    mixup    draws the shares (M3, see mixup.py), greater than 0: they then split only entries where several vectors
             agree, and a vector that stands alone counts in full (combine is weighted_mean, vote is plain)
    draw     which draw
    compat   mergekit: k of each tensor exactly, a weighted vote in which an even one is positive, the weighted mean
    whole    what `survey` found; None takes the tensor as the whole model

    An even vote (a sum of exactly 0) elects no sign and the entry stays the base's. Where a task vector is 0, it neither
    votes nor counts. Called directly, `density` may be one number for each donor.
    Reference: Yadav et al. 2023, TIES-merging: resolving interference when merging models, arXiv 2306.01708.
    """
    densities = [density] * len(donors) if isinstance(density, int | float) else list(density)
    if mixup is not None:
        shares, vote, combine = mixed(shares, mixup, draw, len(donors)), "plain", "weighted_mean"
    shares = [1.0] * len(donors) if shares is None else shares
    if compat == "mergekit":
        return matrixwise(
            lambda base, *donors: mergekit.generalised_task_arithmetic(
                base, donors, shares, densities, sparsify="magnitude", consensus=True, normalize=True
            ),
            base,
            *donors,
        )
    limits = whole or [
        thresholds([[distance(lazy(base), lazy(donor))]], dense)[0]
        for donor, dense in zip(donors, densities, strict=True)
    ]

    def block(base: Tensor, *donors: Tensor) -> Tensor:
        return elected(base, donors, limits, shares, vote, combine)

    return elementwise(block, base, *donors, raw=True)


def refuse(*, mixup: float | None, draw: int, vote: str, combine: str, **_others) -> None:
    """ConfigError for settings that do not go together."""
    refuse_lone_draw(mixup=mixup, draw=draw)
    refuse_beside_mixup(mixup, (vote, "plain"), (combine, ("mean", "weighted_mean")))


def survey(
    tensors: Callable[[], Iterable[tuple]], count: int, *, density: float, trim: str, compat: str, **_others
) -> list[float] | None:
    """The magnitude, for each of `count` donors, from which on an entry is kept in the whole model."""
    if trim == "tensor" or compat == "mergekit":
        return None
    models = [(base, donors) for _, base, donors, _ in tensors()]
    magnitudes = [[distance(base, donors[i]) for base, donors in models] for i in range(count)]
    return thresholds(magnitudes, density, "ties: survey")
