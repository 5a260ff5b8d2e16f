"""Our merges as mergekit YAMLs, and that mergekit makes the same of them."""

import pytest
import yaml

from pipeline.merging import defaults, merge
from pipeline.merging.mergekit.reading import read, unit
from pipeline.merging.mergekit.writing import write
from tests.merging.mergekit_recipes import RECIPES, as_recorded, folders

WRITTEN = {
    "linear": ("linear", 0.25, [1, 3], {}),
    "slerp": ("slerp", 0.25, None, {}),
    "nuslerp": ("nuslerp", 0.25, None, {}),
    "nuslerp of task vectors": ("nuslerp", 1.0, [1, 3], {"flatten": False, "row_wise": True, "compat": "mergekit"}),
    "karcher": ("karcher", 0.5, None, {}),
    "multislerp": ("multislerp", 0.25, [1, 3], {}),
    "nearswap": ("nearswap", 0.001, None, {"mode": "absolute"}),
    "task_arithmetic": ("task_arithmetic", 0.5, [1.0, 0.5], {"scale": 1.5}),
    "ties": ("ties", 0.25, None, {"density": 0.5, "compat": "mergekit"}),
    "ties of one": ("ties", 0.25, [2.0], {"density": 1.0}),
    "breadcrumbs": (
        "breadcrumbs",
        0.25,
        [1, 3],
        {"density": 0.5, "gamma": 0.125, "vote": "weighted", "compat": "mergekit"},
    ),
    "dare": ("dare", 0.5, [1, 3], {"density": 1.0, "combine": "weighted_mean"}),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_is_what_was_run(name):
    method, weight, shares, settings = WRITTEN[name]
    recipe = yaml.safe_load(RECIPES[f"written {name}"]["text"].replace("MODELS", "/m"))
    base, *donors = (
        f"path:{name}" for name in dict.fromkeys(["/m/stories260K", *(m["model"] for m in recipe["models"])])
    )
    assert (
        yaml.safe_load(write({"name": method, **defaults(method), **settings}, weight, shares, base, donors)) == recipe
    )


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_is_our_merge(name, real_models):
    method, weight, shares, settings = WRITTEN[name]
    models = folders(RECIPES[f"written {name}"]["text"], real_models)
    as_recorded(merge(models["base"], models["donors"], method, weight, shares, **settings), f"written {name}")


@pytest.mark.parametrize(
    ("method", "weight", "donors", "settings"),
    [
        ("keep", None, 1, {}),
        ("ties", 0.5, 2, {}),
        ("ties", 0.5, 1, {"density": 0.5, "trim": "tensor"}),
        ("ties", 0.5, 2, {"density": 1.0}),
        ("dare", 0.5, 1, {}),
        ("dare", 0.5, 1, {"compat": "mergekit"}),
        ("della", 0.5, 1, {"compat": "mergekit"}),
        ("slerp", 0.5, 1, {"colinear": 0.9}),
        ("nuslerp", 0.5, 2, {}),
        ("nuslerp", 0.5, 1, {"flatten": False}),
        ("karcher", 0.25, 1, {}),
        ("nearswap", 0.5, 1, {}),
        ("nearswap", 1e-7, 1, {"mode": "absolute"}),
        ("model_stock", None, 2, {}),
        ("magmax", 0.5, 1, {}),
    ],
)
def test_what_mergekit_does_not_have_is_not_written(method, weight, donors, settings):
    unit = {"name": method, **defaults(method), **settings}
    assert write(unit, weight, None, "path:/a", [f"path:/{i}" for i in range(donors)]) is None


def test_written_sources_and_dtypes():
    unit = {"name": "slerp", **defaults("slerp")}
    text = write(unit, 0.5, None, "hub:org/a@" + "0" * 40, ["path:models/b"], "bfloat16")
    found = yaml.safe_load(text)
    assert [each["model"] for each in found["models"]] == ["org/a@" + "0" * 40, "./models/b"]
    assert (found["dtype"], found["out_dtype"]) == ("float32", "bfloat16")
    for base in ("wheel:model@1.0/file.gguf", "path:/a+b", "path:/a@b", "path:models/b"):
        assert write(unit, 0.5, None, base, ["path:models/b"]) is None


def test_a_recipe_is_written_as_it_was_read():
    text = """
merge_method: ties
base_model: org/base
models:
  - model: org/one
    parameters: {weight: [0.1, 0.3]}
  - model: ./two
    parameters: {weight: 0.5, density: [{filter: mlp, value: [0, 1]}, {value: 0.2}]}
parameters: {normalize: true, lambda: [{filter: mlp, value: 2}, {filter: "*", value: 1}]}
"""
    found = unit(read(text))
    setting = {"name": "recipe", "recipe": found["recipe"], "draw": 0}
    again = write(setting, None, None, found["base"], found["donors"], "bfloat16")
    assert unit(read(again)) == found
    random = unit(read(text.replace("ties", "dare_ties")))["recipe"]
    assert write(setting | {"recipe": random}, None, None, found["base"], found["donors"]) is None
