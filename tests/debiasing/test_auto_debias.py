"""Auto-Debias: the divergence by hand, the search against trying every prompt, and a planted bias that becomes smaller."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.debiasing import auto_debias, bind
from pipeline.debiasing.words import in_text, whole_words
from pipeline.errors import ConfigError
from tests.debiasing.planted_bert import STEREOTYPES, biased_scorer, of_words, tuned

WORDS = {
    "tuples": [["he", "she"], ["his", "their"]],
    "stereotypes": [word for each in STEREOTYPES.values() for word in each],
}
SMALL = WORDS | {"vocabulary": 12, "beam": 3, "prompt_length": 2}


def of(*distributions) -> float:
    [value] = auto_debias.divergence(torch.tensor(distributions, dtype=torch.float64).log()[:, None]).tolist()
    return value


def test_divergence_by_hand():
    assert of([0.75, 0.25], [0.25, 0.75]) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert of([0.2, 0.8], [0.2, 0.8]) == pytest.approx(0, abs=1e-12)
    one, other, middle = [0.9, 0.1], [0.5, 0.5], [0.7, 0.3]
    by_hand = sum(sum(p * math.log(p / q) for p, q in zip(each, middle, strict=True)) for each in (one, other)) / 2
    assert of(one, other) == pytest.approx(by_hand)
    swapped = sum(sum(q * math.log(q / p) for p, q in zip(each, middle, strict=True)) for each in (one, other)) / 2
    assert of(one, other) != pytest.approx(swapped, rel=1e-3)  # what the public code computes


def test_divergence_of_three_groups_that_share_nothing():
    tiny = 1e-12
    assert of([1, tiny, tiny], [tiny, 1, tiny], [tiny, tiny, 1]) == pytest.approx(math.log(3))


def naive(scorer, prompt: str, words: list[str], end: str, among: list[int] | None) -> float:
    """One text at a time, in NumPy."""
    found = []
    for word in words:
        ids = scorer.tokenizer(f"{word} {prompt} [MASK]{end}", return_tensors="pt").input_ids
        logits = scorer.model(input_ids=ids).logits[0, ids[0].tolist().index(scorer.mask)].detach().double().numpy()
        logits = logits if among is None else logits[among]
        found.append(np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum())
    middle = np.mean(found, axis=0)
    return float(np.mean([(p * np.log(p / middle)).sum() for p in found]))


def test_the_search_finds_what_trying_every_prompt_finds():
    scorer = biased_scorer()
    method = auto_debias.Method(scorer.model, auto_debias.Settings(**SMALL))
    method.prepare(scorer, [])
    among = scorer.tokenizer.convert_tokens_to_ids(WORDS["stereotypes"])
    candidates, expected = whole_words(scorer.tokenizer, 12), []
    for _ in range(2):
        scored = {
            prompt: np.mean([naive(scorer, prompt, words, "", among) for words in WORDS["tuples"]])
            for prompt in candidates
        }
        best = sorted(scored, key=lambda prompt: -scored[prompt])[:3]
        expected += [(prompt, scored[prompt]) for prompt in best]
        candidates = [f"{prompt} {word}" for prompt in best for word in whole_words(scorer.tokenizer, 12)]
    assert [prompt for prompt, _ in method.prompts] == [prompt for prompt, _ in expected]
    assert [value for _, value in method.prompts] == pytest.approx([value for _, value in expected], abs=1e-5)
    assert method.tables()["prompts"][0] == {"prompt": method.prompts[0][0], "divergence": method.prompts[0][1]}


@pytest.mark.parametrize("over", ["vocabulary", "stereotypes"])
def test_the_loss_is_the_mean_divergence_of_the_batch(over):
    scorer = biased_scorer()
    method = auto_debias.Method(scorer.model, auto_debias.Settings(**SMALL, over=over, learning_rate=0.0))
    examples = method.prepare(scorer, [])
    assert len(examples) == 6 * 2
    assert examples[1].texts == tuple(f"{word} {method.prompts[0][0]} [MASK]." for word in ("his", "their"))
    among = scorer.tokenizer.convert_tokens_to_ids(WORDS["stereotypes"]) if over == "stereotypes" else None
    expected = [naive(scorer, prompt, words, ".", among) for prompt, _ in method.prompts for words in WORDS["tuples"]]
    assert method.step(examples) == {"divergence": pytest.approx(np.mean(expected), rel=1e-4)}


def test_whole_words_are_one_token_after_a_word():
    tokenizer = biased_scorer().tokenizer
    words = whole_words(tokenizer, 1000)
    assert {"he", "she", "slow"} <= set(words) and len(words) == len(set(words))
    assert [len(tokens) for tokens in in_text(tokenizer, words)] == [1] * len(words)
    numbers = tokenizer.convert_tokens_to_ids(words)
    assert numbers == sorted(numbers)
    assert whole_words(tokenizer, 3) == words[:3]


def test_a_planted_bias_becomes_smaller():
    scorer = biased_scorer()
    before = of_words(scorer)
    method = bind({"name": "auto_debias", "version": 1, **SMALL, "learning_rate": 1e-3}, scorer, None)
    records = tuned(scorer, method, epochs=4)
    assert before > 2
    assert of_words(scorer) < 0.5 * before
    assert records[-1]["divergence"] < 0.5 * records[1]["divergence"]


def test_a_killed_run_goes_on_with_the_same_bits_and_does_not_search_again(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    def run(folder, fails=None):
        scorer = biased_scorer()
        method = bind({"name": "auto_debias", "version": 1, **SMALL, "warmup_steps": 3}, scorer, folder)
        return scorer, tuned(scorer, method, 3, folder, fails)

    whole, records = run(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", fails=3)
    monkeypatch.delattr(auto_debias.Method, "_search")
    resumed, again = run(tmp_path / "b")
    assert records == again
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"tuples": [["he", "she"], ["man"]]}, "all of one length of at least 2, found [['he', 'she'], ['man']]"),
        ({"tuples": [["he"], ["she"]]}, "at least 2, found [['he'], ['she']]"),
        ({"tuples": "he"}, "found 'he'"),
        ({"stereotypes": []}, "list of words, found []"),
        ({"beam": 0}, "debias.beam should be at least 1, found 0"),
        ({"over": "words"}, "vocabulary or stereotypes, found 'words'"),
        ({"warmup_steps": -1}, "0 or more, found -1"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_one_sentence(settings, words):
    with pytest.raises(ConfigError) as error:
        auto_debias.Settings(**(WORDS | settings)).check()
    assert words in str(error.value) and "change debias." in str(error.value) and "\n" not in str(error.value)


def test_words_that_the_model_does_not_have_are_refused_in_one_sentence():
    scorer = biased_scorer()
    method = auto_debias.Method(scorer.model, auto_debias.Settings(**(WORDS | {"stereotypes": ["slow", "zzyzx"]})))
    with pytest.raises(ConfigError, match="at least 2 words that are one token of this model, found 1 among 2; change"):
        method.prepare(scorer, [])


def test_a_causal_model_is_refused():
    with pytest.raises(ConfigError, match="made for masked models, found a causal one"):
        bind({"name": "auto_debias", "version": 1, **WORDS}, SimpleNamespace(model=None, family="causal"), None)
