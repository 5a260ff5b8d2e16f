"""What masked models score on StereoSet and CrowS-Pairs, against the authors' loops, one masked text at a time."""

import difflib

import numpy as np
import pytest
import torch

from pipeline.bias import crows_pairs, stereoset, winogender
from pipeline.language_model.load import load
from tests.tiny_masked_model import tiny_masked_model


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    return load(tiny_masked_model(tmp_path_factory.mktemp("bert")))


def at_mask(scorer, ids):
    """Log-probabilities at the first mask."""
    place = ids.index(scorer.tokenizer.mask_token_id)
    with torch.inference_mode():
        return scorer.model(input_ids=torch.tensor([ids])).logits[0, place].double().log_softmax(-1)


def answers_of(scorer, module, items):
    asked = [module.ask_masked(item) for item in items.to_dict("records")]
    flat = iter(scorer.log_likelihoods([each for requests in asked for each in requests]))
    return [[next(flat) for _ in requests] for requests in asked]


def authors_blank(scorer, context, word):
    """eval_discriminative_models.py: the mean probability of the word's tokens, each at a mask after those before it."""
    tokenizer, found = scorer.tokenizer, []
    tokens = tokenizer.encode(word, add_special_tokens=False)
    for place, token in enumerate(tokens):
        text = context.replace("BLANK", tokenizer.decode(tokens[:place]) + tokenizer.mask_token)
        found.append(at_mask(scorer, tokenizer.encode(text))[token].exp().item())
    return np.mean(found)


def test_stereoset_blanks(scorer, real_data):
    items = stereoset.items({"dev.json": real_data / "stereoset" / "dev.json"})
    usual = items["context"].str.count("BLANK").eq(1) & ~items["context"].str.contains("BLANK[a-z]")
    assert (~usual).sum() == 3  # as the docstring says
    items = items[usual].iloc[::40]
    several = 0
    for item, three in zip(items.to_dict("records"), answers_of(scorer, stereoset, items), strict=True):
        for option, answer in zip(stereoset.OPTIONS, three, strict=True):
            theirs = authors_blank(scorer, item["context"], item[f"{option}_blank"])
            assert answer.probability == pytest.approx(theirs, rel=1e-4)
            several += answer.tokens > 1
    assert several > 20


def authors_pair(scorer, sentences):
    """metric.py, without its rounding: the sums over the shared tokens."""
    ids = [scorer.tokenizer.encode(sentence) for sentence in sentences]
    blocks = difflib.SequenceMatcher(None, *[[str(each) for each in one] for one in ids]).get_opcodes()
    same = [block for block in blocks if block[0] == "equal"]
    totals = []
    for own, start, end in ((ids[0], 1, 2), (ids[1], 3, 4)):
        places = [place for block in same for place in range(block[start], block[end])][1:-1]
        masked = [[*own[:place], scorer.tokenizer.mask_token_id, *own[place + 1 :]] for place in places]
        totals.append(sum(at_mask(scorer, text)[own[place]].item() for text, place in zip(masked, places, strict=True)))
    return totals


def test_crows_pairs(scorer, real_data):
    items = crows_pairs.items({"crows": real_data / "crows_pairs" / "crows_pairs_anonymized.csv"}).iloc[::50]
    for item, pair in zip(items.to_dict("records"), answers_of(scorer, crows_pairs, items), strict=True):
        order = 1 if item["direction"] == "stereo" else -1
        more, less = authors_pair(scorer, (item["sent_more"], item["sent_less"])[::order])[::order]
        assert [answer.loglikelihood for answer in pair] == pytest.approx([more, less], abs=1e-3)
        assert pair[0].tokens == pair[1].tokens


def test_winogender_pronouns(scorer, real_data):
    """The first token of "she" at a mask in its place, the rest of the sentence seen."""
    files = {path.name: path for path in (real_data / "winogender").iterdir()}
    items = winogender.items(files).iloc[::20]
    for item, three in zip(items.to_dict("records"), answers_of(scorer, winogender, items), strict=True):
        for gender, answer in zip(winogender.GENDERS, three, strict=True):
            before, word, after = (item[f"{gender}_{part}"] for part in ("before", "pronoun", "after"))
            theirs = authors_blank(scorer, f"{before} BLANK{after}", word.strip())
            assert answer.probability == pytest.approx(theirs, rel=1e-4)
