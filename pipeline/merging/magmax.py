"""magmax: of each entry the largest task vector."""

from collections.abc import Sequence

from torch import Tensor

from pipeline.merging.blocks import elementwise
from pipeline.merging.task_vectors import elected

LINE = True


def magmax(base: Tensor, donors: Sequence[Tensor], *, shares: Sequence[float] | None = None) -> Tensor:
    """Take, entry by entry, the task vector of largest magnitude.

        tau_i = s_i (donor_i - base),  tau = tau_j with j = argmax_i |tau_i|, the last donor where equal
        end = base + tau,  merged = base + a * scale * (end - base)

    shares  s_i, by which the task vectors are multiplied; all 1 if None, not normalised

    Reference: Marczak et al. 2024, MagMax: leveraging model merging for seamless continual learning, arXiv 2407.06322.
    """
    shares = [1.0] * len(donors) if shares is None else shares

    def block(base: Tensor, *donors: Tensor) -> Tensor:
        return elected(base, donors, [0.0] * len(donors), shares, "none", "max")

    return elementwise(block, base, *donors, raw=True)
