"""Packed answers are those of one plain forward pass a request, whatever the model, the packing and the order."""

import copy
import inspect
import itertools
import logging
import math
import random

import architectures as models
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, DataError
from pipeline.language_model import trie
from pipeline.language_model.causal import CausalScorer
from pipeline.language_model.reading import PackReader
from pipeline.language_model.trie import Costs, Encoded
from pipeline.requests import Generate


def same(scorer, requests, answers):
    """Asserts that answers are those of one forward pass a request."""
    assert len(answers) == len(requests)
    for request, answer in zip(requests, answers, strict=True):
        value, greedy = models.alone(scorer, *request)
        assert abs(answer.loglikelihood - value) <= 1e-4 + 1e-6 * abs(value)
        assert answer.greedy == greedy
        assert answer.tokens == len(scorer.encoder.pairs([request])[0].targets)


@pytest.mark.parametrize("name", models.ALL)
def test_every_architecture(name, requests, caplog):
    scorer = CausalScorer(models.model(name), models.tokenizer(), 256)
    same(scorer, requests, scorer.score(requests))
    packed = any(pack.masked for pack in scorer._plan(scorer.encoder.pairs(requests)))
    assert packed == (name in models.PACKED | models.WINDOWED and name != "GPTNeo")
    assert ("packed scoring" in caplog.text) == (not packed)


def test_a_model_of_states_and_attention(requests):
    same(scorer := CausalScorer(models.model("MiniMax"), models.tokenizer(), 256), requests, scorer.score(requests))


@pytest.mark.parametrize("kind", ["no longer even", "mask"])
def test_short_requests_are_not_read_in_rows_of_long_ones_where_positions_turn(kind):
    """Packing refused, beginnings of longer requests still share rows: not across the length at which LongRoPE turns."""
    drawn = random.Random(3)
    long = tuple(drawn.choices(range(2, 320), k=60))
    asked = [Encoded(long[:size], (5,)) for size in (4, 20, 24, 25, 41, 60)]
    scorer = CausalScorer(models.model("Phi3"), models.tokenizer(), 256)
    scorer.horizon = 0 if kind == "mask" else scorer.horizon
    for one, answer in zip(asked, scorer.score_tokens(asked), strict=True):
        logs = scorer.model(torch.tensor([one.inputs])).logits[0, -1].double().log_softmax(-1)
        assert abs(answer.loglikelihood - logs[5].item()) <= 1e-4
    rows = trie.rows(asked, 256, 0, scorer.costs, scorer.even)
    assert [row.depth for row in rows] == [24, 60]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("change", ["is_decoder", "use_bidirectional_attention"])
def test_a_model_that_looks_ahead_is_refused(change, dtype, requests):
    """BERT as it is, with the head of a decoder; Gemma 3 as an encoder."""
    if change == "is_decoder":
        config = transformers.BertConfig(
            vocab_size=320,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            initializer_range=0.3,
        )
        torch.manual_seed(0)
        model = transformers.BertLMHeadModel(config)
    else:
        model = copy.deepcopy(models.model("Gemma3"))
        model = type(model)(transformers.Gemma3TextConfig(**(model.config.to_dict() | {change: True})))
    scorer = CausalScorer(model.eval().to(dtype), models.tokenizer(), 256)
    assert scorer.reader.looks_ahead((7,) * 8)
    for ask in (lambda: scorer.score(requests), lambda: scorer.generate([Generate("The rain stopped", 4)])):
        with pytest.raises(ConfigError, match=f"tokens see those that come after them .*{change}"):
            ask()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", models.ALL)
def test_none_that_is_causal_looks_ahead(name, dtype):
    scorer, drawn = CausalScorer(copy.deepcopy(models.model(name)).to(dtype), models.tokenizer(), 256), random.Random(1)
    assert not any(scorer.reader.looks_ahead(tuple(drawn.choices(range(2, 320), k=8))) for _ in range(20))


def test_the_trial_needs_no_more_logits_than_are_asked_for():
    """Of a long context and a short continuation, whole logits would not fit into memory where the packs do."""
    scorer, sizes = CausalScorer(copy.copy(models.model("Llama")), models.tokenizer(), 256), []
    forward = scorer.model.forward

    def told(*args, **given):
        outputs = forward(*args, **given)
        sizes.append(outputs.logits.shape[:-1].numel())
        return outputs

    told.__signature__ = inspect.signature(forward)
    scorer.model.forward = told
    scorer.reader = PackReader(scorer.model)
    [encoded] = scorer.encoder.pairs([("The rain stopped a little before noon and", " the")])
    assert scorer.reader.alone(encoded)[0] == pytest.approx(
        models.alone(scorer, "The rain stopped a little before noon and", " the")[0]
    )
    assert sizes[0] == len(encoded.targets) < len(encoded.inputs)


