"""Entries of a given rank, exactly, by streaming over the tensors: no sort, and little held in memory.

A float32 is taken as a 32-bit key that orders as the numbers do. A few entries of each block tell in which range of
keys a rank will lie; one pass counts what is below the range, and every key inside it. Should the rank turn out to lie
elsewhere (or the guess be too vague), two passes find it without a guess: one counts the upper 16 bits of all keys, one the lower 16 of those that
share the right upper ones.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline import progress
from pipeline.merging.blocks import Lazy, elementwise, mapped

HALF = 1 << 16
HELD = 1 << 23  # entries that are held in memory at most: 32 MB
COUNTED = 1 << 18  # entries counted at once
LOOKED_AT = 1 << 12  # and how many of these the guess is made from
WIDEST = 32 * HALF  # keys in the range of a guess: its counts take 16 MB


class Range(NamedTuple):
    """Keys from `low` on, up to `high` and without it."""

    low: int
    high: int


def order_statistics(
    tensors: Sequence[Lazy],
    ranks: Callable[[int, int], Sequence[int]],
    label: str | None = None,
    signed: bool = False,
) -> list[float]:
    """The entries of some ranks (0 is the smallest) among all entries of all the tensors, compared in float32.

    ranks   of the numbers of all entries and of zeros, which ranks are wanted
    label   of a progress bar; None for none
    signed  whether entries may be negative; magnitudes are found in less time
    """
    tensors = [tensor for tensor in tensors if tensor.numel()]
    size = sum(tensor.numel() for tensor in tensors)
    if size <= HELD:
        keys = np.concatenate([np.zeros(0, np.uint32), *_every(tensors, _in_memory, signed, COUNTED)])
        wanted = list(ranks(size, int((keys == _zero(signed)).sum())))
        keys.partition(sorted(set(wanted))) if wanted else None
        return [_number(int(keys[rank]), signed) for rank in wanted]
    with progress.bar(size, label, unit="entries", scale=True) if label else nullcontext() as bar:
        found = _guessed(tensors, size, ranks, signed, bar)
    if found is None:
        with progress.bar(2 * size, label, unit="entries", scale=True) if label else nullcontext() as bar:
            found = _counted(tensors, size, ranks, signed, bar)
    return [_number(key, signed) for key in found]


def thresholds(vectors: Sequence[Sequence[Lazy]], density: float, label: str | None = None) -> list[float]:
    """For each list of tensors: the k-th largest magnitude over all of them, k = int(density * entries).

    Keeping every |x| >= threshold keeps k entries, and more only where magnitudes are equal. 0 where density is 1, and
    infinity where k is 0.
    """
    return [_threshold(tensors, density, label) for tensors in vectors]


def _threshold(tensors: Sequence[Lazy], density: float, label: str | None) -> float:
    if density == 1:
        return 0.0
    k = int(density * sum(tensor.numel() for tensor in tensors))
    if k == 0:
        return float("inf")
    return order_statistics([magnitude(tensor) for tensor in tensors], lambda size, _: [size - k], label)[0]


def magnitude(tensor: Lazy) -> Lazy:
    """|x|"""
    return elementwise(torch.abs, tensor)


def task_vector(base: Lazy, donor: Lazy) -> Lazy:
    """donor - base"""
    return elementwise(lambda base, donor: donor - base, base, donor)


def _guessed(tensors: Sequence[Lazy], size: int, ranks: Callable, signed: bool, bar) -> list[int] | None:
    """The keys of the wanted ranks by one pass; None where the guess was wrong or too wide to be of use."""
    sample = np.concatenate(list(_every(tensors, _in_memory, signed, LOOKED_AT)))
    zeros = round(int((sample == _zero(signed)).sum()) / len(sample) * size)
    expected = list(ranks(size, zeros))
    sample.sort()
    margin = 3 + math.ceil(6 * math.sqrt(len(sample)))  # the blocks are not a random sample: some more than chance
    ranges = []
    for rank in expected:
        place = rank * len(sample) // size
        low = int(sample[max(0, place - margin)])
        high = int(sample[min(len(sample) - 1, place + margin)]) + 1
        if high - low > WIDEST:
            return None
        spare = WIDEST - (high - low)  # the smallest and the largest entry of all lie beyond those that were looked at
        low -= min(spare // 2, low) if place < margin else 0
        high += min(spare // 2, HALF**2 - high) if place + margin >= len(sample) else 0
        ranges.append(Range(low, high))
    zeros, below = 0, [0] * len(ranges)
    inside = [np.zeros(high - low, np.int64) for low, high in ranges]

    def count(keys: Tensor) -> tuple[int, list]:
        return _count_zeros(keys, signed), [_count_inside(keys, each) for each in ranges]

    for nothing, counts in _every(tensors, count, signed, COUNTED, bar):
        zeros += nothing
        for i, (less, keys) in enumerate(counts):
            below[i] += less
            np.add.at(inside[i], keys, 1)  # not bincount: a range has more keys than a block has entries in it
    wanted = list(ranks(size, zeros))
    if len(wanted) != len(ranges):
        return None
    found = []
    for rank, less, counts, each in zip(wanted, below, inside, ranges, strict=True):
        upto = np.cumsum(counts)
        if not less <= rank < less + int(upto[-1]):
            return None
        found.append(each.low + int(np.searchsorted(upto, rank - less, side="right")))
    return found


def _counted(tensors: Sequence[Lazy], size: int, ranks: Callable, signed: bool, bar) -> list[int]:
    """The keys of the wanted ranks by two passes."""
    high, zeros = np.zeros(HALF, np.int64), 0

    def count(keys: Tensor) -> tuple[int, np.ndarray]:
        return _count_zeros(keys, signed), _bincount((keys >> 16) & (HALF - 1), HALF)

    for nothing, counts in _every(tensors, count, signed, COUNTED, bar):
        high += counts
        zeros += nothing
    wanted = list(ranks(size, zeros))
    upto = np.cumsum(high)
    bins = [int(np.searchsorted(upto, rank, side="right")) for rank in wanted]
    low = {bin_: np.zeros(HALF, np.int64) for bin_ in set(bins)}

    def refine(keys: Tensor) -> dict[int, np.ndarray]:
        return {bin_: _count_inside(keys, Range(bin_ * HALF, (bin_ + 1) * HALF))[1] for bin_ in low}

    for found in _every(tensors, refine, signed, COUNTED, bar) if wanted else ():
        for bin_, keys in found.items():
            np.add.at(low[bin_], keys, 1)
    return [
        bin_ * HALF + int(np.searchsorted(np.cumsum(low[bin_]), rank - int(upto[bin_] - high[bin_]), side="right"))
        for rank, bin_ in zip(wanted, bins, strict=True)
    ]


def _every(
    tensors: Sequence[Lazy], function: Callable[[Tensor], Any], signed: bool, looked_at: int, bar=None
) -> Iterator:
    """function(keys) of the first `looked_at` entries of every block of COUNTED, in order."""

    def task(place: tuple[Lazy, tuple[int, int]]) -> Any:
        tensor, (start, stop) = place
        if looked_at < COUNTED:
            stop = min(stop, start + max(1, looked_at // tensor.grain) * tensor.grain)
        return function(_keys(tensor.read(start, stop, torch.float32), signed)), stop - start

    for found, size in mapped(task, ((tensor, part) for tensor in tensors for part in tensor.ranges(COUNTED))):
        yield found
        if bar is not None:
            bar.update(size)


def _keys(block: Tensor, signed: bool) -> Tensor:
    """32-bit keys; -0 counts as 0. Magnitudes are keys as they are, others are to be read without a sign."""
    if not signed:
        return block.view(torch.int32)
    bits = (block + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF) ^ -0x80000000


def _zero(signed: bool) -> int:
    return HALF**2 // 2 if signed else 0


def _number(key: int, signed: bool) -> float:
    bits = np.array(key, np.uint32)
    if signed:
        bits = bits ^ np.uint32(0x80000000) if key >= HALF**2 // 2 else ~bits
    return float(bits.view(np.float32))


def _in_memory(keys: Tensor) -> np.ndarray:
    return keys.cpu().numpy().view(np.uint32)


def _count_zeros(keys: Tensor, signed: bool) -> int:
    nonzero = keys ^ -0x80000000 if signed else keys
    count = (
        np.count_nonzero(nonzero.numpy()) if keys.device.type == "cpu" else nonzero.count_nonzero()
    )  # numpy's is faster
    return len(keys) - int(count)


def _count_inside(keys: Tensor, each: Range) -> tuple[int, np.ndarray]:
    """How many keys are below a range, and those inside it, from its start."""
    if keys.device.type == "cpu":
        bits = keys.numpy().view(np.uint32)
        offsets = bits - np.uint32(each.low)  # wraps round below the range
        inside = np.flatnonzero(offsets < each.high - each.low)  # few: taken by place at a sixth of the cost of by mask
        return int(np.count_nonzero(bits < np.uint32(each.low))), offsets[inside]
    offsets = (keys.long() & 0xFFFFFFFF) - each.low
    inside = offsets[(offsets >= 0) & (offsets < each.high - each.low)]
    return int((offsets < 0).sum()), inside.cpu().numpy()


def _bincount(places: Tensor, bins: int) -> np.ndarray:
    counts = (
        np.bincount(places.numpy(), minlength=bins)
        if places.device.type == "cpu"
        else torch.bincount(places, minlength=bins)
    )
    return counts if isinstance(counts, np.ndarray) else counts.cpu().numpy()
