"""Our answers are those of lm-eval's own backend on the same model object."""

import copy
import logging
import types

import architectures as models
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, DataError
from pipeline.language_model.causal import CausalScorer
from pipeline.language_model.encoding import Encoder
from pipeline.language_model.harness import HarnessLM, ReplayLM, generation, generations
from pipeline.language_model.plain_text import TEXT
from pipeline.requests import Answer, Rolling


def instances(rows):
    """Requests as lm-eval hands them over."""
    return [types.SimpleNamespace(args=tuple(row)) for row in rows]


@pytest.fixture(scope="module")
def reference():
    """lm-eval's backend over a model of ours."""
    from lm_eval.models.huggingface import HFLM

    def make(name, bos=False, **settings):
        # Its cache of logits mixes up requests whose texts are equal but cut at different places.
        return HFLM(
            pretrained=models.model(name), tokenizer=models.tokenizer(bos), batch_size=4, logits_cache=False, **settings
        )

    return make


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("name", ["Llama", "GPT2", "Bloom"])
def test_loglikelihood(name, bos, requests, reference):
    asked = requests + [
        ("<s>At the end", " of the street"),
        ("", "<s>At the end"),
        ("trailing   ", "spaces"),
        ("cut " * 60, "at the left"),
        ("new\nline\n", "kept"),
        ("naïve 😀", " text 日本"),
    ]
    theirs = reference(name, bos).loglikelihood(instances(asked), disable_tqdm=True)
    # Alibi has no limit in its config, and no absolute one either.
    ours = HarnessLM(CausalScorer(models.model(name), models.tokenizer(bos), 2100)).loglikelihood(instances(asked))
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert all(
        abs(mine - other) <= 1e-4 + 2e-6 * abs(other) for (mine, _), (other, _) in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("bos", [False, True])
def test_rolling(bos, reference):
    texts = [[TEXT], ["short"], [TEXT[:300]]]
    theirs = reference("Llama", bos).loglikelihood_rolling(instances(texts), disable_tqdm=True)
    ours = HarnessLM(CausalScorer(models.model("Llama"), models.tokenizer(bos), 512)).loglikelihood_rolling(
        instances(texts)
    )
    assert ours == pytest.approx(theirs, rel=1e-5)


@settings(max_examples=150)
@given(
    context=st.text(max_size=8) | st.sampled_from(["", "<s>", "a ", "</s>b"]),
    continuation=st.text(max_size=8),
    bos=st.booleans(),
    prefix=st.sampled_from([None, "</s>"]),
)
def test_tokens_are_theirs(reference, context, continuation, bos, prefix):
    tokenizer = models.tokenizer(bos)
    theirs = reference("Llama", bos, prefix_token_id=None if prefix is None else 1)
    seen = []
    theirs._loglikelihood_tokens = lambda rows, **_: seen.extend(rows)
    try:
        theirs.loglikelihood(instances([(context, continuation)]), disable_tqdm=True)
        [(_, before, after)] = seen
        assert before and after
    except (AssertionError, IndexError):
        return
    [ours] = Encoder(tokenizer, 96, prefix).pairs([(context, continuation)])
    assert list(ours.inputs) == (before + after)[-97:][:-1]
    assert list(ours.targets) == after


def test_truncation_is_counted_once(caplog):
    scorer = CausalScorer(models.model("Llama"), models.tokenizer(), 256)
    with caplog.at_level(logging.WARNING):
        long, short, again = scorer.score([("rain " * 200, "stops"), ("rain", " stops"), ("rain " * 300, "stops")])
    assert [record.message for record in caplog.records] == [
        "2 of 3 requests are longer than the model's 96 tokens and lose their beginning"
    ]
    assert long == again != short and scorer.cut == 2


@pytest.mark.parametrize("request_", [("", ""), ("a", ""), ("", "x" * 100)])
def test_continuations_that_cannot_be_scored(request_):
    with pytest.raises(DataError, match="a continuation must have 1 to 96 tokens"):
        Encoder(models.tokenizer(), 96).pairs([request_])


def test_prefix_token():
    assert Encoder(models.tokenizer(), 96).pairs([("", "a")])[0].inputs == (0,)
    assert Encoder(models.tokenizer(), 96, "</s>").pairs([("", "a"), ("  ", "a")])[0].inputs == (1,)
    with pytest.raises(ConfigError, match=r"model.prefix_token"):
        Encoder(models.tokenizer(), 96, "<|endoftext|>")


def test_replay():
    replay = ReplayLM(
        [("a", " b"), ("a", " c"), ("a", " b")], [Answer(-1.5, True, 1), Answer(-2.5, False, 1), Answer(-1.5, True, 1)]
    )
    assert replay.loglikelihood(instances([("a", " c"), ("a", " b")])) == [(-2.5, False), (-1.5, True)]
    with pytest.raises(DataError, match="not recorded"):
        replay.loglikelihood(instances([("a", " d")]))
    with pytest.raises(ValueError):
        ReplayLM([("a", "b")], [])


GREEDY = {"until": ["\n\n", "."], "do_sample": False, "temperature": 0.0, "max_gen_toks": 24}


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("name", ["Llama", "GPT2"])
def test_generate_until(name, bos, reference):
    words = TEXT.split()
    asked = [
        (" ".join(words[start : start + length]), settings)
        for start, length in ((0, 3), (5, 9), (2, 9), (7, 1))
        for settings in (GREEDY, {"until": "e", "max_gen_toks": 40}, {"max_gen_toks": 8})
    ]
    asked += [("<s>At the end", GREEDY), ("rain " * 100, GREEDY), ("naïve 😀", GREEDY), asked[0]]
    theirs = reference(name, bos)
    # one at a time: in a batch, HFLM leaves the BOS to the first prompt, and pads
    expected = [theirs.generate_until(instances([(text, dict(given))]), disable_tqdm=True)[0] for text, given in asked]
    ours = HarnessLM(CausalScorer(models.model(name), models.tokenizer(bos), 512)).generate_until(instances(asked))
    assert ours == expected
    assert any(ours)


def test_equal_requests_are_samples_of_one():
    sampled = {"do_sample": True, "temperature": 2.0, "max_gen_toks": 6}
    made, places = generations([("a", sampled), ("b", GREEDY), ("a", sampled), ("b", GREEDY)])
    assert [(each.prompt, each.samples, each.top_k, each.temperature) for each in made] == [
        ("a", 2, 50, 2.0),
        ("b", 2, 0, 0.0),
    ]
    assert places == [(0, 0), (1, 0), (0, 1), (1, 1)]
    ours = HarnessLM(CausalScorer(models.model("Llama"), models.tokenizer(), 512))
    one, _, other, _ = ours.generate_until(instances([("a", sampled), ("b", GREEDY), ("a", sampled), ("b", GREEDY)]))
    assert one != other


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"do_sample": True}, "temperature above 0"), ({"repetition_penalty": 1.1}, "repetition_penalty")],
)
def test_settings_of_a_task_that_are_not_known(settings, match):
    with pytest.raises(ConfigError, match=match):
        generation("a", settings)


