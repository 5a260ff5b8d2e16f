"""What a model writes: transformers' own greedy texts, samples by the book, whatever else is in the batch."""

import copy
import logging

import architectures as models
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import CheckpointError, ConfigError
from pipeline.language_model import causal, generation, lines, passes, sampling, trials
from pipeline.language_model.causal import CausalScorer
from pipeline.language_model.plain_text import TEXT
from pipeline.language_model.scorer import few_rows
from pipeline.requests import Generate, LogLikelihood, Rolling

WORDS = TEXT.split()
PROMPTS = [" ".join(WORDS[start : start + length]) for start, length in enumerate((1, 2, 3, 9, 5, 14, 7, 2))]


def greedy(prompt, **settings):
    return Generate(prompt, temperature=0.0, **settings)


def scorer(name="Llama", limit=512, bos=False):
    return CausalScorer(models.model(name), models.tokenizer(bos), limit)


def plain(name, prompt, tokens, **settings):
    """transformers' own text after one prompt."""
    ids = torch.tensor([models.tokenizer()(prompt)["input_ids"]])
    made = models.model(name).generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, pad_token_id=1, **settings
    )
    return [models.tokenizer().decode(row[ids.shape[1] :], skip_special_tokens=True) for row in made]


@pytest.mark.parametrize("name", models.ALL)
def test_greedy_is_transformers_own(name):
    answers = scorer(name).answer([greedy(prompt, max_tokens=24) for prompt in PROMPTS])
    assert [answer.texts for answer in answers] == [tuple(plain(name, prompt, 24)) for prompt in PROMPTS]
    assert all(np.isnan(answer.loglikelihood) and 1 <= answer.tokens <= 24 for answer in answers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["Llama", "OPT", "Phi3", "Mamba", "Bamba", "Roberta", *models.UNKEPT, *models.UNNAMED])
