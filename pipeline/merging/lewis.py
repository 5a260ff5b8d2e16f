"""lewis: ties or dare with a density for each matrix, from what calibration text activates."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from pipeline.errors import CheckpointError, ConfigError
from pipeline.merging.blocks import Lazy, Stored, dots
from pipeline.merging.calibrated import in_memory, needed
from pipeline.merging.dare import dare
from pipeline.merging.settings import Interval
from pipeline.merging.ties import ties

LINE = KEPT = True
WHAT = "mean squared activations"


def lewis(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    shares: Sequence[float] | None = None,
    into: Literal["ties", "dare"] = "ties",
    gamma: Annotated[float, Interval("[0, 1]")] = 0.3,
    epsilon: Annotated[float, Interval("[0, 1]")] = 0.8,
    draw: Annotated[int, Interval("[0, inf)")] = 0,
    compat: Literal["none", "mergekit"] = "none",
    whole: dict[str, list[float]] | None = None,
    name: str = "",
) -> Tensor:
    """Keep most where a donor changed what a matrix does most.

        I_l = || |W_l| * sqrt(a_l) ||_F,   a_l the mean squared input activations of matrix l on calibration text
        Delta_l = |I_l(donor) - I_l(base)|, divided by its sum over the layers of the same component
        density_l = gamma + (epsilon - gamma) (Delta_l - min Delta) / (max Delta - min Delta), over all matrices
        end = ties or dare of the task vectors, each tensor by itself, with density_l;  other tensors: density 1
        merged = base + a * scale * (end - base)

    shares   s_i, by which the task vectors are multiplied; all 1 if None, not normalised
    into     ties (the k largest entries, k = int(density_l * entries)) or dare (entries at random, over density_l);
             their other settings are their defaults, except that ties trims each tensor by itself
    gamma    lowest density, in [0, 1]; 0.3 in the authors' examples
    epsilon  highest density, in [gamma, 1]; 0.8 in the authors' examples
    draw     which draw of dare's masks
    compat   mergekit: ties or dare as mergekit has them, which the authors use
    whole    the densities that `survey` found, by the tensor's name, one for each donor
    name     the tensor's name

    Each donor has its own densities. A component is a tensor's name without the number of its layer; a matrix without
    such a number (a head) has no layers to be compared with, and density 1. Where all Delta_l are equal the density is
    (gamma + epsilon) / 2. A component in which nothing changed has Delta_l = 0.
    The authors prune each layer to half before its activations go on to the next; here a_l is of the whole model.
    Raises ConfigError without `whole`, and in `refuse` where epsilon < gamma.
    Reference: Chopra et al. 2025, LEWIS: layer-wise sparsity, arXiv 2503.03874.
    """
    if whole is None:
        raise ConfigError(
            "merge=lewis needs what its survey finds in the whole model with calibration statistics, found none: set "
            "merge.calibration to a file of conf/calibration, or give statistics to the function"
        )
    densities = whole.get(name, [1.0] * len(donors))
    if into == "ties":
        return ties(base, donors, shares=shares, density=densities, trim="tensor", compat=compat)
    return dare(base, donors, shares=shares, density=densities, draw=draw, compat=compat, name=name)


def refuse(*, gamma: float, epsilon: float, **_others) -> None:
    """ConfigError for bounds that are the wrong way round."""
    if epsilon < gamma:
        raise ConfigError(
            f"merge.epsilon should be at least merge.gamma = {gamma}, found {epsilon}: change merge.epsilon"
        )


def survey(
    tensors: Callable[[], Iterable[tuple]], count: int, *, gamma: float, epsilon: float, **_others
) -> dict[str, list[float]]:
    """The density of each matrix with a layer number, for each of `count` donors."""
    changes: list[dict[str, float]] = [{} for _ in range(count)]
    for name, base, donors, statistics in tensors():
        found = needed(statistics, "lewis", WHAT)
        if component(name) == name or any(each is None for each in found) or not base.numel():
            continue
        before, *after = (importance(name, W, a) for W, a in zip((base, *donors), found, strict=True))
        for change, now in zip(changes, after, strict=True):
            change[name] = abs(now - before)
    densities = [_densities(change, gamma, epsilon) for change in changes]
    return {name: [of_donor[name] for of_donor in densities] for name in (changes[0] if changes else ())}


def component(name: str) -> str:
    """The name without the number of its layer: layers.3.mlp.up_proj.weight is layers.*.mlp.up_proj.weight."""
    return re.sub(r"(^|\.)\d+\.", r"\1*.", name, count=1)


def importance(name: str, matrix: Tensor | Lazy, activations: Tensor | Lazy) -> float:
    """|| |W| * sqrt(a) ||_F; `activations` has a 1 in its shape where the matrix has its outputs."""
    squares, shape = in_memory(activations, torch.device("cpu")), tuple(matrix.shape)
    if len(shape) != 2 or tuple(squares.shape) not in ((1, shape[1]), (shape[0], 1)):
        raise CheckpointError(
            f"the activations of {name} of shape {list(shape)} should be one for each input, found "
            f"{list(squares.shape)}: change merge.calibration"
        )
    is_row, columns = squares.shape[1] == shape[1], shape[1]

    def part(start: int, stop: int) -> Tensor:
        places = torch.arange(start, stop)
        return squares.reshape(-1)[places % columns if is_row else places // columns]

    if (squares < 0).any():
        raise CheckpointError(f"the {WHAT} of {name} should not be negative: change merge.calibration")
    [total] = dots(lambda W, a: [(W * W, a)], matrix, Stored(part, shape, torch.float64))
    return math.sqrt(total)


def _densities(changes: dict[str, float], gamma: float, epsilon: float) -> dict[str, float]:
    """Delta_l of one donor as densities."""
    totals = defaultdict(float)
    for name, change in changes.items():
        totals[component(name)] += change
    deltas = {name: change / (totals[component(name)] or 1.0) for name, change in changes.items()}
    low, high = min(deltas.values(), default=0.0), max(deltas.values(), default=0.0)
    if low == high:
        return dict.fromkeys(deltas, (gamma + epsilon) / 2)
    return {name: gamma + (epsilon - gamma) * ((delta - low) / (high - low)) for name, delta in deltas.items()}
