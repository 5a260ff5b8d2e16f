"""Auto-Debias: prompts at which a masked model tells groups apart are searched for, and it is tuned to answer alike.

For a tuple of words w_1 .. w_m, one a group, and a prompt c, a few words, p_k is what the model expects at the mask of
"w_k c [MASK]", and

    JSD(p_1 .. p_m) = 1/m sum_k KL(p_k || q),    q = 1/m sum_k p_k          (nats; 0 where all are alike, at most log m)

1. Search. Candidates are the words of the vocabulary; the `beam` prompts with the highest mean JSD over the tuples, p over
   the stereotype words alone, are kept and each made longer by every word, up to `prompt_length`. The prompts of all
   lengths are taken. Of equal ones the earlier is. They are found once, in the model that comes in.
2. Tuning. Every prompt with every tuple is an example, "w_k c [MASK]."; the loss is the mean JSD of a batch, with p over
   the whole vocabulary or over the stereotype words. AdamW.

Source: Guo, Yang, Abbasi (2022), Auto-Debias: Debiasing Masked Language Models with Automated Biased Prompts, ACL, and the
authors' code, github.com/Irenehere/Auto-Debias: 30 tuples, 5000 words frequent in Wikipedia, beam 100, prompts of up to 5
words; then one epoch, batches of 32, a learning rate of 1e-5, p over the whole vocabulary, and the full stop that the
search does not have. Of the paper only the beginning was at hand; the rest is as the code has it. What differs, ours:
    divergence  their code has KL(q || p_k); here is the divergence that they name
    words       our own short lists in conf/debias/auto_debias.yaml; a word is read as the token that it is after a space,
                which in RoBERTa is another than at the beginning of a text
    vocabulary  the first whole words of the tokenizer's own, which stand roughly by frequency, and fewer of them: with the
                authors' numbers the search takes over a hundred million texts
    pooling     their second loss, 0.1 (1 - cosine) of the pooled outputs, is left out: masked models here have no pooler
    dropout     none

The pairs are not read: the method finds its prompts in the model.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline import progress
from pipeline.checkpoint.training_state import keep, kept
from pipeline.debiasing.optimisation import ByLoss, check_schedule
from pipeline.debiasing.pairs import TokenPair, padded
from pipeline.debiasing.words import are_words, in_text, whole_words
from pipeline.errors import ConfigError

FAMILIES = ("masked",)
READS_PAIRS = False
OVER = ("vocabulary", "stereotypes")
BATCH = 128  # prompts that are read at once in the search


@dataclasses.dataclass(frozen=True)
class Settings:
    """What conf/debias/auto_debias.yaml may say of the method.

    tuples         words that differ in the group alone, all of one length: [[she, he], ...]
    stereotypes    words whose probabilities the search compares; those that are not one token are left out
    vocabulary     how many words the prompts are made of
    beam           prompts of each length that are kept
    prompt_length  most words in a prompt
    over           what the tuned probabilities are of: vocabulary, or stereotypes
    """

    tuples: list[list[str]]
    stereotypes: list[str]
    vocabulary: int = 500
    beam: int = 10
    prompt_length: int = 3
    over: str = "vocabulary"
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    warmup_steps: int = 0

    def check(self) -> None:
        tuples = self.tuples if isinstance(self.tuples, (list, tuple)) else [None]
        sizes = {len(each) if are_words(each) else 0 for each in tuples}
        if len(sizes) != 1 or min(sizes) < 2:
            raise ConfigError(
                "debias.tuples should be a list of lists of words, all of one length of at least 2, found "
                f"{self.tuples!r}; change debias.tuples"
            )
        if not are_words(self.stereotypes):
            raise ConfigError(
                f"debias.stereotypes should be a list of words, found {self.stereotypes!r}; change debias.stereotypes"
            )
        for name in ("vocabulary", "beam", "prompt_length"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"debias.{name} should be at least 1, found {getattr(self, name)}; change debias.{name}"
                )
        if self.over not in OVER:
            raise ConfigError(f"debias.over should be {' or '.join(OVER)}, found {self.over!r}; change debias.over")
        check_schedule(self.warmup_steps, None)


class Example(NamedTuple):
    """One prompt with one tuple: the text of each group."""

    texts: tuple[str, ...]


class Method:
    """The method on one masked model, which it changes in place.

    scratch  where the prompts are kept, so that a killed run need not search again
    Shapes: G groups, B prompts or examples, V the words that p is over.
    """

    def __init__(self, model: torch.nn.Module, settings: Settings, scratch: Path | None = None, seed: int = 0):
        settings.check()
        self.model, self.settings, self.scratch = model, settings, scratch
        self.descent = ByLoss(
            model,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            warmup_steps=settings.warmup_steps,
        )
        self.prompts: list[tuple[str, float]] = []

    def prepare(self, scorer, pairs: Sequence[TokenPair]) -> list[Example]:
        """Search for the prompts; raises ConfigError where the model has too few words that are one token."""
        self.tokenizer = scorer.tokenizer
        tokens = [each[0] for each in in_text(self.tokenizer, self.settings.stereotypes) if len(each) == 1]
        if len(set(tokens)) < 2:
            raise ConfigError(
                "debias.stereotypes should hold at least 2 words that are one token of this model, found "
                f"{len(set(tokens))} among {len(self.settings.stereotypes)}; change debias.stereotypes"
            )
        self.stereotypes = list(dict.fromkeys(tokens))
        state = kept(self.scratch, "prompts")
        if state is None:
            state = {"prompts": self._search()}
            keep(self.scratch, state, "prompts")
        self.prompts = state["prompts"]
        mask = self.tokenizer.mask_token
        return [
            Example(tuple(f"{word} {prompt} {mask}." for word in words))
            for prompt, _ in self.prompts
            for words in self.settings.tuples
        ]

    def step(self, examples: Sequence[Example]) -> dict[str, float]:
        """One update; returns the mean JSD before it."""
        among = self.stereotypes if self.settings.over == "stereotypes" else None
        return {"divergence": self.descent.descend(self._divergence(examples, among).mean())}

    def end_epoch(self) -> None:
        """Nothing is left to do."""

    def state(self) -> dict:
        """What a resumed run must know besides the weights and the prompts, which lie in scratch."""
        return self.descent.state()

    def load_state(self, state: dict) -> None:
        self.descent.load_state(state)

    def tables(self) -> dict[str, list[dict]]:
        """prompts: one row each, with the mean JSD that it was chosen by."""
        return {"prompts": [{"prompt": prompt, "divergence": divergence} for prompt, divergence in self.prompts]}

    @torch.no_grad()
    def _search(self) -> list[tuple[str, float]]:
        """The prompts of all lengths, the shortest ones first and then by their JSD."""
        words = whole_words(self.tokenizer, self.settings.vocabulary)
        if not words:
            raise ConfigError(
                "debias=auto_debias should have a model whose tokenizer has words that are one token, found none; "
                "choose another debias or model"
            )
        candidates, found = words, []
        mask, tuples = self.tokenizer.mask_token, self.settings.tuples
        for length in range(1, self.settings.prompt_length + 1):
            divergence_B = torch.zeros(len(candidates), dtype=torch.float64)
            with progress.bar(len(candidates), f"prompts of {length} words", unit="prompt") as bar:
                for start in range(0, len(candidates), BATCH):
                    part = candidates[start : start + BATCH]
                    for words_ in tuples:
                        asked = [Example(tuple(f"{word} {prompt} {mask}" for word in words_)) for prompt in part]
                        told_B = self._divergence(asked, self.stereotypes).double().cpu()
                        divergence_B[start : start + BATCH] += told_B / len(tuples)
                    bar.update(len(part))
            best = divergence_B.argsort(descending=True, stable=True)[: self.settings.beam].tolist()
            found += [(candidates[place], divergence_B[place].item()) for place in best]
            candidates = [f"{candidates[place]} {word}" for place in best for word in words]
        return found

    def _divergence(self, examples: Sequence[Example], among: Sequence[int] | None) -> Tensor:
        """JSD_B of what the model expects at the masks; `among` are the tokens that p is over, null: all."""
        groups = len(examples[0].texts)
        texts = [each.texts[group] for group in range(groups) for each in examples]
        ids_TL, seen_TL = padded(self.tokenizer(texts).input_ids)
        rows, places = (ids_TL == self.tokenizer.mask_token_id).nonzero(as_tuple=True)
        logits_TLV = self.model(
            input_ids=ids_TL.to(self.model.device), attention_mask=seen_TL.to(self.model.device)
        ).logits
        logits_TV = logits_TLV[rows, places]
        if among is not None:
            logits_TV = logits_TV[:, list(among)]
        return divergence(logits_TV.float().log_softmax(-1).unflatten(0, (groups, len(examples))))


def divergence(log_p_GBV: Tensor) -> Tensor:
    """JSD_B of the distributions of G groups, from their logs."""
    log_q_BV = log_p_GBV.logsumexp(0) - math.log(len(log_p_GBV))
    return (log_p_GBV.exp() * (log_p_GBV - log_q_BV)).sum(-1).mean(0)
