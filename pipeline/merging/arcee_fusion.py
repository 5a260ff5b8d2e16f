"""arcee_fusion: the donor where it matters, the base elsewhere."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.merging.blocks import choose, lazy, rowwise
from pipeline.merging.selection import order_statistics

DONORS = (1, 1)
FLOOR = 1e-8  # added to every probability


def arcee_fusion(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    transposed: bool = False,
    notes: Counter | None = None,
) -> Tensor:
    """Take the donor's entries of outstanding importance.

        p = softmax(donor) + 1e-8, q = softmax(base) + 1e-8, row by row;  KL = sum p log(p / q) of each row
        importance = |donor - base| * KL
        merged = donor where importance >= Q2 + 1.5 (Q3 - Q1), else base

    transposed  the tensor is stored as [in, out]: rows are then its first dimension
    notes       counts, by reason, the tensors where the definition degenerates

    Q is the entry of rank int(q (n - 1)) of the tensor's importances, over all of them, compared in float32. A row is
    the last dimension, and all of a vector. The threshold often selects nothing: such tensors are noted.
    Reference: mergekit's documentation of arcee_fusion.
    """
    (donor,), notes = donors, Counter() if notes is None else notes
    if base.numel() == 0:
        return rowwise(lambda base, _: base, base, donor)
    scores = rowwise(_importance, lazy(base), lazy(donor), transposed=transposed)
    first, median, third, most = order_statistics(
        [scores], lambda n, _: [int(0.25 * (n - 1)), int(0.5 * (n - 1)), int(0.75 * (n - 1)), n - 1], signed=True
    )
    limit = median + 1.5 * (third - first)
    if most < limit:
        notes["no entry is important enough, so the base is kept"] += 1

    def block(base: Tensor, donor: Tensor) -> Tensor:
        return choose(_importance(base, donor).to(torch.float32).double() >= limit, donor, base)

    return rowwise(block, base, donor, transposed=transposed)


def _importance(base: Tensor, donor: Tensor) -> Tensor:
    """|donor - base| KL(donor || base) by rows, the divergence in float64: it is a small difference of large numbers."""
    p, q = donor.double().softmax(-1) + FLOOR, base.double().softmax(-1) + FLOOR
    divergence = (p * (p / q).log()).sum(-1, keepdim=True)
    return ((donor - base).abs() * divergence).to(base.dtype)
