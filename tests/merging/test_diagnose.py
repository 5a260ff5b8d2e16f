import math

import pytest
import torch

from pipeline.merging import merge
from pipeline.merging.diagnose import Sums, diagnose, layer


def total(base, donors, merged, shares=None):
    return sum((diagnose(base[name], [donor[name] for donor in donors], merged[name], shares) for name in base), Sums())


def test_by_hand():
    base, donor, merged = torch.zeros(2), torch.tensor([3.0, 4.0]), torch.tensor([1.5 - 4, 2 + 3.0])
    sums = diagnose(base, [donor], merged)
    assert sums.effective_weight == pytest.approx(0.5) and sums.off_axis == pytest.approx(1.0)
    assert math.isnan(sums.norm_ratio)
    assert diagnose(donor, [base], donor * 2).norm_ratio == pytest.approx(2)


def test_a_line_has_its_own_weight_and_no_other_direction(models):
    base, *donors = (
        {name: tensor for name, tensor in model.items() if tensor.is_floating_point()} for model in models(3)
    )
    for shares in (None, [1.0, 3.0]):
        sums = total(base, donors, merge(base, donors, "linear", 0.3, shares), shares)
        assert sums.effective_weight == pytest.approx(0.3, abs=1e-6) and sums.off_axis < 1e-6


def test_pooled_over_tensors_is_as_of_one_long_tensor(models):
    base, donor, merged = (
        {name: tensor for name, tensor in model.items() if tensor.is_floating_point()} for model in models(3)
    )
    flat = [torch.cat([tensor.reshape(-1) for tensor in model.values()]) for model in (base, donor, merged)]
    whole = diagnose(flat[0], [flat[1]], flat[2])
    parts = total(base, [donor], merged)
    assert parts.effective_weight == pytest.approx(whole.effective_weight) and parts.off_axis == pytest.approx(
        whole.off_axis
    )
    d, m = (flat[1] - flat[0]).double(), (flat[2] - flat[0]).double()
    weight = float(d @ m / (d @ d))
    assert whole.effective_weight == pytest.approx(weight, rel=1e-6)
    assert whole.off_axis == pytest.approx(float((m - weight * d).norm() / d.norm()), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("entries", [1, 256, (1 << 14) - 1, 1 << 14, 70_000])
def test_of_16_bits_it_is_as_in_float64(dtype, entries):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(entries, generator=generator).to(dtype)
    donor = (base + 0.1 * torch.randn(entries, generator=generator)).to(dtype)
    [merged] = merge({"w": base}, [{"w": donor}], "linear", 0.3).values()
    b = base.double()
    d, m = donor.double() - b, merged.double() - b
    weight = float(d @ m / (d @ d))
    found = diagnose(base, [donor], merged)
    assert found.effective_weight == pytest.approx(weight, rel=1e-6)
    assert found.off_axis == pytest.approx(float((m - weight * d).norm() / d.norm()), abs=1e-4)
    assert found.norm_ratio == pytest.approx(float(merged.double().norm() / b.norm()), rel=1e-7)


@pytest.mark.parametrize("copies", [1, 10_000])
@pytest.mark.parametrize("size", [1e-30, 1e-22, 1e20, 1e30])
def test_squares_beyond_the_range_of_float32(size, copies):
    base, donor = (torch.tensor(two).mul(size).bfloat16().repeat(copies) for two in ([3.0, 4.0], [5.0, 3.0]))
    found = diagnose(base, [donor], donor)
    assert found.effective_weight == 1 and found.off_axis < 1e-7
    assert found.norm_ratio == pytest.approx(math.hypot(5, 3) / 5, rel=1e-2)
    d = donor.double() - base.double()
    for sum_, exact in ((found.dd, d @ d), (found.base, base.double() @ base.double())):
        assert sum_ == pytest.approx(float(exact), rel=1e-6)


def test_undefined_is_nan():
    same = torch.ones(3)
    assert math.isnan(diagnose(same, [same], same).effective_weight) and math.isnan(
        diagnose(same, [same], same).off_axis
    )
    assert math.isnan(diagnose(torch.ones(0), [torch.ones(0)], torch.ones(0)).effective_weight)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.11.mlp.up_proj.weight", "model.layers.11"),
        ("transformer.h.0.attn.c_attn.bias", "transformer.h.0"),
        ("decoder.block.2.layer.1.w", "decoder.block.2"),
        ("model.embed_tokens.weight", "model.embed_tokens"),
        ("lm_head.weight", "lm_head"),
        ("scalar", "scalar"),
        ("model.w2v.weight", "model.w2v"),
        ("0.weight", "0"),
    ],
)
def test_layers(name, expected):
    assert layer(name) == expected
