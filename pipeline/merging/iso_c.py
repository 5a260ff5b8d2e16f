"""iso_c: isotropic merging in the common subspace."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from torch import Tensor

from pipeline.merging.spectral import LOW_RANK, end, leading, norm, note

LINE = KEPT = True
# of the summands' norms: what float64 leaves of a sum that cancels
ROUNDING = 1e-13


def iso_c(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    shares: Sequence[float] | None = None,
    name: str = "",
    embeddings: Literal["mean", "svd"] = "mean",
    notes: Counter | None = None,
) -> Tensor:
    """The sum of the task vectors with a flat spectrum: every singular value becomes their mean.

        tau_i = s_i (donor_i - base),   sum_i tau_i = U diag(S) V^T for each matrix [m, n]
        end = base + mean(S) U V^T over the min(m, n) singular values,  merged = base + a * scale * (end - base)

    shares      s_i, by which the task vectors are multiplied; all 1 if None, not normalised
    name        the tensor's, by which embeddings are known
    embeddings  mean: embeddings and heads (by their names) are the mean, as norms and biases are; svd: as any matrix
    notes       counts, by reason, the matrices where the definition degenerates; they are counted when it is computed

    Tensors that are no matrix are base + the mean of the tau_i. One donor is flattened too: the end is not the donor.
    A singular value counts as 0 at or below 1e-11 of the largest one: it counts in the mean, and its direction adds
    nothing, so that U V^T is a partial isometry; a sum of 0 gives the base. In float64; nan where not finite.
    Reference: Marczak et al. 2025, No task left behind: isotropic model merging with common and task-specific
    subspaces, arXiv 2502.04959.
    """

    def merged(vectors: Callable[[], Iterator[Tensor]], shares: Sequence[float]) -> Tensor:
        return isotropic(*total(vectors, shares), notes)

    return end(base, donors, shares, merged, name=name, embeddings=embeddings, notes=notes)


def total(vectors: Callable[[], Iterator[Tensor]], shares: Sequence[float]) -> tuple[Tensor, float]:
    """sum_i s_i tau_i, and how large rounding can make what should cancel."""
    result, size = None, 0.0
    for tau, share in zip(vectors(), shares, strict=True):
        tau *= share
        size += norm(tau)
        result = tau if result is None else result.add_(tau)
    return result, ROUNDING * size


def isotropic(A: Tensor, floor: float, notes: Counter | None) -> Tensor:
    """mean(S) U V^T of A = U diag(S) V^T."""
    q = min(A.shape)
    U, S, V = leading(A, q, floor)
    if len(S) < q:
        note(notes, LOW_RANK)
    return (U * (S.sum() / q)) @ V.T
