"""Partial answers on disk: one small file a pack, so that a killed run goes on where it was, with the same bits."""

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import StoreError
from pipeline.progress import bar

log = logging.getLogger(__name__)

# Rows of numbers, truth values and texts; the first of each says which request it belongs to.
Part = list[tuple]


class Scratch:
    """The answers of the packs done so far, in a folder of their own.

    `packs.json` holds a fingerprint of everything the answers depend on. A folder with another fingerprint is emptied,
    and a pack whose file is cut short or altered is computed again; both are said in the log.
    No fsync: after a power cut a torn file fails its own sha256 and is computed again.

    folder       made if it is not there; None keeps nothing
    fingerprint  of the requests, the limits and the model
    Raises StoreError if the folder cannot be written.
    """

    def __init__(self, folder: Path | None, fingerprint: str):
        self.folder, self.fingerprint = folder, fingerprint
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise self._unwritable(error) from error

    def rows(self, packs: list, size: Callable, work: Callable[..., Part], label: str, unit: str) -> Iterator[tuple]:
        """The rows of all packs, in order: those kept here, and those of `work(pack)`, which are then kept.

        size  of a pack in units of the progress bar
        """
        found = [self.read(number) for number in range(len(packs))]
        sizes = [size(pack) for pack in packs]
        done = sum(size for size, part in zip(sizes, found, strict=True) if part is not None)
        with bar(sum(sizes), label, unit=unit, done=done, scale=True) as progress:
            for number, part in enumerate(found):
                if part is None:
                    part = work(packs[number])
                    self.write(number, part)
                    progress.update(sizes[number])
                yield from part

    def read(self, number: int) -> Part | None:
        """The rows of one pack as they were written; None where it must be computed."""
        if self.folder is None:
            return None
        path = self._path(number)
        try:
            record = json.loads(path.read_bytes())
            part = record["answers"]
            if record["sha256"] == self._seal(number, part):
                return [tuple(row) for row in part]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        log.warning("%s is not what was written there: its requests are asked again", path)
        return None

    def write(self, number: int, part: Part) -> None:
        """Keep the rows of one pack."""
        if self.folder is None:
            return
        # repr of a float is exact, so that the same bits come back.
        try:
            self._replace(self._path(number), {"sha256": self._seal(number, part), "answers": part})
        except OSError as error:
            raise self._unwritable(error) from error

    def _open(self) -> None:
        index = self.folder / "packs.json"
        try:
            found = json.loads(index.read_bytes())["fingerprint"]
        except FileNotFoundError:
            found = None
        except (ValueError, KeyError, TypeError, RecursionError):
            found = "unreadable"
        if found == self.fingerprint:
            return
        stale = sorted(self.folder.glob("pack-*.json"))
        if stale:
            log.warning("%s holds answers of other requests, limits or weights: all is asked again", self.folder)
        for path in stale:
            path.unlink()
        self._replace(index, {"fingerprint": self.fingerprint})

    def _path(self, number: int) -> Path:
        return self.folder / f"pack-{number:06d}.json"

    def _seal(self, number: int, part: Part) -> str:
        return hashlib.sha256(json.dumps([self.fingerprint, number, part]).encode()).hexdigest()

    def _replace(self, path: Path, content: dict) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(content))
        os.replace(temporary, path)

    def _unwritable(self, error: OSError) -> StoreError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = "free some space there"
        elif error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
            place = Path(error.filename2 or error.filename)
            in_the_way = next((above for above in place.parents if above.is_file()), place)
            what = f"move {in_the_way} away"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            what = "make it writable"
        else:
            what = "run again"
        return StoreError(
            f"partial answers cannot be kept in {self.folder} ({error.strerror}): "
            f"{what}, or set store to a folder that can be written"
        )
