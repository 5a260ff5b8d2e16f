"""The state of a training between two epochs, so that a killed one goes on with the same bits."""

import logging
import os
import pickle
from pathlib import Path

import torch

log = logging.getLogger(__name__)


def keep(folder: Path | None, state: dict, name: str = "state") -> None:
    """Write tensors and plain values to folder/<name>.pt, whole or not at all; without a folder nothing."""
    if folder is None:
        return
    temporary = folder / f"{name}-{os.getpid()}.partial"
    torch.save(state, temporary)
    os.replace(temporary, folder / f"{name}.pt")


def kept(folder: Path | None, name: str = "state") -> dict | None:
    """What `keep` wrote last, on the CPU; None where there is nothing, or nothing that can be read (with a warning)."""
    if folder is None or not (folder / f"{name}.pt").exists():
        return None
    try:
        return torch.load(folder / f"{name}.pt", weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        log.warning("the training starts again: its kept state cannot be read (%s)", error)
        return None
