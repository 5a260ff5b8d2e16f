"""Entries of a given rank, exactly, by streaming over the tensors: no sort, and little held in memory.

A float32 is taken as a 32-bit key that orders as the numbers do. A few entries of each block tell in which range of
keys a rank will lie; one pass counts what is below the range, and every key inside it. Should the rank turn out to lie
elsewhere (or the guess be too vague), two passes find it without a guess: one counts the upper 16 bits of all keys, one the lower 16 of those that
share the right upper ones.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline import progress
from pipeline.merging import compiled
from pipeline.merging.blocks import Lazy, elementwise, filled, mapped, remembered, widened

HALF = 1 << 16
HELD = 1 << 23  # entries that are held in memory at most: 32 MB
GRAIN = attrgetter("grain")
COUNTED = 1 << 19  # entries counted at once
SAMPLE = 1 << 21  # entries that the guess is made from, of all blocks alike
WIDEST = 32 * HALF  # keys in the range of a guess: its counts take 16 MB, for each wanted rank of each list


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
    return _of_each([tensors], ranks, label, signed)[0]


def _of_each(
    lists: Sequence[Sequence[Lazy]], ranks: Callable, label: str | None = None, signed: bool = False
) -> list[list[float]]:
    """`order_statistics` of several lists, whose tensors have the same shapes.

    What several are made of is read once, where the lists do not fit into memory and the guesses are right.
    """
    if any([each.shape for each in tensors] != [each.shape for each in lists[0]] for tensors in lists):
        raise ValueError("expected lists of tensors of the same shapes")
    lists = [[tensor for tensor in tensors if tensor.numel()] for tensors in lists]
    size = sum(tensor.numel() for tensor in lists[0])
    if size <= HELD:
        return [_sorted(tensors, ranks, signed) for tensors in lists]
    with progress.bar(size, label, unit="entries", scale=True) if label else nullcontext() as bar:
        found = _guessed(lists, size, ranks, signed, bar)
    for i, tensors in enumerate(lists):
        if found[i] is None:
            with progress.bar(2 * size, label, unit="entries", scale=True) if label else nullcontext() as bar:
                found[i] = _counted(tensors, size, ranks, signed, bar)
    return [[_number(key, signed) for key in keys] for keys in found]


def _sorted(tensors: Sequence[Lazy], ranks: Callable, signed: bool) -> list[float]:
    """In memory."""
    parts = [keys for (keys,) in _every([tensors], _in_memory, signed, COUNTED)]
    keys = np.concatenate([np.zeros(0, np.uint32), *parts])
    wanted = list(ranks(len(keys), int((keys == _zero(signed)).sum())))
    keys.partition(sorted(set(wanted))) if wanted else None
    return [_number(int(keys[rank]), signed) for rank in wanted]


def thresholds(magnitudes: Sequence[Sequence[Lazy]], density: float, label: str | None = None) -> list[float]:
    """For each list of magnitudes, all of the same shapes: the k-th largest over all of them, k = int(density * entries).

    Keeping every |x| >= threshold keeps k entries, and more only where magnitudes are equal. 0 where density is 1, and
    infinity where k is 0.
    """
    k = int(density * sum(tensor.numel() for tensor in magnitudes[0])) if magnitudes else 0
    if density == 1 or k == 0:
        return [0.0 if density == 1 else float("inf")] * len(magnitudes)
    return [limit for (limit,) in _of_each(magnitudes, lambda size, _: [size - k], label)]


def magnitude(tensor: Lazy) -> Lazy:
    """|x|"""
    return elementwise(torch.abs, tensor)


def distance(base: Lazy, donor: Lazy) -> Lazy:
    """|donor - base|"""

    def block(base: Tensor, donor: Tensor) -> Tensor:
        if (found := filled(compiled.distance, (base, donor))) is not None:
            return found
        base, donor = widened(base, donor)
        return (donor - base).abs()

    return elementwise(block, base, donor, raw=True)


def _guessed(lists: Sequence[Sequence[Lazy]], size: int, ranks: Callable, signed: bool, bar) -> list[list[int] | None]:
    """For each list the keys of the wanted ranks, by one pass; None where a guess was wrong or too wide to be of use."""
    looked_at = max(1, SAMPLE * COUNTED // size)
    samples = map(np.concatenate, zip(*_every(lists, _in_memory, signed, looked_at), strict=True))
    guesses = [_ranges(sample, size, ranks, signed) for sample in samples]
    able = [i for i, ranges in enumerate(guesses) if ranges is not None]
    found: list[list[int] | None] = [None] * len(lists)
    if not able:
        return found
    guesses = [guesses[i] for i in able]
    zeros, below = [0] * len(able), [[0] * len(ranges) for ranges in guesses]
    inside = [[np.zeros(high - low, np.int64) for low, high in ranges] for ranges in guesses]

    def count(i: int, keys: Tensor) -> tuple[int, list]:
        counts = [_count_inside(keys, each, signed) for each in guesses[i]]
        return counts[0][0] if counts else _count_zeros(keys, signed), counts

    for blocks in _every([lists[i] for i in able], count, signed, COUNTED, bar):
        for i, (nothing, counts) in enumerate(blocks):
            zeros[i] += nothing
            for j, (_, less, keys) in enumerate(counts):
                below[i][j] += less
                np.add.at(inside[i][j], keys, 1)  # not bincount: a range has more keys than a block has entries in it
    for i, number in enumerate(able):
        found[number] = _found(list(ranks(size, zeros[i])), guesses[i], below[i], inside[i])
    return found


def _ranges(sample: np.ndarray, size: int, ranks: Callable, signed: bool) -> list[Range] | None:
    """Where the wanted ranks of `size` keys will lie, by a sample of them; None where that says too little."""
    zeros = round(int((sample == _zero(signed)).sum()) / len(sample) * size)
    expected = list(ranks(size, zeros))
    margin = 3 + math.ceil(6 * math.sqrt(len(sample)))  # the blocks are not a random sample: some more than chance
    places, last = [rank * len(sample) // size for rank in expected], len(sample) - 1
    around = [(max(0, place - margin), min(last, place + margin)) for place in places]
    sample.partition(sorted({place for pair in around for place in pair})) if around else None
    ranges = []
    for place, (before, after) in zip(places, around, strict=True):
        low, high = int(sample[before]), int(sample[after]) + 1
        if high - low > WIDEST:
            return None
        spare = WIDEST - (high - low)  # the smallest and the largest entry of all lie beyond those that were looked at
        low -= min(spare // 2, low) if place < margin else 0
        high += min(spare // 2, HALF**2 - high) if place + margin > last else 0
        ranges.append(Range(low, high))
    return ranges


def _found(wanted: list[int], ranges: list[Range], below: list[int], inside: list[np.ndarray]) -> list[int] | None:
    """The keys of the wanted ranks, by how many keys are below each range and how many are each key in it."""
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

    def count(_: int, keys: Tensor) -> tuple[int, np.ndarray]:
        return _count_zeros(keys, signed), _bincount((keys >> 16) & (HALF - 1), HALF)

    for ((nothing, counts),) in _every([tensors], count, signed, COUNTED, bar):
        high += counts
        zeros += nothing
    wanted = list(ranks(size, zeros))
    upto = np.cumsum(high)
    bins = [int(np.searchsorted(upto, rank, side="right")) for rank in wanted]
    low = {bin_: np.zeros(HALF, np.int64) for bin_ in set(bins)}

    def refine(_: int, keys: Tensor) -> dict[int, np.ndarray]:
        return {bin_: _count_inside(keys, Range(bin_ * HALF, (bin_ + 1) * HALF), signed)[2] for bin_ in low}

    for (found,) in _every([tensors], refine, signed, COUNTED, bar) if wanted else ():
        for bin_, keys in found.items():
            np.add.at(low[bin_], keys, 1)
    return [
        bin_ * HALF + int(np.searchsorted(np.cumsum(low[bin_]), rank - int(upto[bin_] - high[bin_]), side="right"))
        for rank, bin_ in zip(wanted, bins, strict=True)
    ]


def _every(
    lists: Sequence[Sequence[Lazy]], function: Callable[[int, Tensor], Any], signed: bool, looked_at: int, bar=None
) -> Iterator[list]:
    """For every block of COUNTED, in order: function(i, keys) of its first `looked_at` entries in each list i."""

    def task(place: tuple[Sequence[Lazy], tuple[int, int]]) -> Any:
        tensors, (start, stop) = place
        if looked_at < COUNTED:
            grain = max(tensors, key=GRAIN).grain
            stop = min(stop, start + max(1, looked_at // grain) * grain)
        with remembered():
            blocks = (tensor.read(start, stop, torch.float32) for tensor in tensors)
            return [function(i, _keys(block, signed)) for i, block in enumerate(blocks)], stop - start

    places = (
        (tensors, part)
        for tensors in zip(*lists, strict=True)
        for part in max(tensors, key=GRAIN).ranges(COUNTED)  # a whole number of the grains of each
    )
    for found, size in mapped(task, places):
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


def _in_memory(_: int, keys: Tensor) -> np.ndarray:
    return keys.cpu().numpy().view(np.uint32)


def _count_zeros(keys: Tensor, signed: bool) -> int:
    others = keys ^ -0x80000000 if signed else keys  # the key of zero becomes 0
    if keys.device.type == "cpu":
        return len(keys) - int(np.count_nonzero(others.numpy()))  # in a third of the time of torch's
    return len(keys) - int(torch.count_nonzero(others))


def _count_inside(keys: Tensor, each: Range, signed: bool) -> tuple[int, int, np.ndarray]:
    """How many keys are that of zero, how many below a range, and those inside it, from its start."""
    if keys.device.type == "cpu":
        offsets = np.empty(len(keys), np.uint32)
        bounds = np.uint32(_zero(signed)), np.uint32(each.low), np.uint32(each.high - each.low)
        zeros, below, inside = compiled.counted(_in_memory(0, keys), *bounds, offsets)
        return zeros, below, offsets[:inside]
    offsets = (keys.long() & 0xFFFFFFFF) - each.low
    inside = offsets[(offsets >= 0) & (offsets < each.high - each.low)]
    return _count_zeros(keys, signed), int((offsets < 0).sum()), inside.cpu().numpy()


def _bincount(places: Tensor, bins: int) -> np.ndarray:
    counts = (
        np.bincount(places.numpy(), minlength=bins)
        if places.device.type == "cpu"
        else torch.bincount(places, minlength=bins)
    )
    return counts if isinstance(counts, np.ndarray) else counts.cpu().numpy()
