"""Donors: what each does to every tensor, and the law that ties them to negation."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.debiasing.negation import negation
from pipeline.errors import CheckpointError
from pipeline.merging import merge
from pipeline.stages import debias, donor
from tests.tiny_language_model import tiny_language_model


def tensors(folder):
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base and a "trained" copy of it that differs in every tensor."""
    where = tmp_path_factory.mktemp("models")
    base = tiny_language_model(where / "base")
    trained = tiny_language_model(where / "trained")
    generator = torch.Generator().manual_seed(1)
    moved = {name: t + 0.01 * torch.randn(t.shape, generator=generator) for name, t in tensors(base).items()}
    save_file(moved, trained / "model.safetensors", {"format": "pt"})
    return base, trained


def made(tmp_path, stage, **inputs):
    folder = tmp_path / stage.__name__
    folder.mkdir()
    summary = stage(folder, **inputs)
    return tensors(folder), summary


def test_inverted(models, tmp_path):
    base, trained = map(tensors, models)
    result, summary = made(
        tmp_path, donor.invert, base=models[0], trained=models[1], renormalise=False, exclude_norms=False
    )
    for name, theta in base.items():
        torch.testing.assert_close(
            result[name].double(), 2 * theta.double() - trained[name].double(), atol=1e-7, rtol=0
        )
    tau = torch.cat([(trained[n].double() - base[n].double()).flatten() for n in base])
    theta = torch.cat([base[n].double().flatten() for n in base])
    assert summary["relative_norm"] == pytest.approx((tau.norm() / theta.norm()).item(), rel=1e-9)


def test_renormalised_and_without_norms(models, tmp_path):
    base = tensors(models[0])
    result, _ = made(tmp_path, donor.invert, base=models[0], trained=models[1], renormalise=True, exclude_norms=True)
    for name, theta in base.items():
        assert result[name].double().norm().item() == pytest.approx(theta.double().norm().item(), rel=1e-6)
        assert torch.equal(result[name], theta) == ("norm" in name)


def test_the_control_is_as_long_and_points_elsewhere(models, tmp_path):
    base, trained = map(tensors, models)
    inputs = {"base": models[0], "trained": models[1], "exclude_norms": False}
    result, summary = made(tmp_path, donor.randomise, draw=0, **inputs)
    (tmp_path / "again").mkdir()
    (tmp_path / "other").mkdir()
    again, _ = made(tmp_path / "again", donor.randomise, draw=0, **inputs)
    other, _ = made(tmp_path / "other", donor.randomise, draw=1, **inputs)
    for name, theta in base.items():
        step, tau = (result[name] - theta).double(), (trained[name] - theta).double()
        assert step.norm().item() == pytest.approx(tau.norm().item(), rel=1e-4)
        assert torch.equal(result[name], again[name]) and not torch.equal(result[name], other[name])
    steps = torch.cat([(result[n] - base[n]).double().flatten() for n in base])
    taus = torch.cat([(trained[n] - base[n]).double().flatten() for n in base])
    assert abs(torch.nn.functional.cosine_similarity(steps, taus, dim=0).item()) < 0.1
    assert summary["relative_norm"] > 0


def test_a_control_stays_where_few_weights_moved(models, tmp_path):
    """As PCGU's: as long as what was moved, in the same weights, and nowhere else."""
    base = tensors(models[0])
    few = {name: theta.clone() for name, theta in base.items()}
    name = max(few, key=lambda each: few[each].numel())
    few[name][::3] += 0.01 * (few[name][::3] + 1)
    folder = tmp_path / "few"
    shutil.copytree(models[0], folder)
    save_file(few, folder / "model.safetensors", {"format": "pt"})
    result, _ = made(
        tmp_path, donor.randomise, base=models[0], trained=folder, draw=0, exclude_norms=False, where_moved=True
    )
    step, tau = (result[name] - base[name]).double(), (few[name] - base[name]).double()
    assert step.norm().item() == pytest.approx(tau.norm().item(), rel=1e-4)
    assert not step[tau == 0].any() and (step[tau != 0] != 0).float().mean() > 0.99
    assert all(torch.equal(result[each], base[each]) for each in base if each != name)


def test_a_task_vector_from_elsewhere(models, tmp_path):
    base, trained = map(tensors, models)
    result, _ = made(tmp_path, donor.transfer, base=models[0], trained=models[1], origin=models[0], coefficient=-2.0)
    for name, theta in base.items():
        expected = theta.double() - 2 * (trained[name].double() - theta.double())
        torch.testing.assert_close(result[name].double(), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_negation_is_the_linear_merge_with_the_inverted_donor(models, tmp_path, weight):
    base, trained = map(tensors, models)
    inverted, _ = made(
        tmp_path, donor.invert, base=models[0], trained=models[1], renormalise=False, exclude_norms=False
    )
    merged = merge(base, [inverted], "linear", weight=weight)
    for name, theta in base.items():
        torch.testing.assert_close(
            merged[name], negation(theta, trained[name], coefficient=weight).float(), atol=1e-6, rtol=0
        )
    negated, summary = made(
        tmp_path, debias.negate, model=models[0], trained=models[1], coefficient=weight, exclude_norms=False
    )
    for name in base:
        torch.testing.assert_close(merged[name], negated[name], atol=1e-6, rtol=0)
    assert summary["tensors_changed"] == (len(base) if weight else 0)


def test_models_that_do_not_fit_are_refused(models, tmp_path):
    other = tiny_language_model(tmp_path / "wide", vocabulary=300)
    with pytest.raises(CheckpointError):
        made(tmp_path, donor.invert, base=models[0], trained=other, renormalise=False, exclude_norms=False)


def test_a_trained_model_is_saved_under_the_names_of_its_base(tmp_path):
    """GPT-2 files on the hub leave out the prefix that transformers writes."""
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    base, out = tmp_path / "base", tmp_path / "out"
    GPT2LMHeadModel(config).save_pretrained(base)
    out.mkdir()
    short = {name.removeprefix("transformer."): t for name, t in tensors(base).items()}
    save_file(short, base / "model.safetensors", {"format": "pt"})
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    moved, _ = donor.save_under_base_names(model, base, out)
    assert set(tensors(out)) == set(short)
    for name, theta in short.items():
        torch.testing.assert_close(tensors(out)[name], theta + 0.5)
    entries = sum(t.numel() for t in short.values())
    assert moved == pytest.approx(0.5 * entries**0.5, rel=1e-5)
