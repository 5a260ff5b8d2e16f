"""How a loop is compiled, and kept for the next process.

What numba keeps of a function it keeps under numbers: where its source has changed, or two processes write at once, a
number may stand for something else. Here each state of the sources has a folder of its own, one process at a time reads or
writes in it, and what was read is looked at again. Whatever goes wrong with it, the function is compiled.
"""

import functools
import hashlib
import logging
from pathlib import Path

import numba
from filelock import FileLock
from numba.core.sigutils import normalize_signature

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
OPTIONS = {"nogil": True, "error_model": "numpy"}
PLACES = (HERE / "__pycache__", Path("~/.cache/merging-and-bias"))


def loop(function):
    """Compile a function at its first call for arguments of some types, or take what an earlier process made of it."""
    folder = _folder()
    if folder is None:
        return numba.njit(**OPTIONS)(function)
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
    try:
        compiled = numba.njit(cache=True, **OPTIONS)(function)
    finally:
        numba.config.CACHE_DIR = before
    compiled._cache = Kept(compiled._cache, folder / "lock")
    return compiled


class Kept:
    """numba's cache of one function, without its faults."""

    def __init__(self, cache, lock: Path):
        self.cache, self.lock = cache, FileLock(lock)

    def load_overload(self, signature, target):
        """What was compiled for a signature; None where nothing of use is there."""
        found = self._tried(self.cache.load_overload, signature, target)
        wanted, _ = normalize_signature(signature)
        return found if found is not None and tuple(found.signature.args) == tuple(wanted) else None

    def save_overload(self, signature, compiled) -> None:
        """Keep what was compiled for a signature, if it can be."""
        self._tried(self.cache.save_overload, signature, compiled)

    def _tried(self, function, *given):
        try:
            with self.lock:
                return function(*given)
        except Exception as error:  # noqa: BLE001 - a full disk, a damaged file: the function is compiled then
            log.debug("%s is compiled anew: %s: %s", self.cache._name, type(error).__name__, error)
            return None

    def __getattr__(self, name: str):
        return getattr(self.cache, name)


@functools.cache
def _folder() -> Path | None:
    """Where what is compiled of these sources by this numba is kept; None where nothing can be written."""
    state = hashlib.sha256(numba.__version__.encode())
    for file in sorted(HERE.glob("*.py")):
        state.update(file.read_bytes())
    for place in PLACES:
        folder = place.expanduser() / f"loops-{state.hexdigest()[:16]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "lock").touch()
        except (OSError, RuntimeError):  # the latter: there is no home
            continue
        return folder
    return None
