"""Tensors of a checkpoint, read one at a time."""

import functools
import math
import os
import threading
from pathlib import Path

from pipeline.checkpoint.header import BYTES, TensorInfo, headers
from pipeline.errors import CheckpointError

BLOCK = 1 << 20


class Reader:
    """A checkpoint folder as a lazy mapping from name to tensor: `reader.read(name)`.

    Every tensor gets memory of its own. A memory map would keep each page that was touched in the process's resident
    set, and a file that is cut while mapped would kill the process instead of raising.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.infos: dict[str, TensorInfo] = headers(self.folder)
        self._finite: set[str] = set()
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()

    def read(self, name: str, finite: bool = False):
        """The tensor in its own dtype; with `finite`, CheckpointError where it holds NaN or infinity."""
        info = self.infos[name]
        tensor = self.part(name, 0, math.prod(info.shape)).reshape(info.shape)
        if finite and name not in self._finite:
            self._refuse_unless_finite(name, tensor)
            self._finite.add(name)
        return tensor

    def part(self, name: str, start: int, stop: int):
        """The entries [start, stop) of a tensor, flat, in its own dtype. Any number of threads may read at once."""
        import torch

        info = self.infos[name]
        size = BYTES[info.dtype]
        # torch's memory is aligned, numpy's is not always: last bits of sums may depend on it
        tensor = torch.empty((stop - start) * size, dtype=torch.uint8)
        view, at, offset = memoryview(tensor.numpy()), 0, info.start + start * size
        file = self._opened(info.file)
        while at < len(view):
            got = os.preadv(file, [view[at:]], offset + at)
            if not got:
                raise CheckpointError(
                    f"{info.file} should have {info.stop} bytes, found {offset + at}: it was cut "
                    "short while it was read; fetch the model again"
                )
            at += got
        return tensor.view(dtypes()[info.dtype])

    def _opened(self, file: Path) -> int:
        with self._lock:
            if file not in self._files:
                self._files[file] = os.open(file, os.O_RDONLY)
            return self._files[file]

    def __del__(self):
        for file in vars(self).get("_files", {}).values():
            os.close(file)

    def _refuse_unless_finite(self, name: str, tensor) -> None:
        if bad := count_not_finite(tensor):
            raise CheckpointError(
                f"{name} should hold finite numbers, found NaN or infinity in {bad} of {tensor.numel()} "
                f"entries in {self.infos[name].file}: use another checkpoint (model.base or donor.models)"
            )


def count_not_finite(tensor) -> int:
    """How many entries are NaN or infinite, block by block: a mask of a large tensor is not free."""
    if not tensor.is_floating_point():
        return 0
    # float8 has no isfinite of its own
    blocks = (block.float() if block.element_size() == 1 else block for block in tensor.reshape(-1).split(BLOCK))
    return sum(block.numel() - int(block.isfinite().sum()) for block in blocks)


@functools.cache
def dtypes() -> dict:
    """Safetensors' names of the dtypes -> torch's."""
    import torch

    return {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U64": torch.uint64,
        "U32": torch.uint32,
        "U16": torch.uint16,
        "U8": torch.uint8,
        "BOOL": torch.bool,
        "C64": torch.complex64,
    }
