"""Partial answers: kept as they come, taken up with the same bits, never trusted when they are not ours."""

import copy
import json
import logging
import re
import shutil

import architectures as models
import pytest

from pipeline.errors import StoreError
from pipeline.language_model import scorer as scorer_module
from pipeline.language_model.causal import CausalScorer
from pipeline.language_model.trie import Costs


@pytest.fixture
def scorer():
    """A scorer with small packs."""
    return CausalScorer(models.model("Llama"), models.tokenizer(), 48)


@pytest.fixture
def counted(scorer, monkeypatch):
    """How many packs were computed since the last trial."""
    done, real = [], scorer.reader.answer
    monkeypatch.setattr(scorer.reader, "answer", lambda pack: done.append(pack) or real(pack))
    monkeypatch.setattr(scorer, "_fault", lambda *_: "")
    return done


def test_resume_with_the_same_bits(scorer, counted, requests, tmp_path):
    whole = scorer.score(requests, scratch=tmp_path / "a")
    packs = sorted((tmp_path / "a").glob("pack-*.json"))
    assert len(packs) == len(counted) > 3
    assert sorted(tmp_path.joinpath("a").iterdir()) == sorted([*packs, tmp_path / "a" / "packs.json"])
    for keep in ([], packs[:2], packs[1::2], packs):
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        for path in set(packs) - set(keep):
            (tmp_path / "b" / path.name).unlink()
        counted.clear()
        assert scorer.score(requests, scratch=tmp_path / "b") == whole
        assert len(counted) == len(packs) - len(keep)
        shutil.rmtree(tmp_path / "b")
    assert whole == scorer.score(requests)


def test_resume_with_stems(scorer, counted, solved, tmp_path):
    """A pack whose stem was read before the kill has the same bits, for its stem is read again in the same way."""
    scorer.tokens_per_pack, scorer.costs = 96, Costs(start=1, attention=0.05)
    whole = scorer.score(solved, scratch=tmp_path / "a")
    assert sum(bool(pack.stem) for pack in counted) > 8
    packs = sorted((tmp_path / "a").glob("pack-*.json"))
    for keep in (packs[:-1], packs[::2], packs[1::3]):
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        for path in set(packs) - set(keep):
            (tmp_path / "b" / path.name).unlink()
        again = CausalScorer(scorer.model, scorer.tokenizer, 96)
        again.costs = scorer.costs
        assert again.score(solved, scratch=tmp_path / "b") == whole
        shutil.rmtree(tmp_path / "b")


def test_a_killed_run_goes_on(scorer, counted, requests, tmp_path, monkeypatch):
    whole = scorer.score(requests)
    total = len(counted)
    real = scorer.reader.answer

    def dies(pack):
        if len(counted) == 2:
            raise KeyboardInterrupt
        return real(pack)

    counted.clear()
    monkeypatch.setattr(scorer.reader, "answer", dies)
    with pytest.raises(KeyboardInterrupt):
        scorer.score(requests, scratch=tmp_path)
    monkeypatch.setattr(scorer.reader, "answer", real)
    assert scorer.score(requests, scratch=tmp_path) == whole
    assert len(counted) == total


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text(path.read_text().replace("-", "-1", 1)),
        lambda path: shutil.copy(path.with_name("pack-000001.json"), path),
    ],
)
def test_an_altered_pack_is_asked_again(scorer, counted, requests, tmp_path, caplog, harm):
    whole = scorer.score(requests, scratch=tmp_path)
    harm(tmp_path / "pack-000000.json")
    counted.clear()
    with caplog.at_level(logging.WARNING):
        assert scorer.score(requests, scratch=tmp_path) == whole
    assert len(counted) == 1
    assert "not what was written there" in caplog.text


def test_answers_of_other_requests_weights_or_limits_are_not_taken(scorer, counted, requests, tmp_path, caplog):
    def other_weights():
        model = copy.deepcopy(scorer.model)
        model.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1e-3
        return CausalScorer(model, scorer.tokenizer, 48)

    for other, asked in (
        (scorer, requests[::-1]),
        (scorer, requests[1:]),
        (other_weights(), requests),
        (CausalScorer(scorer.model, scorer.tokenizer, 64), requests),
    ):
        scorer.score(requests, scratch=tmp_path)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert other.score(asked, scratch=tmp_path) == other.score(asked)
        assert "holds answers of other requests, limits or weights" in caplog.text


def test_the_fingerprint_knows_versions_and_attention(scorer, monkeypatch):
    found = {scorer.fingerprint((), [])}
    monkeypatch.setattr(scorer.model.config, "_attn_implementation_internal", "eager")
    found.add(scorer.fingerprint((), []))
    monkeypatch.setattr(scorer_module.transformers, "__version__", "0.0")
    found.add(scorer.fingerprint((), []))
    assert len(found) == 3


def test_the_fingerprint_knows_the_config(scorer, monkeypatch):
    """The same weights mean something else where positions turn in another way; where they come from does not count."""
    before = scorer.fingerprint((), [])
    del scorer._digest
    monkeypatch.setattr(scorer.model.config, "_name_or_path", "elsewhere")
    turned = dict(reversed(scorer.model.config.rope_parameters.items()))
    monkeypatch.setattr(scorer.model.config, "rope_parameters", turned)
    assert len(turned) > 1 and scorer.fingerprint((), []) == before
    del scorer._digest
    monkeypatch.setattr(scorer.model.config, "rms_norm_eps", 0.5)
    assert scorer.fingerprint((), []) != before
    del scorer._digest


def test_an_index_that_cannot_be_read(scorer, counted, requests, tmp_path):
    whole = scorer.score(requests, scratch=tmp_path)
    (tmp_path / "packs.json").write_text("{")
    counted.clear()
    assert scorer.score(requests, scratch=tmp_path) == whole
    assert counted and json.loads((tmp_path / "packs.json").read_text())["fingerprint"]


def test_a_store_that_cannot_be_written(scorer, requests, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=re.escape(f"move {tmp_path / 'file'} away, or set store")):
        scorer.score(requests, scratch=tmp_path / "file" / "scratch")


def test_a_folder_where_a_file_should_be(scorer, requests, tmp_path):
    scorer.score(requests, scratch=tmp_path)
    pack = next(tmp_path.glob("pack-*.json"))
    pack.unlink()
    pack.mkdir()
    with pytest.raises(StoreError, match=re.escape(f"move {pack} away, or set store")):
        scorer.score(requests, scratch=tmp_path)
