"""A checkpoint, written one tensor or part of one at a time; the same tensors give the same bytes."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from pipeline.checkpoint.header import BYTES, INDEX, LENGTH, SINGLE, TensorInfo
from pipeline.checkpoint.read import dtypes

SHARD_SIZE = 5_000_000_000


class Writer:
    """Safetensors into a folder, as a context manager; `write` or `append` the tensors in the order of `writer.order`.

    `tensors` says beforehand what will come (only dtype and shape are looked at), so that the header is written first
    and no tensor is held. One file, or shards with an index where the tensors take more than `shard_size` bytes.
    Within a file wider dtypes come first, so that every tensor is aligned; otherwise the given order stands.
    """

    def __init__(self, folder: Path, tensors: Mapping[str, TensorInfo], *, shard_size: int = SHARD_SIZE):
        self.folder, self.tensors = Path(folder), tensors
        shards = _plan(tensors, shard_size)
        names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
        self.files = dict(zip([SINGLE] if len(shards) == 1 else names, shards, strict=True))
        self.order = [name for shard in shards for name in shard]
        self._places = {name: file for file, shard in self.files.items() for name in shard}
        self._waiting = iter(self.order)
        self._due, self._left = next(self._waiting, None), 0  # left: entries to come of a tensor that was begun
        self._stream, self._file = None, None

    def __enter__(self) -> "Writer":
        if not self.order:
            self._open(SINGLE)
        return self

    def write(self, name: str, tensor) -> None:
        """The next tensor as a whole, in the dtype and shape that were announced."""
        if self._left or name != self._due or tuple(tensor.shape) != self.tensors[name].shape:
            raise ValueError(f"expected {self._expected()}, then came {name}, {tensor.dtype}, {tuple(tensor.shape)}")
        self.append(tensor)

    def append(self, part) -> None:
        """The next entries of the tensor that is due, in the dtype that was announced and in any shape.

        The first part is of the first tensor of `writer.order`; a tensor that has all its entries makes the next one
        due. An empty tensor takes one empty part. Raises ValueError for another dtype, for entries beyond the tensor's
        end and, when the writer is closed, for a tensor that ended early.
        """
        import torch

        fits = self._due is not None and part.dtype == dtypes()[self.tensors[self._due].dtype]
        left = (self._left or math.prod(self.tensors[self._due].shape)) - part.numel() if fits else -1
        if left < 0:
            raise ValueError(f"expected {self._expected()}, then came {part.numel()} entries of {part.dtype}")
        if (file := self._places[self._due]) != self._file:
            self._close()
            self._open(file)
        self._stream.write(memoryview(part.detach().contiguous().reshape(-1).view(torch.uint8).numpy()))
        self._left = left
        if not left:
            self._due = next(self._waiting, None)

    def _expected(self) -> str:
        if self._due is None:
            return "nothing more"
        info = self.tensors[self._due]
        return f"{self._left or math.prod(info.shape)} entries of {self._due} {list(info.shape)} in {info.dtype}"

    def __exit__(self, kind, error, trace) -> None:
        self._close()
        if kind is None:
            if self._due is not None:
                what = f"{self._left} entries of {self._due} were" if self._left else f"{self._due} was"
                raise ValueError(f"{what} announced but never written")
            if len(self.files) > 1:
                total = sum(info.bytes for info in self.tensors.values())
                index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(self._places.items()))}
                self._open(INDEX, json.dumps(index, indent=2).encode() + b"\n")
                self._close()

    def _open(self, file: str, head: bytes | None = None) -> None:
        self._file, self._stream = file, open(self.folder / file, "wb")  # noqa: SIM115 — closed by _close
        self._stream.write(self._header(self.files[file]) if head is None else head)

    def _close(self) -> None:
        if self._stream is not None:
            with self._stream as stream:
                stream.flush()
                os.fsync(stream.fileno())
            self._stream = None

    def _header(self, names: list[str]) -> bytes:
        entries, at = {"__metadata__": {"format": "pt"}}, 0
        for name in names:
            info = self.tensors[name]
            entries[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [at, at + info.bytes]}
            at += info.bytes
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return LENGTH.pack(len(text)) + text


def _plan(tensors: Mapping[str, TensorInfo], shard_size: int) -> list[list[str]]:
    """Names by file. A tensor larger than `shard_size` has a file of its own."""
    shards, room = [[]], shard_size
    for name, info in tensors.items():
        if shards[-1] and info.bytes > room:
            shards.append([])
            room = shard_size
        shards[-1].append(name)
        room -= info.bytes
    return [sorted(shard, key=lambda name: -BYTES[tensors[name].dtype]) for shard in shards]
