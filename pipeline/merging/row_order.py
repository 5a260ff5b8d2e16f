"""The order of the magnitudes within each row, exactly, by a sort of 32-bit keys."""

import numpy as np
import torch
from torch import Tensor

# Neighbours in the wrong order are put right one by one up to this share of all, and by so many passes over them.
FEW, PASSES = 1 / 64, 64
WIDTHS = range(300, 8193)  # columns: a shorter row is sorted at once, of a wider one the keys tell too little apart
SMALLEST = 1e-20  # of a row's largest root: its steps are normal numbers


def ascending(magnitudes: Tensor) -> Tensor:
    """The columns of each row's entries, [rows, columns] in int64, the smallest first, equal ones by their place.

    A key is the root of the magnitude, in equal steps up to the row's largest, before the column. Keys are half as wide as
    magnitude and column, and sorted two to three times as fast; the few neighbours that share a step and stand in the
    wrong order are swapped until none is left. Where they are not few, whole magnitudes are sorted.
    """
    magnitudes = magnitudes.contiguous()  # what is stored turned comes turned
    if magnitudes.device.type != "cpu":
        keys = _by_whole(magnitudes)
        return keys.sort(dim=-1).values & 0xFFFFFFFF
    if magnitudes.shape[1] in WIDTHS and (found := _by_steps(magnitudes)) is not None:
        return found
    keys = _by_whole(magnitudes)
    keys.numpy().sort(axis=-1)  # several times as fast as torch's
    return keys.bitwise_and_(0xFFFFFFFF)


def _by_whole(magnitudes: Tensor) -> Tensor:
    """64-bit keys: the magnitude's bits before the column."""
    keys = magnitudes.view(torch.int32).long() << 32
    return keys.bitwise_or_(torch.arange(magnitudes.shape[1], device=keys.device))


def _by_steps(magnitudes: Tensor) -> Tensor | None:
    """By 32-bit keys; None where these tell too few magnitudes apart."""
    columns = magnitudes.shape[1]
    bits = max(1, (columns - 1).bit_length())
    steps = 2 ** (32 - bits) * (1 - 1e-6)  # the last step is below 2^(32 - bits), however its product is rounded
    roots = magnitudes.sqrt()  # most entries are small, and steps of the root are finer there
    largest = roots.amax(dim=1, keepdim=True).clamp_(min=SMALLEST)
    # roots, products with one factor and their whole parts are monotone in float32
    keys = roots.mul_(steps / largest).to(torch.int32).numpy().view(np.uint32)
    keys <<= np.uint32(bits)
    keys |= np.arange(columns, dtype=np.uint32)
    keys.sort(axis=1)
    keys &= np.uint32((1 << bits) - 1)
    order = torch.from_numpy(keys.view(np.int32)).long()
    ordered = magnitudes.gather(1, order)
    wrong = np.zeros(ordered.shape, bool)  # with the next one in the row
    np.greater(ordered[:, :-1], ordered[:, 1:], out=wrong[:, :-1])
    at = np.flatnonzero(wrong)
    if len(at) > FEW * wrong.size:
        return None
    flat, ordered = order.view(-1).numpy(), ordered.view(-1).numpy()
    for _ in range(PASSES):
        if not len(at):
            return order
        first = at[np.diff(at, prepend=-2) > 1]  # of pairs that overlap
        for each in (flat, ordered):
            each[first], each[first + 1] = each[first + 1], each[first]
        at = np.unique(np.concatenate([at, first - 1, first + 1]))
        at = at[(at >= 0) & (at % columns < columns - 1)]
        at = at[ordered[at] > ordered[at + 1]]
    return None
