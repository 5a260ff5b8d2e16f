"""Rows belong to tokens: whatever the ids, the padding and the mode, a token's row stays its own."""

import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pipeline.checkpoint import Reader, align, compare
from pipeline.checkpoint.view import _runs
from pipeline.errors import CheckpointError
from tests.checkpoint.folders import EMBEDDING, HEAD, folder, merged, whole, words
from tests.tiny_models import llama_tensors

ABC = words("<unk>", "a", "b", "c")
CAB = words("<unk>", "c", "a", "b")
CHOOSE = r"change donor.models or model.base, or say vocab=base \(the base's tokens\) or vocab=union \(all tokens\)"


def matrix(place: Path, name: str = EMBEDDING) -> torch.Tensor:
    return load_file(place / "model.safetensors")[name]


def aligned_rows(base: Path, donors: list[Path], mode: str, name: str = EMBEDDING) -> list[torch.Tensor]:
    aligned = align(base, donors, mode)
    return [whole(aligned, view, name) for view in (aligned.base, *aligned.donors)]


# --- strict ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "others"), [(4, 12), (12, 4), (6, 12)])
@pytest.mark.parametrize("mode", ["strict", "base", "union"])
def test_padding_is_the_bases(tmp_path, rows, others, mode):
    base, donor = folder(tmp_path / "base", ABC, rows), folder(tmp_path / "donor", ABC, others, seed=1)
    aligned = align(base, [donor], mode)
    assert aligned.notes == [
        f"the vocabularies are the same and have {rows} rows in the base, {others} in the donor: rows beyond the tokens "
        f"are the base's; donor 1"
    ]
    assert aligned.infos[EMBEDDING].shape == (rows, 32) and aligned.changed == {}
    mine, theirs = aligned_rows(base, [donor], mode)
    assert torch.equal(mine, matrix(base))
    assert torch.equal(theirs[:4], matrix(donor)[:4]) and torch.equal(theirs[4:], matrix(base)[4:])
    with pytest.raises(CheckpointError, match=r"should have one shape and one name, found \[\d+, 32\]"):
        compare(base, [donor])


def test_equal_padding_is_merged_as_it_is(tmp_path):
    base, donor = folder(tmp_path / "base", ABC), folder(tmp_path / "donor", ABC, seed=1)
    for mode in ("strict", "base", "union"):
        assert (
            torch.equal(aligned_rows(base, [donor], mode)[1], matrix(donor)) and align(base, [donor], mode).notes == []
        )


@pytest.mark.parametrize(
    ("tokenizer", "rows", "said"),
    [
        (CAB, 12, "found token 'a' with id 1 in the base .* and 2 in the donor .*: " + CHOOSE),
        (words("<unk>", "a", "b"), 12, "found token 'c' with id 3 in the base .* and none in the donor .*: " + CHOOSE),
        (ABC, 3, "found 12 rows|found 12 in the base .* and 3 in the donor .* a row for the token 'c': " + CHOOSE),
    ],
)
def test_strict_refuses_other_tokens(tmp_path, tokenizer, rows, said):
    base, donor = folder(tmp_path / "base", ABC), folder(tmp_path / "donor", tokenizer, rows)
    with pytest.raises(CheckpointError, match=said):
        align(base, [donor])


def test_a_mode_that_there_is_not(tmp_path):
    base = folder(tmp_path / "base")
    with pytest.raises(ValueError, match="strict"):
        align(base, [base], "union " + "of all")


# --- base -----------------------------------------------------------------------------------------------------------


def test_base_takes_rows_by_token(tmp_path):
    base = folder(tmp_path / "base", ABC, 6)
    donor = folder(tmp_path / "donor", words("<unk>", "x", "c", "a"), 5, seed=1)
    mine, theirs = aligned_rows(base, [donor], "base")
    assert torch.equal(mine, matrix(base))
    own = matrix(donor)
    for row, expected in enumerate((own[0], own[3], mine[2], own[2], mine[4], mine[5])):
        assert torch.equal(theirs[row], expected)
    assert align(base, [donor], "base").notes == [
        "vocab=base: 1 of the base's 4 tokens are not the donor's and keep the base's rows, 2 have another id there, "
        "1 of the donor's are not the base's and were dropped; donor 1"
    ]
    aligned = align(base, [donor], "base")
    assert aligned.by_row == {EMBEDDING} and aligned.changed == {}
    other = "model.norm.weight"
    assert torch.equal(whole(aligned, aligned.donors[0], other), matrix(donor, other))


