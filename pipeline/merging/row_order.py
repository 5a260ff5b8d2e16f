"""The order of the magnitudes within each row, exactly, by a sort of 32-bit keys."""

import numpy as np
import torch
from torch import Tensor

from pipeline.merging import compiled

FEW = 1 / 4  # moves for each entry, up to which those that share a step are put in order one by one
WIDTHS = range(300, 8193)  # columns: a shorter row is sorted at once, of a wider one the keys tell too little apart
SMALLEST = 1e-20  # of a row's largest root: its steps are normal numbers


def ascending(magnitudes: Tensor) -> Tensor:
    """The columns of each row's entries, [rows, columns], the smallest first, equal ones by their place.

    A key is the root of the magnitude, in equal steps up to the row's largest, before the column. Keys are half as wide as
    magnitude and column, and sorted two to three times as fast; the few that share a step and stand in the wrong order
    are then moved to their places. Where they are not few, whole magnitudes are sorted.
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
    sizes, keys = magnitudes.numpy(), np.empty(magnitudes.shape, np.uint32)
    compiled.keyed(sizes, np.float32(steps), np.uint32(bits), np.float32(SMALLEST), keys)
    keys.sort(axis=1)
    few = compiled.settled(sizes, np.uint32((1 << bits) - 1), int(FEW * keys.size), keys)
    return torch.from_numpy(keys.view(np.int32)) if few else None
