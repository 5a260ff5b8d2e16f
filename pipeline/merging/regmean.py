"""regmean: the matrix whose outputs are closest to those of all parents."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from pipeline.merging.blocks import matrixwise
from pipeline.merging.calibrated import deciding, in_memory, needed, refuse_unfit
from pipeline.merging.combination import combination, model_weights
from pipeline.merging.line import mean
from pipeline.merging.settings import Interval

DEAD = "an input that no calibration text uses, so its weights are the weighted mean"
SINGULAR = "the Gram matrix is singular, so the weighted mean stands in the directions that no calibration text uses"


def regmean(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    weight: float,
    shares: Sequence[float] | None = None,
    statistics: Sequence[Tensor | None] | None = None,
    transposed: bool = False,
    reduce: Annotated[float, Interval("[0, 1]")] = 0.1,
    name: str = "",
    notes: Counter | None = None,
) -> Tensor:
    """Least squares: for every matrix, the one whose outputs are closest to those of each parent on its own inputs.

        minimise over W   sum_i c_i tr((W - W_i) G~_i (W - W_i)^T),   i = 0 the base, 1, 2, ... the donors
        W^T = (sum_i c_i G~_i)^-1 sum_i c_i G~_i W_i^T
        c = (1 - a, a s_1 / sum s, a s_2 / sum s, ...)
        G_i = X_i^T X_i / tokens, G~_i = G_i with its off-diagonal entries multiplied by `reduce`

    weight      a, in [0, 1]
    shares      s_i, how the donors split a; equally if None
    statistics  G_i, [in, in], of the base and of each donor; None where a tensor has none
    transposed  whether the matrix is stored as [in, out]
    reduce      in [0, 1]: 1 is the plain solution, 0 weighs every input alone; 0.1 is what the authors' code uses, for
                RoBERTa and T5 (for GPT-2 FusionBench takes 0.6)
    name        the tensor's name, for messages
    notes       counts, by reason, the matrices where the definition degenerates; they are counted when it is computed

    Tensors without a Gram matrix (norms, biases, embeddings) are the weighted mean with the c_i, and so is what no text
    decides: an input that is always 0, and where the sum of the Gram matrices is singular (relative to the precision in
    which they are kept, inputs scaled to equal size) its null space. Solved in float64, from the weighted mean on, so
    that equal parents give that parent. Where one parent alone counts the result is that parent.
    Raises ConfigError without statistics, CheckpointError where a Gram matrix does not fit its tensor.
    Reference: Jin et al. 2023, Dataless knowledge fusion by merging weights of language models, arXiv 2212.09849.
    """
    found, notes = needed(statistics, "regmean", "Gram matrices"), Counter() if notes is None else notes
    weights = model_weights(weight, shares, len(donors))
    taking = deciding(weights, found, "Gram matrix", notes)
    if not taking or base.ndim != 2 or not base.numel():
        return combination(weights, [base, *donors])
    inputs, grams = base.shape[0 if transposed else 1], [found[i] for i in taking]
    refuse_unfit(grams, (inputs, inputs), "Gram matrix", name)
    precision = inputs * max(torch.finfo(gram.dtype).eps for gram in grams)

    def closest(*matrices: Tensor) -> Tensor:
        c, W = [float(weights[i]) for i in taking], [matrices[i].double() for i in taking]
        M = mean(W, c)
        A, B = 0.0, 0.0
        for c_i, W_i, gram in zip(c, W, grams, strict=True):
            G = in_memory(gram, M.device)
            G = reduce * G + (1 - reduce) * torch.diag(G.diagonal())
            A, B = A + c_i * G, B + c_i * (G @ (W_i - M).T)
        step = _solved(A, B, precision, notes).T
        return torch.where(step == 0, M, M + step)

    return matrixwise(closest, base, *donors, transposed=transposed)


def _solved(A: Tensor, B: Tensor, precision: float, notes: Counter) -> Tensor:
    """A^-1 B for A symmetric and not negative; 0 in what A says nothing about; nan where A is not finite.

    A is scaled to a diagonal of 1: inputs may differ by many orders of magnitude.
    """
    if not A.isfinite().all():
        return torch.full_like(B, torch.nan)
    live = A.diagonal() > 0
    if not live.all():
        notes[DEAD] += 1
    result = torch.zeros_like(B)
    if live.any():
        scale = A.diagonal()[live].sqrt()[:, None]
        result[live] = _well_scaled(A[live][:, live] / scale / scale.T, B[live] / scale, precision, notes) / scale
    return result


def _well_scaled(A: Tensor, B: Tensor, precision: float, notes: Counter) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(A)
    if not failed and factor.diagonal().min() ** 2 > precision:
        return torch.cholesky_solve(B, factor)
    notes[SINGULAR] += 1
    values, vectors = torch.linalg.eigh(A)
    known = values > precision * values[-1]
    V = vectors[:, known]
    return V @ ((V.T @ B) / values[known, None])
