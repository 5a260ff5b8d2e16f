"""regmean, fisher and lewis: by hand, against naive float64, and what must hold whatever the numbers."""

from collections import Counter

import numpy as np
import pytest
import torch

from pipeline.errors import CheckpointError, ConfigError
from pipeline.merging import bind, defaults, merge
from pipeline.merging.blocks import lazy, workers
from pipeline.merging.dare import dare
from pipeline.merging.fisher import fisher
from pipeline.merging.fisher import survey as fisher_survey
from pipeline.merging.lewis import component, importance, lewis
from pipeline.merging.lewis import survey as lewis_survey
from pipeline.merging.linear import linear
from pipeline.merging.regmean import DEAD, SINGULAR, regmean
from pipeline.merging.ties import ties

WORD = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float64: torch.int64}
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)


def drawn(seed, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def a_gram(seed, size, rows=200):
    """As a model's: inputs of very different sizes that hang together."""
    x = drawn(seed, rows, size).double() @ drawn(seed + 50, size, size).double() * torch.logspace(-3, 2, size).double()
    return (x.T @ x / rows).float()


def same_bits(one, other):
    return one.dtype == other.dtype and torch.equal(one.view(WORD[one.dtype]), other.view(WORD[other.dtype]))


def naive_regmean(models, c, grams, reduce):
    """The formula as it stands, by an explicit inverse."""
    left, right = 0, 0
    for weight, W, G in zip(c, models, grams, strict=True):
        W, G = W.double().numpy(), G.double().numpy()
        G = G * (reduce + (1 - reduce) * np.eye(len(G)))
        left, right = left + weight * G, right + weight * G @ W.T
    return torch.from_numpy((np.linalg.inv(left) @ right).T.copy())


# ---- regmean


def test_regmean_by_hand():
    """Inputs of the base lie along (1, 1), those of the donor along the second axis, and each keeps what it needs."""
    base, donor = torch.tensor([[1.0, 3.0], [0.0, 2.0]]), torch.tensor([[5.0, 1.0], [4.0, 8.0]])
    grams = [torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])]
    merged = regmean(base, [donor], weight=0.5, statistics=grams, reduce=1.0)
    # W (1, 1) = W_base (1, 1) = (4, 2) and W (0, 1) = W_donor (0, 1) = (1, 8)
    torch.testing.assert_close(merged, torch.tensor([[3.0, 1.0], [-6.0, 8.0]]))
    # reduce = 0: input by input, 1 : 0 for the first and 1 : 1 for the second
    merged = regmean(base, [donor], weight=0.5, statistics=grams, reduce=0.0)
    torch.testing.assert_close(merged, torch.tensor([[1.0, 2.0], [0.0, 5.0]]))


@pytest.mark.parametrize("shares", [None, [1.0, 3.0]])
@pytest.mark.parametrize("reduce", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("transposed", [False, True])
def test_regmean_is_the_formula(shares, reduce, transposed):
    models, grams = [drawn(i, 7, 12) for i in range(3)], [a_gram(i, 12) for i in range(3)]
    c = [0.4, *(0.6 * np.array(shares or [1.0, 1.0]) / sum(shares or [1.0, 1.0]))]
    given = [W.T.contiguous() for W in models] if transposed else models
    merged = regmean(
        given[0], given[1:], weight=0.6, shares=shares, statistics=grams, reduce=reduce, transposed=transposed
    )
    expected = naive_regmean(models, c, grams, reduce)
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged.double(), expected.T if transposed else expected, rtol=1e-6, atol=1e-6)


