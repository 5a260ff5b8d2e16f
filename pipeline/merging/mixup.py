"""Mixup Model Merge (M3): the donors' shares are drawn at random."""

import math
from collections.abc import Sequence

import numpy as np

from pipeline.errors import ConfigError
from pipeline.merging.blocks import Uniform

# A share never quite vanishes, so that a vector that stands alone is found by s tau / s; to any other it adds nothing.
LEAST = 2.0**-60


def mixed(shares: Sequence[float] | None, mixup: float | None, draw: int, donors: int) -> Sequence[float] | None:
    """The shares that a merge uses: those given where mixup is None, otherwise a draw that sums to 1.

        lambda ~ Beta(mixup, mixup), shares = (lambda, 1 - lambda)     two donors
        shares ~ Dirichlet(mixup, mixup, ...)                          more donors; ours, the paper mixes two

    mixup  the paper's alpha, greater than 0: below 1 one donor dominates, at 1 every split is alike, above 1 halves
    draw   0, 1, 2, ...: which draw; the same one has the same quantile for every `mixup`

    Raises ConfigError for one donor, and for shares beside a draw.
    Reference: Zhou, Chang and Wu 2025, Mixup model merge, arXiv 2502.15434.
    """
    if mixup is None:
        return shares
    if donors < 2:
        raise ConfigError(f"merge.mixup splits at least 2 donors, found {donors}: change donor.models or merge.mixup")
    if shares is not None:
        raise ConfigError(
            f"donor.shares should be null where merge.mixup draws them, found {list(shares)}: change donor.shares"
        )
    if donors == 2:
        share = mixing_ratio(mixup, draw)
        return [max(share, LEAST), max(1 - share, LEAST)]
    from scipy.stats import gamma

    sizes = gamma.ppf(_uniform(draw, donors), mixup)
    if not np.add.reduce(sizes) > 0:  # a tiny `mixup` underflows: all of the weight on one donor
        sizes = np.eye(donors)[int(np.argmax(_uniform(draw, donors)))]
    return np.maximum(sizes / np.add.reduce(sizes), LEAST).tolist()


def refuse_lone_draw(*, mixup: float | None, draw: int, **_others) -> None:
    """ConfigError for a draw where nothing is drawn: it would be another name for the same merge."""
    if mixup is None and draw != 0:
        raise ConfigError(
            f"merge.draw should be 0 where merge.mixup is null and nothing is drawn, found {draw}: set merge.mixup"
        )


def refuse_beside_mixup(mixup: float | None, vote: tuple[str, str], combine: tuple[str, tuple[str, ...]]) -> None:
    """ConfigError for settings that M3 would overrule: each is (what is set, what M3 can go with)."""
    if mixup is None:
        return
    if vote[0] not in ("none", vote[1]):
        raise ConfigError(
            f"merge.vote should be {vote[1]} where merge.mixup is set, found {vote[0]}: change merge.vote"
        )
    if combine[0] not in combine[1]:
        raise ConfigError(
            f"merge.combine should be {' or '.join(combine[1])} where merge.mixup is set, found {combine[0]}: "
            "change merge.combine"
        )


def mixing_ratio(mixup: float, draw: int) -> float:
    """lambda of two donors: the first one's share, the Beta(mixup, mixup) quantile of a uniform number kept by `draw`."""
    from scipy.stats import beta

    share = float(beta.ppf(_uniform(draw, 1)[0], mixup, mixup))
    return share if math.isfinite(share) else 0.5


def _uniform(draw: int, count: int) -> np.ndarray:
    import torch

    return Uniform(("mixup", draw), (count,)).read(0, count, torch.float64).cpu().numpy()
