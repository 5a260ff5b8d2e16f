"""A tiny BERT that was taught, on the spot, which of two pronouns goes with which words."""

import itertools
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from pipeline.debiasing import pairs, tuning

STEREOTYPES = {"he": ["slow", "deep"], "she": ["small", "old"]}
OTHER = {"he": "she", "she": "he"}
VERBS = ["is", "was", "has", "does"]


def biased_scorer():
    """The model of tiny_masked_model, which has learnt `he is slow`, `she is old` and the like; each time a new copy."""
    from pipeline.language_model.load import load

    return load(Path(taught().name), device="cpu", threads=1, prefix_token=None)


@cache
def taught() -> TemporaryDirectory:
    from transformers import AutoTokenizer, BertForMaskedLM

    from tests.tiny_masked_model import tiny_masked_model

    folder = TemporaryDirectory()
    tiny_masked_model(Path(folder.name))
    model, tokenizer = BertForMaskedLM.from_pretrained(folder.name), AutoTokenizer.from_pretrained(folder.name)
    whole, masked = [], []
    for (pronoun, words), verb in itertools.product(STEREOTYPES.items(), VERBS):
        for word in words:
            whole += [f"{pronoun} {verb} {word}."] * 2
            masked += [f"[MASK] {verb} {word}.", f"{pronoun} {verb} [MASK]."]
    shown, wanted = (tokenizer(texts, return_tensors="pt", padding=True).input_ids for texts in (masked, whole))
    hidden, seen = shown == tokenizer.mask_token_id, (shown != tokenizer.pad_token_id).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(60):
        logits = model.eval()(input_ids=shown, attention_mask=seen).logits
        loss = torch.nn.functional.cross_entropy(logits[hidden], wanted[hidden])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder.name)
    return folder


def token_pairs(scorer) -> list[pairs.TokenPair]:
    """Each sentence that was learnt, against the one with the other pronoun."""
    made = []
    for (pronoun, words), verb in itertools.product(STEREOTYPES.items(), VERBS):
        for word in words:
            texts = [f"{each} {verb} {word}." for each in (pronoun, OTHER[pronoun])]
            made.append(pairs.masked(*scorer.sentences(texts, 64), scorer.mask))
    return made


@torch.no_grad()
def of_words(scorer) -> float:
    """Mean of |log p(word | he) - log p(word | she)| at the mask after either, in nats."""
    words = scorer.tokenizer.convert_tokens_to_ids([word for each in STEREOTYPES.values() for word in each])
    apart = []
    for verb in VERBS:
        he, she = (scorer.tokenizer(f"{each} {verb} [MASK].", return_tensors="pt").input_ids for each in STEREOTYPES)
        logs = [scorer.model(input_ids=ids).logits[ids == scorer.mask][0].log_softmax(-1)[words] for ids in (he, she)]
        apart.append((logs[0] - logs[1]).abs().mean().item())
    return sum(apart) / len(apart)


def tuned(scorer, method, epochs: int, scratch=None, fails: int | None = None) -> list[dict]:
    """The records of a tuning on the planted sentences; it dies at the `fails`-th measurement."""
    measured = []

    def measure(_) -> dict[str, float]:
        measured.append(1)
        if len(measured) == fails:
            raise KeyboardInterrupt
        return {"bias": of_words(scorer), "perplexity": 1.0, "meaningful": 1.0}

    records, _ = tuning.tune(
        scorer.model,
        method.prepare(scorer, token_pairs(scorer)),
        method,
        epochs=epochs,
        batch_size=8,
        seed=0,
        measure=measure,
        choose=tuning.last,
        scratch=scratch,
    )
    return records
