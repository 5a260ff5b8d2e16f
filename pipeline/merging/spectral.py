"""Linear algebra that the spectral methods share, in float64.

leading(A, rank)      the leading singular triples of A that are above zero
whitened(U, S, V)     polar(U) diag(S) polar(V)^T
end(...)              base + merged task vector: matrices by a method's own rule, all else by the mean

A singular value counts as zero at or below 1e-11 of the largest one: what belongs to it is the rounding of float64. The
polar factor P Q^T of a matrix P D Q^T is the partial isometry of the singular values above zero: it is unique, and
invents no directions, where a full SVD would pick any. Of singular vectors side by side, zero is 2^-23: those of
dependent donors differ by the rounding of their own SVDs, and float32 could not tell them apart.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.merging.blocks import elementwise, matrixwise
from pipeline.merging.task_vectors import moved

ZERO = 1e-11  # of the largest singular value
DISTINCT = 2.0**-23
# A matrix times its transpose squares the condition: over two orders of magnitude that costs 1e-14 of the largest.
SPAN = 1e-2

# A name that holds one of these is a vocabulary's: an embedding or a head, of any architecture.
EMBEDDINGS = (
    "embed",
    "wte",
    "wpe",
    "lm_head",
    "output_layer",
    "predictions.decoder",
    "vocab_projector",
    "shared.weight",
    "pred_layer.proj",
)
# and one that holds one of these is an ordinary projection behind it (ALBERT, ELECTRA)
PROJECTIONS = ("embedding_hidden_mapping", "embeddings_project")

UNMOVED = "all task vectors are zero, so the base stays"
LOW_RANK = "a task vector, or their sum, has too low a rank: the singular vectors that are missing add nothing"
DEPENDENT = "the donors' singular vectors are linearly dependent, so their polar factor is a partial isometry"
CROWDED = "there are more donors than singular values, so each has a rank of 0 and the base stays"

_counting = threading.Lock()


class Triples(NamedTuple):
    """Singular triples: A V = U diag(S)."""

    U: Tensor  # [m, r]
    S: Tensor  # [r]
    V: Tensor  # [n, r]


def is_embedding(name: str) -> bool:
    """Whether a tensor's name is that of an embedding or a head: a matrix with a row for every token or position."""
    lower = name.lower()
    return any(word in lower for word in EMBEDDINGS) and not any(word in lower for word in PROJECTIONS)


def note(notes: Counter | None, reason: str) -> None:
    """Count a reason; matrices are computed on several threads."""
    if notes is not None:
        with _counting:
            notes[reason] += 1


def leading(A: Tensor, rank: int, floor: float = 0.0) -> Triples:
    """The `rank` leading singular triples of A, fewer where A has fewer singular values above zero.

    floor  singular values at or below it count as zero too: what rounding left of larger numbers

    A A^T = U diag(S^2) U^T on the smaller side, V = A^T U / S, for the singular values within SPAN of the largest; then
    the same for what is left of A without them, so that none is lost in the square of a larger one. Faster than an SVD
    by a fifth (square) to five times (wide); slower only for square matrices whose spectrum falls steeply.
    """
    if A.shape[0] > A.shape[1]:
        V, S, U = leading(A.T, rank, floor)
        return Triples(U, S, V)
    left, size = unit(A)  # squares shall neither overflow nor vanish
    found, basis, zero = [Triples(A[:, :0], A.new_zeros(0), A.T[:, :0])], None, 0.0
    while size and rank and len(left):
        values, vectors = torch.linalg.eigh(left @ left.T)
        largest = float(values[-1].clamp(min=0).sqrt())
        zero = zero or max(ZERO * largest, floor / size)
        k = min(rank, int((values > max(SPAN * largest, zero) ** 2).sum()))
        rest, U = vectors[:, : len(left) - k], vectors[:, len(left) - k :].flip(1)  # values ascend
        X = U.T @ left  # diag(S) V^T
        S = X.norm(dim=1)
        found.append(Triples(U if basis is None else basis @ U, S * size, X.T / S))
        rank -= k
        if not rank or not k or (left := rest.T @ left).norm() <= zero:
            break
        basis = rest if basis is None else basis @ rest
    return joined(found)


