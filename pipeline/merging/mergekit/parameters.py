"""mergekit's methods, their parameters, and how a parameter is found for one tensor.

A setting of a parameter is a number (or true or false); or a list of them, a gradient over the layers; or a list of
{"filter": ..., "value": number or gradient}, of which the first whose filter is part of the tensor's name counts.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pipeline.errors import ConfigError

REQUIRED = object()


class Parameter(NamedTuple):
    """One for the tensor (shared), one for each model, or one for each model but the base (donor)."""

    kind: type
    scope: Literal["shared", "model", "donor"] = "shared"
    default: Any = REQUIRED

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


class Method(NamedTuple):
    """models: the fewest and the most beside the base; where the base is ignored, in all."""

    parameters: dict[str, Parameter]
    base: Literal["required", "optional", "ignored"]
    models: tuple[int, int | None] = (1, None)
    random: bool = False


def _task_vectors(normalize: bool = False, rescale: bool = False, random: bool = False, **more: float) -> Method:
    parameters = {
        "weight": Parameter(float, "donor"),
        "density": Parameter(float, "donor", 1.0),
        "normalize": Parameter(bool, "shared", normalize),
        "rescale": Parameter(bool, "shared", rescale),
        "lambda": Parameter(float, "shared", 1.0),
    }
    own = {key: Parameter(float, "donor", value) for key, value in more.items()}
    return Method(parameters | own, "required", random=random)


METHODS = {
    "linear": Method(
        {"weight": Parameter(float, "model"), "normalize": Parameter(bool, "shared", True)}, "ignored", (2, None)
    ),
    "slerp": Method({"t": Parameter(float)}, "required", (1, 1)),
    "nuslerp": Method(
        {
            "weight": Parameter(float, "donor"),
            "nuslerp_flatten": Parameter(bool, "shared", True),
            "nuslerp_row_wise": Parameter(bool, "shared", False),
        },
        "optional",
        (2, 2),
    ),
    "karcher": Method(
        {"max_iter": Parameter(int, "shared", 10), "tol": Parameter(float, "shared", 1e-5)}, "ignored", (2, None)
    ),
    "multislerp": Method(
        {
            "weight": Parameter(float, "donor"),
            "normalize_weights": Parameter(bool, "shared", True),
            "eps": Parameter(float, "shared", 1e-8),
        },
        "optional",
    ),
    "nearswap": Method({"t": Parameter(float)}, "required", (1, 1)),
    "model_stock": Method({"filter_wise": Parameter(bool, "shared", False)}, "required", (2, None)),
    "arcee_fusion": Method({}, "required", (1, 1)),
    "sce": Method({"select_topk": Parameter(float, "shared", 1.0)}, "required"),
    "task_arithmetic": _task_vectors(),
    "ties": _task_vectors(normalize=True),
    "dare_linear": _task_vectors(rescale=True, random=True),
    "dare_ties": _task_vectors(rescale=True, random=True),
    "breadcrumbs": _task_vectors(gamma=0.01),
    "breadcrumbs_ties": _task_vectors(gamma=0.01),
    "della": _task_vectors(normalize=True, rescale=True, random=True, epsilon=0.15),
    "della_linear": _task_vectors(rescale=True, random=True, epsilon=0.15),
}


def resolved(
    method: str, shared: Mapping[str, Any], each: Sequence[Mapping[str, Any]], name: str, t: float, has_base: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The parameters of one tensor: those that are one for all, and those of each model, the base first if it has one.

    shared  settings of the whole recipe
    each    settings of each model, which go before
    name    of the tensor
    t       its place among the layers, 0 to 1

    Raises ConfigError where a required parameter has no value for this tensor.
    """
    known = METHODS[method].parameters
    one = {key: _found(key, item, [shared], name, t) for key, item in known.items() if item.scope == "shared"}
    many = [
        {
            key: _found(key, item, [own, shared], name, t)
            for key, item in known.items()
            if item.scope == "model" or (item.scope == "donor" and not (has_base and place == 0))
        }
        for place, own in enumerate(each)
    ]
    return one, many


def _found(key: str, parameter: Parameter, scopes: Sequence[Mapping[str, Any]], name: str, t: float) -> Any:
    for scope in scopes:
        if key in scope and (value := evaluate(key, scope[key], parameter.kind, name, t)) is not None:
            return value
    if parameter.required:
        raise ConfigError(
            f"parameters.{key} should have a value for every tensor, found none for {name or 'a tensor'}: "
            "add one without a filter to merge.file"
        )
    return parameter.default


def evaluate(key: str, setting: Any, kind: type, name: str, t: float) -> Any:
    """The value that a setting has for one tensor; None where no filter is part of its name.

    Between the numbers of a gradient, which are spread evenly over t in [0, 1], it is linear; of true and false it
    takes the one before.
    """
    if not isinstance(setting, list):
        return value(key, setting, kind)
    if setting and isinstance(setting[0], dict):
        for case in setting:
            if case.get("filter") in (None, "*") or (name and case["filter"] in name):
                return evaluate(key, case["value"], kind, name, t)
        return None
    if not setting:
        return None
    numbers = [value(key, each, kind) for each in setting]
    place = t * (len(numbers) - 1)
    before = int(place)
    if kind is bool:
        return numbers[before]
    after, share = min(len(numbers) - 1, before + 1), place - before
    return value(key, (1 - share) * numbers[before] + share * numbers[after], kind)


def value(key: str, given: Any, kind: type) -> Any:
    """A number, whole number or truth value; text that reads as a number is one, as YAML reads 1e-5 as text."""
    words = {float: "a finite number", int: "a whole number", bool: "true or false"}[kind]
    if kind is bool and given in (True, False):
        return bool(given)
    if kind is not bool and not isinstance(given, bool):
        try:
            number = float(given)
        except (TypeError, ValueError):
            number = math.nan
        if math.isfinite(number) and (kind is float or number == int(number)):
            return kind(number)
    raise ConfigError(f"parameters.{key} should be {words}, found {given!r}: change merge.file")
