"""A masked model's answers are those of one plain forward pass a token, whatever the model and the batch."""

import copy
import difflib
import logging
import math

import masked_models as models
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, DataError, SourceError
from pipeline.language_model import masked
from pipeline.language_model.masked import MaskedScorer
from pipeline.language_model.plain_text import TEXT
from pipeline.requests import Generate, LogLikelihood, Rolling

WORDS = TEXT.split()
REQUESTS = [
    LogLikelihood(" ".join(WORDS[start : start + length]), f" {WORDS[start + length]}{end}")
    for start, length in ((0, 2), (7, 9), (20, 5), (31, 16))
    for end in ("", " and more", " or less")
] + [
    LogLikelihood("", "The rain stopped"),
    LogLikelihood("", "The rain"),
    LogLikelihood("", "The rain"),
    LogLikelihood("At the end  ", "of the street"),
    LogLikelihood("The rain", " stopp", " a little before noon"),
    LogLikelihood("The ", "bread and tomatoes", " were on the kitchen floor."),
    LogLikelihood("", "My neighbour", " knocked at the door"),
    LogLikelihood("", "My neighbour stayed for tea.", rival="The postman stayed for tea."),
    LogLikelihood("", "The postman stayed for tea.", rival="My neighbour stayed for tea."),
    LogLikelihood("I ", "walked down to the river", rival="went down to the garden"),
]


