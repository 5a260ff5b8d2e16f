"""What the methods that need calibration statistics share."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.errors import CheckpointError, ConfigError
from pipeline.merging.blocks import Lazy


def needed(statistics: Sequence | None, method: str, what: str) -> Sequence:
    """The statistics of one tensor, [of the base, of each donor]; ConfigError where none were made at all."""
    if statistics is None:
        raise ConfigError(
            f"merge={method} needs {what} of the base and of every donor, found none: set merge.calibration to a file "
            "of conf/calibration, or give statistics to the function"
        )
    return statistics


def deciding(weights: Sequence[float], statistics: Sequence, what: str, notes: Counter) -> list[int]:
    """The parents that count, by their place; none where their statistics decide nothing.

    That is so where one counts alone, and where one has no statistic; if others have, it is noted.
    """
    taking = [i for i, weight in enumerate(weights) if weight > 0]
    lacking = [statistics[i] is None for i in taking]
    if len(taking) > 1 and any(lacking) and not all(lacking):
        notes[f"some parents have no {what}, so it is the weighted mean"] += 1
    return [] if len(taking) == 1 or any(lacking) else taking


def refuse_unfit(statistics: Sequence, wanted: Sequence[int], what: str, name: str) -> None:
    """CheckpointError for a statistic of another shape."""
    for statistic in statistics:
        if list(statistic.shape) != list(wanted):
            raise CheckpointError(
                f"the {what} of {name or 'a tensor'} should have shape {list(wanted)}, found {list(statistic.shape)}: "
                "change merge.calibration"
            )


def in_memory(statistic: Tensor | Lazy, device: torch.device) -> Tensor:
    """A whole statistic in float64. It may be called within a block, so it makes no lazy tensor of its own."""
    wide = statistic.whole(torch.float64) if isinstance(statistic, Lazy) else statistic.to(torch.float64)
    return wide.to(device)