def test_replay_of_texts():
    ours = HarnessLM(CausalScorer(models.model("Llama"), models.tokenizer(), 512))
    asked, _ = generations([("a", GREEDY), ("b", GREEDY), ("a", GREEDY)])
    asked.append(Rolling(TEXT))
    replay = ReplayLM(asked, ours.scorer.answer(asked))
    rows = instances([("b", GREEDY), ("a", GREEDY), ("a", GREEDY)])
    assert replay.generate_until(rows) == ours.generate_until(rows)
    assert replay.loglikelihood_rolling(instances([[TEXT]])) == ours.loglikelihood_rolling(instances([[TEXT]]))
    with pytest.raises(DataError, match="completion that was not recorded"):
        replay.generate_until(instances([("c", GREEDY)]))
    with pytest.raises(DataError, match="text that was not recorded"):
        replay.loglikelihood_rolling(instances([["other"]]))


TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("opened", [False, True])
def test_chat_template(bos, opened, reference):
    theirs = reference("Llama", bos)  # which gives its tokenizer a padding token
    theirs.tokenizer = copy.deepcopy(theirs.tokenizer)
    theirs.tokenizer.chat_template = TEMPLATE
    ours = HarnessLM(CausalScorer(models.model("Llama"), theirs.tokenizer, 512))
    chat = [{"role": "user", "content": "The rain"}] + [{"role": "assistant", "content": "At"}] * opened
    text = ours.apply_chat_template(chat, add_generation_prompt=not opened)
    assert text == theirs.apply_chat_template(chat, add_generation_prompt=not opened)
    assert text.startswith("<s>[user]")
    assert ours.chat_template(True) == theirs.chat_template(True) == TEMPLATE
    asked = [(text, "stopped"), (text, " at the end")]
    expected = theirs.loglikelihood(instances(asked), disable_tqdm=True)
    for mine, other in zip(ours.loglikelihood(instances(asked)), expected, strict=True):
        assert mine == pytest.approx(other, abs=1e-4)
    assert ours.scorer.encoder.pairs(asked)[0].inputs.count(0) == 1
    expected = theirs.generate_until(instances([(text, GREEDY)]), disable_tqdm=True)
    assert ours.generate_until(instances([(text, GREEDY)])) == expected


def test_a_template_that_refuses_a_system_message(reference, caplog):
    theirs = reference("Llama")
    theirs.tokenizer = copy.deepcopy(theirs.tokenizer)
    theirs.tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
    )
    ours = HarnessLM(CausalScorer(models.model("Llama"), theirs.tokenizer, 512))
    chat = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "The rain"}]
    assert ours.apply_chat_template(chat) == theirs.apply_chat_template(chat) == "<s>[user] The rain</s>[assistant] "
    assert "no system role" in caplog.text


@pytest.mark.parametrize("bos", [False, True])
def test_a_prompt_that_begins_with_another_prefix_token(bos, reference):
    """HFLM asks prompts for the tokenizer's BOS, contexts for the prefix token."""
    theirs, asked = reference("Llama", bos, prefix_token_id=1), ["</s>At the end", "<s>At the end"]
    expected = [theirs.generate_until(instances([(text, dict(GREEDY))]), disable_tqdm=True)[0] for text in asked]
    ours = CausalScorer(models.model("Llama"), models.tokenizer(bos), 512, prefix_token="</s>")
    assert HarnessLM(ours).generate_until(instances([(text, GREEDY) for text in asked])) == expected
    assert [tokens[:2] == (0, 1) for tokens in ours.encoder.prompts([(text, 8) for text in asked])] == [bos, False]


def test_a_tokenizer_without_a_chat_template():
    ours = HarnessLM(CausalScorer(models.model("Llama"), models.tokenizer(), 64))
    assert ours.chat_template(False) == ""
    with pytest.raises(ConfigError, match="apply_chat_template should be the name of a chat template"):
        ours.chat_template(True)