def test_greedy_is_that_of_plain_passes(name, dtype):
    """Token by token, each time the whole text in one pass: positions of any kind. In half precision a near tie may fall."""
    model = copy.deepcopy(models.model(name)).to(dtype)
    ours, alike = CausalScorer(model, models.tokenizer(), 512), 0
    for answer, prompt in zip(ours.answer([greedy(p, max_tokens=12) for p in PROMPTS]), PROMPTS, strict=True):
        tokens = list(models.tokenizer()(prompt)["input_ids"])
        start = len(tokens)
        while len(tokens) < start + 12 and tokens[-1] not in ours._writer.ends:
            with torch.inference_mode():
                tokens.append(int(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
        alike += answer.texts == (models.tokenizer().decode(tokens[start:], skip_special_tokens=True),)
    assert alike >= (len(PROMPTS) if dtype == torch.float32 else 6)
    assert ours._writer.passes.counts == (name == "Bamba") and ours._writer.passes.keeps == (name not in models.UNKEPT)


CANNOT = {
    "Mamba",
    "Mpt",
    "Bamba",
}  # go on from what was read before, several tokens at a time, or with padding after it
ALIKE = [f"{TEXT[:90]} {prompt or 'rain'}"[:110] for prompt in PROMPTS] + [TEXT[:90], TEXT[:94]]


def watched(monkeypatch) -> list[tuple[int, int]]:
    """Rows and tokens of each forward pass of a writer."""
    read, step = [], passes.Passes.step

    def told(self, tokens, *rest):
        read.append((len(tokens), len(tokens[0])))
        return step(self, tokens, *rest)

    monkeypatch.setattr(passes.Passes, "step", told)
    return read


@pytest.mark.parametrize("limit", [512, 128])
@pytest.mark.parametrize("name", models.ALL)
def test_a_beginning_that_prompts_share_is_read_once(name, limit, monkeypatch, caplog):
    """Where the model allows it, the texts are transformers' own; where not, it is found out and they are as well."""
    monkeypatch.setattr(trials, "SHARED", 8)
    ours, asked = scorer(name, limit=limit), [greedy(prompt, max_tokens=16) for prompt in ALIKE]
    expected = [tuple(plain(name, prompt, 16)) for prompt in ALIKE]
    assert [answer.texts for answer in ours.answer(asked)] == expected
    refused = "does not allow reading the shared beginning of prompts once" in caplog.text
    read = watched(monkeypatch)  # the trial is over
    assert [answer.texts for answer in ours.answer(asked)] == expected
    if limit == 512:
        whole = sum(map(len, ours.encoder.prompts([(text, 16) for text in ALIKE])))
        passes = sum(rows * length for rows, length in read if length > 1)
        assert refused == (name in CANNOT) and (passes < 0.7 * whole) == (not refused), (passes, whole)


UNPADDED = {"Mamba"}  # whose cache cannot be joined
SHORT_SIGHTED = set(models.WINDOWED) | {"Bamba"}  # beyond their windows, or what is taken for one (mamba_chunk_size)


@pytest.mark.parametrize("name", models.ALL)
def test_prompts_of_several_lengths_share_a_batch(name, monkeypatch, caplog):
    """Where the model allows it, and only as far as its windows reach."""
    read = watched(monkeypatch)
    answers = scorer(name).answer([greedy(prompt, max_tokens=24) for prompt in PROMPTS])
    assert [answer.texts for answer in answers] == [tuple(plain(name, prompt, 24)) for prompt in PROMPTS]
    refused = "does not allow prompts of several lengths in a batch" in caplog.text
    assert refused == (name in UNPADDED)
    steps = [rows for rows, length in read if length == 1]
    together = name not in UNPADDED | SHORT_SIGHTED
    assert (len(steps) < 3 * 24) == together and (max(steps) > 4) == together


def test_a_model_that_does_not_pass_over_padding_is_found_out(monkeypatch, caplog):
    step = passes.Passes.step
    expected = [tuple(plain("Llama", prompt, 8)) for prompt in PROMPTS]
    monkeypatch.setattr(
        passes.Passes, "step", lambda self, tokens, cache, _=None, at=0: step(self, tokens, cache, None, at)
    )
    answers = scorer().answer([greedy(prompt, max_tokens=8) for prompt in PROMPTS])
    assert [answer.texts for answer in answers] == expected
    assert "does not allow prompts of several lengths in a batch (a logit is another by" in caplog.text


def test_the_trial_does_not_depend_on_what_was_asked_before(monkeypatch):
    monkeypatch.setattr(trials, "SHARED", 8)

    def wanted(texts, **settings):
        asked = [greedy(text, max_tokens=16, **settings) for text in texts]
        return lines.lines(scorer().encoder.prompts([(each.prompt, 16) for each in asked]), asked)

    one, two = (generation.Writer(models.model("Llama"), models.tokenizer(), 512) for _ in range(2))
    two.trials.try_out(wanted(PROMPTS), 96)
    assert two.trials.try_out(wanted(ALIKE), 96) == one.trials.try_out(wanted(ALIKE), 96) == 96
    assert (
        (one.trials.shares, one.trials.shares_padded) == (two.trials.shares, two.trials.shares_padded) == (True, True)
    )
    assert (
        two.trials.try_out(wanted(ALIKE, beams=2), 96) == 0 and not two.trials.shares and not two.trials.shares_padded
    )
    assert (
        two.trials.try_out(wanted(ALIKE), 20) == 0 and two.trials.shares and not two.trials.shares_padded
    )  # all are longer than that


# Prompts that share a beginning, by the lengths of their rests: the nearest far shorter, or but for the last token alike.
RESTS = {"far": (60, 4, 9, 12), "last": (30, 30, 12, 11), "mixed": (40, 34, 8, 7, 7, 2)}


@pytest.mark.parametrize("rests", RESTS)
@pytest.mark.parametrize("name", models.ALL)
def test_sharing_with_padding_is_exact_or_found_out(name, rests, monkeypatch):
    """What a trial allows was tried, however the longest prompt lies beside its nearest one."""
    monkeypatch.setattr(trials, "SHARED", 8)
    monkeypatch.setattr(causal, "CPU_START", 16)
    draw = np.random.default_rng(3)
    begin = tuple(draw.integers(2, 320, 10).tolist())
    prompts = [begin + tuple(draw.integers(2, 320, rest).tolist()) for rest in RESTS[rests]]
    if rests == "last":
        prompts[1] = (*prompts[0][:-1], prompts[1][-1])
    asked = [greedy(str(number), max_tokens=number + 6) for number in range(len(prompts))]  # of several lengths, too
    ours = scorer(name, limit=2000)
    ours.encoder.prompts = lambda *_: prompts
    found = [answer.texts[0] for answer in ours.generate(asked)]
    for text, prompt, each in zip(found, prompts, asked, strict=True):
        made = ours.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            do_sample=False,
            max_new_tokens=each.max_tokens,
            pad_token_id=1,
        )
        assert text == ours.tokenizer.decode(made[0, len(prompt) :], skip_special_tokens=True)


def test_samples_of_prompts_that_begin_alike_are_the_same_alone(monkeypatch):
    monkeypatch.setattr(trials, "SHARED", 8)
    asked = [Generate(prompt, 2, 12, temperature=1.5, seed=3) for prompt in ALIKE]
    together = scorer().answer(asked)
    assert [each.texts for each in together] == [scorer().answer([one])[0].texts for one in asked]


def test_a_model_that_goes_on_wrongly_is_found_out(monkeypatch, caplog):
    """As one would whose positions begin anew in every pass."""
    monkeypatch.setattr(trials, "SHARED", 8)
    step = passes.Passes.step

    def forgetful(self, tokens, cache, *rest):
        logits, kept = step(self, tokens, cache, *rest)
        return (logits + 1 if cache and len(tokens[0]) > 1 else logits), kept

    expected = [tuple(plain("Llama", prompt, 8)) for prompt in ALIKE]
    monkeypatch.setattr(passes.Passes, "step", forgetful)
    answers = scorer().answer([greedy(prompt, max_tokens=8) for prompt in ALIKE])
    assert [answer.texts for answer in answers] == expected and "a logit is another by 1" in caplog.text


@pytest.mark.parametrize("name", ["Llama", "Gemma3", "Mamba"])
def test_long_prompts_are_read_in_packs(name, monkeypatch):
    prompts = [" ".join(WORDS[start : start + 12])[:40] for start in range(0, 60, 5)]
    ours, read = scorer(name, limit=64), watched(monkeypatch)
    answers = ours.answer([greedy(prompt, max_tokens=24) for prompt in prompts])
    assert [answer.texts for answer in answers] == [tuple(plain(name, prompt, 24)) for prompt in prompts]
    assert max(rows * length for rows, length in read) <= 64
    kept = generation.Writer(ours.model, ours.tokenizer, 64).passes.kept
    assert kept == 64 if name == "Mamba" else 64 < kept <= 8 * 64


@pytest.mark.parametrize("name", ["Llama", "GPT2", "Mistral"])
def test_beams_are_transformers_own(name):
    asked = [greedy(prompt, beams=3, samples=2, max_tokens=8) for prompt in PROMPTS]
    found = [answer.texts for answer in scorer(name).answer(asked)]
    assert found == [tuple(plain(name, prompt, 8, num_beams=3, num_return_sequences=2)) for prompt in PROMPTS]


@pytest.mark.parametrize("name", models.UNKEPT)
def test_beams_do_not_trust_another_kind_of_cache(name):
    asked = [greedy(prompt, beams=3, samples=2, max_tokens=8) for prompt in PROMPTS]
    found = [answer.texts for answer in scorer(name).answer(asked)]
    anew = {"num_beams": 3, "num_return_sequences": 2, "use_cache": False}
    assert found == [tuple(plain(name, prompt, 8, **anew)) for prompt in PROMPTS]


def naive(model, prompt, asked, sample):
    """One token after the other, the whole text read anew each time, in numpy."""
    tokens, written = list(prompt), []
    for number in sampling.uniforms(asked, sample):
        with torch.inference_mode():
            logits = model(torch.tensor([tokens])).logits[0, -1].double().numpy() / asked.temperature
        odds = np.exp(logits - logits.max())
        order = np.argsort(-odds)
        if asked.top_k:
            odds[order[asked.top_k :]] = 0
        odds /= odds.sum()
        # the least set of the likeliest that has top_p
        odds[order[1:][np.cumsum(odds[order])[:-1] >= asked.top_p]] = 0
        odds /= odds.sum()
        token = int(np.flatnonzero(np.cumsum(odds) > number)[0])
        tokens.append(token)
        written.append(token)
        if token == 1 or len(written) == asked.max_tokens:
            return models.tokenizer().decode([token for token in written if token != 1], skip_special_tokens=True)
    raise AssertionError


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (3.0, 5, 1.0), (2.0, 0, 0.7), (5.0, 9, 0.6)]
)
@pytest.mark.parametrize("name", ["Llama", "Gemma2", "Mamba", "Bloom"])
def test_samples_by_the_book(name, temperature, top_k, top_p):
    """With a seed at which no two logits at the edge of top_k are as near to each other as their rounding."""
    asked = [
        Generate(prompt, 3, 10, temperature=temperature, top_k=top_k, top_p=top_p, seed=5) for prompt in PROMPTS[:4]
    ]
    ours = scorer(name)
    found = [answer.texts for answer in ours.answer(asked)]
    prompts = ours.encoder.prompts([(each.prompt, each.max_tokens) for each in asked])
    for texts, each, prompt in zip(found, asked, prompts, strict=True):
        assert texts == tuple(naive(ours.model, prompt, each, sample) for sample in range(3))
    assert len({text for texts in found for text in texts}) > 6


