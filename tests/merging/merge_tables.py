"""The YAMLs of conf/merge as the tests go through them, and what a method should give."""

import inspect
from pathlib import Path

import numpy as np
import torch
import yaml

from pipeline.merging import bind, defaults, merge
from pipeline.merging.blocks import Uniform
from pipeline.merging.mixup import mixed
from tests.merging import naive_merges as naive

CONF = Path(__file__).resolve().parents[2] / "conf" / "merge"
FACTS = ("name", "version", "family", "uses_weight", "interpolates", "keeps_end")
MEASURED = ("calibration", "statistics", "examples", "max_length")  # what is measured on which text


def declared() -> dict[str, dict]:
    """The YAML of every method; `recipe` is a list of other merges, not a method."""
    units = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(CONF.glob("*.yaml"))}
    return {name: unit for name, unit in units.items() if name != "recipe"}


def of_tensors() -> dict[str, dict]:
    """Those that need no calibration text."""
    return {name: unit for name, unit in declared().items() if "statistics" not in unit}


def settings(unit: dict) -> dict:
    return {key: value for key, value in unit.items() if key not in FACTS + MEASURED}


def takes(name: str, count: int) -> bool:
    least, most = bind(name, defaults(name)).donors
    return least <= count and (most is None or count <= most)


def least(name: str) -> int:
    """How many donors a test gives at least: one where one is enough."""
    return max(1, bind(name, defaults(name)).donors[0])


def run(name, base, donors, weight=0.3, shares=None, **changed):
    """`merge`, with a weight only for the methods that use one."""
    return merge(base, donors, name, weight if bind(name, defaults(name)).uses_weight else None, shares, **changed)


def wide(model: dict) -> dict:
    """The floating-point tensors as float64 arrays."""
    return {name: tensor.detach().double().numpy() for name, tensor in model.items() if tensor.is_floating_point()}


def exact(name, base, donors, weight=0.3, shares=None, **changed) -> dict:
    """The naive float64 twin's result, with the shares and the numbers that the pipeline draws."""
    twin, chosen = getattr(naive, name), defaults(name) | changed
    shares = mixed(shares, chosen.get("mixup"), chosen.get("draw", 0), len(donors))
    base, donors = wide(base), [wide(donor) for donor in donors]
    if "uniform" in inspect.signature(twin).parameters:
        chosen["uniform"] = [uniform(name, chosen["draw"], base, i) for i in range(len(donors))]
    return twin(base, donors, weight, shares, **chosen)


def uniform(name: str, draw: int, base: dict, place: int) -> dict:
    """The numbers that decide what a donor keeps, by their place alone."""
    lazies = {key: Uniform((draw, name, key, place), tensor.shape) for key, tensor in base.items()}
    return {key: one.read(0, one.numel(), torch.float64).numpy().reshape(one.shape) for key, one in lazies.items()}


def distance(merged: dict, expected: dict, parents: list[dict]) -> dict[str, float]:
    """By tensor: the norm of the error relative to the largest norm of a parent, which is what float32 can see of it.

    Beside it stand a few times the smallest number that float32 has.
    """
    parents = [wide(parent) for parent in parents]
    result = {}
    for key, tensor in expected.items():
        largest = max(np.linalg.norm(tensor), *(np.linalg.norm(parent[key]) for parent in parents))
        error = np.linalg.norm(merged[key].double().numpy() - tensor)
        smallest = 8 * 2.0**-149 * np.sqrt(tensor.size)
        result[key] = float(error / largest) if error > smallest else 0.0
    return result
