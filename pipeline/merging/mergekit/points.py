"""Points between models: averages and arcs."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.merging.line import line
from pipeline.merging.mergekit.arithmetic import add, combination, dot, wide


def linear(tensors: Sequence[Tensor], weights: Sequence[float], normalize: bool = True) -> Tensor:
    """sum_i w_i x_i, divided by sum_i w_i if `normalize`; weights may be negative, and a sum of 0 gives inf or nan."""
    tensors = wide(tensors)
    whole = sum(weights)
    if not normalize or whole == 0:
        result = add([tensor * weight for tensor, weight in zip(tensors, weights, strict=True)])
        return result / whole if normalize else result
    return combination([weight / whole for weight in weights], tensors)


def slerp(base: Tensor, donor: Tensor, t: float) -> Tensor:
    """Along the arc from base to donor, each taken as one vector; a line where |cos| > 0.9995.

    A norm of at most 1e-8 counts as 1: such a tensor is at a right angle to everything.
    """
    base, donor = wide((base, donor))
    norms = [norm if (norm := math.sqrt(dot(x, x))) > 1e-8 else 1.0 for x in (base, donor)]
    cos = max(-1.0, min(1.0, dot(base, donor) / norms[0] / norms[1]))
    if abs(cos) > 0.9995:
        return line(base, donor, t)
    theta = math.acos(cos)
    return base * (math.sin((1 - t) * theta) / math.sin(theta)) + donor * (math.sin(t * theta) / math.sin(theta))


def nuslerp(
    first: Tensor,
    second: Tensor,
    t: float,
    base: Tensor | None = None,
    flatten: bool = True,
    row_wise: bool = False,
) -> Tensor:
    """Along the arc from first to second at t = w_2 / (w_1 + w_2) (1/2 where |w_1 + w_2| < 1e-6).

    base      the ends are then first - base and second - base, and the base is added
    flatten   each tensor is one vector; otherwise each row (the last dimension) is
    row_wise  with flatten=False: the vectors lie along the first dimension instead

    A line where |cos| rounds to 1. A norm below 1e-7 counts as 1e-7.
    """
    if base is not None:
        base, first, second = wide((base, first, second))
        moved = nuslerp(first - base, second - base, t, None, flatten, row_wise)
        return torch.where(moved == 0, base, base + moved)
    first, second = wide((first, second))
    turned = row_wise and not flatten and first.ndim > 1
    x, y = (tensor.transpose(0, -1) if turned else tensor for tensor in (first, second))
    if flatten:
        x, y = x.reshape(-1), y.reshape(-1)
        dots = [torch.tensor([dot(*pair)], dtype=torch.float64, device=x.device) for pair in ((x, x), (x, y), (y, y))]
    else:
        dots = [(a.double() * b.double()).sum(-1, keepdim=True) for a, b in ((x, x), (x, y), (y, y))]
    to_x, to_y = _arc(dots, t, first.dtype)
    result = torch.where(to_x == 1 - t, x - (x - y) * to_y, x * to_x + y * to_y)
    return (result.transpose(0, -1) if turned else result).reshape(first.shape)


def _arc(dots: Sequence[Tensor], t: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What the two ends count on the arc at t, from <x, x>, <x, y> and <y, y> in float64."""
    xx, xy, yy = dots
    cos = (xy / xx.sqrt().clamp(min=1e-7) / yy.sqrt().clamp(min=1e-7)).clamp(-1, 1)
    straight = 1 - cos.to(dtype).double().square() <= 1e-16
    theta = torch.where(straight, 1.0, cos.arccos())
    to_x = torch.where(straight, 1 - t, ((1 - t) * theta).sin() / theta.sin())
    to_y = torch.where(straight, t, (t * theta).sin() / theta.sin())
    return to_x.to(dtype), to_y.to(dtype)


def karcher(tensors: Sequence[Tensor], max_iter: int = 10, tol: float = 1e-5) -> Tensor:
    """The mean of directions with equal weights, times the mean norm.

        u <- sum_i a_i u_i, normalised (the first u_i where that is shorter than tol)
        max_iter times: T = sum_i a_i theta_i / sin(theta_i) (u_i - cos(theta_i) u), over the i with theta_i >= tol
                        stop where ||T|| < tol;  u <- cos(||T||) u + sin(||T||) T / ||T||, normalised

    Tensors of norm <= tol have no direction, but their norm counts in the mean; all of them zero give zero. u lies in
    the span of the u_i, so that the iteration runs on their cosines, in float64: mergekit's float32 takes tensors less
    than some 5e-4 apart now for equal and now for not, and misses the mean by up to that angle.
    """
    tensors = wide(tensors)
    products = np.array([[dot(x, y) for x in tensors] for y in tensors])
    norms = np.sqrt(products.diagonal())
    valid = norms > tol
    if not valid.any():
        return torch.zeros_like(tensors[0])
    cosines = products[np.ix_(valid, valid)] / np.outer(norms[valid], norms[valid])
    share = np.full(len(cosines), 1 / len(cosines))
    mean = share.copy()
    length = math.sqrt(max(0.0, mean @ cosines @ mean))
    mean = np.eye(len(mean))[0] if length < tol else mean / length
    for _ in range(max_iter):
        cos = np.clip(cosines @ mean, -1, 1)
        theta = np.arccos(cos)
        pull = share * np.divide(theta, np.sin(theta), out=np.zeros_like(theta), where=theta >= tol)
        step = pull - (pull @ cos) * mean
        size = math.sqrt(max(0.0, step @ cosines @ step))
        if size < tol:
            break
        mean = math.cos(size) * mean + math.sin(size) / size * step
        mean /= math.sqrt(mean @ cosines @ mean)
    coefficients = mean / norms[valid] * norms.mean()
    return combination(coefficients, [tensor for tensor, counts in zip(tensors, valid, strict=True) if counts])


