"""Pseudo-log-likelihoods under a masked language model: each token predicted at a mask, all masked copies batched.

    PLL(continuation | context) = sum_t log p(x_t | every other token of the text)

Reference: Salazar, Liang, Nguyen, Kirchhoff (2020), Masked language model scoring, ACL.
"""

import hashlib
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pipeline.errors import ConfigError, SourceError
from pipeline.language_model.limits import masked_limit
from pipeline.language_model.masked_encoding import Masked, MaskedEncoder
from pipeline.language_model.reading import CPU_BATCH, LOGITS
from pipeline.language_model.scorer import Scorer, head_of
from pipeline.language_model.scratch import Part, Scratch
from pipeline.requests import Answer, Generate, LogLikelihood, Request, Rolling

log = logging.getLogger(__name__)

# A number may not change unless this does: partial answers of another version are not taken up.
VERSION = 1
# How far a log-probability in a batch may be from the one alone before batches are given up, in nats.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


class Copy(NamedTuple):
    """A masked text that is read once, and all who ask for a token at its mask: (request, step, token)."""

    masked: Masked
    asked: list[tuple[int, int, int]]


class MaskedScorer(Scorer):
    """Scores requests with one masked language model.

    The text, context + continuation + suffix, is tokenised once, as one text, with the tokenizer's special tokens. A
    token belongs to the continuation if it ends after the end of the context without its closing spaces, and begins
    before the suffix. Each such token is replaced by the mask in a copy of its own, and read there:

    plain   everything else is seen
    suffix  the later tokens of the continuation are left out, so that one mask stands for the rest of a blank
            (StereoSet). The authors tokenise the word alone, which gives the same tokens with WordPiece; where a token
            holds its space (RoBERTa), ours is the token that the text has
    rival   only tokens that stand in the 'equal' blocks of difflib's comparison with the other text, context + rival,
            are scored (CrowS-Pairs). The lesser token sequence is always the first of the comparison, so that a pair
            asked from both sides is scored over the same tokens; nan where there are none

    loglikelihood is the sum of the logs, probability the mean of the probabilities, greedy whether each token is the
    first choice at its mask. Rolling texts are cut into windows of the model's limit that do not overlap.

    Equal copies are read once. Batches are of like length, padded on the right, with only the masks given to the head.
    Whether that is exact for *this* model is tried first; if not, copies of equal length go through the whole model.
    Answers have the same bits for the same set of requests, in any order, on one machine at equal thread counts.

    model            a transformers model with a masked head; put into evaluation mode
    tokenizer        its fast tokenizer
    tokens_per_pack  most tokens in one forward pass, padding included
    prefix_token     null: an empty context is what the tokenizer puts before every text
    """

    family = "masked"

    def __init__(self, model, tokenizer, tokens_per_pack: int, prefix_token: str | None = None):
        if tokens_per_pack < 1:
            raise ConfigError(f"machine.tokens_per_pack must be at least 1, not {tokens_per_pack}")
        if prefix_token is not None:
            raise ConfigError(
                f"model.prefix_token must be null for a masked model, which has its own beginning, not {prefix_token!r}"
            )
        if not tokenizer.is_fast or tokenizer.mask_token_id is None:
            raise SourceError(
                "model.base must have a fast tokenizer (tokenizer.json) with a mask token to be scored as a masked "
                f"model, but it has {type(tokenizer).__name__}"
            )
        self.model, self.tokenizer, self.tokens_per_pack = model.eval(), tokenizer, tokens_per_pack
        self.body, self.mask = model.base_model, tokenizer.mask_token_id
        self.padding = tokenizer.pad_token_id or 0
        self.limit = masked_limit(model, tokenizer)
        self.encoder = MaskedEncoder(tokenizer, self.limit)
        self.separable = True  # padding and the head alone give what the whole model gives

    def log_likelihoods(
        self, requests: list[LogLikelihood], label: str = "", scratch: Path | None = None
    ) -> list[Answer]:
        """The pseudo-log-likelihood of each continuation.

        Raises DataError for a continuation without tokens, or one that is longer than the model's limit.
        """
        return self._score([[each] for each in self.encoder.requests(requests)], label, scratch)

    def rolling(self, requests: list[Rolling], label: str = "", scratch: Path | None = None) -> list[Answer]:
        """The pseudo-log-likelihood of whole texts of any length."""
        return self._score([self.encoder.windows(asked.text) for asked in requests], label, scratch)

    def refuse(self, requests: Sequence[Request]) -> None:
        """A masked model does not write: raises ConfigError."""
        if any(isinstance(asked, Generate) for asked in requests):
            raise ConfigError(
                f"model.base must be a causal language model to write, but a {type(self.model).__name__} is a masked "
                "one: choose another model, or benchmarks and tasks that ask for log-likelihoods"
            )

    def generate(self, requests: list[Generate], label: str = "", scratch: Path | None = None) -> list[Answer]:
        """Refused."""
        self.refuse(requests)
        return []

    def perplexity(self, text: str) -> float:
        """Pseudo-perplexity: exp of the mean negative pseudo-log-likelihood of a token; nan without tokens."""
        [answer] = self.rolling([Rolling(text)], "pseudo-perplexity")
        if not answer.tokens:
            return math.nan
        mean = -answer.loglikelihood / answer.tokens
        return math.inf if mean > 700 else math.exp(mean)

    def sentences(self, texts: list[str], max_length: int) -> list[list[int]]:
        """Texts to train on, see MaskedEncoder."""
        return self.encoder.sentences(texts, max_length)

    @property
    def cut(self) -> int:
        return self.encoder.cut

    def _score(self, asked: list[list[list[Masked]]], label: str, scratch: Path | None) -> list[Answer]:
        """The answers to requests, each some windows of masked tokens."""
        tokens = [[each for window in windows for each in window] for windows in asked]
        packs = self._plan(tokens)
        settings = (VERSION, self.tokens_per_pack, self.separable, self.mask, self.padding, CPU_BATCH, LOGITS)
        kept = Scratch(scratch, self.fingerprint(settings, tokens) if scratch else "")
        found: list[list] = [[None] * len(each) for each in tokens]
        with self.within_memory():
            for request, step, value, first in kept.rows(packs, _size, self._answer, label, "tok"):
                found[request][step] = (value, first)
        return [
            Answer(
                math.fsum(value for value, _ in each),
                all(first for _, first in each),
                len(each),
                math.fsum(math.exp(value) for value, _ in each) / len(each),
            )
            if each
            else Answer(math.nan, False, 0)
            for each in found
        ]

    def _plan(self, tokens: list[list[Masked]]) -> list[list[Copy]]:
        """Batches of copies, from the longest to the shortest, whatever the order of the requests."""
        asked: dict[bytes, list] = {}
        first: dict[bytes, Masked] = {}
        for request, each in enumerate(tokens):
            for step, masked in enumerate(each):
                if masked.length > self.tokens_per_pack:
                    raise ConfigError(
                        f"a request has {masked.length} tokens, but a pack may have {self.tokens_per_pack}: "
                        f"set machine.tokens_per_pack to {masked.length} or more"
                    )
                # the place as well: a text may hold a mask of its own
                content = np.array((masked.place, *masked.tokens(self.mask)), np.int64).tobytes()
                key = hashlib.sha256(content).digest()
                first.setdefault(key, masked)
                asked.setdefault(key, []).append((request, step, masked.target))
        order = sorted(first, key=lambda key: (-first[key].length, key))
        copies = [Copy(first[key], asked[key]) for key in order]
        packs = self._packs(copies)
        if self.separable and packs:
            fault = self._fault(max(packs, key=lambda pack: pack[0].masked.length - pack[-1].masked.length))
            if fault:
                log.warning(
                    "%s does not allow padding or a head of its own (%s): the whole model reads copies of equal length, "
                    "which is slower",
                    type(self.model).__name__,
                    fault,
                )
                self.separable = False
                packs = self._packs(copies)
        return packs

    def _packs(self, copies: list[Copy]) -> list[list[Copy]]:
        limit = min(self.tokens_per_pack, CPU_BATCH) if self.device.type == "cpu" else self.tokens_per_pack
        most = max(1, LOGITS // self.model.config.vocab_size)
        packs: list[list[Copy]] = []
        for copy in copies:
            pack = packs[-1] if packs else []
            width = pack[0].masked.length if pack else 0
            if (
                pack
                and len(pack) < most
                and (len(pack) + 1) * width <= limit
                and (self.separable or copy.masked.length == width)
            ):
                pack.append(copy)
            else:
                packs.append([copy])
        return packs

    def _fault(self, pack: list[Copy]) -> str:
        """What is wrong with the answers of a pack, against the whole model on one copy; empty if nothing is."""
        try:
            with self.within_memory():
                logs_BV = self._logs(pack)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - an architecture may refuse in any way it likes
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        for number in {0, len(pack) - 1}:
            copy = pack[number]
            with torch.inference_mode():
                ids = torch.tensor([copy.masked.tokens(self.mask)], device=self.device)
                plain = self.model(input_ids=ids).logits[0, copy.masked.place].double().log_softmax(-1)
            for _, _, target in copy.asked:
                ours, theirs = logs_BV[number, target].item(), plain[target].item()
                allowed = TOLERANCE[self.model.dtype] + 1e-6 * abs(theirs)
                # A model with nan in its weights answers nan either way, and that is no fault of the batch.
                if abs(ours - theirs) > allowed or math.isnan(ours) != math.isnan(theirs):
                    return f"{ours:.6f} nats in a batch, {theirs:.6f} alone"
        return ""

    @torch.inference_mode()
    def _logs(self, pack: list[Copy]) -> torch.Tensor:
        """Log-probabilities of the vocabulary at each copy's mask, in float64."""
        width = pack[0].masked.length
        ids_BL = torch.full((len(pack), width), self.padding)
        seen_BL = torch.zeros((len(pack), width), dtype=torch.long)
        for row, copy in enumerate(pack):
            length = copy.masked.length
            ids_BL[row, :length] = torch.tensor(copy.masked.tokens(self.mask))
            seen_BL[row, :length] = 1
        ids_BL, rows = ids_BL.to(self.device), torch.arange(len(pack), device=self.device)
        places = torch.tensor([copy.masked.place for copy in pack], device=self.device)
        if self.separable:
            outputs = self.body(input_ids=ids_BL, attention_mask=seen_BL.to(self.device))
            with head_of(self.model, self.body, outputs) as head:
                logits_BV = head(outputs.last_hidden_state[rows, places])
        else:
            logits_BV = self.model(input_ids=ids_BL).logits[rows, places]
        return logits_BV.double().log_softmax(-1)

    def _answer(self, pack: list[Copy]) -> Part:
        """Answers at the masks of one pack: (request, step, log-probability, greedy)."""
        logs_BV = self._logs(pack)
        choices = logs_BV.argmax(-1).tolist()
        rows = [(row, *asked) for row, copy in enumerate(pack) for asked in copy.asked]
        values = logs_BV[[row for row, *_ in rows], [target for *_, target in rows]].tolist()
        return [
            (request, step, value, choices[row] == target)
            for (row, request, step, target), value in zip(rows, values, strict=True)
        ]


def _size(pack: list[Copy]) -> int:
    return sum(copy.masked.length for copy in pack)