def test_samples_do_not_depend_on_what_else_is_asked():
    asked = [Generate(prompt, 4, 12, temperature=2.0) for prompt in PROMPTS] + [greedy(PROMPTS[0]), greedy(PROMPTS[1])]
    whole = scorer().answer(asked)
    assert [scorer().answer([each])[0].texts for each in asked] == [answer.texts for answer in whole]
    order = np.random.default_rng(0).permutation(len(asked))
    assert [answer.texts for answer in scorer().answer([asked[at] for at in order])] == [
        whole[at].texts for at in order
    ]
    # more samples, a longer limit and another model's draw begin in the same way
    [more] = scorer().answer([asked[0]._replace(samples=6)])
    assert more.texts[:4] == whole[0].texts
    [other] = scorer().answer([asked[0]._replace(seed=1)])
    assert other.texts != whole[0].texts


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "GPT2"])
def test_few_rows_multiplied_the_other_way_round(name, monkeypatch):
    """Matrices with biases and without, a head of its own and a tied one; what is no plain matrix stays as it is."""
    model, tokens = models.model(name), torch.tensor([[5, 6, 7], [9, 8, 4]])
    linears = [module for module in model.modules() if type(module) is torch.nn.Linear]
    forward, seen = torch.nn.functional.linear, []
    with torch.inference_mode():
        expected = model(tokens).logits
        with few_rows(model):
            monkeypatch.setattr(torch.nn.functional, "linear", lambda *given: seen.append(given) or forward(*given))
            assert (model(tokens).logits - expected).abs().max() < 1e-4 and not seen
            many = model(tokens.repeat(2, 1)).logits[:2]
            assert len(seen) == len(linears)
    assert (many - expected).abs().max() < 1e-4
    assert not any("forward" in vars(module) for module in linears)


