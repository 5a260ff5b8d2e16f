"""nearswap: the base moves towards the donor, by no more than t in any entry."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.merging import mergekit
from pipeline.merging.blocks import Lazy, choose, difference, elementwise, lazy, matrixwise, widened, working_dtype
from pipeline.merging.line import line
from pipeline.merging.selection import distance, order_statistics
from pipeline.merging.task_vectors import stepped

DONORS = (1, 1)


def nearswap(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    weight: float,
    mode: Literal["quantile", "absolute"] = "quantile",
    compat: Literal["none", "mergekit"] = "none",
) -> Tensor:
    """Take the donor's entry where it is near, and step towards it by t where it is not.

        tau = donor - base
        merged = base + clamp(tau, -t, t)   =   w donor + (1 - w) base,  w = min(1, t / |tau|)

    weight  a, in [0, 1]
    mode    quantile: t is the a-quantile of |tau| over the entries of the tensor that differ (linear interpolation
            between neighbours), 0 at a = 0; absolute: t = a itself, in units of the parameters
    compat  mergekit: t = a, and differences below 1e-6 count as 1e-6

    An absolute t of the size that suits other methods saturates: fine-tuning moves parameters by 1e-5 to 1e-2, so that
    t = 0.1 swaps every entry and the result is the donor: the effective weight of the merge is then 1.
    Reference: mergekit's documentation of nearswap (after chargoddard/nearswap).
    """
    (donor,) = donors
    if compat == "mergekit":
        return matrixwise(lambda base, donor: mergekit.nearswap(base, donor, weight), base, donor)
    if weight == 0 or (weight == 1 and mode == "quantile"):
        return elementwise(lambda base, donor: line(base, donor, weight), base, donor, raw=True)
    t = weight if mode == "absolute" else _quantile(base, donor, weight)

    def block(base: Tensor, donor: Tensor) -> Tensor:
        tau = difference(donor, base)
        if mode == "quantile":
            return stepped(base, tau.clamp_(-t, t))
        distance = tau.abs()
        if distance.numel() and float(distance.amax()) <= t:  # saturated: this is the donor, to the bit
            return donor
        return choose(distance <= t, *widened(donor, stepped(base, tau.clamp(-t, t))))

    return elementwise(block, base, donor, raw=True)


def _quantile(base: Tensor | Lazy, donor: Tensor | Lazy, weight: float) -> float:
    """The weight-quantile of |donor - base| over the entries that differ; 0 where weight is 0 or none differs."""
    base, donor = lazy(base), lazy(donor)
    if weight == 0 or base.numel() == 0:
        return 0.0
    if working_dtype(base) == torch.float64:  # selection compares in float32
        found = (donor.whole(torch.float64) - base.whole(torch.float64)).abs()
        return float(np.quantile(found[found > 0].numpy(), weight)) if bool((found > 0).any()) else 0.0
    place = 0.0

    def ranks(size: int, zeros: int) -> list[int]:
        nonlocal place
        place = weight * (size - zeros - 1)
        return [zeros + int(place), min(size - 1, zeros + int(place) + 1)] if size > zeros else []

    found = order_statistics([distance(base, donor)], ranks)
    return found[0] + (found[1] - found[0]) * (place - int(place)) if found else 0.0
