"""Two texts that differ in one place: which tokens count, and what a model says of them."""

import pytest
import torch

from pipeline.debiasing.pairs import causal, difference, masked, scores
from pipeline.language_model.load import load
from tests.tiny_language_model import tiny_language_model
from tests.tiny_masked_model import tiny_masked_model


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    return load(tiny_language_model(tmp_path_factory.mktemp("causal")))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return load(tiny_masked_model(tmp_path_factory.mktemp("masked")))


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ([0, 1, 2, 3], [0, 9, 2, 3], (1, 2)),
        ([0, 1, 2], [0, 1, 9], (2, 0)),
        ([0, 1, 1, 2], [0, 1, 2], (2, 1)),  # the beginning takes what it can, the end the rest
        ([0, 1], [0, 1], (2, 0)),
        ([0, 1], [0, 1, 2], (2, 0)),
    ],
)
def test_difference(one, other, found):
    assert difference(one, other) == found


@pytest.mark.parametrize(
    ("scope", "places", "targets"),
    [("suffix", (1, 2, 3), (12, 3, 4)), ("span", (1,), (12,)), ("sentence", (0, 1, 2, 3), (1, 12, 3, 4))],
)
def test_what_of_a_sentence_is_scored(scope, places, targets):
    pair = causal([0, 1, 12, 3, 4], [0, 1, 22, 23, 3, 4], scope)
    assert (pair.stereotype.places, pair.stereotype.targets) == (places, targets)
    assert pair.stereotype.tokens == (0, 1, 12, 3)[: places[-1] + 1]
    longer = {"suffix": (22, 23, 3, 4), "span": (22, 23), "sentence": (1, 22, 23, 3, 4)}[scope]
    assert pair.anti_stereotype.targets == longer


def test_a_side_with_nothing_there_is_scored_by_what_follows():
    pair = causal([0, 1, 5, 6], [0, 1, 9, 5, 6], "span")
    assert pair.stereotype.targets == (5,) and pair.anti_stereotype.targets == (9, 5)


def test_pairs_that_cannot_be_asked():
    assert causal([0, 1], [0, 1]) is None and causal([0, 1], [0, 1, 2]) is None
    assert masked([2, 7, 3], [2, 8, 9, 3], mask=4) is None and masked([2, 7, 3], [2, 7, 3], mask=4) is None


def test_a_masked_pair_reads_one_text():
    """PCGU's public code masks the last token of a CrowS-Pairs sentence, whatever differs."""
    pair = masked([2, 7, 11, 8, 3], [2, 7, 12, 8, 3], mask=4)
    assert pair.stereotype.tokens == pair.anti_stereotype.tokens == (2, 7, 4, 8, 3)
    assert pair.stereotype.places == (2,) and (pair.stereotype.targets, pair.anti_stereotype.targets) == ((11,), (12,))


def test_the_mask_is_the_tokenizers_own(bert):
    """PCGU's public code writes the text "[MASK]" for every model."""
    (one,) = bert.sentences(["the water was cold"], 32)
    pair = masked(one, [*one[:2], one[2] + 1, *one[3:]], bert.mask)
    assert pair.stereotype.tokens[2] == bert.tokenizer.mask_token_id and "[MASK]" in bert.tokenizer.get_vocab()


@pytest.mark.parametrize("scope", ["suffix", "span", "sentence"])
def test_scores_of_a_causal_model(scorer, scope):
    sides, expected = [], []
    for one, other in (("a nurse said", "a miner said hi"), ("he is", "she is here")):
        tokens = scorer.sentences([one, other], 64)
        pair = causal(*tokens, scope)
        for text, side in zip(tokens, pair, strict=True):
            with torch.no_grad():
                logs = scorer.model(torch.tensor([text[:-1]])).logits[0].double().log_softmax(-1)
            expected.append(sum(logs[p, t].item() for p, t in zip(side.places, side.targets, strict=True)))
            assert all(text[place + 1] == target for place, target in zip(side.places, side.targets, strict=True))
            sides.append(side)
    with torch.no_grad():
        assert scores(scorer.model, sides).tolist() == pytest.approx(expected, abs=1e-4)


def test_scores_of_a_masked_model(bert):
    tokens = bert.sentences(["the man was there", "the woman was there and then"], 32)
    pairs = [masked(text, [*text[:2], text[2] + 1, *text[3:]], bert.mask) for text in tokens]
    sides = [side for pair in pairs for side in pair]
    for objective in ("log_probability", "logit"):
        expected = []
        for side in sides:
            with torch.no_grad():
                logits = bert.model(torch.tensor([side.tokens])).logits[0].double()
            values = logits.log_softmax(-1) if objective == "log_probability" else logits
            expected.append(sum(values[p, t].item() for p, t in zip(side.places, side.targets, strict=True)))
        with torch.no_grad():
            assert scores(bert.model, sides, objective).tolist() == pytest.approx(expected, abs=1e-4)