def test_samples_in_pieces(monkeypatch):
    asked = [Generate(prompt, 4, 12, temperature=2.0, top_p=0.9) for prompt in PROMPTS]
    whole = [answer.texts for answer in scorer().answer(asked)]
    monkeypatch.setattr(sampling, "LOOKED_AT", 3 * 320)
    assert [answer.texts for answer in scorer().answer(asked)] == whole


def test_temperature_0_gives_every_sample_alike():
    [answer] = scorer().answer([greedy(PROMPTS[0], samples=3)])
    assert len(answer.texts) == 3 and len(set(answer.texts)) == 1
    [one] = scorer().answer([greedy(PROMPTS[0])])
    assert answer.texts[0] == one.texts[0] and answer.tokens == 3 * one.tokens


def test_stop_strings_end_and_are_cut_off():
    [whole] = scorer().answer([greedy(PROMPTS[3], max_tokens=30)])
    [text] = whole.texts
    for stop in (text[4:6], text[3], text[7:12]):
        [cut] = scorer().answer([greedy(PROMPTS[3], max_tokens=30, stop=("never", stop))])
        assert cut.texts[0] == text[: text.index(stop)]
        assert cut.tokens < whole.tokens


def test_eos_ends():
    model = copy.deepcopy(models.model("Llama"))
    ours = CausalScorer(model, models.tokenizer(), 512)
    [free] = ours.answer([greedy(PROMPTS[0], max_tokens=6)])
    ids = torch.tensor([models.tokenizer()(PROMPTS[0])["input_ids"]])
    third = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6, pad_token_id=1)[
        0, ids.shape[1] + 2
    ].item()
    model.generation_config.eos_token_id = [1, third]
    [ended] = CausalScorer(model, models.tokenizer(), 512).answer([greedy(PROMPTS[0], max_tokens=6)])
    assert ended.tokens <= 3 and free.texts[0].startswith(ended.texts[0]) and ended.texts != free.texts