def test_a_row_that_a_donor_lacks_does_not_move_in_a_narrower_dtype(tmp_path):
    base, donor = folder(tmp_path / "base", ABC, 4), folder(tmp_path / "donor", words("<unk>", "a"), 2, seed=1)
    save_file({k: t.bfloat16() for k, t in load_file(donor / "model.safetensors").items()}, donor / "model.safetensors")
    aligned = align(base, [donor], "base")
    assert aligned.donors[0].dtype(EMBEDDING) == "F32" and aligned.donors[0].dtype("model.norm.weight") == "BF16"
    theirs = whole(aligned, aligned.donors[0], EMBEDDING)
    assert torch.equal(theirs[2:], matrix(base)[2:]) and torch.equal(theirs[:2], matrix(donor).float())


def test_heads_and_biases_follow_their_tokens(tmp_path):
    def place(name, tokenizer, rows, seed):
        tensors = llama_tensors(rows, seed)
        tensors |= {HEAD: llama_tensors(rows, seed + 9)[EMBEDDING], "lm_head.bias": np.arange(rows, dtype=np.float32)}
        return folder(tmp_path / name, tokenizer, tensors=tensors, tie_word_embeddings=False)

    base, donor = place("base", ABC, 4, 0), place("donor", CAB, 5, 1)
    aligned = align(base, [donor], "base")
    assert aligned.by_row == {EMBEDDING, HEAD, "lm_head.bias"}
    assert whole(aligned, aligned.donors[0], "lm_head.bias", 1).tolist() == [0, 2, 3, 1]
    assert torch.equal(whole(aligned, aligned.donors[0], HEAD), matrix(donor, HEAD)[[0, 2, 3, 1]])


def test_a_tied_donors_embedding_is_the_head_row_by_row(tmp_path):
    tensors = llama_tensors(4)
    base = folder(tmp_path / "base", ABC, tensors=tensors | {HEAD: tensors[EMBEDDING] + 1}, tie_word_embeddings=False)
    donor = folder(tmp_path / "donor", CAB, 5, seed=1)
    assert torch.equal(aligned_rows(base, [donor], "base", HEAD)[1], matrix(donor)[[0, 2, 3, 1]])


@pytest.mark.parametrize("mode", ["base", "union"])
def test_tokens_are_needed(tmp_path, mode):
    base, donor = folder(tmp_path / "base", ABC), folder(tmp_path / "donor", CAB)
    (donor / "tokenizer.json").unlink()
    with pytest.raises(
        CheckpointError, match=f"vocab={mode} needs a tokenizer.json in the donor .*: .*or say vocab=strict"
    ):
        align(base, [donor], mode)
    assert "not compared" in align(base, [donor]).notes[0]
    padded = folder(tmp_path / "padded", ABC, 20)
    (padded / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"found \[12, 32\] .* and \[20, 32\] .* add a tokenizer.json to both"):
        align(base, [padded])


def renamed(place: Path, old: str, new: str) -> Path:
    tensors = load_file(place / "model.safetensors")
    save_file({new if name == old else name: t for name, t in tensors.items()}, place / "model.safetensors")
    return place


def test_an_embedding_of_unknown_name(tmp_path):
    base, donor = (
        renamed(folder(tmp_path / name, tokenizer), EMBEDDING, "model.lookup.weight")
        for name, tokenizer in (("base", ABC), ("donor", CAB))
    )
    with pytest.raises(CheckpointError, match="vocab=base needs an embedding under a known name in the base"):
        align(base, [donor], "base")


def test_a_tensor_as_long_as_the_vocabulary_that_no_table_knows(tmp_path):
    base, donor = (
        folder(tmp_path / name, tokenizer, tensors=llama_tensors(12) | {"adapter.scale": np.zeros(12, np.float32)})
        for name, tokenizer in (("base", ABC), ("donor", CAB))
    )
    assert align(base, [base], "base").notes == []
    with pytest.raises(
        CheckpointError, match=r"adapter.scale should have no side as long as the vocabulary, found \[12\]"
    ):
        align(base, [donor], "base")


# --- union ----------------------------------------------------------------------------------------------------------


