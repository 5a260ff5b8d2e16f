"""model_stock: as far towards the donors' mean as their agreement says."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor

from pipeline.merging.blocks import elementwise, gram
from pipeline.merging.line import line, mean

DONORS = (2, None)
NOTHING = 1e-12  # what rounding leaves of a denominator that is zero


def model_stock(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    shares: Sequence[float] | None = None,
    angle: Literal["cosine", "angle"] = "cosine",
    clamp: bool = True,
    notes: Counter | None = None,
) -> Tensor:
    """Between the base and the donors' mean, at a ratio that follows from the angle between task vectors.

        c = mean over pairs of cos(tau_i, tau_j), tau_i = donor_i - base, each tensor taken as one vector
        t = N c / (1 + (N - 1) c)
        merged = (1 - t) base + t mean(donors)

    shares  weights of the mean; equal if None
    angle   cosine: the mean of the cosines; angle: the cosine of the mean angle
    clamp   true: t is kept in [0, 1]; false: opposed task vectors (c < 0) go beyond the base, without bound at
            c = -1 / (N - 1), and the base is kept from there on
    notes   counts, by reason, the tensors where the definition degenerates

    A zero task vector is at a right angle to everything. Raises nothing; has no weight: the ratio is its own.
    Reference: Jang, Yun and Han 2024, Model Stock: all we need is just a few fine-tuned models, arXiv 2403.19522.
    """
    notes, count = Counter() if notes is None else notes, len(donors)
    products = gram(donors, origin=base)
    norms = np.sqrt(products.diagonal())
    outer = np.outer(norms, norms)
    cosines = np.clip(np.divide(products, outer, out=np.zeros_like(products), where=outer > 0), -1, 1)
    pairs = cosines[np.triu_indices(count, 1)]
    c = float(pairs.mean()) if angle == "cosine" else math.cos(float(np.arccos(pairs).mean()))
    denominator = 1 + (count - 1) * c
    if denominator <= NOTHING:
        notes["the task vectors cancel, so that the ratio has no value and the base is kept"] += 1
        t = 0.0
    else:
        t = count * c / denominator
    if clamp and t < 0:
        notes["the task vectors oppose each other, so that the base is kept (merge.clamp)"] += 1
    t = min(1.0, max(0.0, t)) if clamp else t
    return elementwise(lambda base, *donors: line(base, mean(donors, shares), t), base, *donors, raw=True)
