"""tsvm: task singular vectors, merged."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from torch import Tensor

from pipeline.merging.spectral import CROWDED, LOW_RANK, averaged, end, joined, leading, note, whitened

LINE = KEPT = True


def tsvm(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    shares: Sequence[float] | None = None,
    name: str = "",
    embeddings: Literal["mean", "svd"] = "mean",
    notes: Counter | None = None,
) -> Tensor:
    """Keep the leading singular vectors of each task vector and make those of all of them orthogonal to each other.

        tau_i = s_i (donor_i - base) = U_i diag(S_i) V_i^T for each matrix [m, n],   q = min(m, n), r = floor(q / T)
        U = [U_1[:, :r], ..., U_T[:, :r]],  S = (S_1[:r], ..., S_T[:r]),  V = [V_1[:, :r], ..., V_T[:, :r]]
        end = base + polar(U) diag(S) polar(V)^T,  merged = base + a * scale * (end - base);  polar(P D Q^T) = P Q^T

    shares      s_i, by which the task vectors are multiplied; all 1 if None, not normalised
    name        the tensor's, by which embeddings are known
    embeddings  mean: embeddings and heads (by their names) are the mean, as norms and biases are; svd: as any matrix,
                which is what the authors' code does and is dear
    notes       counts, by reason, the matrices where the definition degenerates; they are counted when it is computed

    Tensors that are no matrix are base + the mean of the tau_i. One donor: nothing is in its way and r = q, so the end
    is base + s_1 (donor - base), and the donor for a share of 1.
    A singular value counts as 0 at or below 1e-11 of the task vector's largest one, and its vectors are left out of U
    and V; where U or V is rank-deficient (equal donors) the polar factor is the partial isometry of its singular values
    above 2^-23. More donors than q give r = 0 and the base. In float64; nan where not finite.
    Reference: Gargiulo et al. 2024, Task singular vectors: reducing task interference in model merging, arXiv 2412.00081.
    """
    if len(donors) == 1:
        return averaged(base, donors, [1.0] if shares is None else shares)

    def merged(vectors: Callable[[], Iterator[Tensor]], shares: Sequence[float]) -> Tensor:
        rank = min(base.shape) // len(shares)
        return without_interference(vectors(), [rank] * len(shares), shares, notes)

    return end(base, donors, shares, merged, name=name, embeddings=embeddings, notes=notes)


def without_interference(
    vectors: Iterator[Tensor], ranks: Sequence[int], factors: Sequence[float], notes: Counter | None
) -> Tensor:
    """The merged task vector of f_i tau_i, of rank r_i each.

    The factors go to the singular values: equal donors then have equal singular vectors to the last bit, whatever their
    factors, and are recognised as dependent.
    """
    parts = []
    for tau, rank, factor in zip(vectors, ranks, factors, strict=True):
        part = leading(tau, rank)
        parts.append(part._replace(S=part.S * factor))
    if not any(ranks):
        note(notes, CROWDED)
    elif any(len(part.S) < rank for part, rank in zip(parts, ranks, strict=True)):
        note(notes, LOW_RANK)
    return whitened(*joined(parts), notes)