def test_union_adds_the_donors_added_tokens(tmp_path):
    base = folder(tmp_path / "base", words("<unk>", "a", "b", added=("<s>",)), 4)
    one = folder(tmp_path / "one", words("<unk>", "a", "b", added=("<x>", "<s>")), 5, seed=1)
    two = folder(tmp_path / "two", words("<unk>", "b", "a", added=("<y>", "<x>", "<far>")), 5, seed=2)
    aligned = align(base, [one, two], "union")
    assert aligned.infos[EMBEDDING].shape == (6, 32) and aligned.infos[EMBEDDING].bytes == 6 * 32 * 4
    mine, first, second = aligned_rows(base, [one, two], "union")
    a, b, c = matrix(base), matrix(one), matrix(two)
    mean = ((b[3].double() + c[4].double()) / 2).float()
    assert torch.equal(mine, torch.stack([*a, mean, c[3]]))
    assert torch.equal(first, torch.stack([b[0], b[1], b[2], b[4], b[3], c[3]]))
    assert torch.equal(second, torch.stack([c[0], c[2], c[1], a[3], c[4], c[3]]))
    assert any(
        "tokens that the base lacks were added, 2 of this donor ('<x>', '<y>')" in note for note in aligned.notes
    )
    tokenizer = json.loads(aligned.changed["tokenizer.json"])
    assert [(entry["content"], entry["id"]) for entry in tokenizer["added_tokens"]] == [
        ("<s>", 3),
        ("<x>", 4),
        ("<y>", 5),
    ]
    assert json.loads(aligned.changed["config.json"])["vocab_size"] == 6


def test_new_tokens_go_into_the_bases_padding(tmp_path):
    base, donor = (
        folder(tmp_path / "base", ABC, 8),
        folder(tmp_path / "donor", words("<unk>", "a", added=("<x>",)), 3, 1),
    )
    aligned = align(base, [donor], "union")
    assert aligned.infos[EMBEDDING].shape == (8, 32) and set(aligned.changed) == {"tokenizer.json"}
    mine, theirs = aligned_rows(base, [donor], "union")
    assert torch.equal(mine, torch.stack([*matrix(base)[:4], matrix(donor)[2], *matrix(base)[5:]]))
    assert torch.equal(
        theirs, torch.stack([*matrix(donor)[:2], *matrix(base)[2:4], matrix(donor)[2], *matrix(base)[5:]])
    )


def test_a_token_that_the_base_knows_without_a_row(tmp_path):
    tokenizer = words("<unk>", "a", added=("[PAD]",))
    base, donor = folder(tmp_path / "base", tokenizer, 2), folder(tmp_path / "donor", tokenizer, 3, seed=1)
    with pytest.raises(CheckpointError, match="only one has a row for the token '\\[PAD\\]'"):
        align(base, [donor])
    assert align(base, [donor], "base").infos[EMBEDDING].shape == (2, 32)
    aligned = align(base, [donor], "union")
    assert aligned.infos[EMBEDDING].shape == (3, 32) and set(aligned.changed) == {"config.json"}
    assert torch.equal(aligned_rows(base, [donor], "union")[0][2], matrix(donor)[2])


def test_a_row_that_no_model_has(tmp_path):
    base = folder(tmp_path / "base", words("<unk>", "a", added=("[PAD]",)), 2)
    donor = folder(tmp_path / "donor", words("<unk>", "a", added=("<x>",)), 3)
    with pytest.raises(
        CheckpointError, match="found none for the id 2, beyond the 2 rows of the base .*say vocab=base"
    ):
        align(base, [donor], "union")


def test_an_ordinary_token_cannot_be_added(tmp_path):
    base, donor = folder(tmp_path / "base", ABC), folder(tmp_path / "donor", words("<unk>", "a", "new"))
    with pytest.raises(
        CheckpointError,
        match=r"should be an added token, found 'new' among the ordinary ones of the donor .*or say vocab=base",
    ):
        align(base, [donor], "union")
    assert align(base, [donor], "base").notes


def test_ids_with_gaps_cannot_be_extended(tmp_path):
    gaps = words("<unk>", "a")
    gaps["model"]["vocab"]["b"] = 7
    base, donor = folder(tmp_path / "base", gaps), folder(tmp_path / "donor", words("<unk>", added=("<x>",)))
    with pytest.raises(CheckpointError, match=r"the token '<x>' should get the id 8, found 3 .* its ids have gaps"):
        align(base, [donor], "union")


def test_the_result_of_a_union_loads_and_encodes(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = folder(tmp_path / "base", words("<unk>", "a", "b"), 3)
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "added_tokens_decoder": {}}
    (base / "tokenizer_config.json").write_text(json.dumps(described))
    (base / "added_tokens.json").write_text("{}")
    donor = folder(tmp_path / "donor", words("<unk>", "b", added=("<x>",)), 3, seed=1)
    result = merged(tmp_path / "result", base, [donor], "union")
    assert AutoTokenizer.from_pretrained(result).encode("b <x> a") == [2, 3, 1]
    model = AutoModelForCausalLM.from_pretrained(result)
    assert model.get_input_embeddings().weight.shape == (4, 32) == model.get_output_embeddings().weight.shape
    assert torch.equal(model.get_input_embeddings().weight[3], matrix(donor)[2])
    assert json.loads((result / "added_tokens.json").read_text()) == {"<x>": 3}
    entry = json.loads((result / "tokenizer_config.json").read_text())["added_tokens_decoder"]["3"]
    assert entry["content"] == "<x>" and entry["special"] is True and "id" not in entry


