"""Every method on inputs where a definition may lose its footing: zeros, twins, opposites, the ends of the numbers."""

import pytest
import torch

from pipeline.merging import defaults, merge
from tests.merging import naive_merges as naive
from tests.merging.merge_tables import distance, exact, of_tensors, run, takes

METHODS = list(of_tensors())
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# multiples of 1/64: sums and differences are exact, so that no vote and no mask hangs on the last bit
W, V, U = ((numbers(6, 5, seed=seed) * 64).round() / 64 for seed in range(3))
SIGNS = torch.where(U > 0, 1.0, -1.0)

# base, first donor, second donor; a method that takes one donor is given the first
TENSORS = {
    "no task vector": (W, W, W),
    "one task vector is zero": (W, W, V),
    "one donor is zero": (W, torch.zeros(6, 5), V),
    "the base is zero": (torch.zeros(6, 5), V, U),
    "all are zero": (torch.zeros(6, 5),) * 3,
    "donors are equal": (W, V, V),
    "a donor opposite to the base": (W, -W, V),
    "task vectors cancel": (W, W + SIGNS, W - SIGNS),
    "collinear": (W, 2 * W, 0.5 * W),
    "task vectors collinear": (W, W + 2 * SIGNS, W + 0.5 * SIGNS),
    "every magnitude equal": (torch.zeros(6, 5), SIGNS, torch.ones(6, 5)),
    "every entry equal": (torch.zeros(6, 5), torch.ones(6, 5), torch.ones(6, 5)),
    "constant rows": (W, W + 1, W - 1),
    "one entry differs": (W, torch.where(torch.arange(30).reshape(6, 5) == 7, V, W), W),
    "one rank": (W, W + torch.outer(W[:, 0], V[0]), W - torch.outer(U[:, 0], V[0])),
    "a scalar": (torch.tensor(0.5), torch.tensor(-2.0), torch.tensor(1.5)),
    "a scalar of zero": (torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.0)),
    "one entry": (torch.tensor([0.5]), torch.tensor([2.0]), torch.tensor([-1.5])),
    "rows of one entry": (W[:, :1], V[:, :1], U[:, :1]),
    "one row": (W[:1], V[:1], U[:1]),
    "one by one": (W[:1, :1], V[:1, :1], U[:1, :1]),
    "two entries": (W[0, :2], V[0, :2], U[0, :2]),
    "four dimensions": tuple(numbers(2, 3, 1, 2, seed=seed) for seed in range(3)),
    "empty": (torch.zeros(0),) * 3,
    "rows without entries": (torch.zeros(4, 0),) * 3,
    "no rows": (torch.zeros(0, 4),) * 3,
    "subnormal task vectors": (torch.zeros(6, 5), V * 1e-40, U * 1e-40),
    "all subnormal": (W * 1e-40, V * 1e-40, U * 1e-40),
    "tiny": (W * 1e-25, V * 1e-25, U * 1e-25),
    "tiny task vectors": (W, W + 1e-6 * V, W + 1e-6 * U),
    "large": (W * 1e25, V * 1e25, U * 1e25),
    "near the largest of float32": (torch.full((6, 5), 1.5e38), 1.5e38 + W.abs() * 5e36, 1.5e38 - V.abs() * 5e36),
    "infinitesimal beside enormous": (W, torch.where(U > 1, V * 1e30, V * 1e-30), V),
}
inputs = pytest.mark.parametrize("kind", TENSORS)
every = pytest.mark.parametrize("name", METHODS)


def models(kind, dtype=torch.float32):
    made = []
    for i, tensor in enumerate(TENSORS[kind]):
        flags = torch.tensor([True, i == 0])
        made.append(
            {
                "w": tensor.to(dtype),
                "ids": torch.arange(3) + i,
                "mask": flags,
                "other": numbers(7, seed=9 + i).to(dtype),
            }
        )
    return made


def donors_of(name, made):
    """The parents with as many donors as the method takes: one, two, or once each."""
    return [(made[0], made[1 : count + 1]) for count in (1, 2) if takes(name, count)]


