"""Merging of dicts of tensors: the room by itself, without the pipeline."""

import logging
from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from pipeline.checkpoint.read import count_not_finite
from pipeline.errors import CheckpointError, ConfigError
from pipeline.merging.blocks import lazy, working_dtype
from pipeline.merging.method import Method, bind, defaults
from pipeline.merging.orientation import CONV1D, is_transposed
from pipeline.merging.settings import plain

log = logging.getLogger(__name__)


def merge(
    base: dict[str, Tensor],
    donors: list[dict[str, Tensor]],
    method: str,
    weight: float | None = None,
    shares: Sequence[float] | None = None,
    statistics: list[dict[str, Tensor]] | None = None,
    model_type: str | None = None,
    **settings,
) -> dict[str, Tensor]:
    """Merge dicts of tensors; the result has the base's names, shapes and dtypes, and shares no memory with it.

    method      one of `methods()`
    weight      what the donors count, 0 (the base) to 1; None for a method that uses none
    shares      how the donors split it, one number a donor; None = equally
    statistics  for regmean, fisher and lewis: a dict of the base and of each donor, by the tensors' names; what they
                hold stands in the docstring of the method's function. A tensor without one is left out of the dicts
    model_type  as in config.json: the methods that go by rows must know where matrices are stored turned (gpt2)
    settings    the method's own; those left out have their defaults

    Tensors that are not floating point are the base's.
    Raises ConfigError for a method, setting, weight or shares that cannot be, CheckpointError where names or shapes
    differ, and for NaN or infinity in what is given, or beyond the base's dtype in the result. Messages name the keys of
    the command line: donor.models are `donors`, donor.shares `shares`, and merge.density is the setting `density`. Where
    the definition degenerates a warning is logged.
    """
    models, weight = _models(base, donors), plain(weight)
    if shares is not None:
        shares = _plain_shares(shares)
    bound = bind(method, {**defaults(method), **settings})
    bound.check(weight, shares, len(donors))
    _refuse_statistics(statistics, len(models), base, method)
    _look_at_orientation(model_type, bound, base)
    for i, donor in enumerate(donors):
        _refuse_unlike(base, donor, i)
    for whose, model in models.items():
        _refuse_not_finite(whose, model)
    floats = {
        name: (lazy(tensor), [lazy(donor[name]) for donor in donors])
        for name, tensor in base.items()
        if tensor.is_floating_point()
    }
    found = {name: statistics and [each.get(name) for each in statistics] for name in floats}
    once = _without_copies(list(models.values()))  # a tied head counts once
    whole = bound.survey(
        lambda: ((name, *tensors, found[name]) for name, tensors in floats.items() if name in once), len(donors), shares
    )
    merged, reasons = {}, Counter()
    for name, tensor in base.items():
        if name in floats:
            notes = Counter()
            given = {
                "shares": shares,
                "whole": whole,
                "name": name,
                "transposed": is_transposed(model_type, name),
                "statistics": found[name],
                "notes": notes,
            }
            result = bound(*floats[name], weight=weight, **given)
            merged[name] = result.whole(working_dtype(tensor)).to(tensor.dtype, copy=True)
            _refuse_overflow(name, merged[name])
            reasons.update(reason for reason, times in notes.items() if times > 0)
        else:
            merged[name] = tensor.clone()
    for reason, count in sorted(reasons.items()):
        log.warning("merge %s: on %d of %d tensors %s", method, count, len(floats), reason)
    return merged


def _plain_shares(shares) -> list[float]:
    try:
        return [plain(share) for share in shares]
    except TypeError:
        raise ConfigError(f"shares should be one number for each donor, found {shares!r}: change shares") from None


def _without_copies(models: list[dict[str, Tensor]]) -> set[str]:
    """Of names whose tensors are one in memory, in every model, the first."""
    first: dict[tuple, str] = {}
    for name in models[0]:
        tensors = [model[name] for model in models]
        place = tuple((tensor.data_ptr(), tensor.shape, tensor.stride()) for tensor in tensors)
        first.setdefault(place if tensors[0].numel() else (name,), name)
    return set(first.values())


