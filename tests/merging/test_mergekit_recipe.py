"""The merges that mergekit YAMLs describe, by hand and as mergekit makes them."""

import pytest
import torch
import yaml

from pipeline.errors import ConfigError
from pipeline.merging import merge
from pipeline.merging.mergekit.parameters import METHODS
from pipeline.merging.mergekit.reading import read, unit
from tests.merging.mergekit_recipes import RECIPES, as_recorded, folders


def model(value: float, layers: int = 3) -> dict[str, torch.Tensor]:
    names = [
        "embed.weight",
        "norm.weight",
        *(f"layers.{i}.{part}.weight" for i in range(layers) for part in ("mlp", "attn")),
    ]
    return {"model." + name: torch.full((2,), float(value)) for name in names}


def merged(text: str, *models: dict, **settings) -> dict[str, torch.Tensor]:
    return merge(models[0], list(models[1:]), "recipe", None, recipe=unit(read(text))["recipe"], **settings)


def nearness(parameters: str) -> str:
    """A merge from 0 to 1 shows t itself."""
    return (
        "{merge_method: task_arithmetic, base_model: org/a, models: [{model: org/b, parameters: {weight: "
        + parameters
        + "}}]}"
    )


def test_filters_and_gradients_by_tensor_and_layer():
    """Tensors of no layer, before and after, are at t = 0."""
    found = merged(nearness("[{filter: mlp, value: [0, 0.5, 0.75]}, {value: [0.25, 0.75]}]"), model(0), model(1))
    assert {name: tensor[0].item() for name, tensor in found.items()} == {
        "model.embed.weight": 0.25,
        "model.norm.weight": 0.25,
        "model.layers.0.mlp.weight": 0,
        "model.layers.1.mlp.weight": 0.5,
        "model.layers.2.mlp.weight": 0.75,
        "model.layers.0.attn.weight": 0.25,
        "model.layers.1.attn.weight": 0.5,
        "model.layers.2.attn.weight": 0.75,
    }


def test_a_single_layer_is_at_the_end_of_a_gradient():
    found = merged(nearness("[0, 1]"), model(0, layers=1), model(1, layers=1))
    assert found["model.layers.0.mlp.weight"][0] == 1 and found["model.norm.weight"][0] == 0


def test_a_filter_that_leaves_out_a_tensor_falls_back_or_is_refused():
    with pytest.raises(ConfigError, match="weight should have a value for every tensor, found none for model"):
        merged(nearness("[{filter: mlp, value: 1}]"), model(0), model(1))
    text = nearness("[{filter: mlp, value: 1}]")[:-1] + ", parameters: {weight: 0.5}}"
    found = merged(text, model(0), model(1))
    assert found["model.layers.0.mlp.weight"][0] == 1 and found["model.norm.weight"][0] == 0.5


def test_a_setting_that_is_no_recipe_is_refused():
    for text in ("", "[]", '{"method": "ties"}'):
        with pytest.raises(ConfigError, match="merge=recipe needs a mergekit YAML, found none: add merge.file="):
            merge(model(0), [model(1)], "recipe", None, recipe=text)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.random])
def test_random_recipes_have_seeded_masks_and_keep_the_l1_norm(method):
    torch.manual_seed(0)
    base, donor = ({"layers.0.x": torch.randn(40, 30)} for _ in range(2))
    text = f"{{merge_method: {method}, base_model: org/a, models: [{{model: org/b}}], parameters: {{weight: 1, density: 0.5}}}}"
    first, again, other = (merged(text, base, donor, draw=draw)["layers.0.x"] for draw in (0, 0, 1))
    moved = first - base["layers.0.x"]
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert 0.4 < (moved != 0).float().mean() < 0.6
    assert moved.abs().sum().item() == pytest.approx(
        (donor["layers.0.x"] - base["layers.0.x"]).abs().sum().item(), rel=1e-5
    )


@pytest.mark.parametrize("method", METHODS)
def test_identical_parents_give_the_base_bit_for_bit(method):
    torch.manual_seed(0)
    base = {"layers.0.x": torch.randn(7, 5), "y": torch.randn(11)}
    least = max(1, METHODS[method].models[0])
    models = [{"model": f"org/{i}"} for i in range(least + 1)]
    parameters = {"t": 0.3} if "t" in METHODS[method].parameters else {}
    parameters |= {"weight": 0.25} if "weight" in METHODS[method].parameters else {}
    recipe = {"merge_method": method, "models": models, "parameters": parameters}
    recipe |= {} if METHODS[method].base == "ignored" else {"base_model": "org/0"}
    found = merged(yaml.safe_dump(recipe), *[base] * (least + 1))
    assert all(torch.equal(found[name], base[name]) for name in base)


@pytest.mark.parametrize("name", RECIPES)
def test_real_models_as_mergekit_merges_them(name, real_models):
    models = folders(RECIPES[name]["text"], real_models)
    as_recorded(merge(models["base"], models["donors"], "recipe", None, recipe=models["recipe"]), name)
