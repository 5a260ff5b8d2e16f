"""nuslerp: spherical interpolation of whole tensors or of their rows, of models or of task vectors."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.merging.blocks import elementwise, gram, matrixwise, rowwise
from pipeline.merging.combination import combination
from pipeline.merging.line import line
from pipeline.merging.task_vectors import stepped

DONORS = (1, 2)
SHORT = 1e-7  # norms below it count as this, so that a zero vector has no direction instead of nan
# |sin theta| below which the arc is a line: an angle near 180 degrees is known to 2e-8 at best, and division by its
# sine would be division by noise
FLAT = 1e-6


def nuslerp(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    weight: float,
    shares: Sequence[float] | None = None,
    flatten: bool = True,
    row_wise: bool = False,
    compat: Literal["none", "mergekit"] = "none",
    transposed: bool = False,
    notes: Counter | None = None,
) -> Tensor:
    """Along the arc between two ends x and y, at t.

        theta = arccos <x / ||x||, y / ||y||>
        arc(x, y, t) = sin((1 - t) theta) / sin(theta) x + sin(t theta) / sin(theta) y
        arc(x, y, t) = (1 - t) x + t y                                where |sin theta| < 1e-6
        one donor:   merged = arc(base, donor, a)
        two donors:  merged = base + a * arc(donor_1 - base, donor_2 - base, s_2 / (s_1 + s_2))

    weight      a, in [0, 1]
    shares      s_i, of two donors; equal if None
    flatten     true: a tensor is one vector; false: each of its rows is (the last dimension; a vector is one row)
    row_wise    with flatten=false: true takes the vectors along the first dimension instead
    compat      mergekit: rows and columns as the tensor is stored, whatever the architecture
    transposed  the tensor is stored as [in, out]: rows are then its first dimension
    notes       counts, by reason, the tensors where the definition degenerates

    A vector shorter than 1e-7 counts as of that length, so that a zero vector is at a right angle to everything.
    Reference: mergekit's documentation of nuslerp; Shoemake 1985, SIGGRAPH, for the arc.
    """
    notes = Counter() if notes is None else notes
    t = weight
    if len(donors) == 2:
        one, other = (1.0, 1.0) if shares is None else shares
        t = other / (one + other)
    elif weight in (0, 1):
        return elementwise(lambda base, donor: line(base, donor, weight), base, *donors, raw=True)
    if flatten:
        return _flat(base, donors, weight, t, notes)
    upright = not (transposed and compat == "none")

    def block(base: Tensor, *donors: Tensor) -> Tensor:
        if len(donors) == 1:
            return _rows(base, donors[0], t)
        return stepped(base, _rows(donors[0] - base, donors[1] - base, t), weight)

    if row_wise and base.ndim > 2:
        return matrixwise(lambda *x: block(*(each.movedim(0, -1) for each in x)).movedim(-1, 0), base, *donors)
    return rowwise(block, base, *donors, transposed=upright if row_wise else not upright)


def _flat(base: Tensor, donors: Sequence[Tensor], weight: float, t: float, notes: Counter) -> Tensor:
    products = gram([base, *donors]) if len(donors) == 1 else gram(donors, origin=base)
    norms = np.maximum(np.sqrt(products.diagonal()), SHORT)
    cos = float(np.clip(products[0, 1] / (norms[0] * norms[1]), -1, 1))
    theta = math.acos(cos)
    if abs(math.sin(theta)) < FLAT:
        notes["the two are parallel or opposite, so the arc is a line"] += bool(base.numel())
        ends = [1 - t, t]
    else:
        ends = [math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)]
    if len(donors) == 1:
        return combination(ends, [base, *donors])
    return combination([1 - weight * sum(ends), weight * ends[0], weight * ends[1]], [base, *donors])


def _rows(x: Tensor, y: Tensor, t: float) -> Tensor:
    """The arc of each row, with norms and angles in float64."""
    wide = x.double(), y.double()
    norms = [(part * part).sum(-1, keepdim=True).sqrt().clamp(min=SHORT) for part in wide]
    cos = ((wide[0] * wide[1]).sum(-1, keepdim=True) / (norms[0] * norms[1])).clamp(-1, 1)
    theta = cos.arccos()
    sine = theta.sin()
    arc = sine.abs() >= FLAT
    safe = torch.where(arc, sine, 1.0)
    to_x = torch.where(arc, ((1 - t) * theta).sin() / safe, 1 - t)
    to_y = torch.where(arc, (t * theta).sin() / safe, t)
    # as a step from x, so that equal rows stay as they are
    return x - ((x - y) * to_y.to(x.dtype)) + x * torch.where(arc, to_x + to_y - 1, 0.0).to(x.dtype)