def test_a_long_prompt_loses_its_beginning(caplog):
    long = " ".join(WORDS[:60])
    with caplog.at_level(logging.WARNING):
        [answer] = scorer().answer([greedy(long, max_tokens=10)])
    assert "1 of 1 prompts are too long for the model and lose their beginning" in caplog.text
    ids = torch.tensor([models.tokenizer()(long)["input_ids"][-86:]])
    made = models.model("Llama").generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=10)
    assert answer.texts == (models.tokenizer().decode(made[0, 86:], skip_special_tokens=True),)


def test_an_empty_prompt_is_the_prefix_token():
    [empty, prefix] = scorer().answer([greedy(""), greedy("<s>")])
    assert empty.texts == prefix.texts


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"samples": 0}, "samples of at least 1"),
        ({"max_tokens": 0}, "max_tokens of at least 1"),
        ({"temperature": -1.0}, "temperature of 0 or more"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"beams": 2}, "temperature 0 with beams"),
        ({"beams": 2, "temperature": 0.0, "samples": 3}, "samples up to the 2 beams"),
        ({"stop": ("",)}, "stop strings"),
        ({"max_tokens": 96}, "fewer than the model's 96"),
        ({"prompt": "word " * 20, "max_tokens": 50}, "machine.tokens_per_pack"),
    ],
)
def test_what_cannot_be_asked(change, match):
    with pytest.raises(ConfigError, match=match):
        scorer(limit=64).answer([Generate("The rain")._replace(**change)])


@pytest.mark.parametrize("name", models.UNKEPT)
def test_what_is_kept_nowhere_is_read_anew(name, caplog):
    asked = [Generate(prompt, 2, 5) for prompt in PROMPTS] + [greedy(prompt, max_tokens=5) for prompt in PROMPTS]
    together = scorer(name).answer(asked)
    assert caplog.text.count("reads the whole text anew, which is slower") == 1
    assert "in a batch" not in caplog.text
    alone = [scorer(name, limit=64).answer([each])[0] for each in asked]
    assert [answer.texts for answer in together] == [answer.texts for answer in alone]


