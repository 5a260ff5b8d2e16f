"""linear: weighted average."""

from collections.abc import Sequence
from typing import Annotated, Literal

from torch import Tensor

from pipeline.merging.blocks import elementwise
from pipeline.merging.line import line, mean
from pipeline.merging.mixup import mixed, refuse_lone_draw
from pipeline.merging.settings import Interval

refuse = refuse_lone_draw


def linear(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    weight: float,
    shares: Sequence[float] | None = None,
    mixup: Annotated[float, Interval("(0, inf)")] | None = None,
    draw: Annotated[int, Interval("[0, inf)")] = 0,
    compat: Literal["none", "mergekit"] = "none",
) -> Tensor:
    """Weighted average of the parameters.

        merged = (1 - a) * base + a * sum_i s_i donor_i / sum_i s_i

    weight  a, in [0, 1]
    shares  s_i, how the donors split a; equally if None
    mixup   draws the shares of two or more donors (M3, see mixup.py), greater than 0; None takes them as given
    draw    which draw
    compat  mergekit defines the same: nothing changes

    Reference: Wortsman et al. 2022, Model soups, arXiv 2203.05482; Utans 1996, Weight averaging for neural networks.
    """
    shares = mixed(shares, mixup, draw, len(donors))
    return elementwise(lambda base, *donors: line(base, mean(donors, shares), weight), base, *donors, raw=True)