def fitting(name, **chosen):
    return {key: value for key, value in chosen.items() if key in defaults(name)}


def check_form(merged, base):
    assert list(merged) == list(base)
    for key, tensor in base.items():
        assert merged[key].shape == tensor.shape and merged[key].dtype == tensor.dtype, key
        assert merged[key].isfinite().all(), key
    assert torch.equal(merged["ids"], base["ids"]) and torch.equal(merged["mask"], base["mask"])


@every
@inputs
def test_finite_and_as_defined(name, kind):
    for base, donors in donors_of(name, models(kind)):
        for weight in (0.5, 0.7, 1.0):
            merged = run(name, base, donors, weight)
            check_form(merged, base)
            if hasattr(naive, name):
                errors = distance(merged, exact(name, base, donors, weight), [base, *donors])
                assert max(errors.values()) <= 1e-6, (weight, len(donors), errors)


@every
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_finite_in_every_dtype(name, dtype):
    for kind, tensors in TENSORS.items():
        if max((float(tensor.abs().max()) for tensor in tensors if tensor.numel()), default=0) > 1e10:
            continue  # beyond float16
        for base, donors in donors_of(name, models(kind, dtype)):
            check_form(run(name, base, donors), base)


@every
@inputs
@pytest.mark.parametrize("density", [0.0, 0.5, 1.0])
def test_nothing_a_half_and_everything_kept(name, kind, density):
    if "density" not in defaults(name):
        pytest.skip(f"{name} has no density")
    for base, donors in donors_of(name, models(kind)):
        merged = run(name, base, donors, 0.7, **fitting(name, density=density, gamma=0.0))
        check_form(merged, base)
        if density == 0:
            assert torch.equal(merged["w"], base["w"])
        elif hasattr(naive, name):
            expected = exact(name, base, donors, 0.7, **fitting(name, density=density, gamma=0.0))
            assert max(distance(merged, expected, [base, *donors]).values()) <= 1e-6


@every
def test_a_model_without_tensors_and_one_without_floats(name):
    count = 1 if takes(name, 1) else 2
    assert run(name, {}, [{}] * count) == {}
    base = {"ids": torch.arange(3)}
    merged = run(name, base, [{"ids": torch.arange(3) + 1}] * count)
    assert torch.equal(merged["ids"], base["ids"]) and merged["ids"] is not base["ids"]


@every
def test_a_single_tensor_of_one_entry_is_a_whole_model(name):
    for base, donors in donors_of(name, [{"w": torch.tensor(float(i))} for i in range(3)]):
        assert run(name, base, donors, 0.5)["w"].isfinite()


@pytest.mark.parametrize("name", ["nuslerp", "karcher"])
@pytest.mark.parametrize("apart", [1e-2, 1e-4])
def test_nearly_opposite_directions_keep_the_digits_of_float32(name, apart):
    """The coefficients are then in the hundreds and what they multiply cancels."""
    base = numbers(40, 30)
    donor = -base + apart * numbers(40, 30, seed=1)
    found = merge({"w": base}, [{"w": donor}], name, 0.3)["w"].double()
    wide = merge({"w": base.double()}, [{"w": donor.double()}], name, 0.3)["w"]
    assert float((found - wide).norm() / wide.norm()) < 1e-7


def test_task_vectors_at_exactly_a_third_of_a_circle_keep_the_base():
    """Two of three one-element task vectors opposed: the mean angle is 120 degrees, the ratio has no value."""
    donors = [{"w": torch.tensor([x])} for x in (1.0, -1.0, 1.0)]
    merged = merge({"w": torch.zeros(1)}, donors, "model_stock", clamp=False, angle="angle")
    assert merged["w"].item() == 0


def test_equal_donors_have_no_variance():
    """In float64, too, where a third of three times a number need not be that number."""
    base, donor = {"w": numbers(20, 20).double()}, {"w": numbers(20, 20, seed=1).double()}
    assert torch.equal(merge(base, [donor] * 3, "sce", 1.0, density=0.5)["w"], base["w"])
