"""A checkpoint as the base's names and rows show it, read in parts."""

import math
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping

from pipeline.checkpoint.header import TensorInfo
from pipeline.checkpoint.read import Reader, dtypes


class View:
    """One model, fitted to the base: `view.part(name, start, stop)` under the base's names. Threads may read at once.

    infos    name -> the base's tensor, with the shape of the result
    names    name -> the model's own name, None where it has no such tensor
    by_row   the names whose rows are `rows`: for each row of the result the model's own, negative where it has none
    missing  (name, start, stop) -> what stands in for tensors and rows that the model has not
    """

    def __init__(
        self,
        reader: Reader,
        infos: Mapping[str, TensorInfo],
        names: Mapping[str, str | None],
        by_row: Collection[str],
        rows: array | None,
        missing: Callable,
    ):
        self._reader, self._infos, self.names, self._missing = reader, infos, names, missing
        self._by_row, self._rows = (set(), array("q")) if rows is None else (by_row, rows)
        self._has_all = rows is None or min(rows, default=0) >= 0

    def dtype(self, name: str) -> str:
        """Of the parts, in safetensors' words: as stored, and wider where the base's rows would not fit in exactly."""
        base, own = self._infos[name].dtype, self.names[name]
        if own is None:
            return base
        stored = self._reader.infos[own].dtype
        return stored if name not in self._by_row or self._has_all else _wider(base, stored)

    def has_row(self, name: str, row: int) -> bool:
        return self.names[name] is not None and (name not in self._by_row or self._rows[row] >= 0)

    def part(self, name: str, start: int, stop: int):
        """The entries [start, stop) of the aligned tensor, flat. Of a vocabulary only the rows in question are read."""
        import torch

        own = self.names[name]
        if own is None:
            return self._missing(name, start, stop)
        if name not in self._by_row or start >= stop:
            part, dtype = self._reader.part(own, start, stop), self.dtype(name)
            return part if dtype == self._reader.infos[own].dtype else part.to(dtypes()[dtype])
        part = torch.empty(stop - start, dtype=dtypes()[self.dtype(name)])
        width = math.prod(self._infos[name].shape[1:])
        for begin, end, at in _runs(self._rows, width, start, stop):
            if at is None:
                part[begin - start : end - start] = self._missing(name, begin, end)
            else:
                part[begin - start : end - start] = self._reader.part(own, at, at + end - begin)
        return part


def mean(views: list[View], info: TensorInfo, name: str, start: int, stop: int):
    """Row by row the mean over the models that have the row, in float64, rounded once to the dtype of `info`."""
    import torch

    dtype, width = dtypes()[info.dtype], math.prod(info.shape[1:])
    part = torch.empty(stop - start, dtype=dtype)
    for row in range(start // width, -(-stop // width)):
        begin, end = max(row * width, start), min((row + 1) * width, stop)
        rows = [view.part(name, begin, end).double() for view in views if view.has_row(name, row)]
        part[begin - start : end - start] = sum(rows[1:], rows[0]) / len(rows)
    return part


def _runs(rows: array, width: int, start: int, stop: int) -> Iterator[tuple[int, int, int | None]]:
    """Parts of [start, stop) that lie together in the model too: (start, stop, start there or None if it has none)."""
    row, last = start // width, -(-stop // width)
    while row < last:
        first, there = row, rows[row]
        step = 0 if there < 0 else 1
        row += 1
        while row < last and rows[row] == there + step * (row - first):
            row += 1
        begin, end = max(first * width, start), min(row * width, stop)
        yield begin, end, None if there < 0 else there * width + begin - first * width


def _wider(one: str, other: str) -> str:
    return one if one == other else "F64" if "F64" in (one, other) else "F32"