# Where a pass costs so little, nearly every beginning that is shared pays as a stem.
CHEAP = Costs(start=1, attention=0.05)
# Several packs have the same stem.
SHARED = Costs(start=2, attention=0.005)


@pytest.mark.parametrize("name", models.ALL)
@pytest.mark.parametrize("costs", [CHEAP, SHARED], ids=["cheap", "shared"])
def test_stems_of_every_architecture(name, costs, solved):
    scorer = CausalScorer(models.model(name), models.tokenizer(), 256)
    scorer.costs = costs
    same(scorer, solved, scorer.score(solved))
    stems = [pack.stem for pack in scorer._plan(scorer.encoder.pairs(solved)) if pack.stem]
    assert bool(stems) == (name in models.PACKED | models.WINDOWED and name != "GPTNeo")
    if name in models.PACKED:  # windows are too short for more than one segment
        assert any(len(stem) > 1 for stem in stems)
        assert any(one == two for one, two in itertools.pairwise(stems)) == (costs == SHARED)


@pytest.mark.parametrize("seed", range(12))
def test_a_window_by_place_is_found_whatever_is_joined(seed):
    """GPT-Neo cuts its window by a token's place in the row, whatever mask it is given: strangers push ancestors out."""
    drawn, model = random.Random(seed), models.model("GPTNeo")

    def tokens(size):
        return drawn.choices(range(2, 320), k=size)

    asked = [Encoded(tuple(tokens(drawn.randint(1, 12))), (3,)) for _ in range(drawn.randint(0, 30))]
    for _ in range(drawn.randint(1, 4)):
        context = tokens(drawn.randint(1, model.config.window_size - 4))
        for _ in range(drawn.randint(1, 8)):
            asked.append(Encoded((*context, *tokens(drawn.randint(1, model.config.window_size - len(context)))), (4,)))
    for one, answer in zip(asked, CausalScorer(model, models.tokenizer(), 512).score_tokens(asked), strict=True):
        logs = model(torch.tensor([one.inputs])).logits[0, -1].double().log_softmax(-1)
        assert abs(answer.loglikelihood - logs[one.targets[0]].item()) <= 1e-4


def test_chains_below_stems_say_nothing_of_masks(caplog):
    """MPT counts its distances in the keys that are there: right for a chain after its stem, wrong in a trie."""
    drawn = random.Random(0)
    stem, begun = drawn.choices(range(2, 320), k=60), drawn.choices(range(2, 320), k=8)
    asked = [Encoded((*stem, at, *drawn.choices(range(2, 320), k=24)), (3, 4)) for at in (10, 20, 30, 40)]
    asked += [Encoded((*begun, at, *drawn.choices(range(2, 320), k=2)), (5,)) for at in (10, 20, 30)]
    scorer = CausalScorer(models.model("Mpt"), models.tokenizer(), 256)
    scorer.costs = Costs(start=4, attention=0.01)
    rows = trie.rows(asked, 256, math.inf, scorer.costs)
    below, tries = [row for row in rows if row.stem], [row for row in rows if row.branched]
    assert below and not any(row.branched for row in below)
    assert tries and all(row.size < below[0].size for row in tries)
    for one, answer in zip(asked, scorer.score_tokens(asked), strict=True):
        logs = scorer.model(torch.tensor([one.inputs])).logits[0, -len(one.targets) :].double().log_softmax(-1)
        assert abs(answer.loglikelihood - logs[range(len(one.targets)), one.targets].sum().item()) <= 1e-4
    assert "packed scoring" in caplog.text


@pytest.mark.parametrize("name", ["Llama", "Mpt", "GPTNeo"])
def test_what_was_asked_before_changes_no_bit(name, requests, solved):
    """One scorer for two exams, in either order: the answers of fresh ones."""
    # in `easy`, nothing branches before a model's window ends
    easy = [("The rain", " stopped a little before noon"), ("At the end", " of"), ("At the end", " of the street")]

    def made():
        scorer = CausalScorer(models.model(name), models.tokenizer(), 256)
        scorer.costs = CHEAP
        return scorer

    fresh = [made().score(asked) for asked in (requests, easy, solved)]
    for order in itertools.permutations(range(3)):
        scorer = made()
        for number in order:
            assert scorer.score((requests, easy, solved)[number]) == fresh[number]


def test_a_model_that_forgets_stems_is_found_out(monkeypatch, solved, caplog):
    scorer = CausalScorer(models.model("Llama"), models.tokenizer(), 256)
    scorer.costs, body = CHEAP, scorer.reader.body.forward
    monkeypatch.setattr(
        scorer.reader.body,
        "forward",
        lambda input_ids, attention_mask=None, past_key_values=None, **given: body(
            input_ids=input_ids,
            attention_mask=None if attention_mask is None else attention_mask[..., -input_ids.shape[1] :],
            **given,
        ),
    )
    with caplog.at_level(logging.WARNING):
        answers = scorer.score(solved)
    assert "LlamaForCausalLM does not allow keeping keys and values of shared beginnings" in caplog.text
    assert "packed scoring" not in caplog.text
    monkeypatch.undo()
    same(scorer, solved, answers)


