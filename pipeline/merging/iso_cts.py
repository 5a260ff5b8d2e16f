"""iso_cts: isotropic merging in the common and the task-specific subspaces."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

from torch import Tensor

from pipeline.merging.iso_c import isotropic, total
from pipeline.merging.settings import Interval
from pipeline.merging.spectral import LOW_RANK, ZERO, end, joined, leading, norm, note, whitened

LINE = KEPT = True


def iso_cts(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    shares: Sequence[float] | None = None,
    name: str = "",
    transposed: bool = False,
    common: Annotated[float, Interval("[0, 1]")] = 0.8,
    embeddings: Literal["mean", "svd"] = "mean",
    notes: Counter | None = None,
) -> Tensor:
    """The leading directions that the task vectors share, beside leading ones of their own, with a flat spectrum.

        tau_i = s_i (donor_i - base) for each matrix [m, n],   q = min(m, n), T donors
        n_i = round((q - int(q common)) / T),  c = q - T n_i
        U_c, S_c, V_c = the c leading singular triples of sum_i tau_i
        U_i, S_i, V_i = the n_i leading singular triples of tau_i - U_c U_c^T tau_i
        U = [U_1, ..., U_T, U_c],  V = [V_1, ..., V_T, V_c],  S = (S_1, ..., S_T, S_c)
        end = base + mean(S) polar(U) polar(V)^T,  merged = base + a * scale * (end - base);  polar(P D Q^T) = P Q^T

    shares      s_i, by which the task vectors are multiplied; all 1 if None, not normalised
    name        the tensor's, by which embeddings are known
    transposed  whether the matrix is stored as [in, out]: U_c spans outputs, so it is turned
    common      share of the singular values that are common, in [0, 1]; a half in n_i goes to the even number
    embeddings  mean: embeddings and heads (by their names) are the mean, as norms and biases are; svd: as any matrix
    notes       counts, by reason, the matrices where the definition degenerates; they are counted when it is computed

    Tensors that are no matrix are base + the mean of the tau_i. One donor gives iso_c: what is not common is its own;
    so does n_i = 0. Where T n_i would be more than q, n_i is rounded down.
    A singular value counts as 0 at or below 1e-11 of the largest one, and in what is left of tau_i of the norm of tau_i:
    it counts in the mean, and its vectors are left out of U and V. Where U or V is rank-deficient (equal donors) the
    polar factor is the partial isometry of its singular values above 2^-23. In float64; nan where not finite.
    Reference: Marczak et al. 2025, No task left behind: isotropic model merging with common and task-specific
    subspaces, arXiv 2502.04959.
    """

    def merged(vectors: Callable[[], Iterator[Tensor]], shares: Sequence[float]) -> Tensor:
        c, own = subspaces(min(base.shape), len(shares), common)
        if own == 0 or len(shares) == 1:
            return isotropic(*total(vectors, shares), notes)
        shared_sum, floor = total(vectors, shares)
        shared = leading(shared_sum, c, floor)
        parts = []
        for tau, share in zip(vectors(), shares, strict=True):
            part = leading(tau - shared.U @ (shared.U.T @ tau), own, ZERO * norm(tau))
            parts.append(part._replace(S=part.S * share))
        U, S, V = joined([*parts, shared])
        count = c + own * len(shares)
        if len(S) < count:
            note(notes, LOW_RANK)
        return whitened(U, (S.sum() / count).expand(len(S)), V, notes)

    return end(base, donors, shares, merged, name=name, embeddings=embeddings, notes=notes, transposed=transposed)


def subspaces(q: int, count: int, common: float) -> tuple[int, int]:
    """How many of q directions are common, and how many each of the donors has of its own."""
    left = q - int(q * common)
    own = round(left / count)
    own = left // count if own * count > q else own
    return q - own * count, own
