"""mergekit 0.1.5's own numbers, recorded by bench/record_mergekit.py, and what its definitions refuse."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.merging import mergekit
from pipeline.merging.mergekit.dispatch import FAMILY, merged
from pipeline.merging.mergekit.parameters import METHODS

NUMBERS = json.loads((Path(__file__).parent / "mergekit_numbers.json").read_text())


def tensors(case: dict, dtype=torch.float32) -> list[torch.Tensor]:
    stored = NUMBERS["tensors"][case["set"]][: case["models"]]
    return [torch.tensor(each["values"], dtype=dtype).reshape(each["shape"]) for each in stored]


def parameters(case: dict) -> tuple[dict, list[dict]]:
    """As a recipe's resolved parameters: those of all, and those of each model."""
    known, given = METHODS[case["method"]].parameters, case["parameters"]
    shared = {key: given.get(key, item.default) for key, item in known.items() if item.scope == "shared"}
    each = [{} for _ in range(case["models"])]
    for key, item in known.items():
        if item.scope == "shared":
            continue
        models = each[1:] if case["base"] and item.scope == "donor" else each
        values = given.get(key, [item.default] * len(models))
        for model, value in zip(models, values, strict=True):
            model[key] = value
    return shared, each


def uniforms(case: dict, each: list[dict], shape: torch.Size) -> list[torch.Tensor]:
    """For each donor; mergekit draws none where nothing is dropped."""
    drawn = iter(case["uniforms"])
    sparsify = FAMILY.get(case["method"], ("none", False))[0]
    draws = [sparsify in ("bernoulli", "magprune") and 0 < one.get("density", 1) < 1 for one in each[1:]]
    return [torch.tensor(next(drawn)).reshape(shape) if draw else torch.zeros(shape) for draw in draws]


def merge(case: dict, dtype=torch.float32) -> torch.Tensor:
    models, (shared, each) = tensors(case, dtype), parameters(case)
    return merged(case["method"], models, shared, each, case["base"], uniforms(case, each, models[0].shape))


def label(case: dict) -> str:
    return "-".join([case["method"], case["set"], *(f"{key}={value}" for key, value in case["parameters"].items())])


def seen(case: dict, result: torch.Tensor) -> torch.Tensor:
    """The entries; where magnitudes are equal only how far each moved: which of them mergekit keeps is undefined."""
    moved = result.reshape(-1) - tensors(case)[0].reshape(-1).to(result.dtype)
    return moved.abs().sort().values if case["set"] == "equal_magnitudes" else result.reshape(-1)


@pytest.mark.parametrize("case", NUMBERS["cases"], ids=label)
def test_as_mergekit(case):
    result, expected = merge(case), torch.tensor(case["expected"])
    assert result.dtype == torch.float32
    assert result.shape == tensors(case)[0].shape
    torch.testing.assert_close(seen(case, result), seen(case, expected), rtol=1e-6, atol=1e-6, equal_nan=True)


def test_every_method_is_recorded():
    assert {case["method"] for case in NUMBERS["cases"]} == METHODS.keys()
    assert NUMBERS["mergekit"] == "0.1.5"


@pytest.mark.parametrize("case", [case for case in NUMBERS["cases"] if case["set"] == "identical"], ids=label)
def test_identical_parents_give_the_base_bit_for_bit(case):
    if case["method"] in (
        "linear",
        "slerp",
        "karcher",
        "nearswap",
        "task_arithmetic",
        "arcee_fusion",
        "nuslerp",
        "sce",
    ):
        assert torch.equal(merge(case), tensors(case)[0])


@pytest.mark.parametrize("case", NUMBERS["cases"][::7], ids=label)
def test_float64_where_the_base_is(case):
    result = merge(case, torch.float64)
    assert result.dtype == torch.float64
    expected = torch.tensor(case["expected"], dtype=torch.float64)
    torch.testing.assert_close(seen(case, result), seen(case, expected), rtol=2e-6, atol=2e-6, equal_nan=True)


@pytest.mark.parametrize("method", ["ties", "breadcrumbs"])
def test_of_equal_magnitudes_the_number_kept_is_exact(method):
    """The first count as the largest in ties, as the smallest in breadcrumbs."""
    base, donor = torch.zeros(10), torch.ones(10)
    result = mergekit.generalised_task_arithmetic(base, [donor], [1.0], [0.3], sparsify=FAMILY[method][0], gamma=0.1)
    assert result.nonzero().flatten().tolist() == {"ties": [0, 1, 2], "breadcrumbs": [6, 7, 8]}[method]


@pytest.mark.parametrize(("density", "epsilon"), [(0.9, 0.1), (0.1, 0.1), (0.5, 0.6)])
def test_magprune_refuses_probabilities_that_are_none(density, epsilon):
    models, uniform = [torch.zeros(3), torch.ones(3)], [torch.zeros(3)]
    with pytest.raises(ConfigError, match=rf"found {density} and {epsilon}: change merge.epsilon"):
        mergekit.generalised_task_arithmetic(
            models[0], models[1:], [1.0], [density], sparsify="magprune", epsilon=epsilon, uniforms=uniform
        )


@pytest.mark.parametrize("shape", [(), (1,), (4, 1)])
def test_magprune_refuses_rows_of_one_entry(shape):
    base = torch.zeros(shape)
    with pytest.raises(ConfigError, match=r"cannot rank rows of one entry, found a tensor of shape \["):
        mergekit.generalised_task_arithmetic(base, [base + 1], [1.0], [0.5], sparsify="magprune", uniforms=[base])


def test_multislerp_refuses_directions_that_cancel():
    x = torch.tensor([1.0, 0.0])
    with pytest.raises(ConfigError, match="directions that do not cancel"):
        mergekit.multislerp([x, -x, x, -x], [1.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("method", METHODS)
def test_empty_tensors_stay_empty(method):
    item = METHODS[method]
    models = [torch.zeros(0, 3)] * (1 + max(1, item.models[0]))
    case = {"method": method, "models": len(models), "base": item.base != "ignored", "parameters": {}}
    shared, each = parameters(case)
    each = [dict.fromkeys(one, 0.5) for one in each]
    uniform = [torch.zeros(0, 3)] * len(models)
    assert merged(
        method, models, shared | ({"t": 0.5} if "t" in shared else {}), each, case["base"], uniform
    ).shape == (0, 3)
