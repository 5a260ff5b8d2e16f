"""Tuning in bfloat16: the passes are, the weights, the updates and what is measured are not."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline import debiasing, recipe, sweep
from pipeline.debiasing import bias_unlearn, dpo, pcgu, tuning
from pipeline.debiasing.pairs import both, outputs, scores, scores_in
from pipeline.precision import PRECISIONS, computing
from pipeline.store import Store
from pipeline.training import causal, pretraining
from tests.debiasing import planted, planted_bert
from tests.tiny_language_model import tiny_language_model

MAKES = [(planted.llama, "causal"), (planted.gpt2, "causal"), (planted.bert, "masked")]


def gradients(model, family) -> dict[str, torch.Tensor]:
    scores(model, both(planted.token_pairs(family))).sum().backward()
    taken = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return taken


@pytest.mark.parametrize(("make", "family"), MAKES)
def test_gradients_are_those_of_float32_up_to_bfloat16(make, family):
    model = make()
    before = planted.weights(model)
    full = gradients(model, family)
    with computing([model], "bfloat16"):
        half = gradients(model, family)
    assert full.keys() == half.keys()
    assert any(not half[name].equal(full[name]) for name in full)
    length = math.sqrt(sum(float(each.double().square().sum()) for each in full.values()))
    apart = math.sqrt(sum(float((half[name] - full[name]).double().square().sum()) for name in full))
    assert apart < 0.05 * length
    assert all(each.dtype == torch.float32 for each in (*half.values(), *model.parameters()))
    assert planted.same_bits(planted.weights(model), before)


@pytest.mark.parametrize(("make", "family"), MAKES)
def test_the_head_and_what_it_reads_stay_in_float32(make, family):
    model = make()
    told = planted.token_pairs(family)
    with computing([model], "bfloat16"):
        logits = outputs(model, both(told))[0]
        body = model.base_model(torch.tensor([told[0].stereotype.tokens]), output_hidden_states=True)
        assert scores_in(logits, both(told)).equal(scores(model, both(told)))
    assert logits.dtype == torch.float32
    assert not logits.equal(logits.bfloat16().float())
    assert body.last_hidden_state.dtype == torch.float32
    full = model.base_model(torch.tensor([told[0].stereotype.tokens])).last_hidden_state
    torch.testing.assert_close(body.last_hidden_state, full, atol=0.1, rtol=0.1)
    assert not body.last_hidden_state.equal(full)


def test_a_forward_of_its_own_comes_back():
    """accelerate gives modules one; and one room may stand in another."""
    model = planted.llama()
    own = model.model.forward
    model.model.forward = own
    with computing([model], "bfloat16"), computing([model], "bfloat16"):
        assert vars(model.model)["forward"] is not own
    assert vars(model.model)["forward"] is own


@pytest.mark.parametrize("precision", PRECISIONS)
def test_afterwards_the_model_computes_as_before(precision):
    model = planted.llama()
    sides = both(planted.token_pairs())
    before = scores(model, sides)
    with pytest.raises(planted.Killed), computing([model], precision):
        assert scores(model, sides).equal(before) == (precision == "float32")
        raise planted.Killed
    assert scores(model, sides).equal(before)


def test_a_step_that_bfloat16_could_not_hold_is_made():
    """Between two neighbours of bfloat16 lies 2^-8 of their size: few of these steps would show."""
    model = planted.llama()
    before = planted.weights(model)
    with computing([model], "bfloat16"):
        pcgu.Method(model, pcgu.Settings(share=1.0, learning_rate=1e-6, direction="both")).step(planted.token_pairs())
    after = planted.weights(model)
    moved = [(after[name] - before[name]).abs().max() for name in before]
    assert 0 < max(moved) < 1e-3
    changed = sum(int((after[name] != before[name]).sum()) for name in before)
    seen = sum(int((after[name].bfloat16() != before[name].bfloat16()).sum()) for name in before)
    assert changed > 10 * seen


QUICK = {
    "pcgu": {"share": 0.5, "learning_rate": 1e-3, "epochs": 2, "direction": "both"},
    "dpo": {"epochs": 2, "warmup_steps": 0},
    "bias_unlearn": {"epochs": 2, "warmup_steps": 0},
    "steering": {},
    "dpce": {"attributes": [["he"], ["she", "woman"]], "epochs": 2},
    "auto_debias": {
        **{"tuples": [["he", "she"]], "stereotypes": ["slow", "old"], "vocabulary": 5, "beam": 2, "prompt_length": 2},
        "learning_rate": 1e-3,
    },
}


def test_every_method_is_quick():
    assert sorted(QUICK) == debiasing.methods()


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        *QUICK.items(),
        ("dpo", QUICK["dpo"] | {"lora_rank": 0}),
        ("bias_unlearn", QUICK["bias_unlearn"] | {"lora_rank": 0}),
    ],
)
def test_in_the_stage_every_method_computes_in_it_and_nothing_else_does(name, changed, tmp_path, monkeypatch):
    """Which dtypes the linear layers of all models gave while the stage tuned, and while it measured."""
    from pipeline.stages import debias

    seen = {"tuning": set(), "measuring": set(), "head": set()}
    doing = ["tuning"]

    def watch(module, _, output):
        if isinstance(module, torch.nn.Linear):
            seen["head" if module.out_features > 48 else doing[0]].add(output.dtype)

    def measured(scorer, exam):
        doing[0] = "measuring"
        scorer.perplexity("he is slow.")
        doing[0] = "tuning"
        return {"bias": 0.0, "meaningful": 1.0, "perplexity": 1.0}

    monkeypatch.setattr(debias, "_measured", measured)
    results = {}
    for precision in PRECISIONS:
        for each in seen.values():
            each.clear()
        hook = torch.nn.modules.module.register_module_forward_hook(watch)
        try:
            _, _, made = planted_bert.staged(name, changed, tmp_path / precision, precision)
        finally:
            hook.remove()
        results[precision] = load_file(made / "model.safetensors")
        assert (torch.bfloat16 in seen["tuning"]) == (precision == "bfloat16")
        assert seen["measuring"] == {torch.float32} and seen["head"] <= {torch.float32}
    before = load_file(Path(planted_bert.taught().name) / "model.safetensors")
    full, half = (results[precision] for precision in PRECISIONS)
    assert any(not half[key].equal(full[key]) for key in full)
    # the two went the same way, and by about as much
    moved = [torch.cat([(each[key] - before[key]).double().flatten() for key in before]) for each in (full, half)]
    assert torch.nn.functional.cosine_similarity(*moved, 0) > 0.8
    assert 0.7 < moved[0].norm() / moved[1].norm() < 1.4


def test_at_the_start_the_incoming_model_is_no_other():
    """Whose copy is asked in the same precision: the distance from it is 0, and not a rounding."""
    model = planted.llama()
    settings = bias_unlearn.Settings(lora_rank=0, adversarial=0.0)
    method = bias_unlearn.Method(model, settings)
    with computing([model, *method.references], "bfloat16"):
        method.begin(planted.token_pairs())
        assert method.step(planted.token_pairs())["near"] == pytest.approx(0.0, abs=1e-7)


SETTINGS = {
    pcgu: pcgu.Settings(share=1.0, learning_rate=0.01, direction="both"),
    dpo: dpo.Settings(learning_rate=0.003, lora_rank=0),
}


@pytest.mark.parametrize("module", SETTINGS)
@pytest.mark.parametrize(("make", "family"), MAKES)
def test_a_planted_bias_falls_and_is_measured_in_float32(module, make, family):
    model = planted.plant(make, family)
    asked, measure = [], planted.measure_of(family)

    def measured(model):
        asked.append(model(input_ids=torch.tensor([[0, 1]]), attention_mask=torch.ones(1, 2)).logits.dtype)
        return measure(model)

    records, chosen = tuning.tune(
        model,
        planted.token_pairs(family),
        module.Method(model, SETTINGS[module]),
        epochs=4,
        batch_size=3,
        seed=0,
        measure=measured,
        choose=tuning.nearest(math.inf, 1.0),
        precision="bfloat16",
    )
    assert abs(records[chosen]["bias"]) < 0.6 * abs(records[0]["bias"])
    assert asked == [torch.float32] * 5
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


@pytest.mark.parametrize("rank", [0, 2])
def test_continued_pretraining(rank):
    options = {
        "epochs": 3,
        "learning_rate": 0.01,
        "batch_size": 2,
        "warmup": 0.0,
        "weight_decay": 0.0,
        "lora_rank": rank,
    }
    sentences = [stereotype for stereotype, _ in planted.texts(planted.VERBS)]
    losses = {
        precision: [
            row["loss"]
            for row in pretraining.continue_pretraining(
                planted.llama(), sentences, causal.loss, seed=0, precision=precision, **options
            )
        ]
        for precision in ("float32", "bfloat16")
    }
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)
    assert losses["bfloat16"][-1] < losses["bfloat16"][0]


@pytest.mark.parametrize("what", ["donor", "negation", "pcgu"])
def test_the_precision_is_part_of_the_key(tmp_path, what):
    base = tiny_language_model(tmp_path / "base")
    group = "donor" if what == "donor" else "debias"

    def trained(*overrides):
        told = [f"model.base=path:{base}", f"store={tmp_path / 'store'}", *overrides]
        told += [] if what == "donor" else [f"debias={what}"]
        told += ["debias.select_on=null"] if what == "pcgu" else []
        (config,), _ = sweep.expand(told, False)
        cell = recipe.describe(config, Store(tmp_path / "store"))
        return {"donor": lambda: cell.trained, "negation": lambda: cell.final.inputs["trained"]}.get(
            what, lambda: cell.final.inputs["tuned"]
        )()

    full, half = trained(), trained(f"{group}.precision=bfloat16")
    part = "training" if what == "pcgu" else "settings"
    assert half.inputs[part] == full.inputs[part] | {"precision": "bfloat16"}
    assert full.key != half.key
