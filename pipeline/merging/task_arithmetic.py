"""task_arithmetic: the sum of task vectors."""

from collections.abc import Sequence
from typing import Annotated, Literal

from torch import Tensor

from pipeline.merging.blocks import elementwise
from pipeline.merging.mixup import mixed, refuse_lone_draw
from pipeline.merging.settings import Interval
from pipeline.merging.task_vectors import elected

LINE = True
refuse = refuse_lone_draw


def task_arithmetic(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    shares: Sequence[float] | None = None,
    mixup: Annotated[float, Interval("(0, inf)")] | None = None,
    draw: Annotated[int, Interval("[0, inf)")] = 0,
    compat: Literal["none", "mergekit"] = "none",
) -> Tensor:
    """Add up the task vectors.

        tau_i = donor_i - base
        end = base + sum_i s_i tau_i,  merged = base + a * scale * (end - base)

    shares  s_i, by which the task vectors are multiplied; all 1 if None, not normalised
    mixup   draws the shares of two or more donors (M3, see mixup.py), greater than 0; None takes them as given
    draw    which draw
    compat  mergekit defines the same, with its lambda = a * scale: nothing changes

    Reference: Ilharco et al. 2023, Editing models with task arithmetic, arXiv 2212.04089.
    """
    shares = mixed(shares, mixup, draw, len(donors)) or [1.0] * len(donors)

    def block(base: Tensor, *donors: Tensor) -> Tensor:
        return elected(base, donors, [0.0] * len(donors), shares, "none", "sum")

    return elementwise(block, base, *donors, raw=True)
