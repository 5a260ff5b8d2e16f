"""What can be loaded, and what is refused before anything is computed."""

import json
import re

import architectures as models
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pipeline.errors import CheckpointError, ConfigError, SourceError
from pipeline.language_model.load import family_of, load, skeleton


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face folder with a tiny Llama."""
    models.model("Llama").save_pretrained(tmp_path)
    models.tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_a_folder(folder, requests):
    from pipeline.language_model.causal import CausalScorer

    scorer = load(folder, prefix_token="</s>")
    assert scorer.score(requests) == CausalScorer(models.model("Llama"), models.tokenizer(), 2048, "</s>").score(
        requests
    )


def test_bfloat16(folder, requests):
    exact, rough = load(folder).score(requests), load(folder, dtype="bfloat16").score(requests)
    assert all(
        abs(one.loglikelihood - two.loglikelihood) < 0.1 * one.tokens for one, two in zip(exact, rough, strict=True)
    )


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"dtype": "float8"}, ConfigError, "machine.dtype"),
        ({"device": "abacus"}, ConfigError, "machine.device"),
        ({"tokens_per_pack": 0}, ConfigError, "machine.tokens_per_pack"),
        ({"prefix_token": "no such token"}, ConfigError, "model.prefix_token"),
    ],
)
def test_settings(folder, settings, error, match):
    with pytest.raises(error, match=match):
        load(folder, **settings)


def test_no_config(tmp_path):
    with pytest.raises(SourceError, match=r"config.json"):
        load(tmp_path)


def test_no_safetensors(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="safetensors"):
        load(folder)


def test_cut_short(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match="safetensors"):
        load(folder)


def test_missing_weights(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="up_proj"):
        load(folder)


def test_unknown_architecture(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "abacus"}))
    with pytest.raises(SourceError, match="abacus"):
        load(folder)


@pytest.mark.parametrize(
    "name",
    ["T5ForConditionalGeneration", "BartForConditionalGeneration", "BertForSequenceClassification", "ViTModel"],
)
def test_neither_causal_nor_masked(tmp_path, name):
    config = getattr(transformers, re.split("For|Model", name)[0] + "Config")()
    config.architectures = [name]
    config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=rf"causal or a masked.*{name}"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "architectures", "family"),
    [
        ("Bert", ["BertForMaskedLM"], "masked"),
        ("Bert", ["BertLMHeadModel"], "causal"),
        ("Bert", None, "masked"),
        ("Roberta", None, "masked"),
        ("GPT2", None, "causal"),
        ("XLM", ["XLMWithLMHeadModel"], "masked"),  # whose config says causal=False
    ],
)
def test_the_architecture_decides(tmp_path, kind, architectures, family):
    config = getattr(transformers, f"{kind}Config")()
    config.architectures = architectures
    config.save_pretrained(tmp_path)
    assert family_of(tmp_path) == family


def test_a_folder_without_its_tokenizer(tmp_path):
    """transformers makes an empty one up, to which every word is unknown and all sentences of a length are alike."""
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(SourceError, match="tokenizer"):
        load(tmp_path)


@pytest.mark.parametrize("name", sorted(models.ALL))
def test_a_skeleton_has_the_parameters_of_its_model_and_none_of_their_numbers(name, tmp_path):
    models.model(name).save_pretrained(tmp_path)
    shape = {key: tuple(weight.shape) for key, weight in models.model(name).named_parameters()}
    made = dict(skeleton(tmp_path).named_parameters())
    assert {key: tuple(weight.shape) for key, weight in made.items()} == shape
    assert all(weight.is_meta for weight in made.values())