def nearswap(base: Tensor, donor: Tensor, t: float) -> Tensor:
    """w donor + (1 - w) base, w = t / max(|base - donor|, 1e-6), in [0, 1]."""
    base, donor = wide((base, donor))
    w = (t / (base - donor).abs().clamp(min=1e-6)).clamp(0, 1)
    return torch.where(base == donor, base, w * donor + (1 - w) * base)


def multislerp(
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    base: Tensor | None = None,
    normalize_weights: bool = True,
    eps: float = 1e-8,
) -> Tensor:
    """The weighted mean of directions, times the weighted mean of norms.

        m = sum_i w_i x_i / (||x_i|| + eps);  m / ||m|| * sum_i w_i ||x_i||

    base  the x_i are then what is left of the tensors without it, and it is added

    mergekit's steps along tangent vectors at m cancel and leave this. A single tensor is returned as it is, with a base
    too. Where ||m|| < eps two tensors give sum_i w_i x_i, and more raise ConfigError.
    """
    if len(tensors) == 1:
        return wide(tensors)[0]
    if base is not None:
        base, *tensors = wide((base, *tensors))
        moved = multislerp([tensor - base for tensor in tensors], weights, None, normalize_weights, eps)
        return torch.where(moved == 0, base, base + moved)
    tensors = wide(tensors)
    w = np.array(weights, dtype=np.float64) / (sum(weights) if normalize_weights else 1)
    products = np.array([[dot(x, y) for x in tensors] for y in tensors])
    norms = np.sqrt(products.diagonal())
    per_norm = w / (norms + eps)
    length = math.sqrt(max(0.0, per_norm @ products @ per_norm))
    if length < eps and len(tensors) > 2:
        raise ConfigError(
            f"multislerp should be given directions that do not cancel, found {len(tensors)} tensors of shape "
            f"{list(tensors[0].shape)} that do: change their weights in merge.file"
        )
    return combination(w if length < eps else per_norm * float(w @ norms) / length, tensors)


def model_stock(base: Tensor, donors: Sequence[Tensor], filter_wise: bool = False) -> Tensor:
    """(1 - t) base + t mean(donors), t = N c / (1 + (N - 1) c), c the mean cosine over pairs of donors - base.

    filter_wise  a ratio for each row (the last dimension) instead of one for the tensor

    A product of norms below 1e-6 counts as 1e-6. t is not clamped; it is 0 where |1 + (N - 1) c| < 1e-6.
    """
    base, *donors = wide((base, *donors))
    x0, *others = (x if filter_wise and base.ndim else x.reshape(-1) for x in (base, *donors))
    vectors = [(x - x0).double() for x in others]
    norms = [(v * v).sum(-1, keepdim=True).sqrt() for v in vectors]
    cosines = [
        ((vectors[i] * vectors[j]).sum(-1, keepdim=True) / (norms[i] * norms[j]).clamp(min=1e-6)).clamp(-1, 1)
        for i in range(len(vectors))
        for j in range(i + 1, len(vectors))
    ]
    c, n = add(cosines) / len(cosines), len(vectors)
    denominator = 1 + (n - 1) * c
    singular = denominator.abs() < 1e-6
    t = torch.where(singular, 0.0, n * c / torch.where(singular, 1.0, denominator)).to(base.dtype)
    step = combination([1 / n] * n, others) - x0
    return (x0 + step * t).reshape(base.shape)


def arcee_fusion(base: Tensor, donor: Tensor) -> Tensor:
    """The donor where its importance is at least Q2 + 1.5 (Q3 - Q1), the base elsewhere.

        importance = |donor - base| * sum over the row of p log(p / q),
        p = softmax(donor) + 1e-8,  q = softmax(base) + 1e-8

    Q is the entry of rank int(q (n - 1)), over all entries: mergekit draws a million of them where there are more. In
    float32 throughout, because which entries stand out depends on the rounding of the small divergences.
    """
    base, donor = wide((base, donor))
    if base.numel() == 0:
        return base
    p, q = donor.softmax(-1) + 1e-8, base.softmax(-1) + 1e-8
    importance = (donor - base).abs() * (p * (p / q).log()).sum(-1, keepdim=True)
    flat, last = importance.reshape(-1), importance.numel() - 1
    first, median, third = (flat.kthvalue(int(share * last) + 1).values for share in (0.25, 0.5, 0.75))
    return torch.where(importance >= median + 1.5 * (third - first), donor, base)