def logs(model, ids, place):
    """Of the whole vocabulary, by one forward pass of the whole model."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0, place].double().log_softmax(-1)


def plain(scorer, asked):
    """Sum of logs, greedy, tokens, mean probability, one copy after the other."""
    tokenizer, mask = scorer.tokenizer, scorer.tokenizer.mask_token_id
    text = asked.context + asked.continuation + (asked.suffix or "")
    found = tokenizer(text, return_offsets_mapping=True)
    ids, offsets = found["input_ids"], found["offset_mapping"]
    begin = len(asked.context.rstrip())
    end = len((asked.context + asked.continuation).rstrip()) if asked.suffix is not None else len(text)
    places = [at for at in range(1, len(ids) - 1) if offsets[at][1] > begin and offsets[at][0] < end]
    if asked.rival is not None:
        other = tokenizer(asked.context + asked.rival)["input_ids"]
        blocks = difflib.SequenceMatcher(None, ids, other, autojunk=False).get_matching_blocks()
        shared = {at for block in blocks for at in range(block.a, block.a + block.size)}
        places = [at for at in places if at in shared]
    values, first = [], True
    for at in places:
        rest = ids[places[-1] + 1 :] if asked.suffix is not None else ids[at + 1 :]
        row = logs(scorer.model, ids[:at] + [mask] + rest, at)
        values.append(row[ids[at]].item())
        first &= row.argmax().item() == ids[at]
    return sum(values), first, len(values), float(np.mean(np.exp(values)))


def same(scorer, requests, answers):
    assert len(answers) == len(requests)
    for asked, answer in zip(requests, answers, strict=True):
        value, first, tokens, probability = plain(scorer, asked)
        assert abs(answer.loglikelihood - value) <= 1e-4 + 1e-6 * abs(value), asked
        assert (answer.greedy, answer.tokens) == (first, tokens)
        assert answer.probability == pytest.approx(probability, abs=1e-5)


@pytest.mark.parametrize("name", models.ALL)
@pytest.mark.parametrize("limit", [64, 512])
def test_every_architecture(name, limit, caplog):
    scorer = models.scorer(name, limit)
    same(scorer, REQUESTS, scorer.answer(REQUESTS))
    # its Fourier transform mixes padding in, and it knows no mask
    assert scorer.separable == (name != "FNet")
    assert ("does not allow padding" in caplog.text) == (name == "FNet")


def test_a_model_that_ignores_the_mask_is_found_out(monkeypatch, caplog):
    scorer = models.scorer("Bert")
    body = scorer.body.forward
    monkeypatch.setattr(scorer.body, "forward", lambda input_ids, attention_mask=None, **_: body(input_ids=input_ids))
    with caplog.at_level(logging.WARNING):
        answers = scorer.answer(REQUESTS)
    assert "BertForMaskedLM does not allow padding" in caplog.text
    monkeypatch.undo()
    same(scorer, REQUESTS, answers)


texts = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["", " ", "The rain", "The rain stopped", "[MASK]", "[CLS] a", "é ", "😀", "\n", "a  ", "İ", "ﬁ", "日本", "e\u0301"]
)


@settings(max_examples=60)
@given(
    asked=st.lists(st.builds(LogLikelihood, texts, texts, st.none() | texts, st.none() | texts), max_size=8),
    name=st.sampled_from(["Bert", "Roberta", "Albert"]),
    seed=st.randoms(use_true_random=False),
)
def test_any_requests(asked, name, seed):
    scorer = models.scorer(name)
    fit = []
    for each in asked:
        try:
            scorer.encoder.requests([each])
        except DataError:
            continue
        fit += [each] * seed.choice([1, 1, 2])
    answers = scorer.answer(fit)
    for each, answer in zip(fit, answers, strict=True):
        tokens = scorer.encoder.requests([each])[0]
        values = [logs(scorer.model, list(one.tokens(scorer.mask)), one.place)[one.target].item() for one in tokens]
        assert answer.tokens == len(tokens)
        if not tokens:
            assert each.rival is not None and math.isnan(answer.loglikelihood) and math.isnan(answer.probability)
        else:
            assert answer.loglikelihood == pytest.approx(sum(values), abs=1e-4)
    order = list(range(len(fit)))
    seed.shuffle(order)
    shuffled = scorer.answer([fit[at] for at in order])
    assert repr([answers[at] for at in order]) == repr(shuffled)


@settings(max_examples=150)
@given(context=texts, continuation=texts, kind=st.sampled_from(["Bert", "Roberta", "Albert"]))
def test_a_text_is_its_context_and_its_continuation(context, continuation, kind):
    """Every token is either asked for or before all that are: none is lost, none is asked twice."""
    scorer = models.scorer(kind)
    whole = scorer.encoder._texts([context + continuation])[context + continuation]
    try:
        [tokens] = scorer.encoder.requests([LogLikelihood(context, continuation)])
    except DataError:
        tokens = []
    places = [each.place for each in tokens]
    end = len(whole.ids) - whole.right
    assert places == list(range(end - len(places), end))
    # what was asked for reaches no further back than the token that crosses the border
    begin = len(context.rstrip())
    assert all(whole.ends[place] > begin or whole.starts[place] >= begin for place in places)
    if not context.strip():
        assert len(places) == end - whole.left


def test_the_blank_by_hand():
    """StereoSet: [MASK] for the first token, the first token and [MASK] for the second, nothing of the rest."""
    scorer = models.scorer("Bert")
    word = "neighbours"
    ids = scorer.tokenizer(word, add_special_tokens=False)["input_ids"]
    assert len(ids) >= 2
    before = scorer.tokenizer("[CLS] the", add_special_tokens=False)["input_ids"]
    after = scorer.tokenizer("knocked. [SEP]", add_special_tokens=False)["input_ids"]
    values = [
        logs(scorer.model, before + ids[:at] + [scorer.mask] + after, len(before) + at)[ids[at]].item()
        for at in range(len(ids))
    ]
    [answer] = scorer.answer([LogLikelihood("The ", word, " knocked.")])
    assert answer.tokens == len(ids)
    assert answer.loglikelihood == pytest.approx(sum(values), abs=1e-4)
    assert answer.probability == pytest.approx(sum(map(math.exp, values)) / len(ids), abs=1e-6)
    [nothing_after] = scorer.answer([LogLikelihood("The ", word, "")])
    [whole] = scorer.answer([LogLikelihood("The ", word)])
    assert nothing_after.loglikelihood != pytest.approx(whole.loglikelihood, abs=1e-3)


def test_a_pair_is_scored_over_the_same_tokens_from_both_sides():
    scorer = models.scorer("Bert")
    # two alignments of equal length: difflib takes one or the other by which text comes first
    one, other = "rain book rain tea", "tea rain book"
    for left, right in ((one, other), ("a b c a", "c a b"), ("the rain and the wind", "the wind and the rain")):
        first = scorer.encoder.requests([LogLikelihood("", left, rival=right)])[0]
        second = scorer.encoder.requests([LogLikelihood("", right, rival=left)])[0]
        assert [each.target for each in first] == [each.target for each in second] != []
    [apart] = scorer.answer([LogLikelihood("", "rain", rival="tea")])
    assert math.isnan(apart.loglikelihood) and math.isnan(apart.probability) and apart.tokens == 0


def test_equal_copies_are_read_once():
    scorer = models.scorer("Bert")
    # one copy for the three options of one token, whose other tokens are the same
    asked = [LogLikelihood("The rain", option) for option in (" a", " b", " c")]
    assert all(len(each) == 1 for each in scorer.encoder.requests(asked))
    assert sum(map(len, scorer._plan(scorer.encoder.requests(asked)))) == 1
    assert len(scorer.answer([*asked, *asked])) == 6


def test_a_text_with_a_mask_of_its_own():
    """Hidden in turn, the two are one and the same text, asked at different places."""
    asked = [LogLikelihood("", "a [MASK]"), LogLikelihood("", "[MASK] a"), LogLikelihood("[MASK]", " a")]
    scorer = models.scorer("Bert")
    same(scorer, asked, scorer.answer(asked))


def test_long_texts_lose_their_beginning(caplog):
    scorer = models.scorer("Bert")
    assert scorer.limit == 64
    long = LogLikelihood(" ".join(WORDS[:80]), " on the kitchen")
    before = scorer.cut
    with caplog.at_level(logging.WARNING):
        answers = scorer.answer([long, LogLikelihood("The rain", " stopped"), long])
    assert scorer.cut - before == 2
    assert [record.message for record in caplog.records] == [
        "2 of 3 requests are longer than the model's 64 tokens and lose their beginning"
    ]
    ids = scorer.tokenizer(long.context + long.continuation)["input_ids"]
    ids = ids[:1] + ids[len(ids) - 63 :]
    number = len(scorer.encoder.requests([long])[0])
    places = range(63 - number, 63)
    expected = sum(logs(scorer.model, ids[:at] + [scorer.mask] + ids[at + 1 :], at)[ids[at]].item() for at in places)
    assert answers[0].loglikelihood == pytest.approx(expected, abs=1e-4)
    assert answers[0] == answers[2]


@pytest.mark.parametrize("asked", [("", ""), ("a", ""), ("a", " "), ("", TEXT), ("The ", "rain", TEXT)])
def test_continuations_that_cannot_be_scored(asked):
    with pytest.raises(DataError, match="must have 1 token or more and fit into the model's 64"):
        models.scorer("Bert").answer([LogLikelihood(*asked)])


@pytest.mark.parametrize(("name", "limit"), [("Bert", 64), ("Roberta", 64), ("DistilBert", 64)])
def test_the_limit_is_what_the_positions_allow(name, limit):
    scorer = models.scorer(name)
    assert scorer.limit == limit
    [answer] = scorer.answer([LogLikelihood(" ".join(WORDS[:80]), " on the kitchen")])
    assert math.isfinite(answer.loglikelihood)
    with pytest.raises((IndexError, RuntimeError)):
        scorer.model(input_ids=torch.full((1, limit + 1), 9))


def test_whole_texts():
    scorer = models.scorer("Bert")
    short = "The rain stopped a little before noon"
    [rolled, plain_] = scorer.answer([Rolling(short), LogLikelihood("", short)])
    assert rolled == plain_
    ids = scorer.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    total = 0.0
    for start in range(0, len(ids), 62):
        window = [1, *ids[start : start + 62], 2]
        for at in range(1, len(window) - 1):
            total += logs(scorer.model, window[:at] + [scorer.mask] + window[at + 1 :], at)[window[at]].item()
    [answer] = scorer.answer([Rolling(TEXT)])
    assert answer.tokens == len(ids)
    assert answer.loglikelihood == pytest.approx(total, rel=1e-6)
    assert scorer.perplexity(TEXT) == pytest.approx(math.exp(-total / len(ids)), rel=1e-5)
    assert math.isnan(scorer.perplexity(""))


def test_what_a_masked_model_is_not_asked():
    # before anything that can be answered is
    impossible = LogLikelihood("", "")
    with pytest.raises(ConfigError, match="causal language model to write"):
        models.scorer("Bert").answer([impossible, Generate("The rain")])
    with pytest.raises(ConfigError, match=r"model.prefix_token"):
        MaskedScorer(models.model("Bert"), models.tokenizer("wordpiece"), 64, "[CLS]")
    with pytest.raises(ConfigError, match=r"machine.tokens_per_pack"):
        models.scorer("Bert", 8).answer(REQUESTS)
    without = copy.deepcopy(models.tokenizer("wordpiece"))
    without.mask_token = None
    with pytest.raises(SourceError, match="mask token"):
        MaskedScorer(models.model("Bert"), without, 64)


def test_killed_and_resumed_with_the_same_bits(tmp_path, monkeypatch):
    scorer = models.scorer("Bert", 64)
    whole = scorer.answer(REQUESTS, scratch=tmp_path / "whole")
    done, real = [], MaskedScorer._answer

    def dies(self, pack):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(pack)
        return real(self, pack)

    monkeypatch.setattr(MaskedScorer, "_answer", dies)
    with pytest.raises(KeyboardInterrupt):
        scorer.answer(REQUESTS, scratch=tmp_path / "killed")
    monkeypatch.setattr(MaskedScorer, "_answer", lambda self, pack: done.append(pack) or real(self, pack))
    assert scorer.answer(REQUESTS, scratch=tmp_path / "killed") == whole
    assert len(done) == len(list((tmp_path / "whole" / "LogLikelihood").glob("pack-*.json"))) > 3


def test_logits_in_pieces(monkeypatch):
    whole = models.scorer("Bert").answer(REQUESTS)
    monkeypatch.setattr(masked, "LOGITS", 3 * 320)
    pieces = models.scorer("Bert").answer(REQUESTS)
    assert all(
        abs(one.loglikelihood - two.loglikelihood) < 1e-4 and one[1:3] == two[1:3]
        for one, two in zip(whole, pieces, strict=True)
    )


def test_nan_weights_answer_nan():
    model = copy.deepcopy(models.model("Bert"))
    model.bert.encoder.layer[0].output.dense.bias.data.fill_(float("nan"))
    answers = MaskedScorer(model, models.tokenizer("wordpiece"), 512).answer(REQUESTS)
    assert all(math.isnan(answer.loglikelihood) and math.isnan(answer.probability) for answer in answers)


def test_a_folder(tmp_path):
    from pipeline.language_model.load import load

    models.model("Bert").save_pretrained(tmp_path)
    models.tokenizer("wordpiece").save_pretrained(tmp_path)
    scorer = load(tmp_path)
    assert scorer.family == "masked"
    assert scorer.answer(REQUESTS) == models.scorer("Bert", 2048).answer(REQUESTS)


def test_lm_eval_sees_the_same():
    import types

    from pipeline.language_model.harness import HarnessLM

    scorer = models.scorer("Bert")
    pairs = [asked for asked in REQUESTS if asked.suffix is None and asked.rival is None]
    said = HarnessLM(scorer).loglikelihood([types.SimpleNamespace(args=tuple(asked[:2])) for asked in pairs])
    assert said == [answer[:2] for answer in scorer.answer(pairs)]
