"""recipe: the merge that a mergekit YAML describes."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.merging.blocks import Uniform, elementwise, matrixwise
from pipeline.merging.mergekit.dispatch import ENTRYWISE, merged
from pipeline.merging.mergekit.parameters import METHODS, resolved
from pipeline.merging.settings import Interval

_LAYER = re.compile(r"\.(\d+)\.")


def recipe(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    recipe: str = "",
    draw: Annotated[int, Interval("[0, inf)")] = 0,
    name: str = "",
    whole: dict[str, int] | None = None,
) -> Tensor:
    """One of mergekit's methods with parameters by tensor name and layer.

        t = i / (L - 1) in layer i of L (1 where L = 1), 0 in tensors of no layer
        gradient [g_0, ..., g_n]: linear between the g_j at t = j / n

    recipe  what `pipeline.merging.mergekit.reading.read` made of the YAML, as `unit` writes it
    draw    which draw of the masks of dare and della; mergekit's own are another with every run
    name    of the tensor: the first number between two full stops is its layer
    whole   what `survey` found: how many layers there are; None takes the tensor as the whole model

    base and donors are in the order of `unit`: the recipe's base_model first, or its first model if it has none. Raises
    ConfigError where a required parameter has no value for a tensor.
    Reference: mergekit's documentation of its configuration; Goddard et al. 2024, arXiv 2403.13257.
    """
    text = json.loads(recipe)
    method, has_base = text["method"], text["base"]
    layers = _layers([name]) if whole is None else whole
    shared, each = resolved(method, text["parameters"], text["models"], name, _place(name, layers), has_base)
    drawn = len(donors) if METHODS[method].random else 0
    uniforms = [Uniform((draw, "recipe", name, i), base.shape) for i in range(drawn)]

    def block(*tensors: Tensor) -> Tensor:
        models, numbers = tensors[: len(donors) + 1], tensors[len(donors) + 1 :]
        return merged(method, models, shared, each, has_base, numbers or None)

    through = elementwise if method in ENTRYWISE else matrixwise
    return through(block, base, *donors, *uniforms)


def survey(tensors: Callable[[], Iterable[tuple]], count: int, **_settings) -> dict[str, int]:
    """How many layers there are, by what stands before the layer's number."""
    return _layers(name for name, *_ in tensors())


def refuse(recipe: str, **_settings) -> None:
    """ConfigError for a text that is no recipe."""
    try:
        known = set(json.loads(recipe)) == {"method", "base", "parameters", "models"}
    except (ValueError, TypeError):
        known = False
    if not known:
        raise ConfigError("merge=recipe needs a mergekit YAML, found none: add merge.file=")


def _layers(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for found in filter(None, map(_LAYER.search, names)):
        prefix = found.string[: found.start()]
        counts[prefix] = max(counts.get(prefix, 0), int(found[1]) + 1)
    return counts


def _place(name: str, layers: dict[str, int]) -> float:
    found = _LAYER.search(name)
    if found is None:
        return 0.0
    count = layers[name[: found.start()]]
    return int(found[1]) / (count - 1) if count > 1 else 1.0
