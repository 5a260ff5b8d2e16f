"""Blocks that the task-vector family shares. All look at one entry at a time."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.merging import compiled
from pipeline.merging.blocks import arrays, choose, filled, indicator, widened, working_dtype
from pipeline.merging.compiled import entries
from pipeline.merging.line import line

VOTES = {"none": entries.NO_VOTE, "plain": entries.PLAIN, "weighted": entries.WEIGHTED}
COMBINE = {"sum": entries.SUM, "mean": entries.MEAN, "weighted_mean": entries.WEIGHTED_MEAN, "max": entries.MAX}


def trim(vector: Tensor, threshold: float) -> Tensor:
    """The entries of magnitude at least `threshold`, compared in float32, and zero elsewhere."""
    if threshold == 0:
        return vector
    if vector.dtype == torch.float32:  # hardshrink keeps what is larger than its limit
        return torch.nn.functional.hardshrink(vector, float(np.nextafter(np.float32(threshold), np.float32(0))))
    return vector * (vector.abs().to(torch.float32) >= threshold)


def trimmed(base: Tensor, donor: Tensor, threshold: float) -> Tensor:
    """`trim` of donor - base."""
    if base.dtype != torch.float64 and (found := filled(compiled.trimmed, (base, donor), threshold)) is not None:
        return found
    base, donor = widened(base, donor)
    return trim(donor - base, threshold)


def merged_vector(vectors: Sequence[Tensor], shares: Sequence[float], vote: str, combine: str) -> Tensor:
    """One task vector out of several: elect a sign, and put together what agrees with it.

        vote     plain: gamma = sign(sum_i tau_i); weighted: gamma = sign(sum_i s_i tau_i); none: all take part
        combine  sum: sum_i s_i tau_i; mean: that divided by how many take part; weighted_mean: by the sum of their s_i;
                 max: the s_i tau_i of largest magnitude, the last one where equal

    An even vote (a sum of exactly 0) elects no sign. Where a task vector is 0 it neither votes nor takes part, except
    that with vote=none the mean is over all donors.
    """
    if vote == "none":
        return combined(vectors, shares, combine, all_take_part=True)
    sign = elect(vectors, shares if vote == "weighted" else None)
    agreeing = [(vector * sign).relu_() for vector in vectors]  # how far each goes the elected way, 0 if it does not
    return combined(agreeing, shares, combine) * sign


def combined(vectors: Sequence[Tensor], shares: Sequence[float], combine: str, all_take_part: bool = False) -> Tensor:
    """The sum, mean, weighted mean or maximum of the s_i tau_i; a 0 takes no part in a mean, or all do."""
    if combine == "weighted_mean":
        shares = [share / max(shares) for share in shares]  # their ratios count, whatever their size
    scaled = [vector if share == 1 else vector * share for vector, share in zip(vectors, shares, strict=True)]
    if combine == "max":
        return largest(scaled)
    total = _sum(scaled)
    if combine == "sum":
        return total
    weights = shares if combine == "weighted_mean" else [1.0] * len(vectors)
    if all_take_part:
        return total / sum(weights)
    taking = [indicator(torch.ne, vector, 0.0) for vector in vectors]
    count = _sum([takes if w == 1 else takes.mul_(w) for takes, w in zip(taking, weights, strict=True)])
    if combine == "mean":
        count.clamp_(min=1)  # 0 / 1 where nothing takes part
    else:
        count += indicator(torch.eq, count, 0.0)
    return torch.div(total, count, out=count)


def elect(vectors: Sequence[Tensor], shares: Sequence[float] | None = None) -> Tensor:
    """sign(sum_i s_i tau_i): the order of the donors decides no vote. An even vote elects 0.

    Two numbers are added with the right sign in any precision; more are added in float64.
    """
    shares = [1.0] * len(vectors) if shares is None else shares
    if len(vectors) == 2 and shares[0] == shares[1]:
        return (vectors[0] + vectors[1]).sign_()
    votes = _sum([vector.double() * share for vector, share in zip(vectors, shares, strict=True)])
    return votes.sign().to(vectors[0].dtype)


def largest(vectors: Sequence[Tensor]) -> Tensor:
    """The entry of largest magnitude, the last one where equal."""
    result = vectors[0]
    for vector in vectors[1:]:
        result = choose((vector.abs() < result.abs()) | result.isnan(), result, vector)
    return result


def moved(
    base: Tensor, donors: Sequence[Tensor], vectors: Sequence[Tensor], shares: Sequence[float], vote: str, combine: str
) -> Tensor:
    """base + merged task vector, the base bit for bit where nothing is added.

    One donor has nobody to disagree with; where its vector is donor - base the end is exactly the donor.
    """
    if len(vectors) == 1:
        share = 1.0 if combine == "weighted_mean" else shares[0]
        return choose(vectors[0] != 0, *widened(line(base, donors[0], share), base))
    return voted(base, vectors, shares, vote, combine)


def voted(
    base: Tensor, vectors: Sequence[Tensor], shares: Sequence[float], vote: str, combine: str, factor: float = 1.0
) -> Tensor:
    """base + factor * merged task vector."""
    found = _voted(base, vectors, [], shares, vote, combine, factor)
    return stepped(base, merged_vector(vectors, shares, vote, combine), factor) if found is None else found


def elected(
    base: Tensor, donors: Sequence[Tensor], limits: Sequence[float], shares: Sequence[float], vote: str, combine: str
) -> Tensor:
    """`moved` by the task vectors, each `trimmed` by its limit."""
    found = None
    if len(donors) > 1 and base.dtype != torch.float64:  # limits are compared in float32
        found = _voted(base, donors, limits, shares, vote, combine)
    if found is not None:
        return found
    vectors = [trimmed(base, donor, limit) for donor, limit in zip(donors, limits, strict=True)]
    return moved(base, donors, vectors, shares, vote, combine)


def _voted(base, operands, limits, shares, vote: str, combine: str, factor: float = 1.0) -> Tensor | None:
    """By a loop (see `compiled.voted`); None where it does not take the tensors."""
    if (flat := arrays(base, *operands)) is None or len({each.dtype for each in operands}) > 1:
        return None
    alike = len(operands) == 2 and shares[0] == shares[1]  # rounded products might come to an even vote, as in `elect`
    votes = np.array(shares if vote == "weighted" and not alike else [1.0] * len(shares))
    if combine == "weighted_mean":
        shares = [share / max(shares) for share in shares]
    weights = shares if combine == "weighted_mean" else [1.0] * len(shares)
    out = torch.empty_like(base, dtype=working_dtype(base))
    result = out.numpy().reshape(-1)
    number = result.dtype.type
    with np.errstate(over="ignore"):  # what is infinite is refused where the result is
        numbers = [np.array(limits, number), np.array(shares, number), votes, np.array(weights, number)]
        numbers += [number(sum(weights)), VOTES[vote], COMBINE[combine], number(factor)]
    compiled.voted(flat[0], tuple(flat[1:]), *numbers, result)
    return out


def stepped(base: Tensor, vector: Tensor, factor: float = 1.0) -> Tensor:
    """base + factor vector, written so that a zero of either sign leaves the base as it is, its own zeros' signs too."""
    if (found := filled(compiled.moved, (base, vector), factor)) is not None:
        return found
    base, vector = widened(base, vector)
    return base - (0.0 - vector * factor)


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    result = tensors[0]
    for tensor in tensors[1:]:
        result = result + tensor
    return result
