"""The task-vector family: one function behind nine of mergekit's names, and sce."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.merging.mergekit.arithmetic import add, dot, first, l1, wide

Sparsify = Literal["none", "magnitude", "bernoulli", "magnitude_outliers", "magprune"]
SHORT_L1 = 1e-7  # of a task vector or of what is left of it, below which it is not rescaled


def generalised_task_arithmetic(
    base: Tensor,
    donors: Sequence[Tensor],
    weights: Sequence[float],
    densities: Sequence[float],
    *,
    sparsify: Sparsify = "none",
    consensus: bool = False,
    normalize: bool = False,
    rescale: bool = False,
    lambda_: float = 1.0,
    gamma: float | Sequence[float] = 0.01,
    epsilon: float | Sequence[float] = 0.15,
    uniforms: Sequence[Tensor] | None = None,
) -> Tensor:
    """base + lambda * sum_i w_i delta_i, delta_i = sparsified(donor_i - base).

        consensus:  M = +1 where sum_i w_i delta_i >= 0, else -1; only the entries with sign(w_i delta_i) = M take part
        normalize:  divided by the sum of the w_i that take part (by 1 where it is 0)
        rescale:    each delta_i times ||delta_i||_1 before / after being sparsified, unless either is below 1e-7

    sparsify   magnitude: the max(1, int(density n)) largest are kept; bernoulli: each with probability density;
               magnitude_outliers: int(density n) below the int(gamma n) largest, or the smallest if there are too few;
               magprune: with probability density - epsilon (smallest) to density + epsilon (largest), linear in the
               rank along the second dimension, a vector being one row. A density of 1 or more keeps all, 0 nothing.
    gamma, epsilon  one number, or one for each donor
    uniforms   for bernoulli and magprune, one tensor for each donor: what has u < probability is kept

    Of equal magnitudes the first are taken to be the largest by `magnitude`, the smallest otherwise; mergekit's own
    choice is undefined. Raises ConfigError where magprune has no probabilities.

    task_arithmetic   -                    | ties        magnitude, consensus, normalize
    dare_linear       bernoulli, rescale   | dare_ties   bernoulli, consensus, rescale
    breadcrumbs       magnitude_outliers   | breadcrumbs_ties  magnitude_outliers, consensus
    della_linear      magprune, rescale    | della       magprune, consensus, normalize, rescale
    """
    base, *donors = wide((base, *donors))
    gammas, epsilons = (
        [each] * len(donors) if isinstance(each, int | float) else list(each) for each in (gamma, epsilon)
    )
    deltas = []
    for i, donor in enumerate(donors):
        uniform = None if uniforms is None else uniforms[i]
        delta = _sparsified(donor - base, sparsify, densities[i], gammas[i], epsilons[i], uniform, rescale)
        deltas.append(delta * weights[i])
    mixed, divisor = _consented(deltas, weights) if consensus else (add(deltas), sum(weights))
    if normalize and consensus:
        mixed = mixed / torch.where(divisor == 0, 1.0, divisor)
    elif normalize and abs(divisor) >= 1e-8:
        mixed = mixed / divisor
    return torch.where(mixed == 0, base, base + mixed * lambda_)


def _consented(deltas: Sequence[Tensor], weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The sum of what has the elected sign, and the sum of its weights."""
    elected = (add(deltas) >= 0).to(deltas[0].dtype) * 2 - 1
    taking = [delta.sign() == elected for delta in deltas]
    mixed = add([torch.where(takes, delta, 0.0) for takes, delta in zip(taking, deltas, strict=True)])
    return mixed, add([takes.to(mixed.dtype) * weight for takes, weight in zip(taking, weights, strict=True)])


def _sparsified(
    delta: Tensor, how: Sparsify, density: float, gamma: float, epsilon: float, uniform: Tensor | None, rescale: bool
) -> Tensor:
    if how == "none" or density >= 1 or delta.numel() == 0:
        return delta
    if density <= 0:
        return torch.zeros_like(delta)
    kept = _kept(delta, how, density, gamma, epsilon, uniform)
    sparse = torch.where(kept, delta, 0.0)
    before, after = (l1(delta), l1(sparse)) if rescale else (0.0, 0.0)
    return sparse if before < SHORT_L1 or after < SHORT_L1 else sparse * (before / after)


def _kept(delta: Tensor, how: Sparsify, density: float, gamma: float, epsilon: float, uniform: Tensor | None) -> Tensor:
    size, n = delta.abs(), delta.numel()
    if how == "magnitude":
        return first(-size, max(1, int(density * n)))
    if how == "magnitude_outliers":
        keep = int(density * n)
        drop = max(0, n - keep - int(gamma * n))
        return first(size, drop + keep) & ~first(size, drop)
    uniform = uniform.to(delta.device)
    return uniform < (density if how == "bernoulli" else _probabilities(size, density, epsilon))


def _probabilities(size: Tensor, density: float, epsilon: float) -> Tensor:
    if not (density - epsilon > 0 and density + epsilon < 1):
        raise ConfigError(
            f"with mergekit's numbers density - epsilon and density + epsilon should be between 0 and 1, found "
            f"{density} and {epsilon}: change merge.epsilon"
        )
    rows = size.reshape(1, -1) if size.ndim < 2 else size
    if rows.shape[1] == 1:
        raise ConfigError(
            f"with mergekit's numbers della cannot rank rows of one entry, found a tensor of shape {list(size.shape)}: "
            "change merge.compat to none"
        )
    ranks = rows.argsort(dim=1, stable=True).argsort(dim=1).to(size.dtype) / (rows.shape[1] - 1)
    return ((density - epsilon) + ranks * 2 * epsilon).reshape(size.shape)


def sce(base: Tensor, donors: Sequence[Tensor], select_topk: float = 1.0) -> Tensor:
    """base + sum_i w_i tau_i / sum_i w_i over what has the elected sign, tau_i = donor_i - base.

        select:     the int(select_topk * m) entries of largest variance over i, m = entries of variance > 0
        calculate:  w_i = mean tau_i^2 over the tensor, normalised; all equal where their sum is below 1e-6
        erase:      M = +1 where sum_i tau_i >= 0, else -1; keep the tau_i with sign M

    A sum of weights below 1e-6 counts as 1e-6. At select_topk >= 1 all entries are selected, at 0 none.
    """
    base, *donors = wide((base, *donors))
    vectors = [donor - base for donor in donors]
    if select_topk < 1:
        variance = torch.stack(vectors).var(0, correction=0)
        differ = int(variance.count_nonzero())
        # mergekit multiplies in float32, which decides what int() makes of it
        chosen = first(-variance, int(np.float32(differ) * np.float32(max(0.0, select_topk))))
        vectors = [torch.where(chosen, vector, 0.0) for vector in vectors]
    energies = [dot(vector, vector) / max(1, base.numel()) for vector in vectors]
    total = sum(energies)
    weights = [energy / total for energy in energies] if total >= 1e-6 else [1 / len(vectors)] * len(vectors)
    elected = (add(vectors) >= 0).to(base.dtype) * 2 - 1
    taking = [
        (vector.sign() == elected).to(base.dtype) * weight for vector, weight in zip(vectors, weights, strict=True)
    ]
    mixed = add([vector * takes for vector, takes in zip(vectors, taking, strict=True)])
    return torch.where(mixed == 0, base, base + mixed / add(taking).clamp(min=1e-6))
