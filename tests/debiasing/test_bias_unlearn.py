"""BiasUnlearn: its three parts by hand, the roles that change, and a planted bias that goes."""

import copy
import math

import pytest
import torch

from pipeline.debiasing import bias_unlearn, pairs
from pipeline.errors import ConfigError
from tests.debiasing import planted

FULL = {"lora_rank": 0}


def begun(model, told, **settings):
    method = bias_unlearn.Method(model, bias_unlearn.Settings(**settings))
    method.begin(told)
    return method


@pytest.mark.parametrize("swapped", [False, True])
def test_the_loss_by_hand(swapped):
    """Two bigram tables: every log-probability and every divergence can be read off. HE is the stereotype in both pairs."""
    told, beta = planted.token_pairs(scope="span")[:2], 0.3
    model, moved = planted.Bigrams(0), planted.Bigrams(1)
    with torch.no_grad():
        model.table[[5, 9], planted.HE] = model.table[[5, 9], planted.SHE] + (-1.0 if swapped else 1.0)
    weights = {"forget_weight": 0.6, "retain_weight": 0.5, "near_weight": 0.4}
    method = begun(model, told, beta=beta, adversarial=0.5, **weights, **FULL)
    before = model.table.detach().double().log_softmax(1)
    after = moved.table.detach().double().log_softmax(1)
    with torch.no_grad():
        model.table.copy_(moved.table)
    away, kept = (planted.SHE, planted.HE) if swapped else (planted.HE, planted.SHE)
    forgotten = [(5, away), (9, away), (9, kept)]  # of two retained texts every second one is forgotten too
    ratio = torch.stack([after[place] - before[place] for place in forgotten])
    expected = {
        "forget": (2 / beta * torch.log1p(torch.exp(beta * ratio))).mean().item(),
        "retain": -(after[5, kept] + after[9, kept]).item() / 2,
        # read are start, profession, verb of each pair, by either side
        "near": (before.exp() * (before - after)).sum(1)[[0, 1, 5, 0, 1, 9]].mean().item(),
    }
    loss, shown = method.loss(told)
    for name, value in expected.items():
        assert shown[name] == pytest.approx(value, rel=1e-4), name
    assert loss.item() == pytest.approx(
        sum(weights[f"{name}_weight"] * value for name, value in expected.items()), rel=1e-4
    )
    assert shown["swapped"] == float(swapped)
    assert shown["margin"] == pytest.approx(
        (after[[5, 9], planted.HE] - after[[5, 9], planted.SHE]).mean().item(), rel=1e-4
    )


@pytest.mark.parametrize(
    "make, family", [(planted.llama, "causal"), (planted.gpt2, "causal"), (planted.bert, "masked")]
)
def test_the_gradient_by_another_way(make, family):
    """Text by text, with the incoming model beside it."""
    model, told, beta = planted.plant(make, family), planted.token_pairs(family)[:3], 0.7
    method = begun(model, told, beta=beta, adversarial=0.4, **FULL)
    incoming, other = copy.deepcopy(model), make(3)
    model.load_state_dict(other.state_dict())
    forgotten, retained, places = [], [], []
    for pair in told:
        for role, side in (("forget", pair.stereotype), ("retain", pair.anti_stereotype)):
            ratio = planted.log_probability(other, side) - planted.log_probability(incoming, side).detach()
            if role == "forget" or pair in (told[2],):  # 0.4 of three: the third
                forgotten.append(-2 / beta * torch.sigmoid(-beta * ratio).log())
            if role == "retain":
                retained.append(-planted.log_probability(other, side) / len(side.places))
            tokens = torch.tensor([side.tokens])
            p0, p = (
                each(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[0].softmax(1)
                for each in (incoming, other)
            )
            places.append((p0.detach() * (p0.detach().log() - p.log())).sum(1))
    loss = 0.5 * torch.stack(forgotten).mean() + 0.3 * torch.stack(retained).mean() + 0.2 * torch.cat(places).mean()
    loss.backward()
    mine, _ = method.loss(told)
    mine.backward()
    assert mine.item() == pytest.approx(loss.item(), rel=1e-4)
    for name, parameter in other.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad, atol=2e-5, rtol=1e-3)


def test_at_the_start_nothing_is_forgotten_and_nothing_is_far():
    _, shown = begun(planted.llama(), planted.token_pairs(), beta=0.5, **FULL).loss(planted.token_pairs())
    assert shown["forget"] == pytest.approx(2 / 0.5 * math.log(2), rel=1e-5)
    assert shown["near"] == pytest.approx(0, abs=1e-6)


