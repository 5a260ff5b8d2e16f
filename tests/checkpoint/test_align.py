"""Models under other names, with heads tied or not, and with tensors that are no parameters."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.checkpoint import align, compare
from pipeline.errors import CheckpointError
from tests.checkpoint.folders import EMBEDDING, HEAD, folder, merged, whole
from tests.tiny_models import llama_tensors

ROWS = 12


def with_head(seed: int = 0, head=None) -> dict:
    tensors = llama_tensors(ROWS, seed)
    return tensors | {HEAD: tensors[EMBEDDING].copy() if head is None else head}


def other_head(seed: int = 7) -> np.ndarray:
    return llama_tensors(ROWS, seed)[EMBEDDING].copy()


def test_models_that_fit_are_read_as_they_are(tmp_path):
    base, donor = folder(tmp_path / "base"), folder(tmp_path / "donor", seed=1)
    aligned = align(base, [donor, base])
    assert aligned.notes == [] and aligned.buffers == set() and aligned.copies == {} and aligned.by_row == set()
    for view, place in zip((aligned.base, *aligned.donors), (base, donor, base), strict=True):
        for name, tensor in load_file(place / "model.safetensors").items():
            assert view.dtype(name) == "F32" and torch.equal(whole(aligned, view, name), tensor)


@pytest.mark.parametrize(
    ("mine", "theirs"), [("model.", ""), ("", "model."), ("", "a.b."), ("language.model.", "model.")]
)
def test_another_prefix(tmp_path, mine, theirs):
    def named(prefix, seed):
        return {prefix + name.removeprefix("model."): t for name, t in llama_tensors(ROWS, seed).items()} | {
            HEAD: other_head(seed + 1)
        }

    def place(name, tensors):
        llama = folder(tmp_path / name, tie_word_embeddings=False)
        save_file({key: torch.from_numpy(t) for key, t in tensors.items()}, llama / "model.safetensors")
        return llama

    base, donor = place("base", named(mine, 0)), place("donor", named(theirs, 1))
    aligned = align(base, [donor])
    assert len(aligned.notes) == 1 and "prefix" in aligned.notes[0] and aligned.notes[0].endswith("; donor 1")
    stored = load_file(donor / "model.safetensors")
    for name in aligned.infos:
        own = name if name == HEAD else theirs + name.removeprefix(mine)
        assert torch.equal(whole(aligned, aligned.donors[0], name), stored[own])
    with pytest.raises(CheckpointError, match="should have one shape and one name, found .* in the base"):
        compare(base, [donor])


def test_two_prefixes_are_not_one(tmp_path):
    base = folder(tmp_path / "base")
    tensors = {
        name.removeprefix("model.") if "layers.0" in name else name.replace("model.", "x.model."): t
        for name, t in llama_tensors(ROWS).items()
    }
    donor = folder(tmp_path / "donor")
    save_file({key: torch.from_numpy(t) for key, t in tensors.items()}, donor / "model.safetensors")
    with pytest.raises(CheckpointError, match="should have the same tensors, found model"):
        align(base, [donor])


@pytest.mark.parametrize("tied", [True, None])
def test_a_tied_head_that_only_the_donor_stores_is_left_out(tmp_path, tied):
    base = folder(tmp_path / "base")
    donor = folder(tmp_path / "donor", tensors=with_head(1), tie_word_embeddings=tied)
    aligned = align(base, [donor])
    assert HEAD not in aligned.infos
    assert (
        "lm_head.weight is its model.embed_tokens.weight once more, which the base does not store" in aligned.notes[0]
    )


def test_an_untied_head_that_equals_its_embedding_says_the_same_as_a_tied_one(tmp_path):
    base = folder(tmp_path / "base")
    donor = folder(tmp_path / "donor", tensors=with_head(1), tie_word_embeddings=False)
    assert "once more" in align(base, [donor]).notes[0]


def test_a_head_that_its_config_calls_tied_and_is_not(tmp_path):
    base = folder(tmp_path / "base")
    donor = folder(tmp_path / "donor", tensors=with_head(1, other_head()))
    with pytest.raises(
        CheckpointError,
        match=r"lm_head.weight should equal model.embed_tokens.weight, as tie_word_embeddings says, found other "
        r"numbers in .*donor: set tie_word_embeddings to false",
    ):
        align(base, [donor])


@pytest.mark.parametrize("stored", [False, True])
def test_an_untied_base_takes_a_tied_donors_embedding_as_its_head(tmp_path, stored):
    base = folder(tmp_path / "base", tensors=with_head(0, other_head()), tie_word_embeddings=False)
    donor = folder(tmp_path / "donor", tensors=with_head(1) if stored else llama_tensors(ROWS, 1))
    aligned = align(base, [donor])
    embedding = load_file(donor / "model.safetensors")[EMBEDDING]
    assert torch.equal(whole(aligned, aligned.donors[0], HEAD), embedding)
    assert torch.equal(whole(aligned, aligned.base, HEAD), torch.from_numpy(other_head()))
    assert aligned.copies == {} and [HEAD in note for note in aligned.notes] == ([] if stored else [True])


@pytest.mark.parametrize("stored", [False, True])
def test_a_tied_base_refuses_a_donor_with_a_head_of_its_own(tmp_path, stored):
    base = folder(tmp_path / "base", tensors=with_head() if stored else llama_tensors(ROWS))
    donor = folder(tmp_path / "donor", tensors=with_head(1, other_head()), tie_word_embeddings=False)
    with pytest.raises(
        CheckpointError,
        match=r"the heads should be alike, found a tied head \(.*\) in the base .* and an untied head "
        r"\(lm_head.weight \[12, 32\]\) in the donor .*: change donor.models or model.base",
    ):
        align(base, [donor])


def test_an_untied_base_refuses_a_donor_whose_head_is_not_there(tmp_path):
    base = folder(tmp_path / "base", tensors=with_head(0, other_head()), tie_word_embeddings=False)
    donor = folder(tmp_path / "donor", tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"the heads should be alike.*an untied head \(no lm_head.weight\)"):
        align(base, [donor])


def test_a_tied_head_that_the_base_stores_is_a_copy_of_the_result_too(tmp_path):
    """Merged on its own, by a method that draws at random for each tensor, it would become another matrix."""
    base, short = folder(tmp_path / "base", tensors=with_head()), folder(tmp_path / "short", seed=1)
    aligned = align(base, [short, folder(tmp_path / "long", tensors=with_head(2))])
    assert aligned.copies == {HEAD: EMBEDDING}
    assert "the donor stores no lm_head.weight, which is its model.embed_tokens.weight once more" in aligned.notes[0]
    for view in (aligned.base, *aligned.donors):
        assert torch.equal(whole(aligned, view, HEAD), whole(aligned, view, EMBEDDING))


def save(place: Path, tensors: dict, tokenizer_of: Path, **config) -> Path:
    place.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps(json.loads((tokenizer_of / "config.json").read_text()) | config))
    (place / "tokenizer.json").write_bytes((tokenizer_of / "tokenizer.json").read_bytes())
    return place


def test_buffers_of_one_model_only(tmp_path):
    base = folder(tmp_path / "base")
    tensors = {name: torch.from_numpy(t) for name, t in llama_tensors(ROWS, 1).items()}
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    old = save(tmp_path / "old", tensors | {name: torch.ones(4), "model.position_ids": torch.arange(4)[None]}, base)
    aligned = align(base, [old])
    assert "2 tensors without parameters are stored by one of base and donor only (model" in aligned.notes[0]
    assert name not in aligned.infos and aligned.buffers == set()
    aligned = align(old, [base])
    assert len(aligned.notes) == 1 and aligned.buffers == {name, "model.position_ids"}
    assert (
        torch.equal(whole(aligned, aligned.donors[0], name), torch.ones(4)) and aligned.donors[0].dtype(name) == "F32"
    )


def test_parameters_of_one_model_only(tmp_path):
    base = folder(tmp_path / "base")
    tensors = {name: torch.from_numpy(t) for name, t in llama_tensors(ROWS, 1).items()}
    bias = {"model.layers.0.attn.bias": torch.zeros(5)}  # a vector under the name of a mask is a bias
    more = save(tmp_path / "more", tensors | bias, base)
    with pytest.raises(
        CheckpointError, match=r"found model.layers.0.attn.bias \[5\] in the donor .* and not in the base"
    ):
        align(base, [more])
    with pytest.raises(
        CheckpointError, match=r"found model.layers.0.attn.bias \[5\] in the base .* and not in the donor"
    ):
        align(more, [base])


def test_a_bias_that_is_stored_twice(tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(vocab_size=ROWS, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertForMaskedLM(config).save_pretrained(tmp_path / "new")
    (tmp_path / "new" / "tokenizer.json").write_bytes((folder(tmp_path / "x") / "tokenizer.json").read_bytes())
    tensors = load_file(tmp_path / "new" / "model.safetensors")
    decoder, word = "cls.predictions.decoder", "bert.embeddings.word_embeddings.weight"
    twice = {f"{decoder}.weight": tensors[word].clone(), f"{decoder}.bias": tensors["cls.predictions.bias"].clone()}
    ids = {"bert.embeddings.position_ids": torch.arange(9)[None]}
    old = save(tmp_path / "old", tensors | twice | ids, tmp_path / "new")
    assert [note.split(" ")[0:2] for note in align(tmp_path / "new", [old]).notes] == [
        ["the", "donor's"], ["the", "donor's"], ["1", "tensors"],
    ]  # fmt: skip
    aligned = align(old, [tmp_path / "new"])
    assert aligned.copies == {f"{decoder}.weight": word, f"{decoder}.bias": "cls.predictions.bias"}
    assert aligned.donors[0].names[f"{decoder}.bias"] == "cls.predictions.bias"
    twice[f"{decoder}.bias"] += 1
    with pytest.raises(CheckpointError, match="found cls.predictions.decoder.bias"):
        align(tmp_path / "new", [save(tmp_path / "odd", tensors | twice, tmp_path / "new")])
    with pytest.raises(CheckpointError, match="decoder.bias should equal cls.predictions.bias, as the base's do"):
        align(old, [tmp_path / "odd"])


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        ({"rope_theta": 1e4}, {"rope_theta": 1e6}, "rope_theta"),
        ({"rope_theta": 1e4}, {"rope_parameters": {"rope_theta": 1e6}}, "rope_theta"),
        ({"rope_scaling": None}, {"rope_scaling": {"factor": 2}}, None),
        ({"rope_scaling": {"factor": 4}}, {"rope_scaling": {"factor": 2}}, "rope_scaling"),
        ({"sliding_window": 8, "layer_types": ["a"]}, {"sliding_window": 9, "layer_types": ["b"]}, "layer_types, sliding_window"),
        ({"rms_norm_eps": 1e-5}, {"rms_norm_eps": 1e-6}, "rms_norm_eps"),
        ({"dtype": "float32"}, {"dtype": "bfloat16"}, None),
    ],
)  # fmt: skip
def test_configs_that_differ_in_a_note(tmp_path, mine, theirs, said):
    notes = align(folder(tmp_path / "base", **mine), [folder(tmp_path / "donor", **theirs)]).notes
    assert [note.split(":")[0] for note in notes] == ([f"the configs differ in {said}"] if said else [])


@pytest.mark.parametrize(
    ("key", "mine", "theirs"),
    [
        ("model_type", "llama", "mistral"),
        ("num_attention_heads", 4, 8),
        ("hidden_act", "silu", "gelu"),
        ("partial_rotary_factor", 1.0, 0.5),
        ("query_pre_attn_scalar", 128, 256),
    ],
)
def test_configs_that_change_what_tensors_mean(tmp_path, key, mine, theirs):
    base, donor = folder(tmp_path / "base", **{key: mine}), folder(tmp_path / "donor", **{key: theirs})
    with pytest.raises(CheckpointError, match=f"{key} should be the same, found {mine} in the base .* and {theirs} in"):
        align(base, [donor])


def gpt2(place: Path, seed: int) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=ROWS, n_positions=8, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(place)
    (place / "tokenizer.json").write_bytes((folder(place / "words") / "tokenizer.json").read_bytes())
    return place


def hub_gpt2(place: Path, like: Path) -> Path:
    """As the first checkpoints lie on the hub: without the prefix, with the masks as floats."""
    tensors = {k.removeprefix("transformer."): t for k, t in load_file(like / "model.safetensors").items()}
    mask = torch.ones(8, 8).tril()[None, None]
    return save(place, tensors | {f"h.{i}.attn.bias": mask.clone() for i in (0, 1)}, like, tie_word_embeddings=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_gpt2_saved_both_ways_merges_and_loads(tmp_path):
    from transformers import AutoModelForCausalLM

    one, two = gpt2(tmp_path / "one", 0), gpt2(tmp_path / "two", 1)
    old = hub_gpt2(tmp_path / "old", one)
    here, there = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    for name, base, donors in (("a", old, [two]), ("b", two, [old])):
        aligned = align(base, donors)
        assert aligned.buffers == ({"h.0.attn.bias", "h.1.attn.bias"} if base == old else set())
        result = merged(tmp_path / name, base, donors)
        stored = load_file(result / "model.safetensors")
        assert list(stored) == list(load_file(base / "model.safetensors"))
        if base == old:
            assert torch.equal(stored["h.1.attn.bias"], torch.ones(8, 8).tril()[None, None])
        model, info = AutoModelForCausalLM.from_pretrained(result, output_loading_info=True)
        assert not info["missing_keys"] and not info["mismatched_keys"]
        for key, tensor in model.state_dict().items():
            if key in here:
                torch.testing.assert_close(tensor, (here[key] + there[key]) / 2)