def test_no_stem_is_held_after_an_error(monkeypatch, solved):
    scorer = CausalScorer(models.model("Llama"), models.tokenizer(), 256)
    scorer.costs, answer = CHEAP, scorer.reader.answer

    def dies(pack):
        answer(pack)
        raise KeyboardInterrupt if scorer.reader._past[0] else ValueError

    monkeypatch.setattr(scorer, "_fault", lambda *_: "")
    monkeypatch.setattr(scorer.reader, "answer", lambda pack: dies(pack) if pack.stem else answer(pack))
    with pytest.raises(KeyboardInterrupt):
        scorer.score(solved)
    assert scorer.reader._past[0] == ()


def test_a_short_stem_does_not_hold_a_long_one():
    scorer = CausalScorer(models.model("Llama"), models.tokenizer(), 256)
    long = scorer.reader._stem(((3, 4), tuple(range(5, 45))))
    keys = long.layers[0].keys[..., :2, :].clone()
    short = scorer.reader._stem(((3, 4), (7,))).layers[0].keys
    assert torch.equal(short[..., :2, :], keys)
    assert short.untyped_storage().nbytes() == short.nbytes


def test_a_stem_is_read_once(monkeypatch, solved):
    scorer = CausalScorer(models.model("Llama"), models.tokenizer(), 256)
    scorer.costs, encoded = CHEAP, scorer.encoder.pairs(solved)
    monkeypatch.setattr(scorer, "_fault", lambda *_: "")
    packs = scorer._plan(encoded)
    read, body = [], scorer.reader.body.forward
    monkeypatch.setattr(
        scorer.reader.body,
        "forward",
        lambda input_ids, **given: read.append(input_ids.shape[1]) or body(input_ids, **given),
    )
    for pack in packs:
        scorer.reader.answer(pack)
    stems = {pack.stem[:end] for pack in packs for end in range(1, len(pack.stem) + 1)}
    assert len(stems) > 2
    assert sorted(read) == sorted([*(pack.tokens_BN.shape[1] for pack in packs), *(len(stem[-1]) for stem in stems)])
    distinct = {one.inputs[:end] for one in encoded for end in range(1, len(one.inputs) + 1)}
    plain = sum(pack.size for pack in packs)
    assert plain + sum(len(stem[-1]) for stem in stems) < 1.3 * len(distinct)


def test_bfloat16(requests, solved):
    model = copy.deepcopy(models.model("Llama")).to(torch.bfloat16)
    scorer = CausalScorer(model, models.tokenizer(), 256)
    for costs, asked in ((scorer.costs, requests), (CHEAP, solved)):
        scorer.costs = costs
        for request, answer in zip(asked, scorer.score(asked), strict=True):
            value, _ = models.alone(scorer, *request)
            assert abs(answer.loglikelihood - value) <= 1e-2 * answer.tokens + 1e-2 * abs(value)
        assert any(pack.masked for pack in scorer._plan(scorer.encoder.pairs(asked)))


@pytest.mark.parametrize("name", ["GPTNeo", "Bloom", "Mpt"])
def test_half_precision_hides_no_fault(name, requests):
    scorer = CausalScorer(copy.deepcopy(models.model(name)).to(torch.bfloat16), models.tokenizer(), 256)
    assert not any(pack.masked for pack in scorer._plan(scorer.encoder.pairs(requests)))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_a_pack_without_memory_names_the_setting(monkeypatch, requests, error):
    scorer = CausalScorer(models.model("Llama"), models.tokenizer(), 256)

    def full(*_, **__):
        raise error

    monkeypatch.setattr(scorer.reader.body, "forward", full)
    with pytest.raises(ConfigError, match="set machine.tokens_per_pack to less"):
        scorer.score(requests)
    monkeypatch.setattr(scorer, "_fault", lambda *_: "")
    with pytest.raises(ConfigError, match="set machine.tokens_per_pack to less"):
        scorer.score(requests)


@pytest.mark.parametrize("name", ["Gemma2", "Gemma3", "Mistral"])
def test_what_a_window_cannot_reach_is_not_packed(name, requests):
    scorer = CausalScorer(models.model(name), models.tokenizer(), 256)
    encoded = scorer.encoder.pairs(requests)
    assert scorer.horizon == 24
    assert max(len(request.inputs) for request in encoded) > 24
    assert all(pack.depths_BN.max() < 24 for pack in scorer._plan(encoded) if pack.masked)


