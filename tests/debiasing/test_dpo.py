"""DPO: the loss by hand, the gradient by another way, and a planted bias that goes."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch

from pipeline.debiasing import bind, dpo, pairs
from pipeline.debiasing.optimisation import ByLoss
from pipeline.errors import ConfigError
from tests.debiasing import planted

FULL = {"lora_rank": 0}


def test_the_loss_by_hand():
    """Two bigram tables: every log-probability can be read off."""
    told, beta = planted.token_pairs(scope="span")[:2], 0.3
    model, moved = planted.Bigrams(0), planted.Bigrams(1)
    method = dpo.Method(model, dpo.Settings(beta=beta, **FULL))
    method.begin(told)
    before = model.table.detach().double().log_softmax(1)
    after = moved.table.detach().double().log_softmax(1)
    with torch.no_grad():
        model.table.copy_(moved.table)
    expected = 0.0
    for verb in (5, 9):  # both of the first profession: HE is the stereotype
        gain = (after[verb, planted.SHE] - before[verb, planted.SHE]) - (
            after[verb, planted.HE] - before[verb, planted.HE]
        )
        expected += math.log1p(math.exp(-beta * gain.item())) / 2
    loss, shown = method.loss(told)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert shown["margin"] == pytest.approx(
        (after[[5, 9], planted.HE] - after[[5, 9], planted.SHE]).mean().item(), rel=1e-5
    )


@pytest.mark.parametrize(
    "make, family", [(planted.llama, "causal"), (planted.gpt2, "causal"), (planted.bert, "masked")]
)
def test_the_gradient_and_one_step_by_another_way(make, family):
    """Text by text, with the incoming model beside it, and AdamW's first step from its definition."""
    model, told, beta, eta = make(0), planted.token_pairs(family)[:3], 0.7, 1e-3
    incoming, other = copy.deepcopy(model), make(3)
    method = dpo.Method(model, dpo.Settings(learning_rate=eta, beta=beta, **FULL))
    method.begin(told)
    model.load_state_dict(other.state_dict())
    loss = 0.0
    for pair in told:
        reward = {
            side: beta
            * (
                planted.log_probability(other, getattr(pair, side))
                - planted.log_probability(incoming, getattr(pair, side))
            )
            for side in ("stereotype", "anti_stereotype")
        }
        loss = loss - torch.sigmoid(reward["anti_stereotype"] - reward["stereotype"]).log() / len(told)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in other.named_parameters() if parameter.grad is not None}
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients.values()))
    assert method.step(told)["loss"] == pytest.approx(loss.item(), rel=1e-5)
    checked = 0
    for name, gradient in gradients.items():
        clear = gradient.abs() > 1e-4 * norm  # elsewhere rounding decides the sign of the step
        clipped = gradient * min(1.0, 1 / norm)
        expected = other.get_parameter(name) - eta * clipped / (clipped.abs() + 1e-8)
        torch.testing.assert_close(model.get_parameter(name)[clear], expected[clear], atol=2e-6, rtol=0)
        checked += int(clear.sum())
    assert checked > 100


def test_at_the_start_the_loss_is_log_2_and_only_the_margin_pulls():
    model, told, beta = planted.llama(), planted.token_pairs(), 0.4
    method = dpo.Method(model, dpo.Settings(beta=beta, **FULL))
    method.begin(told)
    loss, _ = method.loss(told)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
    loss.backward()
    of_loss = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    pairs.margins(model, told).mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(of_loss[name], beta / 2 * parameter.grad, atol=1e-6, rtol=1e-4)


