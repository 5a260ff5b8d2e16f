"""fisher: average of the parameters, each weighted by how much its model depends on it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from pipeline.merging.blocks import dots, elementwise
from pipeline.merging.calibrated import deciding, needed, refuse_unfit
from pipeline.merging.combination import combination, model_weights
from pipeline.merging.line import mean
from pipeline.merging.settings import Interval


class Sums(NamedTuple):
    """Of one model's Fisher information, over all its entries."""

    norm: float
    mean: float


def fisher(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    weight: float,
    shares: Sequence[float] | None = None,
    statistics: Sequence[Tensor | None] | None = None,
    floor: Annotated[float, Interval("[0, inf)")] = 1e-6,
    normalise: bool = True,
    whole: list[Sums] | None = None,
    name: str = "",
    notes: Counter | None = None,
) -> Tensor:
    """Average of the parameters, each weighted by its diagonal Fisher information.

        theta = sum_i c_i F~_i theta_i / sum_i c_i F~_i,   i = 0 the base, 1, 2, ... the donors
        c = (1 - a, a s_1 / sum s, a s_2 / sum s, ...)
        F_i = mean over texts of (d log p(text) / d theta_i)^2,  F^_i = F_i / ||F_i||,  F~_i = F^_i + floor * mean(F^)

    weight      a, in [0, 1]
    shares      s_i, how the donors split a; equally if None
    statistics  F_i of the base and of each donor; None where a tensor has none
    floor       at least 0, relative to the mean of F^ over all entries of the parents that count, so that it does not
                depend on the length of the texts (the authors' code takes the larger of F and 1e-6, others add 1e-6 or 1e-10)
    normalise   F^ is F divided by its norm over the whole model, as in the authors' code, so that no model counts more
                for being less certain of all texts; false: F^ = F
    whole       what `survey` found; None takes the tensor as the whole model
    name        the tensor's name, for messages
    notes       counts, by reason, the tensors where the definition degenerates

    An entry that no text moves in any parent is the weighted mean with the c_i: the limit of a small floor, and taken
    for floor 0 too. So are tensors without Fisher information. Written as a step from the weighted mean, so that equal
    parents give that parent. Where one parent alone counts the result is that parent.
    Raises ConfigError without statistics, CheckpointError where one does not fit its tensor.
    Reference: Matena and Raffel 2022, Merging models with Fisher-weighted averaging, arXiv 2111.09832.
    """
    found, notes = needed(statistics, "fisher", "Fisher information"), Counter() if notes is None else notes
    weights = model_weights(weight, shares, len(donors))
    taking = deciding(weights, found, "Fisher information", notes)
    if not taking or not base.numel():
        return combination(weights, [base, *donors])
    refuse_unfit([found[i] for i in taking], base.shape, "Fisher information", name)
    models = [(base, *donors)[i] for i in taking]
    sums = [whole[i] for i in taking] if whole else [_sums([found[i]]) for i in taking]
    c, (scales, smoothing) = [float(weights[i]) for i in taking], _scales(sums, floor, normalise)
    if not any(each.norm for each in sums):
        notes["the Fisher information is 0 everywhere, so it is the weighted mean"] += 1

    def block(first: Tensor, *rest: Tensor) -> Tensor:
        thetas, information = (first, *rest[: len(c) - 1]), rest[len(c) - 1 :]
        M = mean(thetas, c)
        F = [c_i * (F_i.double() * scale + smoothing) for c_i, F_i, scale in zip(c, information, scales, strict=True)]
        total = sum(F)
        step = sum(F_i / total * (theta - M) for F_i, theta in zip(F, thetas, strict=True))
        return torch.where((total == 0) | (step == 0), M, M + step)

    return elementwise(block, *models, *(found[i] for i in taking))


def survey(tensors: Callable[[], Iterable[tuple]], count: int, **_settings) -> list[Sums]:
    """The norm and the mean of each model's Fisher information: the base's, then those of `count` donors."""
    found = [[] for _ in range(count + 1)]
    for _, base, _, statistics in tensors():
        for of_model, statistic in zip(found, needed(statistics, "fisher", "Fisher information"), strict=True):
            if statistic is not None and base.numel():
                of_model.append(statistic)
    return [_sums(of_model) for of_model in found]


def _sums(tensors: Iterable[Tensor]) -> Sums:
    square = total = entries = 0
    for tensor in tensors:
        squares, sums = dots(lambda F: [(F, F), (F, torch.ones_like(F))], tensor)
        square, total, entries = square + squares, total + sums, entries + tensor.numel()
    return Sums(square**0.5, total / entries if entries else 0.0)


def _scales(sums: Sequence[Sums], floor: float, normalise: bool) -> tuple[list[float], float]:
    """By what each F_i is multiplied, and what is added to each F^_i."""
    scales = [1 / each.norm if normalise and each.norm else 1.0 for each in sums]
    means = [each.mean * scale for each, scale in zip(sums, scales, strict=True)]
    return scales, floor * sum(means) / len(means)
