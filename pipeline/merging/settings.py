"""Settings of a method, refused before anything is computed."""

import inspect
import math
from collections.abc import Callable
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pipeline.errors import ConfigError

# What a method is given by the one who calls it, rather than by its YAML.
GIVEN = {"weight", "shares", "whole", "notes", "name", "transposed", "statistics"}


class Interval(NamedTuple):
    """The range of a number, as it is written: "[0, 1)", "(0, inf)"."""

    text: str

    def holds(self, number: float) -> bool:
        low, high = (float(end) for end in self.text[1:-1].split(","))
        above = number >= low if self.text[0] == "[" else number > low
        below = number <= high if self.text[-1] == "]" else number < high
        return math.isfinite(number) and above and below


def defaults(function: Callable) -> dict[str, Any]:
    """Every setting of a method with its default."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in GIVEN}


def check(function: Callable, settings: dict[str, Any], more: dict[str, tuple] | None = None) -> None:
    """ConfigError for a setting that is unknown, missing, of another type or out of its range.

    more  settings beside the function's own: {name: (type, default)}
    """
    more = more or {}
    name, known = function.__name__, defaults(function) | {key: default for key, (_, default) in more.items()}
    if unknown := sorted(settings.keys() - known.keys()):
        raise ConfigError(
            f"the settings of merge={name} are {', '.join(known) or 'none'}, found {unknown[0]}: leave out "
            f"merge.{unknown[0]}"
        )
    if missing := sorted(known.keys() - settings.keys()):
        raise ConfigError(
            f"merge={name} needs {', '.join(known)}, found no {missing[0]}: add merge.{missing[0]} to "
            f"conf/merge/{name}.yaml"
        )
    hints = get_type_hints(function, include_extras=True) | {key: kind for key, (kind, _) in more.items()}
    for key, value in settings.items():
        if (wanted := _unmet(hints[key], value)) is not None:
            raise ConfigError(f"merge.{key} should be {wanted}, found {value!r}: change merge.{key}")


def _unmet(hint: Any, value: Any) -> str | None:
    """What the hint asks for, in words, where the value is something else."""
    if get_origin(hint) in (Union, UnionType):
        wanted = [kind for kind in get_args(hint) if kind is not NoneType]
        unmet = [_unmet(kind, value) for kind in wanted]
        return None if value is None or None in unmet else " or ".join(["null", *unmet])
    if get_origin(hint) is Annotated:
        kind, interval = get_args(hint)
        number = _unmet(kind, value) is None
        return None if number and interval.holds(value) else f"{_words(kind)} in {interval.text}"
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return (
            None
            if any(type(value) is type(each) and value == each for each in choices)
            else "one of " + ", ".join(map(str, choices))
        )
    return None if (is_number(value) if hint is float else type(value) is hint) else _words(hint)


def plain(value: Any) -> Any:
    """A number of any library as an int or a float; everything else as it is."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def is_number(value: Any) -> bool:
    """Whether it is a finite number; true and false are not."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _words(kind: type) -> str:
    return {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}[kind]