def test_companions_are_the_bases_where_no_token_was_added(tmp_path):
    base, donor = folder(tmp_path / "base", ABC), folder(tmp_path / "donor", CAB)
    for mode in ("base", "union"):
        target = tmp_path / f"merged_{mode}"
        target.mkdir()
        assert align(base, [donor], mode).write_companions(target) == ["config.json", "tokenizer.json"]
        assert all((target / n).read_bytes() == (base / n).read_bytes() for n in ("config.json", "tokenizer.json"))


# --- properties -----------------------------------------------------------------------------------------------------

ordinary = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)
special = st.lists(st.sampled_from(["<1>", "<2>", "<3>", "<4>"]), unique=True, max_size=4)


@settings(max_examples=60)
@given(st.data())
def test_every_token_keeps_its_row(data):
    mode = data.draw(st.sampled_from(["base", "union"]))
    with tempfile.TemporaryDirectory() as place:
        models, tokens = [], []
        for number in range(data.draw(st.integers(2, 4))):
            pieces = data.draw(ordinary)
            if mode == "union" and number:
                pieces = [piece for piece in pieces if piece in tokens[0]]
            tokenizer = words("<unk>", *pieces, added=tuple(data.draw(special)))
            ids = tokenizer["model"]["vocab"] | {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]}
            tokens.append(ids)
            rows = len(ids) + data.draw(st.integers(0, 4))
            tensors = {EMBEDDING: np.random.default_rng(number).standard_normal((rows, 3)).astype(np.float32)}
            models.append(folder(Path(place) / str(number), tokenizer, tensors=tensors))
        base, *donors = models
        aligned = align(base, donors, mode)
        result = dict(tokens[0])
        if mode == "union" and "tokenizer.json" in aligned.changed:
            result |= {e["content"]: e["id"] for e in json.loads(aligned.changed["tokenizer.json"])["added_tokens"]}
        assert set(result) == (set(tokens[0]) if mode == "base" else set().union(*tokens))
        step = data.draw(st.integers(1, 11))
        mine = whole(aligned, aligned.base, EMBEDDING, step)
        for number in tokens[0].values():
            assert torch.equal(mine[number], matrix(base)[number])
        for view, donor, ids in zip(aligned.donors, donors, tokens[1:], strict=True):
            theirs = whole(aligned, view, EMBEDDING, step)
            for token, number in result.items():
                expected = matrix(donor)[ids[token]] if token in ids else mine[number]
                assert torch.equal(theirs[number], expected)


@given(st.lists(st.integers(-1, 6), min_size=1, max_size=12), st.integers(1, 4), st.data())
def test_runs_cover_what_is_asked_for_in_as_few_parts_as_there_are(rows, width, data):
    start, stop = sorted(data.draw(st.integers(0, len(rows) * width)) for _ in range(2))
    entries = [None if row < 0 else row * width + i for row in rows for i in range(width)][start:stop]
    parts = list(_runs(rows, width, start, stop)) if start < stop else []
    found = [None if at is None else at + i for begin, end, at in parts for i in range(end - begin)]
    assert found == entries and [end for _, end, _ in parts[:-1]] == [begin for begin, _, _ in parts[1:]]
    for (begin, end, at), (_, _, then) in itertools.pairwise(parts):
        assert (at is None) != (then is None) or (at is not None and at + end - begin != then)


def test_only_the_rows_that_are_asked_for_are_read(tmp_path, monkeypatch):
    base, donor = folder(tmp_path / "base", ABC, 4), folder(tmp_path / "donor", CAB, 200, seed=1)
    aligned, read, part = align(base, [donor], "base"), [], Reader.part

    def counted(self, name, start, stop):
        read.append(stop - start)
        return part(self, name, start, stop)

    monkeypatch.setattr(Reader, "part", counted)
    aligned.donors[0].part(EMBEDDING, 0, 4 * 32)
    assert read == [32, 2 * 32, 32]  # <unk>; a and b, which lie together; c


def test_views_may_be_read_by_many_threads(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    base, donor = (
        folder(tmp_path / "base", ABC, 8),
        folder(tmp_path / "donor", words("b", "a", added=("<x>",)), 9, seed=1),
    )
    aligned = align(base, [donor], "union")
    expected = [whole(aligned, view, EMBEDDING) for view in (aligned.base, *aligned.donors)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            jobs = [
                pool.submit(whole, aligned, v, EMBEDDING, step)
                for v in (aligned.base, *aligned.donors)
                for step in (5, 9)
            ]
            for place, job in enumerate(jobs):
                assert torch.equal(job.result(), expected[place // 2])
