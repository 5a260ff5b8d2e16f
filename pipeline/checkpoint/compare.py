"""Whether models can be merged tensor by tensor as they are stored; imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.checkpoint.align import align
from pipeline.checkpoint.configs import CHANGE
from pipeline.checkpoint.header import headers
from pipeline.errors import CheckpointError


def compare(base: Path, donors: Sequence[Path]) -> list[str]:
    """Refuse donors that do not fit the base as they are; returns what is worth saying, in sentences.

    For stages that read all models under the base's names: stricter than `align`, which also fits names and rows.
    Raises CheckpointError naming the tensor, both shapes, and the key to change.
    """
    aligned = align(base, donors)
    mine = headers(base)
    for donor in donors:
        theirs = headers(donor)
        for name in mine.keys() - aligned.buffers:
            if name not in theirs or theirs[name].shape != mine[name].shape:
                found = list(theirs[name].shape) if name in theirs else "none"
                raise CheckpointError(
                    f"{name} should have one shape and one name, found {list(mine[name].shape)} in the base {base} and "
                    f"{found} in the donor {donor}: {CHANGE}"
                )
    return aligned.notes