def test_a_model_that_ignores_the_mask_is_found_out(monkeypatch, requests, caplog):
    scorer = CausalScorer(models.model("Llama"), models.tokenizer(), 256)
    body = scorer.reader.body.forward
    monkeypatch.setattr(scorer.reader.body, "forward", lambda input_ids, use_cache, **_: body(input_ids=input_ids))
    with caplog.at_level(logging.WARNING):
        answers = scorer.score(requests)
    assert "LlamaForCausalLM does not allow packed scoring" in caplog.text
    monkeypatch.undo()
    same(scorer, requests, answers)


texts = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["", " ", "The rain", "The rain stopped", "The rain stopped a little", "<s>", "<s>The", "é ", "😀", "\n", "a  "]
)


beginnings = st.sampled_from(["", "", "Each spring the ", "Each spring the river rose. The rain ", "The rain " * 8])


@settings(max_examples=60)
@given(
    pairs=st.lists(st.tuples(st.tuples(beginnings, texts).map("".join), texts), max_size=12),
    bos=st.booleans(),
    limit=st.sampled_from([48, 64, 300]),
    costs=st.sampled_from([None, CHEAP, SHARED, Costs(0.1, 1.0), Costs(4, 0.001), Costs(1, 0), Costs(math.inf, 0.01)]),
    seed=st.randoms(use_true_random=False),
)
def test_any_requests(pairs, bos, limit, costs, seed):
    scorer = CausalScorer(models.model("Llama"), models.tokenizer(bos), 300)
    scorer.costs = costs or scorer.costs
    asked = []
    for pair in pairs:
        try:
            scorer.encoder.pairs([pair])
        except DataError:
            continue
        asked += [pair] * seed.choice([1, 1, 2])
    answers = scorer.score(asked)
    same(scorer, asked, answers)
    # The order changes not one bit.
    order = list(range(len(asked)))
    seed.shuffle(order)
    shuffled = scorer.score([asked[number] for number in order])
    assert [answers[number] for number in order] == shuffled
    # The size of the packs changes the last bits only.
    longest = max((len(one.inputs) for one in scorer.encoder.pairs(asked)), default=0)
    smaller = CausalScorer(scorer.model, scorer.tokenizer, max(limit, longest))
    smaller.costs = scorer.costs
    other = smaller.score(asked)
    assert all(abs(one.loglikelihood - two.loglikelihood) <= 1e-4 for one, two in zip(answers, other, strict=True))


def test_logits_in_pieces(monkeypatch, requests):
    scorer = CausalScorer(models.model("Gemma2"), models.tokenizer(), 256)
    whole = scorer.score(requests)
    encoded = scorer.encoder.pairs(requests)
    plain = [scorer.reader.alone(each)[0] for each in encoded]
    monkeypatch.setattr("pipeline.language_model.reading.LOGITS", 7 * 320)
    assert [scorer.reader.alone(each)[0] for each in encoded] == pytest.approx(plain, abs=1e-9)
    pieces = scorer.score(requests)
    assert all(
        abs(one.loglikelihood - two.loglikelihood) < 1e-4 and one[1:] == two[1:]
        for one, two in zip(whole, pieces, strict=True)
    )


def test_prefixes_are_computed_once(requests):
    scorer = CausalScorer(models.model("Llama"), models.tokenizer(), 4096)
    encoded = scorer.encoder.pairs(requests)
    scorer.costs = scorer.costs._replace(attention=0)
    distinct = {one.inputs[:end] for one in encoded for end in range(1, len(one.inputs) + 1)}
    assert sum(pack.size for pack in scorer._plan(encoded)) == len(distinct)


def test_what_does_not_fit_names_the_setting():
    scorer = CausalScorer(models.model("Llama"), models.tokenizer(), 8)
    with pytest.raises(ConfigError, match=r"machine.tokens_per_pack"):
        scorer.score([("The rain stopped a little before noon, and by the time the kettle", " had boiled")])


def test_a_small_real_model(stories, requests):
    from pipeline.language_model.load import load

    scorer = load(stories)
    same(scorer, requests, scorer.score(requests))
    text = "Once upon a time there was a little girl who liked to play in the park with her dog."
    scrambled = " ".join(random.Random(0).sample(text.split(), len(text.split())))
    assert 2 * scorer.perplexity(text) < scorer.perplexity(scrambled)


def test_nothing_to_score():
    scorer = CausalScorer(models.model("Llama"), models.tokenizer(), 64)
    assert scorer.score([]) == []
    assert scorer.perplexity("") != scorer.perplexity("")


def test_nan_weights_answer_nan(requests):
    model = copy.deepcopy(models.model("Llama"))
    model.model.norm.weight.data.fill_(float("nan"))
    answers = CausalScorer(model, models.tokenizer(), 256).score(requests)
    assert all(answer.loglikelihood != answer.loglikelihood for answer in answers)