def test_a_broken_model_says_so():
    model = copy.deepcopy(models.model("Llama"))
    model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="nan"):
        CausalScorer(model, models.tokenizer(), 256).answer([Generate("The rain")])


@pytest.mark.parametrize("padded", [0, 40, 1000])
def test_batches_are_bounded_and_hold_like_lengths(padded):
    asked = [Generate(prompt, 5, 10) for prompt in PROMPTS]
    asked += [greedy(prompt, max_tokens=5 + 4 * number) for number, prompt in enumerate(PROMPTS)]
    asked += [greedy(prompt, beams=2, max_tokens=20) for prompt in PROMPTS]
    prompts = scorer().encoder.prompts([(each.prompt, each.max_tokens) for each in asked])
    batches = lines.batches(lines.lines(prompts, asked), 128, 256, 4, padded)
    for batch in batches:
        assert len(batch) <= 4 and len({line.kind for line in batch}) == 1
        own = [len(line.prompt) + line.asked.max_tokens for line in batch]
        width = max(len(line.prompt) for line in batch) + max(line.asked.max_tokens for line in batch)
        assert len(batch) * width <= (256 if batch[0].asked.beams == 1 else 64)
        if batch[0].asked.beams > 1 or width > padded:
            assert len({len(line.prompt) for line in batch}) == 1
        if len({len(line.prompt) for line in batch}) > 1:
            assert 2 * min(own) >= width
    assert sum(map(len, batches)) == 7 * len(PROMPTS)
    assert (max(len({len(line.prompt) for line in batch}) for batch in batches) > 1) == (padded > 0)


def test_caches_that_hold_more_than_keys_are_not_joined(monkeypatch):
    from transformers.cache_utils import DynamicLayer

    class More(DynamicLayer):
        pass

    step = passes.Passes.step

    def other(self, tokens, cache, *rest):
        logits, held = step(self, tokens, cache, *rest)
        for one in held.values():
            one.layers[0].__class__ = More
        return logits, held

    ours = scorer(limit=64)
    assert generation.Writer(ours.model, ours.tokenizer, 64).passes.kept > 64
    monkeypatch.setattr(passes.Passes, "step", other)
    assert generation.Writer(ours.model, ours.tokenizer, 64).passes.kept == 64


def test_a_batch_without_memory_names_its_tokens(monkeypatch):
    ours = scorer(limit=64)
    kept = generation.Writer(ours.model, ours.tokenizer, 64).passes.kept

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(passes.Passes, "read", full)
    with pytest.raises(ConfigError, match=f"up to {kept} tokens"):
        ours.answer([greedy("The rain", max_tokens=4)])


