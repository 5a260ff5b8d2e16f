"""Steering: the direction and the folded weights, against another implementation, on every architecture it knows."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from pipeline.debiasing import bind, pairs, steering, tuning
from pipeline.errors import ConfigError

SIZES = {
    "vocab_size": 40,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.5,
    "pad_token_id": 0,
}
BERT = ["attention.output.dense", "output.dense"]
# transformers class -> settings of its config, family, and by what each layer writes
ALL = {
    "LlamaForCausalLM": (SIZES, "causal", "model.layers.{}.", ["self_attn.o_proj", "mlp.down_proj"]),
    "Qwen2ForCausalLM": (SIZES, "causal", "model.layers.{}.", ["self_attn.o_proj", "mlp.down_proj"]),
    "GPT2LMHeadModel": (
        {"vocab_size": 40, "n_embd": 8, "n_layer": 3, "n_head": 2, "n_positions": 32, "initializer_range": 0.5},
        "causal",
        "transformer.h.{}.",
        ["attn.c_proj", "mlp.c_proj"],
    ),
    "BertForMaskedLM": (SIZES, "masked", "bert.encoder.layer.{}.", BERT),
    "RobertaForMaskedLM": (SIZES, "masked", "roberta.encoder.layer.{}.", BERT),
    "AlbertForMaskedLM": (
        SIZES | {"embedding_size": 4},
        "masked",
        "albert.encoder.albert_layer_groups.0.albert_layers.0.",
        ["attention.dense", "ffn_output"],
    ),
}
TEXTS = [((1, 5, 6, 7, 2), (1, 5, 9, 7, 2)), ((1, 8, 10, 11, 12, 2), (1, 8, 13, 14, 12, 2)), ((1, 4, 2), (1, 15, 2))]


def model(name: str):
    config = getattr(
        transformers,
        name.removesuffix("ForMaskedLM").removesuffix("ForCausalLM").removesuffix("LMHeadModel") + "Config",
    )
    torch.manual_seed(3)
    made = getattr(transformers, name)(config(**ALL[name][0])).eval()
    with torch.no_grad():
        for part, parameter in made.named_parameters():
            if part.endswith("bias"):  # zero where a model is new: an unfolded bias would not show
                parameter.normal_(std=0.3)
    return made


def token_pairs(family: str) -> list[pairs.TokenPair]:
    return [pairs.causal(*each) if family == "causal" else pairs.masked(*each, 3) for each in TEXTS]


def prepared(made, family: str, **settings):
    method = steering.Method(made, steering.Settings(**settings))
    return method, method.prepare(SimpleNamespace(family=family), token_pairs(family))


def directions(made) -> np.ndarray:
    """d of every layer but the last, text by text, from the hidden states that transformers gives."""
    found = []
    for one, other in TEXTS:
        place = max(place for place in range(len(one)) if one[place] != other[place])
        states = [
            made(input_ids=torch.tensor([text]), output_hidden_states=True).hidden_states[1:3] for text in (one, other)
        ]
        found.append([(a[0, place] - b[0, place]).detach().double().numpy() for a, b in zip(*states, strict=True)])
    return np.mean(found, axis=0)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_direction_and_weights_agree_with_another_implementation(name, strength):
    made, (_, family, prefix, writers) = model(name), ALL[name]
    before = {key: value.double().numpy().copy() for key, value in made.state_dict().items()}
    d = directions(made)[1]
    v = d / np.linalg.norm(d)
    method, examples = prepared(made, family, layers=[1], strength=strength)
    method.step(examples[:2])
    method.step(examples[2:])
    method.end_epoch()
    projector = np.eye(8) - strength * np.outer(v, v)
    changed = set()
    for writer in writers:
        for kind in ("weight", "bias"):
            key = f"{prefix.format(1)}{writer}.{kind}"
            if key in before:
                changed.add(key)
                expected = before[key] @ projector if name.startswith("GPT2") else projector @ before[key]
                np.testing.assert_allclose(made.state_dict()[key].numpy(), expected, atol=1e-5)
    for key, value in made.state_dict().items():
        if key not in changed:
            np.testing.assert_array_equal(value.double().numpy(), before[key], err_msg=key)


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_written_along_the_direction_any_more(name):
    made, (_, family, _, _) = model(name), ALL[name]
    v = torch.tensor(directions(made)[1])
    v /= v.norm()
    block = steering.layers_of(made)[1]
    written = []
    method, examples = prepared(made, family, layers=[1])
    for module in steering.writers_of(made, block):
        module.register_forward_hook(lambda _m, _i, output: written.append((output.double() @ v).abs().max().item()))
    method.step(examples)
    assert max(written) > 0.05
    method.end_epoch()
    written.clear()
    method.step(examples)
    assert max(written) < 1e-5


def test_by_hand():
    module = torch.nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        module.bias.copy_(torch.tensor([5.0, 6.0]))
        # v = (1, 0): the first output is what is written along it
        steering.fold(module, torch.tensor([1.0, 0.0], dtype=torch.float64), 0.5)
    assert module.weight.tolist() == [[0.5, 1.0], [3.0, 4.0]]
    assert module.bias.tolist() == [2.5, 6.0]


def test_layers_that_share_their_weights_share_a_direction():
    made = model("AlbertForMaskedLM")
    d = directions(made).mean(0)
    method, examples = prepared(made, "masked", layers=[0, 1])
    before = made.state_dict()["albert.encoder.albert_layer_groups.0.albert_layers.0.ffn_output.weight"].numpy().copy()
    method.step(examples)
    method.end_epoch()
    after = made.state_dict()["albert.encoder.albert_layer_groups.0.albert_layers.0.ffn_output.weight"].numpy()
    np.testing.assert_allclose(after, before - np.outer(d, d @ before) / (d @ d), atol=2e-6)


def test_the_last_layer_is_read_before_the_final_norm():
    made = model("LlamaForCausalLM")
    seen = []
    made.model.norm.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].detach().double()))
    d = torch.zeros(8, dtype=torch.float64)
    for one, other in TEXTS:
        place = max(place for place in range(len(one)) if one[place] != other[place])
        made(input_ids=torch.tensor([one]))
        made(input_ids=torch.tensor([other]))
        d += seen[-2][0, place] - seen[-1][0, place]
    method, examples = prepared(made, "causal", layers=[2])
    method.step(examples)
    torch.testing.assert_close(method.sums[2], d, atol=1e-5, rtol=0)


def test_the_middle_third_is_the_default():
    made = model("LlamaForCausalLM")
    assert prepared(made, "causal")[0].chosen == [1]


def test_a_side_with_nothing_of_its_own_is_read_before_the_place():
    assert steering.example((1, 5, 6, 7, 2), (1, 5, 7, 2)).places == (2, 1)
    assert steering.example((1, 5, 6, 7, 2), (1, 5, 9, 8, 7, 2)).places == (2, 3)


def test_a_layer_without_a_difference_stays_as_it_is():
    made = model("BertForMaskedLM")
    before = {key: value.clone() for key, value in made.state_dict().items()}
    method, examples = prepared(made, "masked")
    swapped = [each._replace(stereotype=each.anti_stereotype, anti_stereotype=each.stereotype) for each in examples]
    method.step(examples[:1])
    method.step(swapped[:1])
    method.end_epoch()
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())


def test_a_direction_that_was_planted_is_found_and_taken_out():
    """Tokens 5 and 9 are told apart by one number of the embedding alone; the layer above must not say so any more."""
    made = model("LlamaForCausalLM")
    layer = made.model.layers[1]
    with torch.no_grad():
        for part in (made.model.layers[0], layer):
            part.self_attn.o_proj.weight.zero_()
            part.mlp.down_proj.weight.zero_()
        made.model.embed_tokens.weight[9] = made.model.embed_tokens.weight[5]
        made.model.embed_tokens.weight[9, 0] = -made.model.embed_tokens.weight[5, 0]
        layer.mlp.down_proj.weight.normal_()
    method = steering.Method(made, steering.Settings(layers=[1]))
    examples = method.prepare(SimpleNamespace(family="causal"), [pairs.causal(*TEXTS[0])])

    def apart() -> torch.Tensor:
        ids = torch.tensor([TEXTS[0][0][:3], TEXTS[0][1][:3]])
        with steering.outputs_of([layer.mlp]) as outputs:
            made(input_ids=ids)
        return outputs[0][0, 2] - outputs[0][1, 2]

    method.step(examples)
    v = method.sums[1] / method.sums[1].norm()
    before = apart().double() @ v
    method.end_epoch()
    assert abs(before) > 0.1 and abs(apart().double() @ v) < 1e-6


def test_a_killed_run_goes_on_with_the_same_bits(tmp_path):
    def run(made, folder, fails: int | None):
        method, examples = prepared(made, "causal", strength=0.5)
        measured = []

        def measure(_):
            measured.append(1)
            if len(measured) == fails:
                raise KeyboardInterrupt
            return {"bias": 0.0, "perplexity": 1.0, "meaningful": 1.0}

        return tuning.tune(
            made, examples, method, epochs=3, batch_size=2, seed=1, measure=measure, choose=tuning.last, scratch=folder
        )

    whole, killed = model("LlamaForCausalLM"), model("LlamaForCausalLM")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    records, _ = run(whole, tmp_path / "a", None)
    with pytest.raises(KeyboardInterrupt):
        run(killed, tmp_path / "b", 3)
    killed = model("LlamaForCausalLM")
    again, _ = run(killed, tmp_path / "b", None)
    assert records == again
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), killed.parameters(), strict=True))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"layers": []}, "null or a list of whole numbers, found []"),
        ({"layers": "all"}, "found 'all'"),
        ({"layers": [True]}, r"found [True]"),
        ({"strength": -1.0}, "between 0 and 2, found -1.0"),
        ({"strength": float("nan")}, "found nan"),
        ({"layers": [3]}, "between 0 and 2 for this model, found 3"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_one_sentence(settings, words):
    with pytest.raises(ConfigError) as error:
        prepared(model("LlamaForCausalLM"), "causal", **settings)
    assert words in str(error.value) and "change debias." in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_architecture_is_refused_in_one_sentence():
    config = transformers.GPTNeoXConfig(
        **{key: value for key, value in SIZES.items() if key != "pad_token_id"}, rotary_pct=0.5
    )
    scorer = SimpleNamespace(model=transformers.GPTNeoXForCausalLM(config).eval(), family="causal")
    with pytest.raises(ConfigError, match=r"llama, qwen2, gpt2, bert, roberta, albert models, found a gpt_neox one"):
        bind({"name": "steering", "version": 1}, scorer, None)
