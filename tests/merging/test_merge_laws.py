"""Every YAML of conf/merge x every law."""

import copy

import pytest
import torch

from pipeline.merging import bind, defaults, methods
from pipeline.merging.blocks import workers
from tests.merging.merge_tables import declared, least, of_tensors, settings, takes
from tests.merging.merge_tables import run as run_with_defaults

ALL = declared()
TENSORS = of_tensors()
INTERPOLATES = [name for name, unit in TENSORS.items() if unit["interpolates"]]
WEIGHTED = [name for name, unit in TENSORS.items() if unit["uses_weight"]]
# a mask has its donor's place in its key
RANDOM = [name for name, unit in TENSORS.items() if "draw" in unit and "rescale" in unit]
every = pytest.mark.parametrize("name", TENSORS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
WORD = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def run(name, base, donors, weight=0.3, shares=None, **changed):
    return run_with_defaults(name, base, donors, weight, shares, **(settings(ALL[name]) | changed))


def undropped(name):
    return {key: value for key, value in (("density", 1.0), ("gamma", 0.0)) if key in ALL[name]}


def parents(models, name, dtype=torch.float32, count=None):
    base, *donors = models((count or least(name)) + 1, dtype)
    return base, donors


def same_bits(one, other):
    return all(
        one[name].dtype == other[name].dtype and torch.equal(_bits(one[name]), _bits(other[name]))
        for name in one | other
    )


def _bits(tensor):
    return tensor.view(WORD[tensor.element_size()]) if tensor.is_floating_point() else tensor


def cast(model, dtype):
    return {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in model.items()}


def close(one, other, within=1e-6):
    return all(
        (one[name].double() - other[name].double()).norm() <= within * max(1e-30, other[name].double().norm())
        for name in other
    )


def test_every_method_has_a_yaml_and_every_yaml_a_method():
    assert [name for name in methods() if name != "recipe"] == list(ALL)


@pytest.mark.parametrize("name", ALL)
def test_the_yaml_states_every_setting_with_the_functions_default(name):
    assert ALL[name]["name"] == name and ALL[name]["version"] >= 1
    assert settings(ALL[name]) == defaults(name)
    assert {key: type(value) for key, value in settings(ALL[name]).items()} == {
        key: type(value) for key, value in defaults(name).items()
    }
    bound = bind(name, defaults(name))
    assert ALL[name]["uses_weight"] == bound.uses_weight
    assert ALL[name].get("keeps_end", False) == bound.kept


@pytest.mark.parametrize("name", WEIGHTED)
@every_dtype
def test_weight_0_is_the_base(name, dtype, models):
    for count in range(1, 4):
        if takes(name, count):
            base, donors = parents(models, name, dtype, count)
            base["scalar"] = torch.tensor(-0.0, dtype=dtype)
            assert same_bits(run(name, base, donors, 0.0), base)


@pytest.mark.parametrize("name", INTERPOLATES)
@every_dtype
def test_weight_1_is_the_donor(name, dtype, models):
    base, donor = models(2, dtype)
    donor["one"] = torch.tensor([-0.0], dtype=dtype)
    merged = run(name, base, [donor], 1.0, **undropped(name))
    assert same_bits(merged | {"positions": donor["positions"]}, donor)
    assert torch.equal(merged["positions"], base["positions"])


@every
@every_dtype
@pytest.mark.parametrize("weight", [0.1, 0.9, 1.0])
def test_a_parent_merged_with_itself_comes_back(name, dtype, weight, models):
    (base,) = models(1, dtype)
    base["scalar"], base["one"] = torch.tensor(-0.0, dtype=dtype), torch.zeros(1, dtype=dtype)
    for count in range(1, 4):
        if takes(name, count):
            twins = [copy.deepcopy(base) for _ in range(count)]
            assert same_bits(run(name, base, twins, weight), base)
            assert same_bits(run(name, base, twins, weight, [0.7, 0.0, 0.2][:count]), base)


@every
def test_the_order_of_donors_with_their_shares_does_not_matter(name, models):
    count = next((count for count in (3, 2) if takes(name, count)), None)
    if count is None:
        pytest.skip(f"{name} takes one donor")
    base, donors = parents(models, name, torch.float32, count)
    shares, order = [0.1, 0.6, 0.3][:count], [2, 0, 1][-count:]
    chosen = undropped(name) if name in RANDOM else {}
    turned = run(name, base, [donors[i] for i in order], 0.4, [shares[i] for i in order], **chosen)
    assert close(run(name, base, donors, 0.4, shares, **chosen), turned)


@every
@every_dtype
def test_names_shapes_and_dtypes_are_kept_and_finite_and_inputs_untouched(name, dtype, models):
    base, donors = parents(models, name, dtype)
    before = copy.deepcopy([base, *donors])
    merged = run(name, base, donors)
    assert list(merged) == list(base)
    assert all(merged[key].shape == tensor.shape and merged[key].dtype == tensor.dtype for key, tensor in base.items())
    assert all(tensor.isfinite().all() for tensor in merged.values())
    assert all(same_bits(model, copied) for model, copied in zip([base, *donors], before, strict=True))
    for key, tensor in merged.items():
        tensor.zero_()  # what comes out shares no memory with what went in
        assert same_bits({key: base[key]}, {key: before[0][key]})


@every
def test_donors_of_another_dtype(name, models):
    base, donors = parents(models, name)
    half = [cast(donor, torch.bfloat16) for donor in donors]
    assert same_bits(run(name, base, half), run(name, base, [cast(donor, torch.float32) for donor in half]))


@every
def test_the_same_bits_again_with_any_number_of_threads_and_any_order_of_tensors(name):
    generator = torch.Generator().manual_seed(0)
    base, *donors = (
        {"a": torch.randn(300, 301, generator=generator), "b": torch.randn(3, 5, generator=generator)}
        for _ in range(least(name) + 1)
    )
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 5):
            torch.set_num_threads(threads)
            results.append(run(name, base, donors))
    finally:
        torch.set_num_threads(before)
    with workers(3):
        results.append(run(name, base, donors))
    turned = [dict(reversed(model.items())) for model in (base, *donors)]
    assert all(same_bits(result, results[0]) for result in [*results, run(name, turned[0], turned[1:])])


