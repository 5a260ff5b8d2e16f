"""The training loop: what it minimises, that it can be killed, that only the order is random."""

import copy

import pytest
import torch

from pipeline.training import causal, pretraining
from tests.tiny_language_model import tiny_language_model

SETTINGS = {"epochs": 2, "learning_rate": 1e-2, "batch_size": 3, "warmup": 0.1, "weight_decay": 0.01, "seed": 0}
TOKENS = [[1, 5, 9, 12], [2, 5, 9], [3, 7, 7, 7, 8, 20], [4, 5], [1, 5, 9, 30, 31, 32, 33]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_language_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(folder):
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(folder)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def naive_loss(model, tokens):
    """Sentence by sentence, in float64."""
    total, count = 0.0, 0
    for sentence in tokens:
        logits = model(torch.tensor([sentence])).logits[0].double().log_softmax(-1)
        total -= sum(logits[t - 1, sentence[t]].item() for t in range(1, len(sentence)))
        count += len(sentence) - 1
    return total / count


def test_mean_loss_is_the_mean_over_predicted_tokens(model):
    with torch.no_grad():
        assert pretraining.mean_loss(model, TOKENS, causal.loss) == pytest.approx(naive_loss(model, TOKENS), abs=1e-5)
        assert pretraining.mean_loss(model, TOKENS, causal.loss, batch_size=1) == pytest.approx(
            pretraining.mean_loss(model, TOKENS, causal.loss), abs=1e-6
        )


def test_the_first_step_is_adamw_on_the_batch_mean(model):
    expected = copy.deepcopy(model)
    losses = pretraining.continue_pretraining(model, TOKENS[:3], causal.loss, **SETTINGS | {"epochs": 1})
    loss = expected.eval() and naive_tensor(expected, TOKENS[:3])
    assert losses[0]["loss"] == pytest.approx(loss.item(), abs=1e-5)
    decayed = [p for p in expected.parameters() if p.dim() >= 2]
    plain = [p for p in expected.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}], lr=1e-2
    )
    loss.backward()
    torch.nn.utils.clip_grad_norm_(expected.parameters(), 1.0)
    optimizer.step()
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def naive_tensor(model, tokens):
    total, count = 0.0, 0
    for sentence in tokens:
        logits = model(torch.tensor([sentence])).logits[0].log_softmax(-1)
        total = total - sum(logits[t - 1, sentence[t]] for t in range(1, len(sentence)))
        count += len(sentence) - 1
    return total / count


def test_the_loss_falls(model):
    before = pretraining.mean_loss(model, TOKENS, causal.loss)
    losses = pretraining.continue_pretraining(model, TOKENS, causal.loss, **SETTINGS | {"epochs": 10})
    assert pretraining.mean_loss(model, TOKENS, causal.loss) < 0.5 * before
    assert [each["step"] for each in losses] == list(range(20))
    rates = [each["learning_rate"] for each in losses]
    assert max(rates) == pytest.approx(1e-2) and rates[-1] < 2e-3


def test_killed_after_an_epoch_it_gives_the_same_bits(model, tmp_path, monkeypatch):
    whole = copy.deepcopy(model)
    expected = pretraining.continue_pretraining(whole, TOKENS, causal.loss, **SETTINGS)
    killed, keep = copy.deepcopy(model), pretraining.keep

    def dies(*arguments):
        keep(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "keep", dies)
    with pytest.raises(KeyboardInterrupt):
        pretraining.continue_pretraining(killed, TOKENS, causal.loss, scratch=tmp_path, **SETTINGS)
    monkeypatch.undo()
    resumed = copy.deepcopy(model)
    losses = pretraining.continue_pretraining(resumed, TOKENS, causal.loss, scratch=tmp_path, **SETTINGS)
    assert losses == expected
    assert same(whole, resumed) and not same(whole, killed)


def test_only_the_order_is_random(model):
    one, again, other = copy.deepcopy(model), copy.deepcopy(model), copy.deepcopy(model)
    pretraining.continue_pretraining(one, TOKENS, causal.loss, **SETTINGS)
    torch.rand(7)  # the global generator must not matter
    pretraining.continue_pretraining(again, TOKENS, causal.loss, **SETTINGS)
    pretraining.continue_pretraining(other, TOKENS, causal.loss, **SETTINGS | {"seed": 1})
    assert same(one, again) and not same(one, other)


def test_a_loss_that_is_not_finite_stops(model):
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        pretraining.continue_pretraining(model, TOKENS, causal.loss, **SETTINGS)