def test_regmean_is_the_least_squares_optimum():
    """The gradient of the objective is 0 at the result, and it is not 0 at the plain mean."""
    models, grams = [drawn(i, 5, 9, dtype=torch.float64) for i in range(3)], [a_gram(i, 9).double() for i in range(3)]
    c, reduce = [0.5, 0.3, 0.2], 1.0

    def objective(W):
        return sum(
            weight * torch.trace((W - model) @ gram @ (W - model).T)
            for weight, model, gram in zip(c, models, grams, strict=True)
        )

    def slope(W):
        W = W.clone().requires_grad_(True)
        return torch.autograd.grad(objective(W), W)[0].norm().item()

    merged = regmean(models[0], models[1:], weight=0.5, shares=[3.0, 2.0], statistics=grams, reduce=reduce)
    plain = linear(models[0], models[1:], weight=0.5, shares=[3.0, 2.0])
    assert slope(merged) < 1e-9 * slope(plain)
    assert objective(merged) < objective(plain)


@every_dtype
def test_regmean_of_equal_parents_and_at_the_ends(dtype):
    base, donor = drawn(0, 6, 8, dtype=dtype), drawn(1, 6, 8, dtype=dtype)
    base[0, 0], donor[1, 1] = -0.0, -0.0
    grams = [a_gram(0, 8), a_gram(1, 8), a_gram(2, 8)]
    assert same_bits(regmean(base, [base, base.clone()], weight=0.3, statistics=grams).to(dtype), base)
    assert same_bits(regmean(base, [donor], weight=0.0, statistics=grams[:2]).to(dtype), base)
    assert same_bits(regmean(base, [donor], weight=1.0, statistics=grams[:2]).to(dtype), donor)
    assert same_bits(regmean(base, [base, donor], weight=1.0, shares=[0, 2], statistics=grams).to(dtype), donor)


def test_regmean_of_bf16_is_pure_rounding():
    models, grams = [drawn(i, 40, 60, dtype=torch.bfloat16) for i in range(2)], [a_gram(i, 60) for i in range(2)]
    exact = naive_regmean(models, [0.7, 0.3], grams, 0.1)
    merged = regmean(models[0], models[1:], weight=0.3, statistics=grams).to(torch.bfloat16)
    assert (merged.double() - exact).norm() <= 1.01 * (exact.bfloat16().double() - exact).norm()


def test_regmean_leaves_the_weighted_mean_where_no_text_decides():
    base, donor, notes = drawn(0, 4, 6), drawn(1, 4, 6), Counter()
    x = drawn(2, 100, 6).double()
    x[:, 2] = 0  # a dead input
    x[:, 5] = 2 * x[:, 4]  # a direction, (2, -1) in the last two, that no text uses
    grams = [(x[:60].T @ x[:60] / 60).float(), (x[60:].T @ x[60:] / 40).float()]
    merged = regmean(base, [donor], weight=0.25, statistics=grams, reduce=1.0, notes=notes)
    assert merged.isfinite().all() and notes == {DEAD: 1, SINGULAR: 1}
    plain = linear(base, [donor], weight=0.25)
    torch.testing.assert_close(merged[:, 2], plain[:, 2])
    # no step along the unused direction, inputs in units of their size: the fifth and the sixth share it equally
    step = (merged - plain)[:, 4:]
    torch.testing.assert_close(step[:, 0], step[:, 1] * 2, rtol=1e-3, atol=0)
    # what the texts do decide is the optimum: the normal equations hold
    left = 0.75 * grams[0].double() + 0.25 * grams[1].double()
    right = 0.75 * grams[0].double() @ base.double().T + 0.25 * grams[1].double() @ donor.double().T
    torch.testing.assert_close(left @ merged.double().T, right, rtol=1e-5, atol=1e-5)
    # with the off-diagonals reduced only the dead input is undecided
    regmean(base, [donor], weight=0.25, statistics=grams, notes=(notes := Counter()))
    assert notes == {DEAD: 1}
    nothing = regmean(base, [donor], weight=0.25, statistics=[torch.zeros(6, 6)] * 2)
    torch.testing.assert_close(nothing, plain)