def unit(A: Tensor) -> tuple[Tensor, float]:
    """A divided by its largest magnitude, and that magnitude."""
    size = float(A.abs().max()) if A.numel() else 0.0
    return (A / size if size else A), size


def norm(A: Tensor) -> float:
    """The Frobenius norm, whose squares neither overflow nor vanish."""
    A, size = unit(A)
    return float(A.norm()) * size


def joined(parts: Sequence[Triples]) -> Triples:
    """The triples of several matrices side by side."""
    U, S, V = zip(*parts, strict=True)
    return Triples(torch.cat(U, 1), torch.cat(S), torch.cat(V, 1))


def whitened(U: Tensor, S: Tensor, V: Tensor, notes: Counter | None = None) -> Tensor:
    """polar(U) diag(S) polar(V)^T, of shape [m, n]; S = 0 for what shall not count.

    polar(X) = P Q^T with X = P D Q^T is the orthonormal matrix closest to X; columns with S = 0 are left out of X.
    """
    U, S, V = U[:, S != 0], S[S != 0], V[:, S != 0]
    P, D, Q = leading(U, len(S), DISTINCT)
    R, F, W = leading(V, len(S), DISTINCT)
    if min(len(D), len(F)) < len(S):
        note(notes, DEPENDENT)
    return P @ ((Q.T * S) @ W) @ R.T


def end(
    base: Tensor,
    donors: Sequence[Tensor],
    shares: Sequence[float] | None,
    merged: Callable[[Callable[[], Iterator[Tensor]], Sequence[float]], Tensor],
    *,
    name: str,
    embeddings: str,
    notes: Counter | None,
    transposed: bool = False,
) -> Tensor:
    """base + merged(vectors, shares) where base is a matrix, else base + the mean of the s_i tau_i.

    merged      gets `vectors()`, which makes the donor_i - base in float64 one after the other, and the s_i
    name        the tensor's; `embeddings` says whether embeddings and heads are the mean or svd
    transposed  whether the matrix is stored as [in, out]: `merged` then gets it as [out, in]

    Where the merged task vector is 0 the base is kept bit for bit; where a donor is not finite the result is nan.
    """
    shares = [1.0] * len(donors) if shares is None else list(shares)
    if base.ndim != 2 or not base.numel() or (embeddings == "mean" and is_embedding(name)):
        return averaged(base, donors, shares)

    def matrix(base: Tensor, *donors: Tensor) -> Tensor:
        def vectors() -> Iterator[Tensor]:
            for donor, share in zip(donors, shares, strict=True):
                yield donor.double() - base.double() if share else torch.zeros_like(base, dtype=torch.float64)

        if not all(tensor.isfinite().all() for tensor in (base, *donors)):
            return torch.full_like(base, torch.nan)
        if all(share == 0 or torch.equal(donor, base) for donor, share in zip(donors, shares, strict=True)):
            note(notes, UNMOVED)
            return base
        with _one_thread():
            tau = merged(vectors, shares)
            return torch.where(tau == 0, base, (base.double() + tau).to(base.dtype))

    return matrixwise(matrix, base, *donors, transposed=transposed)


def averaged(base: Tensor, donors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """base + the mean of the s_i (donor_i - base); with one donor and a share of 1 exactly the donor."""

    def block(base: Tensor, *donors: Tensor) -> Tensor:
        return moved(base, donors, [donor - base for donor in donors], shares, "none", "mean")

    return elementwise(block, base, *donors)


@contextmanager
def _one_thread():
    """LAPACK's last bits change with the number of its threads; the engine's threads take a matrix each instead."""
    before = torch.get_num_threads()
    if before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if before > 1:
            torch.set_num_threads(before)
