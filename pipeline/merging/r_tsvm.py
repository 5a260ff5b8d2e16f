"""r_tsvm: task singular vectors, reweighted by their outliers; our own reconstruction."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from pipeline.merging.settings import Interval
from pipeline.merging.spectral import end, note, unit
from pipeline.merging.tsvm import without_interference

LINE = KEPT = True

RECONSTRUCTED = (
    "r_tsvm is our own reconstruction: the formulas of the paper (arXiv 2502.06876) were not available, so this number "
    "says nothing about the paper's method"
)
EVEN = "no task vector has an outlier to keep, so all weigh the same"


def r_tsvm(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    shares: Sequence[float] | None = None,
    name: str = "",
    weighting: Literal["mitigate", "keep", "none"] = "mitigate",
    rank: Literal["sparsity", "fixed"] = "sparsity",
    k: Annotated[float, Interval("[0, inf)")] = 3.0,
    kappa: Annotated[float, Interval("[0, 1]")] = 0.01,
    c: Annotated[float, Interval("(0, inf)")] = 1.0,
    embeddings: Literal["mean", "svd"] = "mean",
    notes: Counter | None = None,
) -> Tensor:
    """tsvm with a weight for each task vector by its outliers, and a rank by its sparsity. OUR OWN RECONSTRUCTION.

    The formulas of the paper (R-TSVM, later called RESM) were not available to us: only its abstract was, which names
    outlier-aware weighting and sparsity-adaptive rank selection. What follows is our reading of those words, not the
    paper's method, and its results are none of the paper's. Every result says so in its notes.

        tau_i = s_i (donor_i - base) for each matrix, q = min(m, n), T donors
        o_i = sum of |tau_i| above mean |tau_i| + k std |tau_i|, over sum of |tau_i|
        w_i = T x_i / sum_j x_j,   x_i = 1 / (1 + o_i) (mitigate), o_i (keep) or 1 (none)
        z_i = share of the entries with |tau_i| < kappa max |tau_i|
        r_i = round((1 - z_i) c q / T), at least 1 and at most floor(q / T) (sparsity), or floor(q / T) (fixed)
        end = base + tsvm of the w_i tau_i with the ranks r_i,  merged = base + a * scale * (end - base)

    shares      s_i, by which the task vectors are multiplied; all 1 if None, not normalised
    name        the tensor's, by which embeddings are known
    weighting   mitigate: outliers count against a task vector; keep: in favour; none: w = 1
    rank        sparsity: as above, a half goes to the even number; fixed: tsvm's. With weighting=none it is tsvm
    k           standard deviations (of the population) above the mean from which on an entry is an outlier, at least 0
    kappa       share of the largest magnitude below which an entry counts as absent, in [0, 1]
    c           by which the ranks are multiplied, greater than 0; no more than q in all whatever it is
    embeddings  mean: embeddings and heads (by their names) are the mean, as norms and biases are; svd: as any matrix
    notes       counts every tensor as reconstructed, and by reason the matrices where the definition degenerates

    Tensors that are no matrix are base + the mean of the tau_i, without weights. One donor has w = 1 and keeps its r_1
    leading singular vectors; all of them with rank=fixed. A task vector of zeros has o = z = 0. With weighting=keep and
    no outliers at all, w = 1. What is rank-deficient is defined as in tsvm. In float64; nan where not finite.
    Reference: none for these formulas; named after Yang et al. 2025, Mix data or merge models?, arXiv 2502.06876.
    """
    note(notes, RECONSTRUCTED)

    def merged(vectors: Callable[[], Iterator[Tensor]], shares: Sequence[float]) -> Tensor:
        count, q = len(shares), min(base.shape)
        most = q // count
        outliers, ranks = [], []
        for tau in vectors():
            outliers.append(outlier_share(tau, k))
            wanted = round((1 - sparsity(tau, kappa)) * c * q / count)
            ranks.append(most if rank == "fixed" else min(max(1, wanted), most))
        w = weights(outliers, weighting, notes)
        return without_interference(
            vectors(), ranks, [share * weight for share, weight in zip(shares, w, strict=True)], notes
        )

    return end(base, donors, shares, merged, name=name, embeddings=embeddings, notes=notes)


def outlier_share(tau: Tensor, k: float) -> float:
    """Of the sum of magnitudes, the share of those above mean + k std; 0 where all are zero."""
    size, _ = unit(tau.abs())
    total = float(size.sum())
    return float(torch.where(size > size.mean() + k * size.std(correction=0), size, 0).sum()) / total if total else 0.0


def sparsity(tau: Tensor, kappa: float) -> float:
    """The share of entries whose magnitude is below kappa of the largest."""
    size = tau.abs()
    return int((size < kappa * size.max()).sum()) / size.numel()


def weights(outliers: Sequence[float], weighting: str, notes: Counter | None = None) -> list[float]:
    """w_i, which sum to the number of task vectors."""
    x = {"mitigate": [1 / (1 + o) for o in outliers], "keep": outliers, "none": [1.0] * len(outliers)}[weighting]
    if not sum(x):
        note(notes, EVEN)
        x = [1.0] * len(outliers)
    return [len(x) * each / sum(x) for each in x]