@every
def test_a_view_is_merged_as_what_it_shows(name, models):
    base, donors = parents(models, name)
    turned = [
        {key: tensor.T.contiguous().T if tensor.ndim == 2 else tensor for key, tensor in donor.items()}
        for donor in donors
    ]
    assert same_bits(run(name, base, turned), run(name, base, donors))


@every
def test_gradients_are_neither_followed_nor_refused(name):
    base, *donors = ({"w": torch.full((3,), float(i), requires_grad=True)} for i in range(least(name) + 1))
    assert not run(name, base, donors)["w"].requires_grad


@pytest.mark.parametrize("name", RANDOM)
def test_a_draw_repeats_and_another_one_differs(name, models):
    base, donors = parents(models, name)
    first, again, other = (run(name, base, donors, draw=draw) for draw in (0, 0, 1))
    assert same_bits(first, again) and not same_bits(first, other)


@pytest.mark.parametrize("name", RANDOM)
def test_donors_and_tensors_have_masks_of_their_own(name):
    base, donor = ({"a": torch.full((64,), x), "b": torch.full((64,), x)} for x in (0.0, 1.0))
    merged = run(name, base, [donor, donor], 1.0, rescale="none", vote="none", combine="sum")
    assert set(merged["a"].tolist()) == {0.0, 1.0, 2.0}
    assert not torch.equal(merged["a"], merged["b"])


@pytest.mark.parametrize("name", RANDOM)
def test_the_mean_over_draws_is_the_task_vector(name):
    tau, draws = torch.linspace(-1, 2, 48).reshape(4, 12), 400
    base, donor = {"w": torch.zeros(4, 12)}, {"w": tau}
    drawn = torch.stack([run(name, base, [donor], 1.0, draw=draw)["w"].double() for draw in range(draws)])
    room = 5 * drawn.std(0) / draws**0.5
    assert ((drawn.mean(0) - tau).abs() <= room + 1e-6).all()