def _look_at_orientation(model_type: str | None, bound: Method, base: dict[str, Tensor]) -> None:
    """ConfigError for a misspelt model_type, a warning where one seems to be lacking."""
    if model_type not in CONV1D and str(model_type).lower().replace("-", "") in CONV1D:
        raise ConfigError(
            f"model_type should be as in config.json, such as gpt2, found {model_type!r}: change model_type"
        )
    turned = [name for name in base if is_transposed("gpt2", name)]
    if model_type is None and turned and bound.goes_by_rows:
        log.warning(
            "merge %s goes by rows, and %s is named as GPT-2 names a matrix that is stored turned: if it is, say model_type='gpt2'",
            bound.name,
            turned[0],
        )


def _models(base: dict[str, Tensor], donors: list[dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """The models by what messages call them; ConfigError for what is no list of dicts of tensors."""
    if not isinstance(donors, list | tuple):
        found = (
            "one dict: put it in brackets" if isinstance(donors, dict) else f"{type(donors).__name__}: change donors"
        )
        raise ConfigError(f"donors should be a list of dicts of tensors, found {found}")
    models = {"the base": base, **{f"donor {i}": donor for i, donor in enumerate(donors)}}
    for whose, model in models.items():
        _refuse_no_tensors(whose, model)
    return models


def _refuse_no_tensors(whose: str, model: dict[str, Tensor]) -> None:
    if not isinstance(model, dict):
        raise ConfigError(f"{whose} should be a dict of tensors by their names, found {type(model).__name__}")
    for name, tensor in model.items():
        if not isinstance(tensor, Tensor):
            raise ConfigError(
                f"{name} of {whose} should be a torch.Tensor, found {type(tensor).__name__}: use torch.as_tensor"
            )


def _refuse_statistics(
    statistics: list[dict[str, Tensor]] | None, count: int, base: dict[str, Tensor], method: str
) -> None:
    if statistics is None:
        return
    if not isinstance(statistics, list | tuple) or len(statistics) != count:
        found = len(statistics) if isinstance(statistics, list | tuple) else f"one {type(statistics).__name__}"
        raise ConfigError(
            f"statistics should be a list of {count} dicts, of the base and of each donor, found {found}: "
            "change statistics"
        )
    for place, each in enumerate(statistics):
        whose = f"statistics[{place}]"
        _refuse_no_tensors(whose, each)
        if unknown := sorted(each.keys() - base.keys()):
            raise ConfigError(f"{whose} should have names of the base's tensors, found {unknown[0]}: change statistics")
        if not each or (unlike := sorted(each.keys() ^ statistics[0].keys())):
            found = f"{unlike[0]} in one of the two only" if each else "none"
            raise ConfigError(
                f"{whose} should have the tensors of statistics[0], one at least, found {found}: change statistics"
            )
        for name, statistic in each.items():
            if not statistic.is_floating_point():
                raise ConfigError(
                    f"{name} of {whose} should be floating point, found {statistic.dtype}: change statistics"
                )
        _refuse_not_finite(whose, each)
        for name, statistic in each.items():
            # of a Gram matrix the diagonal holds squares, of the others all
            squares = statistic.diagonal() if method == "regmean" and statistic.ndim == 2 else statistic
            if (squares < 0).any():
                raise ConfigError(f"{name} of {whose} should hold no negative squares: change statistics")


def _refuse_overflow(name: str, merged: Tensor) -> None:
    if bad := count_not_finite(merged):
        raise CheckpointError(
            f"the merge of {name} should be finite, found {bad} of {merged.numel()} entries beyond the range of "
            f"{merged.dtype}, the base's dtype, or of its arithmetic: lower weight, scale or shares, or use a base in a wider dtype"
        )


def _refuse_not_finite(whose: str, model: dict[str, Tensor]) -> None:
    for name, tensor in model.items():
        if tensor.is_floating_point() and (bad := count_not_finite(tensor)):
            raise CheckpointError(
                f"{name} should hold finite numbers, found NaN or infinity in {bad} of {tensor.numel()} entries in "
                f"{whose}: change the dicts"
            )


def _refuse_unlike(base: dict[str, Tensor], donor: dict[str, Tensor], place: int) -> None:
    if unlike := sorted(base.keys() ^ donor.keys()):
        has = "the base" if unlike[0] in base else f"donor {place}"
        raise CheckpointError(
            f"base and donor {place} should have the same tensors, found {unlike[0]} only in {has}: change the dicts"
        )
    for name, tensor in base.items():
        if tensor.shape != donor[name].shape:
            raise CheckpointError(
                f"{name} should have one shape, found {list(tensor.shape)} in the base and "
                f"{list(donor[name].shape)} in donor {place}: change the dicts"
            )