def test_what_both_sides_share_before_the_difference_cancels():
    losses = []
    for scope in ("suffix", "sentence"):
        model, told = planted.llama(0), planted.token_pairs(scope=scope)
        method = dpo.Method(model, dpo.Settings(beta=1.0, **FULL))
        method.begin(told)
        model.load_state_dict(planted.llama(1).state_dict())
        losses.append(method.loss(told)[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize(
    "make, family", [(planted.llama, "causal"), (planted.gpt2, "causal"), (planted.bert, "masked")]
)
def test_a_planted_bias_goes(make, family, rank):
    model = planted.plant(make, family)
    start = planted.weights(model)
    settings = dpo.Settings(learning_rate=0.003 if rank == 0 else 0.02, lora_rank=rank, lora_alpha=4.0, beta=0.1)
    records, chosen = planted.tune(dpo, model, settings, family, epochs=6)
    assert records[0]["bias"] > 0.5
    assert chosen > 0 and abs(records[chosen]["bias"]) < 0.5 * records[0]["bias"]
    assert records[-1]["loss"] < records[1]["loss"] and records[-1]["margin"] < records[1]["margin"]
    assert planted.measure_of(family)(model)["bias"] == records[chosen]["bias"]  # what was chosen is what is left
    assert planted.weights(model).keys() == start.keys()


def test_the_learning_rate_rises_and_falls():
    weight = torch.nn.Parameter(torch.zeros(1))
    schedule = {"learning_rate": 2.0, "weight_decay": 0.0, "warmup_steps": 4, "parameters": [weight]}
    falling, staying = (ByLoss(planted.Bigrams(), **schedule, decay_steps=last) for last in (8, None))
    half = 2**-0.5
    expected = [0.5, 1.0, 1.5, 2.0, 1 + half, 1.0, 1 - half, 0.0, 0.0]
    assert [falling.rate(update) for update in range(1, 10)] == pytest.approx(expected, abs=1e-12)
    assert [staying.rate(update) for update in range(1, 10)] == expected[:4] + [2.0] * 5
    # the gradient is 1 in every step, so that each goes as far as the learning rate says
    for update in range(1, 10):
        assert falling.descend(weight.sum()) == pytest.approx(-sum(expected[: update - 1]), rel=1e-5)


def test_long_gradients_are_cut_and_short_ones_are_not():
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    by_loss = ByLoss(planted.Bigrams(), learning_rate=0.0, weight_decay=0.0, warmup_steps=0, parameters=[weight])
    moments = []
    for factor in (1.0, 0.01):
        by_loss.optimizer.state.clear()
        by_loss.descend(factor * weight.square().sum() / 2)
        moments.append(by_loss.optimizer.state[weight]["exp_avg"] / 0.1)
    torch.testing.assert_close(moments[0], torch.tensor([0.6, 0.8]), rtol=1e-5, atol=0)
    torch.testing.assert_close(moments[1], torch.tensor([0.03, 0.04]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("idle", [{"learning_rate": 0.0}, {"beta": 1e-30}])
def test_without_a_rate_or_in_the_limit_of_no_beta_the_model_stays(idle, rank):
    model = planted.llama()
    start = planted.weights(model)
    settings = dpo.Settings(**({"learning_rate": 0.01} | idle), lora_rank=rank)
    records, _ = planted.tune(dpo, model, settings, epochs=2)
    assert planted.same_bits(start, planted.weights(model))
    assert [record["loss"] for record in records[1:]] == pytest.approx([math.log(2)] * 2, rel=1e-6)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("make, family", [(planted.gpt2, "causal"), (planted.bert, "masked")])
def test_killed_and_resumed(tmp_path, make, family, rank):
    settings = dpo.Settings(learning_rate=0.01, warmup_steps=4, decay_steps=9, weight_decay=0.1, lora_rank=rank)
    model = make()
    resumed, left = planted.killed_and_resumed(dpo, model, settings, tmp_path, family)
    whole, _ = planted.tune(dpo, model, settings, family, epochs=3)
    assert str(resumed) == str(whole)  # nan is nan
    assert planted.same_bits(left, planted.weights(model))


@pytest.mark.parametrize(
    "bad, key",
    [
        ({"beta": 0.0}, "debias.beta"),
        ({"beta": math.nan}, "debias.beta"),
        ({"warmup_steps": -1}, "debias.warmup_steps"),
        ({"warmup_steps": 5, "decay_steps": 5}, "debias.decay_steps"),
        ({"lora_rank": -1}, "lora_rank"),
        ({"lora_alpha": 0.0}, "lora_alpha"),
    ],
)
def test_refused(bad, key):
    with pytest.raises(ConfigError, match=f"{key} should .*, found .*; change {key}"):
        dpo.Method(planted.llama(), dpo.Settings(**bad))


def test_low_rank_matrices_start_where_the_seed_says():
    def start(seed: int) -> torch.Tensor:
        method = bind(
            {"name": "dpo", "version": 2}, SimpleNamespace(model=planted.llama(), family="causal"), None, seed
        )
        return next(method.adapters.down.parameters())

    assert start(3).equal(start(3)) and not start(3).equal(start(4))
