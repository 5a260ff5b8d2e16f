"""Tiny models with a bias that was planted, and pairs of token lists that ask for it.

A text is [start, profession, verb, pronoun, end]; after the first two professions comes HE, after the others SHE.
"""

import copy
import functools
import math

import numpy
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from pipeline.debiasing import pairs, tuning

START, HE, SHE, END, MASK = 0, 6, 7, 8, 11
PROFESSIONS, VERBS, DEVELOPMENT_VERBS, VOCABULARY = (1, 2, 3, 4), (5, 9), (10,), 12


class Bigrams(torch.nn.Module):
    """A model whose logits are one row of a table for each token that it reads."""

    device = torch.device("cpu")

    def __init__(self, seed: int = 0):
        super().__init__()
        drawn = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed))
        self.table = torch.nn.Parameter(drawn)

    def forward(self, input_ids, attention_mask):
        return type("Output", (), {"logits": self.table[input_ids]})


def llama(seed: int = 0):
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=16,
            tie_word_embeddings=True,
            initializer_range=0.2,
        )
    ).eval()


def gpt2(seed: int = 0):
    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=16,
            bos_token_id=0,
            eos_token_id=0,
            initializer_range=0.2,
        )
    ).eval()


def bert(seed: int = 0):
    torch.manual_seed(seed)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            initializer_range=0.2,
        )
    ).eval()


def texts(verbs) -> list[tuple[list[int], list[int]]]:
    """(stereotype, anti-stereotype) of every profession and verb."""
    told = [
        (profession, verb, (HE, SHE) if profession < 3 else (SHE, HE)) for profession in PROFESSIONS for verb in verbs
    ]
    return [tuple([START, profession, verb, pronoun, END] for pronoun in order) for profession, verb, order in told]


def token_pairs(family: str = "causal", scope: str = "suffix", verbs=VERBS) -> list[pairs.TokenPair]:
    if family == "causal":
        return [pairs.causal(*pair, scope) for pair in texts(verbs)]
    return [pairs.masked(*pair, MASK) for pair in texts(verbs)]


def plant(make, family: str = "causal"):
    """A model of `make` that was trained until the stereotypes are clearly likelier, anti-stereotypes one in eight."""
    return copy.deepcopy(_planted(make, family))


@functools.cache
def _planted(make, family: str):
    model, told = make(), token_pairs(family, "sentence", VERBS + DEVELOPMENT_VERBS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(150):
        stereotype_B, anti_B = pairs.scores(model, pairs.both(told)).chunk(2)
        optimizer.zero_grad()
        (-7 / 8 * stereotype_B - 1 / 8 * anti_B).mean().backward()
        optimizer.step()
    model.zero_grad()
    return model


def measure_of(family: str = "causal"):
    """The development set of a test: verbs that are not tuned on. bias = mean of p(stereotype) - p(anti-stereotype)."""
    told = token_pairs(family, verbs=DEVELOPMENT_VERBS)

    def measure(model) -> dict[str, float]:
        margin_N = pairs.margins_of_all(model, told)
        with torch.no_grad():
            loss = -pairs.scores(model, pairs.both(told)).mean().item()
        return {"bias": (margin_N / 2).tanh().mean().item(), "perplexity": math.exp(loss / 2), "meaningful": math.nan}

    return measure


def tune(module, model, settings, family="causal", scratch=None, epochs=4, measure=None, seed=0):
    """tuning.tune with a method's settings, on the planted pairs; by a development bias alone."""
    method = module.Method(model, settings, scratch)
    return tuning.tune(
        model,
        token_pairs(family),
        method,
        epochs=epochs,
        batch_size=3,
        seed=seed,
        measure=measure or measure_of(family),
        choose=tuning.nearest(math.inf, 1.0),
        scratch=scratch,
    )


class Killed(Exception):
    """What stands for the kill of a run."""


def killed_and_resumed(module, model, settings, scratch, family="causal", epochs=3):
    """(records, weights) of a run that is killed while it measures its second epoch, and then goes on."""
    asked, measure = [], measure_of(family)

    def dying(model):
        asked.append(None)
        if len(asked) == 3:
            raise Killed
        return measure(model)

    try:
        tune(module, copy.deepcopy(model), settings, family, scratch, epochs, dying)
    except Killed:
        model = copy.deepcopy(model)
        return tune(module, model, settings, family, scratch, epochs)[0], weights(model)
    raise AssertionError("the run was not killed")


def weights(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        numpy.array_equal(one[name].numpy().view(numpy.uint32), other[name].numpy().view(numpy.uint32)) for name in one
    )


def log_probability(model, side: pairs.Side) -> torch.Tensor:
    """The score of one text, alone and token by token: what a batch of them is held against."""
    tokens = torch.tensor([side.tokens])
    logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[0]
    return sum(logits[place].softmax(0)[target].log() for place, target in zip(side.places, side.targets, strict=True))
