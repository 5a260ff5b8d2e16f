"""multislerp: the normalised mean of directions."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from pipeline.merging.blocks import gram
from pipeline.merging.combination import combination, model_weights

SHORT = 1e-8  # of the mean direction, below which there is none


def multislerp(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    weight: float,
    shares: Sequence[float] | None = None,
    notes: Counter | None = None,
) -> Tensor:
    """Spherical interpolation of any number of models by the tangent space at their mean, in its closed form.

        w = (1 - a, a s_1 / sum s, ...),  m = sum_i w_i x_i / ||x_i||
        merged = m / ||m|| * sum_i w_i ||x_i||
        merged = sum_i w_i x_i                      where ||m|| < 1e-8

    weight  a, in [0, 1]
    shares  s_i, how the donors split a; equally if None
    notes   counts, by reason, the tensors where the definition degenerates

    The tangent vectors at the mean direction sum to zero by construction, so that the steps out and back that define
    the method elsewhere change nothing but rounding. Zero tensors have no direction; their norm, 0, counts.
    Reference: mergekit's documentation of multislerp.
    """
    notes = Counter() if notes is None else notes
    models, weights = [base, *donors], model_weights(weight, shares, len(donors))
    if weight == 0:
        return combination(weights, models)
    products = gram(models)
    norms = np.sqrt(products.diagonal())
    per_norm = np.divide(weights, norms, out=np.zeros_like(weights), where=norms > 0)
    mean = float(np.sqrt(max(0.0, per_norm @ products @ per_norm)))
    if mean < SHORT:
        notes["the directions cancel, so the plain mean is taken"] += bool(base.numel())
        return combination(weights, models)
    return combination(per_norm * (float(np.add.reduce(weights * norms)) / mean), models)