def test_killed_and_resumed_it_writes_the_same(tmp_path, monkeypatch, caplog):
    asked = [Generate(prompt, 3, 12, temperature=2.0) for prompt in PROMPTS] + [
        LogLikelihood("The rain", " stopped"),
        Rolling(TEXT[:200]),
    ]
    monkeypatch.setattr(passes, "KEPT", 1)
    ours = scorer(limit=128)
    whole = ours.answer(asked, scratch=tmp_path / "whole")
    done, real = [], generation.Writer.write

    def dies(self, batch):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(batch)
        return real(self, batch)

    monkeypatch.setattr(generation.Writer, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        ours.answer(asked, scratch=tmp_path / "killed")
    monkeypatch.setattr(generation.Writer, "write", lambda self, batch: done.append(batch) or real(self, batch))
    resumed = ours.answer(asked, scratch=tmp_path / "killed")
    assert [answer[2:] for answer in resumed[:8]] == [answer[2:] for answer in whole[:8]]
    assert resumed[8:] == whole[8:]
    assert len(done) == len(list((tmp_path / "whole" / "Generate").glob("pack-*.json"))) > 3
    # a text that was altered is written again
    path = tmp_path / "killed" / "Generate" / "pack-000000.json"
    path.write_text(path.read_text().replace('", "', '!", "', 1).replace('"]', '!"]', 1))
    with caplog.at_level(logging.WARNING):
        again = ours.answer(asked, scratch=tmp_path / "killed")
    assert [answer.texts for answer in again] == [answer.texts for answer in whole]
    assert "not what was written there" in caplog.text


@settings(max_examples=100)
@given(
    logits=st.lists(st.floats(-20, 20), min_size=2, max_size=8),
    temperature=st.floats(0.1, 5),
    top_k=st.integers(0, 9),
    top_p=st.floats(0.05, 1),
    number=st.floats(0, 1, exclude_max=True),
)
def test_a_token_is_picked_by_its_probability(logits, temperature, top_k, top_p, number):
    chances = sampling.probabilities(torch.tensor([logits]), temperature, top_k, top_p).double()
    assert chances.sum().item() == pytest.approx(1, abs=1e-6)
    [token] = sampling.pick(chances, [number], [0])
    assert chances[0, token] > 0
    before = chances[0, :token].sum().item()
    assert before - 1e-6 <= number <= before + chances[0, token].item() + 1e-6


@pytest.mark.parametrize("vocabulary", [1, 7, sampling.BLOCK, sampling.BLOCK + 1, 5 * sampling.BLOCK, 49152])
def test_blocks_of_tokens_change_no_pick(vocabulary):
    """Against sums over all tokens in float64; in float32 a number next to the edge between two may fall to either."""
    generator = torch.Generator().manual_seed(vocabulary)
    chances = (6 * torch.randn(40, vocabulary, generator=generator)).softmax(-1)
    numbers = torch.rand(40, generator=generator, dtype=torch.float64)
    sums = chances.double().cumsum(-1)
    wanted = numbers[:, None] * sums[:, -1:]
    expected = torch.searchsorted(sums, wanted, right=True)[:, 0].tolist()
    assert sampling.pick(chances.double(), numbers.tolist(), range(len(numbers))) == expected
    for row, token in enumerate(sampling.pick(chances, numbers.tolist(), range(len(numbers)))):
        near = (sums[row] - wanted[row]).abs() < 1e-6
        assert token == expected[row] or near[min(token, expected[row]) : max(token, expected[row])].all()


@given(st.lists(st.floats(1e-12, 1), min_size=1, max_size=20), st.sampled_from([torch.float32, torch.float64]))
def test_the_last_number_picks_the_last_that_can_be_picked(chances, dtype):
    [token] = sampling.pick(torch.tensor([[*chances, *[0.0] * 300]], dtype=dtype), [1 - 2**-53], [0])
    assert token < len(chances)


def test_the_last_number_picks_what_can_be_picked():
    chances = torch.tensor([[0.3, 0.7, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    assert sampling.pick(chances, [1 - 2**-53, 1 - 2**-53], [0, 1]) == [1, 1]
    assert sampling.pick(chances, [0.0, 0.0], [0, 1]) == [0, 1]


def test_a_setting_of_the_checkpoint_that_is_not_used_is_named(caplog):
    model = copy.deepcopy(models.model("Llama"))
    model.generation_config.repetition_penalty = 1.3
    with caplog.at_level(logging.WARNING):
        [answer] = CausalScorer(model, models.tokenizer(), 512).answer([greedy(PROMPTS[0])])
    assert "repetition_penalty" in caplog.text
    assert answer.texts == scorer().answer([greedy(PROMPTS[0])])[0].texts


def test_a_small_real_model(stories):
    """transformers' own stories; a BOS stands before every prompt."""
    from pipeline.language_model.load import load

    ours = load(stories)
    prompts = ["Once upon a time", "The dog", "Lily and her mother went to the park. They"]
    answers = ours.answer([greedy(prompt, max_tokens=60, stop=("\n",)) for prompt in prompts])
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([ours.tokenizer(prompt)["input_ids"]])
        made = ours.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=60)
        text = ours.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer.texts == (text.split("\n")[0],)