def test_regmean_shows_what_is_not_finite():
    grams = [torch.full((3, 3), torch.nan), torch.eye(3)]
    assert regmean(drawn(0, 2, 3), [drawn(1, 2, 3)], weight=0.5, statistics=grams).isnan().all()


def test_other_tensors_are_the_weighted_mean():
    for shape in [(), (1,), (5,), (0, 3), (3, 2, 4), (4, 4)]:
        base, donors = drawn(0, *shape), [drawn(1, *shape), drawn(2, *shape)]
        expected = linear(base, donors, weight=0.4, shares=[1.0, 2.0])
        for method in (regmean, fisher):
            merged = method(base, donors, weight=0.4, shares=[1.0, 2.0], statistics=[None] * 3)
            torch.testing.assert_close(merged, expected)
    notes = Counter()
    regmean(drawn(0, 4, 4), [drawn(1, 4, 4)], weight=0.4, statistics=[None, torch.eye(4)], notes=notes)
    assert sum(notes.values()) == 1


def test_statistics_that_are_missing_or_do_not_fit_are_refused():
    base, donor = drawn(0, 2, 3), drawn(1, 2, 3)
    for method in (regmean, fisher):
        with pytest.raises(ConfigError, match=r"merge\.calibration"):
            method(base, [donor], weight=0.5)
        with pytest.raises(CheckpointError, match=r"of layer\.weight"):
            method(base, [donor], weight=0.5, statistics=[torch.eye(2)] * 2, name="layer.weight")
    with pytest.raises(ConfigError, match=r"merge\.calibration"):
        lewis(base, [donor])
    with pytest.raises(ConfigError, match=r"merge\.calibration"):
        lewis_survey(lambda: [("h.0.w", base, [donor], None)], 1, gamma=0.3, epsilon=0.8)
    with pytest.raises(ConfigError, match=r"merge\.epsilon"):
        bind("lewis", defaults("lewis") | {"gamma": 0.8, "epsilon": 0.3})
    with pytest.raises(CheckpointError, match="h.0.w"):
        lewis_survey(lambda: [("h.0.w", base, [donor], [torch.ones(3)] * 2)], 1, gamma=0.3, epsilon=0.8)


# ---- fisher


def naive_fisher(models, c, information, floor, normalise, whole):
    scaled = [F.double() / (norm if normalise else 1) for F, (norm, _) in zip(information, whole, strict=True)]
    smooth = floor * np.mean([mean / (norm if normalise else 1) for norm, mean in whole])
    weights = [weight * (F + smooth) for weight, F in zip(c, scaled, strict=True)]
    return sum(w * model.double() for w, model in zip(weights, models, strict=True)) / sum(weights)


def test_fisher_by_hand():
    base, donor = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    F = [torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[3.0, 2.0], [1.0, 0.0]])]
    merged = fisher(base, [donor], weight=0.5, statistics=F, normalise=False, floor=0.0)
    # 1:3, all the donor, 3:1, and the plain mean where nothing is known
    torch.testing.assert_close(merged, torch.tensor([[4.0, 6.0], [4.0, 6.0]]))
    merged = fisher(base, [donor], weight=0.75, statistics=F, normalise=False, floor=0.0)
    torch.testing.assert_close(merged, torch.tensor([[4.6, 6.0], [5.0, 7.0]]))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("floor", [1e-6, 0.5])