def test_with_beta_to_0_forgetting_is_gradient_ascent():
    """Law of negative preference optimisation: the gradient becomes that of the mean log-probability."""
    model, told = planted.plant(planted.llama), planted.token_pairs()
    others = {"retain_weight": 0.0, "near_weight": 0.0, "adversarial": 0.0, "forget_weight": 1.0}
    begun(model, told, beta=1e-4, **others, **FULL).loss(told)[0].backward()
    of_loss = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    pairs.scores(model, [pair.stereotype for pair in told]).mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(of_loss[name], parameter.grad, atol=1e-4, rtol=1e-3)


def test_the_incoming_model_is_the_one_without_thin_matrices():
    """What low rank says of the incoming model is what a copy of it says."""
    told, settings = planted.token_pairs(), {"learning_rate": 0.02, "near_weight": 1.0}
    model = planted.gpt2()
    copied = copy.deepcopy(model)
    method = begun(model, told, lora_rank=2, **settings)
    for _ in range(3):
        method.step(told)
    logits, _ = pairs.outputs(copied, pairs.both(told))
    assert torch.equal(method._before(pairs.both(told)), logits)
    assert method.loss(told)[1]["near"] > 1e-4


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize(
    "make, family", [(planted.llama, "causal"), (planted.gpt2, "causal"), (planted.bert, "masked")]
)
def test_a_planted_bias_goes(make, family, rank):
    model = planted.plant(make, family)
    settings = bias_unlearn.Settings(learning_rate=0.003 if rank == 0 else 0.02, lora_rank=rank)
    records, chosen = planted.tune(bias_unlearn, model, settings, family, epochs=6)
    assert records[0]["bias"] > 0.5
    assert chosen > 0 and abs(records[chosen]["bias"]) < 0.5 * records[0]["bias"]
    assert planted.measure_of(family)(model)["bias"] == records[chosen]["bias"]


@pytest.mark.parametrize("rank", [0, 2])
def test_a_bias_that_turns_round_is_turned_back(rank):
    """Tuned far beyond even, the roles change, and change again."""
    model = planted.plant(planted.llama)
    settings = bias_unlearn.Settings(learning_rate=0.004 if rank == 0 else 0.03, lora_rank=rank, near_weight=0.0)
    records, _ = planted.tune(bias_unlearn, model, settings, epochs=12)
    roles = [record["swapped"] for record in records[1:]]
    assert roles[0] == 0.0 and 1.0 in roles and 0.0 in roles[roles.index(1.0) :]


def test_a_model_with_the_bias_turned_round_is_swapped_from_the_start():
    model, told = planted.plant(planted.llama), planted.token_pairs()
    turned = [pairs.TokenPair(pair.anti_stereotype, pair.stereotype) for pair in told]
    straight, other = (begun(model, asked, adversarial=0.5, **FULL) for asked in (told, turned))
    assert (straight.swapped, other.swapped) == (False, True)
    assert straight.loss(told)[0].item() == pytest.approx(other.loss(turned)[0].item(), rel=1e-5)


@pytest.mark.parametrize("rank", [0, 2])
def test_without_a_rate_the_model_stays(rank):
    model = planted.llama()
    start = planted.weights(model)
    planted.tune(bias_unlearn, model, bias_unlearn.Settings(learning_rate=0.0, lora_rank=rank), epochs=2)
    assert planted.same_bits(start, planted.weights(model))


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("make, family", [(planted.gpt2, "causal"), (planted.bert, "masked")])
def test_killed_and_resumed(tmp_path, make, family, rank):
    settings = bias_unlearn.Settings(learning_rate=0.01, warmup_steps=4, decay_steps=9, lora_rank=rank)
    model = planted.plant(make, family)
    resumed, left = planted.killed_and_resumed(bias_unlearn, model, settings, tmp_path, family)
    whole, _ = planted.tune(bias_unlearn, model, settings, family, epochs=3)
    assert str(resumed) == str(whole)  # nan is nan
    assert planted.same_bits(left, planted.weights(model))


@pytest.mark.parametrize(
    "bad, key",
    [
        ({"beta": 0.0}, "debias.beta"),
        ({"forget_weight": -0.1}, "debias.forget_weight"),
        ({"retain_weight": math.nan}, "debias.retain_weight"),
        ({"near_weight": -1.0}, "debias.near_weight"),
        ({"adversarial": 1.5}, "debias.adversarial"),
        ({"lora_rank": -1}, "lora_rank"),
    ],
)
def test_refused(bad, key):
    with pytest.raises(ConfigError, match=f"{key} should .*, found .*; change {key}"):
        bias_unlearn.Method(planted.llama(), bias_unlearn.Settings(**bad))
