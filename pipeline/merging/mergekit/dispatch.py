"""From the name of one of mergekit's methods and its parameters to the function."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pipeline.merging.mergekit.points import (
    arcee_fusion,
    karcher,
    linear,
    model_stock,
    multislerp,
    nearswap,
    nuslerp,
    slerp,
)
from pipeline.merging.mergekit.task_vectors import generalised_task_arithmetic, sce

# Those that look at one entry at a time, and need no whole tensor.
ENTRYWISE = ("linear", "nearswap", "task_arithmetic")
# How the task-vector family differs: what is dropped, and whether a sign is elected.
FAMILY = {
    "task_arithmetic": ("none", False),
    "ties": ("magnitude", True),
    "dare_linear": ("bernoulli", False),
    "dare_ties": ("bernoulli", True),
    "breadcrumbs": ("magnitude_outliers", False),
    "breadcrumbs_ties": ("magnitude_outliers", True),
    "della": ("magprune", True),
    "della_linear": ("magprune", False),
}


def merged(
    method: str,
    models: Sequence[Tensor],
    shared: Mapping[str, Any],
    each: Sequence[Mapping[str, Any]],
    has_base: bool,
    uniforms: Sequence[Tensor] | None = None,
) -> Tensor:
    """One tensor of the merge.

    models    whole tensors, the base first if there is one
    shared    the parameters that are one for all
    each      those of each model
    uniforms  for the random methods, one tensor for each model but the base
    """
    base, donors = (models[0], models[1:]) if has_base else (None, models)
    if method in FAMILY:
        return _task_vectors(method, base, donors, shared, each[1:], uniforms)
    weights = [one["weight"] for one in (each[1:] if has_base else each) if "weight" in one]
    if method == "linear":
        return linear(models, [one["weight"] for one in each], shared["normalize"])
    if method == "karcher":
        return karcher(models, shared["max_iter"], shared["tol"])
    if method == "nuslerp":
        total = sum(weights)
        t = 0.5 if abs(total) < 1e-6 else weights[1] / total
        return nuslerp(*donors, t, base, shared["nuslerp_flatten"], shared["nuslerp_row_wise"])
    if method == "multislerp":
        return multislerp(donors, weights, base, shared["normalize_weights"], shared["eps"])
    if method == "model_stock":
        return model_stock(base, donors, shared["filter_wise"])
    if method == "sce":
        return sce(base, donors, shared["select_topk"])
    if method == "arcee_fusion":
        return arcee_fusion(base, donors[0])
    return {"slerp": slerp, "nearswap": nearswap}[method](base, donors[0], shared["t"])


def _task_vectors(method: str, base: Tensor, donors: Sequence[Tensor], shared, each, uniforms) -> Tensor:
    sparsify, consensus = FAMILY[method]
    own = {key: [one[key] for one in each] for key in ("gamma", "epsilon") if each and key in each[0]}
    return generalised_task_arithmetic(
        base,
        donors,
        [one["weight"] for one in each],
        [one["density"] for one in each],
        sparsify=sparsify,
        consensus=consensus,
        normalize=shared["normalize"],
        rescale=shared["rescale"],
        lambda_=shared["lambda"],
        uniforms=uniforms,
        **own,
    )
