"""Tensors in blocks that fit the cache: read, computed and summed part by part, on any number of threads.

A method is written on tensors. What it is given may be a plain `torch.Tensor`, and then it returns one; or a `Lazy`
tensor, of which only parts are ever in memory, and then it returns a `Lazy` one that is computed when it is written.

elementwise(function, base, *others)   one entry at a time; the function gets flat blocks
rowwise(function, base, *others)       one row at a time; the function gets blocks of whole rows
matrixwise(function, base, *others)    the whole tensor at once
dots(pairs, *tensors), gram(tensors)   sums over all entries, in float64
Uniform(key, shape)                    random numbers by place: the same whatever the blocks, threads and order

Arithmetic is in float32, and in float64 where the base is. Sums are made block by block in a fixed order, so that the
number of threads changes no bit.
"""

import ctypes
import functools
import hashlib
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.merging import compiled

BLOCK = 1 << 19  # entries: with more, threads wait less for each other; with fewer, operands stay nearer
CHUNK = 2 * BLOCK  # entries that one task of a thread computes

_pool: ThreadPoolExecutor | None = None
_threads = 1
_device = torch.device("cpu")
_memo = threading.local()


class Lazy:
    """A tensor of which only parts are ever in memory."""

    shape: torch.Size
    dtype: torch.dtype
    grain = 1  # entries that can only be computed together; a whole number of grains is read at once

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def numel(self) -> int:
        return math.prod(self.shape)

    def read(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """The entries [start, stop), flat, in a dtype, on the device of the arithmetic."""
        raise NotImplementedError

    def raw(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """The same for what takes bfloat16, too: that is left as it is stored where the loops of `compiled` can read it."""
        return self.read(start, stop, dtype)

    def ranges(self, size: int = BLOCK) -> list[tuple[int, int]]:
        """The parts, of about `size` entries and whole grains, that make up the tensor."""
        step = max(1, size // max(1, self.grain)) * max(1, self.grain)
        return [(start, min(start + step, self.numel())) for start in range(0, self.numel(), step)]

    def whole(self, dtype: torch.dtype) -> Tensor:
        """All of it, in its shape."""
        result = torch.empty(self.numel(), dtype=dtype)
        for start, stop in self.ranges():
            result[start:stop] = self.read(start, stop, dtype)
        return result.reshape(self.shape)


class Stored(Lazy):
    """A tensor that is kept elsewhere: `part(start, stop)` gives its entries, flat, in its own dtype.

    refuse   raises where a part that it is shown holds NaN or infinity
    checked  show it every part whose sum is not finite, instead of leaving that to `refuse_not_finite`
    """

    def __init__(
        self,
        part: Callable[[int, int], Tensor],
        shape: Sequence[int],
        dtype: torch.dtype,
        refuse: Callable[[Tensor], None] | None = None,
        checked: bool = False,
    ):
        self.part, self.shape, self.dtype = part, torch.Size(shape), dtype
        self.refuse, self.checked = refuse, checked

    def read(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        part = self._part(start, stop)
        return _once((id(self), start, stop, dtype), lambda: self._seen(self._widened(part, dtype)))

    def raw(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        part = self._part(start, stop)  # a donor's may be of another dtype than the base's, which is declared
        if part.dtype == torch.bfloat16 and dtype == torch.float32 and part.device.type == _device.type == "cpu":
            return _once((id(self), start, stop, "raw"), lambda: self._seen(part))
        return _once((id(self), start, stop, dtype), lambda: self._seen(self._widened(part, dtype)))

    def _widened(self, part: Tensor, dtype: torch.dtype) -> Tensor:
        part = part if part.device.type == _device.type == "cpu" else part.to(_device)
        if part.element_size() == 2 and dtype == torch.float64:  # exact, and at a fifth of the cost of one step
            part = part.to(torch.float32)
        return part if part.dtype == dtype else part.to(dtype)

    def _part(self, start: int, stop: int) -> Tensor:
        return _once((id(self), start, stop), lambda: self.part(start, stop))

    def _seen(self, part: Tensor) -> Tensor:
        if self.checked:
            refuse_not_finite([self], [part])
        return part


def _once(key: tuple, made: Callable[[], Tensor]) -> Tensor:
    """What was made of a key within `remembered`, or is made now."""
    memo = getattr(_memo, "parts", None)
    if memo is None:
        return made()
    if key not in memo:
        memo[key] = made()
    return memo[key]


class Computed(Lazy):
    """function(*tensors) in the base's shape, block by block; always computed in the working dtype of the first."""

    def __init__(
        self, function: Callable[..., Tensor], tensors: Sequence[Lazy], grain: int, shape: Sequence[int], raw: bool
    ):
        self.function, self.tensors, self.block, self.as_stored = function, tensors, tuple(shape), raw
        self.shape, self.dtype = tensors[0].shape, tensors[0].dtype
        self.grain = max([grain, *(tensor.grain for tensor in tensors)])

    def read(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        working = working_dtype(self)
        blocks = [(tensor.raw if self.as_stored else tensor.read)(start, stop, working) for tensor in self.tensors]
        if self.grain == self.numel():  # what is about to be decomposed must be finite; block by block others see to it
            refuse_not_finite(self.tensors, blocks)
        if self.block != (-1,):  # each call lets another thread in, and is waited for
            blocks = [block.reshape(self.block) for block in blocks]
        result = self.function(*blocks)
        result = result if result.ndim == 1 else result.reshape(-1)
        return result if result.dtype == dtype else result.to(dtype)


def refuse_not_finite(tensors: Sequence[Lazy], blocks: Sequence[Tensor]) -> None:
    """Let a stored tensor refuse a part of it whose sum is not finite: NaN or infinity is in it, or large numbers only."""
    for tensor, block in zip(tensors, blocks, strict=True):
        if isinstance(tensor, Stored) and tensor.refuse is not None and not math.isfinite(float(block.sum())):
            tensor.refuse(block)


class Uniform(Lazy):
    """Numbers uniform in [0, 1), 24 bits each, by place: entry i depends on the key and on i alone.

    key  words and numbers, for example the draw, the method, the tensor's name and the donor
    """

    dtype = torch.float32
    SEGMENT = 1 << 16

    def __init__(self, key: Sequence[Any], shape: Sequence[int]):
        self.shape = torch.Size(shape)
        digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
        self.words = np.array([*np.frombuffer(digest, "<u4"), 0], np.uint64)  # the last is the segment's number

    def read(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        result = np.empty(stop - start, np.float32)
        compiled.uniform(self.words, start, self.SEGMENT, result)
        return torch.from_numpy(result).to(device=_device, dtype=dtype)


def lazy(tensor: Tensor | Lazy) -> Lazy:
    """A tensor in memory as a lazy one."""
    if isinstance(tensor, Lazy):
        return tensor
    flat = tensor.detach().reshape(-1)
    return Stored(lambda start, stop: flat[start:stop], tensor.shape, tensor.dtype)


def working_dtype(tensor: Tensor | Lazy) -> torch.dtype:
    """Arithmetic is in float32, and in float64 where the base is."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def elementwise(
    function: Callable[..., Tensor], base: Tensor | Lazy, *others: Tensor | Lazy, raw: bool = False
) -> Tensor | Lazy:
    """function(base, *others) for a function that looks at one entry at a time; it gets flat blocks.

    raw  what is stored in bfloat16 may come as that: the function must not calculate with it but by what takes it, as
         `filled`, `arrays` and what is made of them do, or `widened`
    """
    return _computed(function, base, others, 1, (-1,), raw)


def rowwise(
    function: Callable[..., Tensor],
    base: Tensor | Lazy,
    *others: Tensor | Lazy,
    transposed: bool = False,
    raw: bool = False,
) -> Tensor | Lazy:
    """function(base, *others) for a function that looks at one row at a time; it gets blocks of shape [rows, columns].

    A row is the last dimension, and all of a vector. `transposed`: rows are the first dimension of a matrix.
    `raw`: as in `elementwise`.
    """
    if transposed and base.ndim == 2:
        return matrixwise(function, base, *others, transposed=True)
    columns = max(1, base.shape[-1] if base.ndim else 1)
    return _computed(function, base, others, columns, (-1, columns), raw)


def matrixwise(
    function: Callable[..., Tensor], base: Tensor | Lazy, *others: Tensor | Lazy, transposed: bool = False
) -> Tensor | Lazy:
    """function(base, *others) on the whole tensors, in their shape; `transposed`: matrices are turned before and after."""
    if transposed and base.ndim == 2:
        upright = function

        def function(*tensors: Tensor) -> Tensor:
            return upright(*(tensor.T for tensor in tensors)).T

    return _computed(function, base, others, base.numel(), tuple(base.shape))


def _computed(function, base, others, grain: int, block: tuple, raw: bool = False) -> Tensor | Lazy:
    result = Computed(function, [lazy(tensor) for tensor in (base, *others)], grain, block, raw)
    return result if isinstance(base, Lazy) else result.whole(working_dtype(base))


def dots(pairs: Callable[..., list[tuple[Tensor, Tensor]]], *tensors: Tensor | Lazy) -> list[float]:
    """<x, y> over all entries, for the pairs (x, y) that `pairs` makes of each block in float64: products and sums are, too."""
    return _totals(lambda *blocks: [dot(x, y) for x, y in pairs(*blocks)], tensors, torch.float64)


def gram(tensors: Sequence[Tensor | Lazy], origin: Tensor | Lazy | None = None) -> np.ndarray:
    """G_ij = <x_i - origin, x_j - origin> over all entries, in float64; the origin is zero if None.

    Differences of 16-bit numbers are taken in float32: exact, unless one is thousands of times the other, and rounded once then.
    """
    count, given = len(tensors), [*tensors, *([] if origin is None else [origin])]
    widest = max(tensor.dtype.itemsize for tensor in given)
    dtype = torch.float32 if widest <= (4 if origin is None else 2) else torch.float64
    above = np.triu_indices(count)

    def products(*blocks: Tensor) -> Sequence[float]:
        if len({block.dtype for block in blocks}) > 1:
            blocks = widened(*blocks)
        if (flat := arrays(*blocks)) is not None:
            out = np.empty(len(above[0]))
            compiled.products(tuple(flat[:count]), flat[-1], origin is not None, out)
            return out
        blocks = widened(*blocks)
        vectors = blocks if origin is None else [block - blocks[count] for block in blocks[:count]]
        return [dot(vectors[i], vectors[j]) for i, j in zip(*above, strict=True)]

    result = np.empty((count, count))
    result[above] = result.T[above] = _totals(products, given, dtype, raw=True)
    return result


def _totals(
    sums: Callable[..., Sequence[float]], tensors: Sequence[Tensor | Lazy], dtype: torch.dtype, raw: bool = False
) -> list[float]:
    """What `sums` finds of each block, in a dtype or `raw` as in `elementwise`, added up in a fixed order."""
    parts = [lazy(tensor) for tensor in tensors]
    widest = max(parts, key=lambda part: part.grain)

    def of_chunk(place: tuple[int, int]) -> list[Sequence[float]]:
        return [
            sums(*((part.raw if raw else part.read)(start, stop, dtype) for part in parts))
            for start, stop in _split(widest, *place)
        ]

    found = [row for chunk in mapped(of_chunk, widest.ranges(CHUNK)) for row in chunk]
    found = found or [sums(*(torch.zeros(0, dtype=dtype) for _ in parts))]
    return [float(np.add.reduce(np.array(column))) for column in zip(*found, strict=True)]


def difference(x: Tensor, y: Tensor) -> Tensor:
    """x - y"""
    found = filled(compiled.trimmed, (y, x), 0.0)  # by nothing
    return torch.sub(*widened(x, y)) if found is None else found


def indicator(compare: Callable[..., Tensor], x: Tensor, y: Tensor | float) -> Tensor:
    """compare(x, y) as 1 and 0 of x's dtype, for example of torch.lt: to multiply with.

    torch.where is not vectorised on a CPU, and a mask that no branch predictor can guess costs ten additions.
    """
    return compare(x, y, out=torch.empty_like(x))


def choose(mask: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """x where the mask is true and y elsewhere, bit for bit; see `indicator` for why not torch.where."""
    whole = torch.int64 if x.element_size() == 8 else torch.int32
    bits = mask.view(torch.int8).to(whole).neg_()  # all ones where true
    return bits.bitwise_and_(x.view(whole) ^ y.view(whole)).bitwise_xor_(y.view(whole)).view(x.dtype)


def dot(x: Tensor, y: Tensor) -> float:
    """<x, y> in float64, in a fixed order; float32 is widened on the way.

    A BLAS, or a sum on several threads, would give other last bits on other machines of one architecture.
    """
    if x.numel() != y.numel():
        raise ValueError(f"expected as many entries in both, found {x.numel()} and {y.numel()}")
    if (flat := arrays(x, y)) is not None:
        return compiled.dot(*flat)
    x, y = x.reshape(-1).double(), y.reshape(-1).double()
    return compiled.dot(x.numpy(), y.numpy()) if x.device.type == "cpu" else float(torch.dot(x, y))


def arrays(*tensors: Tensor) -> list[np.ndarray] | None:
    """The tensors as flat arrays for `compiled`, bfloat16 as its bits.

    None where they are on a GPU, strided, not alike in shape, or neither of one working dtype nor, but for that, bfloat16.
    """
    working = {tensor.dtype for tensor in tensors} - {torch.bfloat16}
    if not (working <= {torch.float32} or {tensor.dtype for tensor in tensors} == {torch.float64}):
        return None
    shape = tensors[0].shape
    if any(each.device.type != "cpu" or each.shape != shape or not each.is_contiguous() for each in tensors):
        return None
    return [_bits(each.detach()).numpy().reshape(-1) for each in tensors]


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor


def widened(*tensors: Tensor) -> list[Tensor]:
    """The tensors, bfloat16 in float32."""
    return [tensor.float() if tensor.dtype == torch.bfloat16 else tensor for tensor in tensors]


def filled(loop: Callable[..., None], tensors: Sequence[Tensor], *numbers: float) -> Tensor | None:
    """What a loop of `compiled` makes of tensors and numbers, in the working dtype; None where it does not take them."""
    if (flat := arrays(*tensors)) is None:
        return None
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    out = torch.empty_like(tensors[0], dtype=dtype)
    result = out.numpy().reshape(-1)
    with np.errstate(over="ignore"):  # what is infinite is refused where the result is
        numbers = tuple(map(result.dtype.type, numbers))
    loop(*flat, *numbers, result)
    return out


def total(block: Tensor) -> float:
    """The sum of a float64 block, in a fixed order."""
    return float(np.add.reduce(block.reshape(-1).numpy())) if block.device.type == "cpu" else float(block.sum())


def mapped(function: Callable, items: Iterable) -> Iterator:
    """function(item) for every item, in order, on the threads of `workers`; a few at a time."""
    if _pool is None:
        yield from map(function, items)
        return
    waiting: deque = deque()
    for item in items:
        waiting.append(_pool.submit(function, item))
        if len(waiting) > 2 * _threads:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def workers(threads: int = 1, device: str = "cpu"):
    """Within it, blocks are computed on so many threads, and on the device."""
    global _pool, _threads, _device
    _keep_freed_memory()
    before = torch.get_num_threads(), _pool, _threads, _device
    torch.set_num_threads(1)  # the threads are ours: a block is too small to be shared
    _threads, _device = max(1, threads), torch.device(device)
    _pool = ThreadPoolExecutor(_threads, "merge", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield _pool
    finally:
        _pool.shutdown(cancel_futures=True)
        intra, _pool, _threads, _device = before
        torch.set_num_threads(intra)


@functools.cache
def _keep_freed_memory() -> None:
    """Blocks come and go by the thousand: glibc would give each back to the system, and clear it anew (a third of the time)."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option, size in ((-1, 1 << 29), (-2, 1 << 24), (-3, 1 << 28)):  # trim threshold, top pad, mmap threshold
            libc.mallopt(option, size)


@contextmanager
def remembered():
    """Within it, a part that was read once on this thread is not read again; for the length of one block."""
    _memo.parts = {}
    try:
        yield
    finally:
        _memo.parts = None


def _split(tensor: Lazy, start: int, stop: int) -> list[tuple[int, int]]:
    """A part of a tensor in blocks."""
    step = max(1, BLOCK // max(1, tensor.grain)) * max(1, tensor.grain)
    return [(at, min(at + step, stop)) for at in range(start, stop, step)]


def chunks(tensor: Lazy, function: Callable[[int, int], Any]) -> Callable[[tuple[int, int]], list]:
    """A task for one part of a tensor: `function(start, stop)` on each of its blocks, each part read once."""

    def task(place: tuple[int, int]) -> list:
        results = []
        for start, stop in _split(tensor, *place):
            with remembered():
                results.append(function(start, stop))
        return results

    return task
