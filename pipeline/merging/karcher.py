"""karcher: the Riemannian mean of directions."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from torch import Tensor

from pipeline.merging import mergekit
from pipeline.merging.blocks import gram, matrixwise
from pipeline.merging.combination import combination, model_weights
from pipeline.merging.settings import Interval


def karcher(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    weight: float,
    shares: Sequence[float] | None = None,
    tolerance: Annotated[float, Interval("(0, 1)")] = 1e-12,
    iterations: Annotated[int, Interval("[1, inf)")] = 1000,
    compat: Literal["none", "mergekit"] = "none",
    notes: Counter | None = None,
) -> Tensor:
    """Weighted Karcher mean on the sphere, each tensor taken as one vector x_i = n_i u_i of norm n_i.

        w = (1 - a, a s_1 / sum s, ...),  u <- sum_i w_i u_i, normalised
        repeat: T = sum_i w_i theta_i / sin(theta_i) (u_i - cos(theta_i) u),  cos(theta_i) = <u, u_i>
                u <- cos(||T||) u + sin(||T||) T / ||T||
        merged = (sum_i w_i n_i) u

    weight      a, in [0, 1]; 1/2 with one donor is the equal-weight mean
    shares      s_i, how the donors split a; equally if None
    tolerance   of ||T||, in radians, at which the iteration has converged
    iterations  at most so many; a tensor that needed more is noted
    compat      mergekit: its equal weights (the weight is not used), at most 10 iterations, tolerance 1e-5
    notes       counts, by reason, the tensors where the definition degenerates

    u stays in the span of the u_i, so that the iteration runs on their Gram matrix in float64, whatever their size. Zero
    tensors have no direction: they count in the mean of the norms only. Where the directions cancel (antipodal tensors)
    the mean is not unique, and the iteration starts from the first model that counts.
    Reference: Karcher 1977, Riemannian center of mass and mollifier smoothing, CPAM 30; Buss and Fillmore 2001,
    Spherical averages and applications to spherical splines and interpolation, ACM TOG 20.
    """
    notes = Counter() if notes is None else notes
    if compat == "mergekit":
        notes["mergekit's karcher has no weights: every model counts alike, whatever the weight"] += 1
        return matrixwise(lambda *models: mergekit.karcher(models), base, *donors)
    models, weights = [base, *donors], model_weights(weight, shares, len(donors))
    if weight == 0:
        return combination(weights, models)
    products = gram(models)
    norms = np.sqrt(products.diagonal())
    counts = (norms > 0) & (weights > 0)
    if not counts.any():
        notes["all are zero and have no direction"] += bool(base.numel())
        return combination(weights, models)
    if (norms[weights > 0] == 0).any():
        notes["one of them is zero and has no direction; its norm counts all the same"] += 1
    cosines = products / np.outer(np.where(norms > 0, norms, 1), np.where(norms > 0, norms, 1))
    mean = _mean(np.where(counts, weights, 0) / weights[counts].sum(), cosines, tolerance, iterations, notes)
    length = float(np.add.reduce(weights * norms))
    return combination(np.divide(length * mean, norms, out=np.zeros_like(mean), where=norms > 0), models)


def _mean(w: np.ndarray, cosines: np.ndarray, tolerance: float, iterations: int, notes: Counter) -> np.ndarray:
    """The coefficients c of the mean direction u = sum_i c_i u_i."""
    c = w.copy()
    length = math.sqrt(max(0.0, c @ cosines @ c))
    if length < tolerance:
        notes["the directions cancel and have no unique mean; the first model's was the start"] += 1
        c = np.eye(len(w))[int(np.argmax(w > 0))]
    else:
        c /= length
    for _ in range(iterations):
        cos = np.clip(cosines @ c, -1, 1)
        theta = np.arccos(cos)
        sine = np.sin(theta)
        # theta / sin(theta) is 1 at 0; an antipode (known to 2e-8 at best) has no direction that leads to it
        pull = w * np.divide(theta, sine, out=np.where(cos > 0, 1.0, 0.0), where=sine > np.where(cos > 0, 1e-9, 1e-6))
        step = pull - (pull @ cos) * c
        size = math.sqrt(max(0.0, step @ cosines @ step))
        if size < tolerance:
            return c
        c = math.cos(size) * c + math.sin(size) / size * step
        c /= math.sqrt(c @ cosines @ c)
    notes[f"the iteration had not converged after {iterations} steps"] += 1
    return c