def test_fisher_is_the_formula(normalise, floor):
    names = {"a": (4, 5), "b": (3,), "c": (), "d": (0, 2)}
    models = [{name: drawn(i, *shape) for name, shape in names.items()} for i in range(3)]
    of_models = [
        {name: (10**i * drawn(10 + i, *shape) ** 2) for name, shape in names.items()} | {"b": None} for i in range(3)
    ]
    whole = fisher_survey(
        lambda: [(n, models[0][n], [m[n] for m in models[1:]], [F[n] for F in of_models]) for n in names], 2
    )
    every = [torch.cat([F["a"].flatten(), F["c"].flatten()]).double() for F in of_models]
    for sums, F in zip(whole, every, strict=True):
        assert tuple(sums) == pytest.approx((F.norm().item(), F.mean().item()), rel=1e-12)
    for name in ("a", "c"):
        F, here = [each[name] for each in of_models], [each[name] for each in models]
        merged = fisher(
            here[0],
            here[1:],
            weight=0.6,
            shares=[1.0, 2.0],
            statistics=F,
            whole=whole,
            floor=floor,
            normalise=normalise,
        )
        expected = naive_fisher(here, [0.4, 0.2, 0.4], F, floor, normalise, whole)
        torch.testing.assert_close(merged.double(), expected, rtol=1e-6, atol=1e-6)


@every_dtype
def test_fisher_of_equal_parents_and_at_the_ends(dtype):
    base, donor = drawn(0, 6, 8, dtype=dtype), drawn(1, 6, 8, dtype=dtype)
    base[0, 0], donor[1, 1] = -0.0, -0.0
    F = [drawn(i, 6, 8).square() for i in range(3)]
    for each in F:
        each[:2] = 0
    for floor in (0.0, 1e-6):
        assert same_bits(fisher(base, [base, base.clone()], weight=0.3, statistics=F, floor=floor).to(dtype), base)
        assert same_bits(fisher(base, [donor], weight=0.0, statistics=F[:2], floor=floor).to(dtype), base)
        assert same_bits(fisher(base, [donor], weight=1.0, statistics=F[:2], floor=floor).to(dtype), donor)
    merged = fisher(base, [donor], weight=0.3, statistics=F[:2])
    torch.testing.assert_close(
        merged[:2].double(), linear(base, [donor], weight=0.3)[:2].double(), rtol=1e-6, atol=1e-7
    )


def test_fisher_of_bf16_is_pure_rounding():
    models, F = (
        [drawn(i, 40, 60, dtype=torch.bfloat16) for i in range(2)],
        [drawn(9 + i, 40, 60) ** 4 for i in range(2)],
    )
    exact = naive_fisher(models, [0.7, 0.3], F, 1e-6, True, [(f.norm().item(), f.mean().item()) for f in F])
    merged = fisher(models[0], models[1:], weight=0.3, statistics=F).to(torch.bfloat16)
    assert (merged.double() - exact).norm() <= 1.01 * (exact.bfloat16().double() - exact).norm()


def test_fisher_without_information_is_the_weighted_mean_and_says_so():
    base, donor, notes = drawn(0, 3, 3), drawn(1, 3, 3), Counter()
    merged = fisher(base, [donor], weight=0.3, statistics=[torch.zeros(3, 3)] * 2, notes=notes)
    torch.testing.assert_close(merged, linear(base, [donor], weight=0.3))
    assert sum(notes.values()) == 1
    F = [torch.full((3, 3), torch.nan), torch.ones(3, 3)]
    assert fisher(base, [donor], weight=0.3, statistics=F).isnan().all()


# ---- lewis


LAYERS = [f"layers.{i}.{part}.weight" for i in range(3) for part in ("up", "down")]


def lewis_models(count=3):
    names = {**dict.fromkeys(LAYERS, (8, 8)), "head.weight": (8, 8), "layers.0.norm.weight": (8,)}
    base = {name: drawn(place, *shape) for place, (name, shape) in enumerate(names.items())}
    models = [base] + [
        {
            name: tensor + 0.1 * (1 + i) * drawn(100 * i + place, *tensor.shape)
            for place, (name, tensor) in enumerate(base.items())
        }
        for i in range(1, count)
    ]
    activations = [
        {name: drawn(7 * i + place, 1, 8) ** 2 for place, name in enumerate([*LAYERS, "head.weight"])}
        for i in range(count)
    ]
    return models, activations


