"""Masked training: which tokens are hidden, what is minimised, that a kill changes nothing, that names are the base's."""

import copy
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages import donor
from pipeline.training import pretraining
from pipeline.training.masked import loss_of
from tests.tiny_masked_model import tiny_masked_model

SETTINGS = {"epochs": 3, "learning_rate": 1e-2, "batch_size": 4, "warmup": 0.1, "weight_decay": 0.01, "seed": 0}
MASK, SPECIAL = 4, {0, 1, 2, 3, 4}
TOKENS = [[2, *range(10 + 7 * n, 10 + 7 * n + 4 + n), 3] for n in range(9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_masked_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(folder):
    from transformers import AutoModelForMaskedLM

    torch.set_num_threads(1)
    return AutoModelForMaskedLM.from_pretrained(folder)


def loss(seed=0):
    return loss_of(MASK, 0, SPECIAL, 400, seed)


def test_the_loss_is_that_of_the_hidden_tokens_one_sentence_at_a_time(model):
    model.eval()
    total, count = loss()(model, TOKENS, 0)
    expected, hidden = 0.0, 0
    for sentence in TOKENS:
        shown, places = loss().hide(sentence, 0)
        logs = model(input_ids=torch.tensor([shown])).logits[0].double().log_softmax(-1)
        expected -= sum(logs[place, sentence[place]].item() for place in places)
        hidden += len(places)
    assert (total.item(), int(count)) == (pytest.approx(expected, rel=1e-5), hidden)
    one_by_one = pretraining.mean_loss(model, TOKENS, loss(), batch_size=1)
    assert pretraining.mean_loss(model, TOKENS, loss()) == pytest.approx(one_by_one, rel=1e-5)


@given(inner=st.lists(st.integers(5, 399), min_size=1, max_size=80), epoch=st.none() | st.integers(0, 9))
def test_what_is_hidden(inner, epoch):
    sentence = [2, *inner, 3]
    shown, places = loss().hide(sentence, epoch)
    assert len(set(places)) == len(places) == max(1, round(0.15 * len(inner)))
    assert all(0 < place <= len(inner) for place in places)
    assert all(shown[at] == sentence[at] for at in range(len(sentence)) if at not in places)
    assert (shown, places) == loss().hide(list(sentence), epoch)


def test_of_those_hidden_80_10_10():
    sentence = [2, *range(5, 105), 3]
    counts = Counter()
    for epoch in range(300):
        shown, places = loss().hide(sentence, epoch)
        counts.update(
            "mask" if shown[at] == MASK else "same" if shown[at] == sentence[at] else "other" for at in places
        )
    assert sum(counts.values()) == 300 * 15
    assert [counts[kind] / 4500 for kind in ("mask", "other", "same")] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_every_epoch_hides_others_and_every_token_has_its_turn():
    sentence = [2, *range(5, 45), 3]
    choices = [tuple(sorted(loss().hide(sentence, epoch)[1])) for epoch in range(60)]
    assert len(set(choices)) == 60
    assert {place for choice in choices for place in choice} == set(range(1, 41))
    assert loss(1).hide(sentence, 0) != loss(0).hide(sentence, 0)


def test_the_loss_falls_and_nothing_but_the_seed_is_random(model):
    before = pretraining.mean_loss(model, TOKENS, loss())
    one, again, other = (copy.deepcopy(model) for _ in range(3))
    pretraining.continue_pretraining(one, TOKENS, loss(), **SETTINGS | {"epochs": 40})
    torch.rand(7)
    pretraining.continue_pretraining(again, TOKENS, loss(), **SETTINGS | {"epochs": 40})
    pretraining.continue_pretraining(other, TOKENS, loss(1), **SETTINGS | {"epochs": 40, "seed": 1})
    assert pretraining.mean_loss(one, TOKENS, loss()) < 0.7 * before
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_killed_after_an_epoch_it_gives_the_same_bits(model, tmp_path, monkeypatch):
    whole, killed, resumed = (copy.deepcopy(model) for _ in range(3))
    expected = pretraining.continue_pretraining(whole, TOKENS, loss(), **SETTINGS)
    keep = pretraining.keep

    def dies(*arguments):
        keep(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "keep", dies)
    with pytest.raises(KeyboardInterrupt):
        pretraining.continue_pretraining(killed, TOKENS, loss(), scratch=tmp_path, **SETTINGS)
    monkeypatch.undo()
    assert pretraining.continue_pretraining(resumed, TOKENS, loss(), scratch=tmp_path, **SETTINGS) == expected
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_base_with_berts_old_names_keeps_them(folder, model, tmp_path):
    """bert-base-uncased calls a LayerNorm's parameters gamma and beta, and holds heads that are not trained."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForMaskedLM

    tensors = load_file(folder / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    old["cls.seq_relationship.weight"] = torch.ones(2, 32)
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    out.mkdir()
    for path in folder.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    save_file(old, base / "model.safetensors", {"format": "pt"})
    loaded = AutoModelForMaskedLM.from_pretrained(base)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(0.5)
    donor.save_under_base_names(loaded, base, out)
    written = load_file(out / "model.safetensors")
    assert written.keys() == old.keys() and any(name.endswith("LayerNorm.gamma") for name in written)
    for name, tensor in old.items():
        torch.testing.assert_close(written[name], tensor + (0.0 if "seq_relationship" in name else 0.5))
