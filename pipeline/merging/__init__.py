"""Merging: one method a file, on tensors alone.

>>> import torch
>>> from pipeline.merging import merge
>>> base, donor = {"w": torch.tensor([0.0, 1.0])}, {"w": torch.tensor([2.0, 1.0])}
>>> merge(base, [donor], "linear", 0.25)
{'w': tensor([0.5000, 1.0000])}
>>> merge(base, [donor], "ties", 0.5, density=1.0, scale=1.5)
{'w': tensor([1.5000, 1.0000])}

A method `name` is the function `name` in pipeline/merging/name.py, and its defaults stand in conf/merge/name.yaml.
"""

from collections.abc import Sequence

from torch import Tensor

from pipeline.checkpoint.read import count_not_finite
from pipeline.errors import CheckpointError, ConfigError
from pipeline.merging.blocks import lazy, working_dtype
from pipeline.merging.method import Method, bind, defaults, methods

__all__ = ["Method", "bind", "defaults", "merge", "methods"]


def merge(
    base: dict[str, Tensor],
    donors: list[dict[str, Tensor]],
    method: str,
    weight: float | None = None,
    shares: Sequence[float] | None = None,
    **settings,
) -> dict[str, Tensor]:
    """Merge dicts of tensors; the result has the base's names, shapes and dtypes, and shares no memory with it.

    method    one of `methods()`
    weight    what the donors count, 0 (the base) to 1; None for a method that uses none
    shares    how the donors split it, one number a donor; None = equally
    settings  the method's own; those left out have their defaults

    Tensors that are not floating point are the base's.
    Raises ConfigError for a method, setting, weight or shares that cannot be, CheckpointError where names or shapes
    differ, and for NaN or infinity.
    """
    if isinstance(donors, dict):
        raise ConfigError("donors should be a list of dicts of tensors, found one dict: put it in brackets")
    bound = bind(method, {**defaults(method), **settings})
    bound.check(weight, shares, len(donors))
    for i, donor in enumerate(donors):
        _refuse_unlike(base, donor, i)
    for whose, model in (("the base", base), *((f"donor {i}", donor) for i, donor in enumerate(donors))):
        _refuse_not_finite(whose, model)
    floats = {
        name: (lazy(tensor), [lazy(donor[name]) for donor in donors])
        for name, tensor in base.items()
        if tensor.is_floating_point()
    }
    whole = bound.survey(lambda: ((name, *models, None) for name, models in floats.items()), len(donors), shares)
    merged = {}
    for name, tensor in base.items():
        if name in floats:
            result = bound(*floats[name], weight=weight, shares=shares, whole=whole, name=name)
            merged[name] = result.whole(working_dtype(tensor)).to(tensor.dtype, copy=True)
        else:
            merged[name] = tensor.clone()
    return merged


def _refuse_not_finite(whose: str, model: dict[str, Tensor]) -> None:
    for name, tensor in model.items():
        if tensor.is_floating_point() and (bad := count_not_finite(tensor)):
            raise CheckpointError(
                f"{name} should hold finite numbers, found NaN or infinity in {bad} of {tensor.numel()} entries in "
                f"{whose}: change the dicts"
            )


def _refuse_unlike(base: dict[str, Tensor], donor: dict[str, Tensor], place: int) -> None:
    if unlike := sorted(base.keys() ^ donor.keys()):
        has = "base" if unlike[0] in base else f"donor {place}"
        raise CheckpointError(
            f"base and donor {place} should have the same tensors, found {unlike[0]} only in the {has}: "
            "change the dicts"
        )
    for name, tensor in base.items():
        if tensor.shape != donor[name].shape:
            raise CheckpointError(
                f"{name} should have one shape, found {list(tensor.shape)} in the base and "
                f"{list(donor[name].shape)} in donor {place}: change the dicts"
            )