def surveyed(models, activations, **settings):
    base, *donors = models

    def tensors():
        for name in base:
            yield name, base[name], [donor[name] for donor in donors], [a.get(name) for a in activations]

    return lewis_survey(tensors, len(donors), **({"gamma": 0.3, "epsilon": 0.8} | settings))


def test_importance_knows_how_a_matrix_is_stored():
    W, a = torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([4.0, 9.0])
    of_inputs = (1 * 4 + 4 * 9 + 9 * 4 + 16 * 9) ** 0.5
    assert importance("w", W, a[None]) == pytest.approx(of_inputs, rel=1e-12)
    assert importance("w", W.T.contiguous(), a[:, None]) == pytest.approx(of_inputs, rel=1e-12)
    wide = drawn(0, 300, 700)
    a = wide[:1] ** 2
    assert importance("w", lazy(wide), lazy(a)) == pytest.approx(
        (wide.double().abs() * a.double().sqrt()).norm().item(), rel=1e-12
    )


def test_the_component_is_the_name_without_the_layer():
    assert component("model.layers.13.mlp.up_proj.weight") == "model.layers.*.mlp.up_proj.weight"
    assert component("h.0.attn.c_attn.weight") == "h.*.attn.c_attn.weight"
    assert component("layers.2.experts.5.w1.weight") == "layers.*.experts.5.w1.weight"
    assert component("lm_head.weight") == "lm_head.weight"


def test_densities_are_the_formula():
    models, activations = lewis_models()
    found = surveyed(models, activations)
    assert set(found) == set(LAYERS)
    for donor in (1, 2):
        size = {
            i: {n: (models[i][n].double().abs() * activations[i][n].double().sqrt()).norm().item() for n in LAYERS}
            for i in (0, donor)
        }
        change = {n: abs(size[donor][n] - size[0][n]) for n in LAYERS}
        share = {n: change[n] / sum(change[m] for m in LAYERS if m.split(".")[2] == n.split(".")[2]) for n in LAYERS}
        low, high = min(share.values()), max(share.values())
        for name in LAYERS:
            expected = 0.3 + 0.5 * (share[name] - low) / (high - low)
            assert found[name][donor - 1] == pytest.approx(expected, rel=1e-9)


def test_densities_by_hand_and_where_nothing_differs():
    one, two = torch.eye(2), 2 * torch.eye(2)
    a = torch.ones(1, 2)
    #                          base donor   |I - I|       up: 0, 1;  down: 1/4, 3/4
    matrices = {"0.up.w": (one, one), "1.up.w": (one, two), "0.down.w": (one, two), "1.down.w": (one, 4 * one)}
    found = lewis_survey(
        lambda: [(n, b, [d], [a, a]) for n, (b, d) in matrices.items()], 1, gamma=0.2, epsilon=0.6, into="ties"
    )
    assert {n: d[0] for n, d in found.items()} == pytest.approx(
        {"0.up.w": 0.2, "1.up.w": 0.6, "0.down.w": 0.3, "1.down.w": 0.5}
    )
    models, activations = lewis_models()
    equal = surveyed([models[0]] * 3, [activations[0]] * 3)
    assert set(map(tuple, equal.values())) == {(0.55, 0.55)}
    assert surveyed([models[0]], activations[:1]) == {}


@pytest.mark.parametrize("compat", ["none", "mergekit"])
def test_lewis_is_ties_or_dare_with_these_densities(compat):
    models, activations = lewis_models()
    whole = surveyed(models, activations)
    for name in models[0]:
        base, *donors = [model[name] for model in models]
        densities = whole.get(name, [1.0, 1.0])
        given = {"shares": [1.0, 0.5], "compat": compat}
        merged = lewis(base, donors, whole=whole, name=name, **given)
        assert torch.equal(merged, ties(base, donors, density=densities, trim="tensor", **given))
        merged = lewis(base, donors, whole=whole, name=name, into="dare", draw=3, **given)
        assert torch.equal(merged, dare(base, donors, density=densities, name=name, draw=3, **given))


