"""The pipeline's methods against the naive ones in float64: a grid of settings, donors, weights, shares and dtypes."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies
from hypothesis.extra import numpy as arrays

from pipeline.merging.blocks import CHUNK
from tests.merging.merge_cases import CASES, MIXED
from tests.merging.merge_tables import distance, exact, run, takes, wide

SHARES = [0.5, 2.0, 1.0]
cases = pytest.mark.parametrize(("name", "chosen"), CASES, ids=str)


def parents(models, name, chosen, count, dtype=torch.float32):
    if not takes(name, count):
        pytest.skip(f"{name} does not take {count} donors")
    made = models(count + 1, dtype)
    if chosen.get("clamp") is False:  # model_stock: numbers of opposite signs take an unclamped ratio to infinity
        made = [{key: tensor for key, tensor in model.items() if tensor.numel() != 1} for model in made]
    return made[0], made[1:]


@cases
@pytest.mark.parametrize("count", [1, 2, 3])
def test_against_float64(name, chosen, count, models):
    base, donors = parents(models, name, chosen, count)
    for weight, shares in ((0.3, None), (1.0, SHARES[:count])):
        merged = run(name, base, donors, weight, shares, **chosen)
        expected = exact(name, base, donors, weight, shares, **chosen)
        errors = distance(merged, expected, [base, *donors])
        assert max(errors.values()) <= 2e-7, errors


@pytest.mark.parametrize(
    ("name", "chosen"), [case for case in CASES if not case[1] or case[1] == {"density": 0.5}], ids=str
)
def test_across_the_blocks_of_a_large_tensor(name, chosen):
    shape = (1050, 1000)
    assert shape[0] * shape[1] > CHUNK
    made = [torch.randint(-200, 200, shape, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    models = [{"w": made[0] / 64}] + [{"w": (made[0] + tensor) / 64} for tensor in made[1:]]
    base, *donors = models if takes(name, 2) else models[:2]
    merged, expected = run(name, base, donors, **chosen), exact(name, base, donors, **chosen)
    if name == "della":  # among millions a number lies between a probability in float32 and in float64
        off = np.abs(merged["w"].numpy() - expected["w"]) > 1e-5
        assert off.sum() <= 3
        expected["w"][off] = merged["w"].numpy()[off]
    assert distance(merged, expected, [base, *donors])["w"] <= 2e-7


@cases
def test_against_float64_in_float64(name, chosen, models):
    base, donors = parents(models, name, chosen, 2 if takes(name, 2) else 1, torch.float64)
    for weight, shares in ((1.0, None), (0.3, SHARES[: len(donors)])):
        merged = run(name, base, donors, weight, shares, **chosen)
        expected = exact(name, base, donors, weight, shares, **chosen)
        errors = distance(merged, expected, [base, *donors])
        # pcb computes with its limits, and a limit over a whole model is selected among float32 numbers
        assert max(errors.values()) <= (1e-7 if name == "pcb" else 1e-12), errors


@cases
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_costs_one_rounding(name, chosen, dtype, models):
    base, donors = parents(models, name, chosen, 2 if takes(name, 2) else 1, dtype)
    merged = run(name, base, donors, 0.3, SHARES[: len(donors)], **chosen)
    for key, tensor in exact(name, base, donors, 0.3, SHARES[: len(donors)], **chosen).items():
        rounding = np.linalg.norm(torch.tensor(tensor).to(dtype).double().numpy() - tensor)
        error = np.linalg.norm(merged[key].double().numpy() - tensor)
        assert error <= 1.01 * rounding + 1e-12, (key, error, rounding)


@pytest.mark.parametrize(("name", "chosen"), MIXED, ids=str)
def test_mixup_against_float64(name, chosen, models):
    base, donors = parents(models, name, chosen, 2)
    # M3 in ties: no lambda in the vote, and where one vector survives it has its full value
    how = {"vote": "plain", "combine": "weighted_mean"} if name == "ties" else {}
    merged = run(name, base, donors, 0.6, **chosen)
    errors = distance(merged, exact(name, base, donors, 0.6, **(chosen | how)), [base, *donors])
    assert max(errors.values()) <= 2e-7, errors


# A direction, a variance or a product hangs on the last bit where entries cancel; these look at sums of few entries.
BY_ENTRY = [
    (name, chosen)
    for name, chosen in CASES
    if name in ("linear", "nearswap", "task_arithmetic", "magmax", "ties", "breadcrumbs", "dare", "della")
    and not (name in ("dare", "della") and chosen.get("vote", "none" if name == "dare" else "plain") != "none")
]
floats = strategies.floats(-1e3, 1e3, width=32, allow_subnormal=True)
stacks = arrays.arrays(
    np.float32, strategies.tuples(strategies.integers(2, 4), strategies.integers(0, 40)), elements=floats
)


@given(stacks, strategies.floats(0, 1), strategies.sampled_from(BY_ENTRY))
def test_any_numbers_against_float64(stack, weight, case):
    name, chosen = case
    stack = np.round(stack * 64) / 64  # differences are then exact, so that a mask cannot hang on the last bit
    base, *donors = [{"w": torch.tensor(row)} for row in stack]
    if not takes(name, len(donors)):
        donors = donors[:1]
    merged = run(name, base, donors, weight, **chosen)["w"]
    expected = exact(name, base, donors, weight, **chosen)["w"]
    room = 2e-5 * max(1.0, float(np.abs(stack).max(initial=0)))
    assert np.allclose(merged.double().numpy(), expected, rtol=1e-5, atol=room)


@given(stacks, strategies.floats(0, 1), strategies.sampled_from(["linear", "nearswap"]))
def test_between_the_parents(stack, weight, name):
    merged = run(name, {"w": torch.tensor(stack[0])}, [{"w": torch.tensor(stack[1])}], weight)["w"].numpy()
    room = 1e-6 * np.abs(stack[:2]).max(initial=0)
    assert (merged >= stack[:2].min(0) - room).all() and (merged <= stack[:2].max(0) + room).all()


angles = strategies.floats(0.01, 3.0)
lengths = strategies.floats(0.5, 2)


@given(strategies.floats(0.01, 0.99), angles, lengths, strategies.sampled_from(["slerp", "nuslerp", "karcher"]))
def test_the_arc_is_walked_at_constant_speed(weight, angle, long, name):
    x = {"w": torch.tensor([long, 0.0], dtype=torch.float64)}
    y = {"w": torch.tensor([long * np.cos(angle), long * np.sin(angle)], dtype=torch.float64)}
    chosen = {"colinear": 0.999999} if name == "slerp" else {}
    turned = run(name, x, [y], weight, **chosen)["w"].numpy()
    assert np.isclose(np.arctan2(turned[1], turned[0]), weight * angle, rtol=1e-6)
    assert np.isclose(np.linalg.norm(turned), long, rtol=1e-9)


@given(strategies.sampled_from(["dare", "della", "breadcrumbs", "ties"]), strategies.floats(0.3, 0.8), stacks)
def test_what_is_dropped_is_the_base_and_what_is_kept_the_donor(name, density, stack):
    base, donor = stack[0], stack[1]
    chosen = {"rescale": "none"} if name in ("dare", "della") else {}
    merged = run(name, {"w": torch.tensor(base)}, [{"w": torch.tensor(donor)}], 1.0, density=density, **chosen)["w"]
    room = 2e-7 * (np.abs(base) + np.abs(donor))
    assert ((merged.numpy() == base) | (np.abs(merged.numpy() - donor) <= room)).all()


def test_wide_leaves_out_what_is_not_floating_point(models):
    assert "positions" not in wide(models(1)[0])