def test_lewis_keeps_as_much_as_its_densities_say():
    models, activations = lewis_models(2)
    whole = surveyed(models, activations)
    for name in LAYERS:
        base, donor = models[0][name], models[1][name]
        moved = lewis(base, [donor], whole=whole, name=name) != base
        assert int(moved.sum()) == int(whole[name][0] * base.numel())
        assert same_bits(lewis(base, [base.clone()], whole=whole, name=name), base)
    head = lewis(models[0]["head.weight"], [models[1]["head.weight"]], whole=whole, name="head.weight")
    assert torch.equal(head, models[1]["head.weight"])


# ---- streamed


def test_lazy_tensors_and_threads_change_no_bit():
    models, grams = [drawn(i, 300, 400) for i in range(3)], [a_gram(i, 400, rows=900) for i in range(3)]
    F = [drawn(9 + i, 300, 400) ** 2 for i in range(3)]
    lazies = [[lazy(tensor) for tensor in tensors] for tensors in (models, grams, F)]
    for method, plain, streamed in (
        (regmean, grams, lazies[1]),
        (fisher, F, lazies[2]),
    ):
        expected = method(models[0], models[1:], weight=0.3, statistics=plain)
        with workers(2):
            merged = method(lazies[0][0], lazies[0][1:], weight=0.3, statistics=streamed)
            assert merged.shape == expected.shape
            assert torch.equal(merged.whole(torch.float32), expected)


# ---- on dicts of tensors


@pytest.mark.parametrize("model_type", ["gpt2", None])
def test_calibrated_merges_of_dicts(model_type):
    """As the functions themselves; a tensor without statistics, and GPT-2's turned matrices."""
    names, turned = ("h.0.attn.c_attn.weight", "h.1.attn.c_attn.weight"), model_type == "gpt2"
    base = {**{name: drawn(i, 4, 6) for i, name in enumerate(names)}, "norm": drawn(9, 6), "ids": torch.arange(3)}
    donor = {
        name: x + drawn(20 + i, *x.shape) if x.is_floating_point() else x for i, (name, x) in enumerate(base.items())
    }
    grams = [{name: a_gram(30 + 2 * i + j, 4 if turned else 6) for j, name in enumerate(names)} for i in range(2)]
    merged = merge(base, [donor], "regmean", 0.4, statistics=grams, model_type=model_type)
    assert torch.equal(merged["ids"], base["ids"])
    torch.testing.assert_close(merged["norm"], torch.lerp(base["norm"], donor["norm"], 0.4))
    for name in names:
        wanted = regmean(
            base[name], [donor[name]], weight=0.4, statistics=[each[name] for each in grams], transposed=turned
        )
        torch.testing.assert_close(merged[name], wanted, rtol=0, atol=0)

    squares = [{name: drawn(40 + i, *x.shape) ** 2 for name, x in base.items() if name in names} for i in range(2)]
    merged = merge(base, [donor], "fisher", 0.4, statistics=squares, model_type=model_type)
    whole = fisher_survey(
        lambda: ((name, base[name], [donor[name]], [each.get(name) for each in squares]) for name in (*names, "norm")),
        1, **defaults("fisher"),
    )  # fmt: skip
    for name in names:
        found = [each[name] for each in squares]
        wanted = fisher(base[name], [donor[name]], weight=0.4, statistics=found, whole=whole)
        torch.testing.assert_close(merged[name], wanted, rtol=0, atol=0)

    activations = [
        {name: drawn(50 + i, 4, 1) ** 2 if turned else drawn(50 + i, 1, 6) ** 2 for name in names} for i in range(2)
    ]
    merged = merge(base, [donor], "lewis", 1.0, statistics=activations, model_type=model_type)
    kept = [(merged[name] != base[name]).float().mean() for name in names]
    assert sorted(round(float(share) * 24) for share in kept) == [int(24 * 0.3), int(24 * 0.8)]
