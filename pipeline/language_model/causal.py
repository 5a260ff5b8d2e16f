"""Log-likelihoods of continuations under a causal language model, each distinct prefix computed once."""

import hashlib
import itertools
import logging
import math
from collections.abc import Sequence
from functools import cached_property
from operator import attrgetter
from pathlib import Path

import torch

from pipeline.errors import ConfigError
from pipeline.language_model import generation, lines, packs, trie
from pipeline.language_model.encoding import Encoder
from pipeline.language_model.limits import even_positions, length_limit, window
from pipeline.language_model.packs import Pack
from pipeline.language_model.reading import CPU_BATCH, LOGITS, PackReader
from pipeline.language_model.scorer import Scorer
from pipeline.language_model.scratch import Scratch
from pipeline.language_model.trie import Encoded, Row
from pipeline.requests import Answer, Generate, LogLikelihood, Request, Rolling

log = logging.getLogger(__name__)

# A number may not change unless this does: partial answers of another version are not taken up.
VERSION = 6
# How far a packed log-likelihood may be from the plain one before packing is given up, in nats per token asked for.
TOLERANCE = 1e-4
# By what rows are chosen for the trial. A window shows where a token is far from its ancestors because of strangers
# between them, one that no setting names where these are many.
MEASURES = ("depth", "size", "spread", "span")
# In half precision the rounding of the logits is allowed instead: above 16 it is 0.125 in bfloat16. A 135M model's answers
# differ by up to half of it. A fault can hide in that, so that more requests of a row are looked at.
TRIED = 8
# Tokens on which it is looked at whether a model is causal.
SEEN = 8
# What the start of a forward pass costs, in tokens: matrix products with few rows are slow, on a GPU those with many too.
CPU_START, GPU_START = 32, 1024


class CausalScorer(Scorer):
    """Scores (context, continuation) requests with one model.

    Requests are packed into token tries (see trie.py, packs.py) and read with a mask in which a token sees only its
    ancestors, at the position of its depth. Long beginnings that many share are read once, and their keys and values kept. That
    is exact for softmax attention with positions given from outside. Whether it is exact for *this* model is tried on
    the longest requests before the others are packed; if not, or if a request is longer than a sliding window, plain
    padded batches sorted by length are used.

    Log-likelihoods agree with one plain forward pass a request to 1e-4 nats in float32, whatever the packing.
    Answers have the same bits for the same set of requests, in any order, on one machine at equal thread counts.

    model            a transformers model with a causal head; put into evaluation mode
    tokenizer        its tokenizer
    tokens_per_pack  most tokens in one forward pass, padding and the keys and values that were kept for it included
    prefix_token     see `load`
    """

    family = "causal"

    def __init__(self, model, tokenizer, tokens_per_pack: int, prefix_token: str | None = None):
        if tokens_per_pack < 1:
            raise ConfigError(f"machine.tokens_per_pack must be at least 1, not {tokens_per_pack}")
        self.model, self.tokenizer, self.tokens_per_pack = model.eval(), tokenizer, tokens_per_pack
        self.reader = PackReader(self.model)
        text = model.config.get_text_config()
        self.limit, self.prefix_token = length_limit(text, tokenizer), prefix_token
        self.encoder = Encoder(tokenizer, self.limit, prefix_token)
        self.even = even_positions(text.to_dict())
        self.horizon = min(window(text.to_dict()), self.even)
        # A layer's matrices cost about 24 H^2 operations a token (12 H^2 weights), attending to one token 4 H, at half
        # the speed.
        self.costs = trie.Costs(CPU_START if self.device.type == "cpu" else GPU_START, 1 / (3 * text.hidden_size))
        # What is wrong with rows that were tried, by their content: it saves trials, and changes no outcome.
        self._faults: dict[bytes, str] = {}
        self._told: set[str] = set()
        self._causal = False  # until it was seen

    def refuse(self, requests: Sequence[Request]) -> None:
        """Raises ConfigError for settings of a generation that mean nothing."""
        for asked in requests:
            if isinstance(asked, Generate):
                lines.check(asked)

    def score(self, requests: list[tuple[str, str]], label: str = "", scratch: Path | None = None) -> list[Answer]:
        """The answers to (context, continuation) requests, in their order.

        label    of the progress bar
        scratch  a folder that keeps partial answers, for a later call with the same requests; null keeps none
        Raises DataError for a continuation without tokens, ConfigError if a request does not fit into a pack.
        """
        return self.score_tokens(self.encoder.pairs(requests), label, scratch)

    @property
    def cut(self) -> int:
        return self.encoder.cut

    def log_likelihoods(self, requests: list[LogLikelihood], label: str, scratch: Path | None) -> list[Answer]:
        """Each continuation after its context; what stands after it cannot be read."""
        return self.score([(asked.context, asked.continuation) for asked in requests], label, scratch)

    def rolling(self, requests: list[Rolling], label: str = "", scratch: Path | None = None) -> list[Answer]:
        """The answers to whole texts of any length, each token predicted once (lm-eval's loglikelihood_rolling)."""
        return self._rolled([asked.text for asked in requests], label, scratch)

    def generate(self, requests: list[Generate], label: str = "", scratch: Path | None = None) -> list[Answer]:
        """The completions of each prompt; how they come about says generation.py.

        Raises ConfigError for settings that mean nothing and for a prompt that does not fit into a pack with its
        completion.
        """
        self.refuse(requests)
        prompts = self.encoder.prompts([(asked.prompt, asked.max_tokens) for asked in requests])
        self._refuse_looking_ahead(prompts)
        writer, wanted = self._writer, lines.lines(prompts, requests)
        most = max(1, LOGITS // self.model.config.get_text_config().vocab_size)
        with self.within_memory():
            padded = writer.trials.try_out(wanted, min(self.horizon, self.limit))
        batches = lines.batches(wanted, self.tokens_per_pack, writer.passes.kept, most, padded)
        shapes = [(len(batch), len(batch[0].prompt)) for batch in batches]
        shared = (writer.trials.shares, writer.trials.shares_padded)
        settings = (
            generation.VERSION,
            self.tokens_per_pack,
            writer.passes.kept,
            writer.passes.start,
            shared,
            shapes,
            writer.ends,
        )
        kept = Scratch(scratch, self.fingerprint(settings, zip(prompts, requests, strict=True)) if scratch else "")
        texts: list[dict[int, tuple[int, str]]] = [{} for _ in requests]
        with self.within_memory(writer.passes.kept):
            for request, sample, tokens, text in kept.rows(batches, len, writer.write, label, "text"):
                texts[request][sample] = (tokens, text)
        answers = []
        for asked, said in zip(requests, texts, strict=True):
            # without chance all samples are one; a beam search gives them all
            every = [said.get(sample, said[0]) for sample in range(asked.samples)]
            answers.append(
                Answer(math.nan, False, sum(tokens for tokens, _ in every), texts=tuple(text for _, text in every))
            )
        return answers

    @cached_property
    def _writer(self) -> generation.Writer:
        turns = even_positions(self.model.config.get_text_config().to_dict(), ("longrope",))
        return generation.Writer(self.model, self.tokenizer, self.tokens_per_pack, self.costs.start, turns)

    def sentences(self, texts: list[str], max_length: int) -> list[list[int]]:
        """Texts to train on, as they are scored without context: after the prefix token, which makes the first word count.

        max_length  most tokens of each, the prefix token among them; what is longer loses its beginning
        """
        encoder = Encoder(self.tokenizer, max_length - 1, self.prefix_token)
        return [[*each.inputs, each.targets[-1]] for each in encoder.pairs([("", text) for text in texts])]

    def _rolled(self, texts: list[str], label: str = "", scratch: Path | None = None, special: bool = True):
        windows = [self.encoder.rolling(text, special) for text in texts]
        answers = iter(self.score_tokens([part for parts in windows for part in parts], label, scratch))
        joined = [[next(answers) for _ in parts] for parts in windows]
        return [
            Answer(
                math.fsum(answer.loglikelihood for answer in parts),
                all(answer.greedy for answer in parts),
                sum(answer.tokens for answer in parts),
            )
            for parts in joined
        ]

    def perplexity(self, text: str) -> float:
        """exp of the mean negative log-likelihood of a token of a text, after the prefix token; nan without tokens."""
        [answer] = self._rolled([text], "perplexity", special=False)
        if not answer.tokens:
            return math.nan
        mean = -answer.loglikelihood / answer.tokens
        return math.inf if mean > 700 else math.exp(mean)

    def score_tokens(self, encoded: list[Encoded], label: str = "", scratch: Path | None = None) -> list[Answer]:
        """The answers to requests in tokens, in their order."""
        try:
            return self._scored(encoded, label, scratch)
        finally:
            self.reader.forget()

    def _scored(self, encoded: list[Encoded], label: str, scratch: Path | None) -> list[Answer]:
        self._refuse_looking_ahead([inputs for inputs, _ in encoded])
        planned = self._plan(encoded)
        shapes = [(sum(map(len, pack.stem)), pack.tokens_BN.shape, pack.masked) for pack in planned]
        settings = (VERSION, self.tokens_per_pack, self.horizon, self.costs, CPU_BATCH, LOGITS, shapes)
        kept = Scratch(scratch, self.fingerprint(settings, encoded) if scratch else "")
        answers: list[Answer | None] = [None] * len(encoded)
        with self.within_memory():
            for request, *answer in kept.rows(planned, lambda pack: pack.size, self.reader.answer, label, "tok"):
                answers[request] = Answer(*answer)
        return answers

    def _refuse_looking_ahead(self, texts: Sequence[Sequence[int]]) -> None:
        """Raises ConfigError for a model in which tokens see what comes after them; looked at once, on a few tokens."""
        some = tuple(max(texts, key=lambda text: (len(text), text), default=())[:SEEN])
        if self._causal or len(some) < 2:
            return
        with self.within_memory():
            if self.reader.looks_ahead(some):
                raise ConfigError(
                    "model.base must be a causal language model to be scored as one, but in this "
                    f"{type(self.model).__name__} tokens see those that come after them (is_decoder, causal or "
                    "use_bidirectional_attention in its config.json often says so): choose another model"
                )
        self._causal = True

    def _plan(self, encoded: list[Encoded]) -> list[Pack]:
        """The packs of the requests, after a trial of some rows of each kind.

        They depend on the set of the requests alone, not on what was asked before.
        """
        horizon, costs = self.horizon, self.costs
        limit = min(self.tokens_per_pack, CPU_BATCH) if self.device.type == "cpu" else self.tokens_per_pack
        while True:
            rows = trie.rows(encoded, self.tokens_per_pack, horizon, costs, self.even)
            rows = packs.joined(rows, limit, self.even, horizon, costs)
            refused = self._refused(rows, encoded)
            if refused == "stem":
                costs = costs._replace(start=math.inf)
            elif refused == "mask":
                horizon = 0
            else:
                break
        return packs.packs(rows, limit, self.even)

    def _refused(self, rows: list[Row], encoded: list[Encoded]) -> str:
        """What the model does not allow of the rows: "stem", "mask", or nothing. Raises ConfigError if not even chains."""
        # By what they need: keys and values that were kept, with a mask or as a chain, a mask alone, nothing.
        groups = (
            ("stem", [row for row in rows if row.stem and row.branched]),
            ("stem", [row for row in rows if row.stem and not row.branched]),
            ("mask", [row for row in rows if row.branched and not row.stem]),
            ("nothing", [row for row in rows if not row.branched and not row.stem]),
        )
        for (kind, group), measure in itertools.product(groups, MEASURES):
            if not group:
                continue
            row = max(group, key=attrgetter(measure))
            fault = self._tried(row, encoded)
            if fault and kind == "nothing":
                raise ConfigError(
                    f"model.base cannot be scored: the head of a {type(self.model).__name__} alone does "
                    f"not give its logits ({fault})"
                )
            if fault:
                if kind not in self._told:
                    log.warning(
                        "%s does not allow %s (%s): %s, which is slower",
                        type(self.model).__name__,
                        "keeping keys and values of shared beginnings" if kind == "stem" else "packed scoring",
                        fault,
                        "every pack reads them again" if kind == "stem" else "plain padded batches are used",
                    )
                self._told.add(kind)
                return kind
        return ""

    def _tried(self, row: Row, encoded: list[Encoded]) -> str:
        """`_fault` of a row, found once for rows with the same content."""
        content = (row.stem, row.tokens, row.ends, [(node, target) for _, node, target in row.asked])
        key = hashlib.sha256(repr(content).encode()).digest()
        if key not in self._faults:
            self._faults[key] = self._fault(row, encoded)
        return self._faults[key]

    def _fault(self, row: Row, encoded: list[Encoded]) -> str:
        """What is wrong with the answers of a row, against plain forward passes; empty if nothing is."""
        try:
            with self.within_memory():
                packed = {request: value for request, value, _, _ in self.reader.answer(packs.pack([row]))}
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - an architecture may refuse mask and positions in any way it likes
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        # The longest, those with most strangers in them and the farthest apart by them, the last; in half precision some more.
        exact = self.model.dtype.itemsize >= 4
        tried = [
            max(packed, key=lambda request: len(encoded[request].inputs)),
            row.widest,
            row.farthest,
            row.asked[-1][0],
        ]
        tried += [] if exact else list(packed)[:: max(1, len(packed) // TRIED)]
        for request in dict.fromkeys(tried):
            with self.within_memory():
                plain, largest = self.reader.alone(encoded[request])
            allowed = TOLERANCE * len(encoded[request].targets) + 1e-6 * abs(plain)
            if not exact:
                allowed = torch.finfo(self.model.dtype).eps * largest
            # A model with nan in its weights answers nan either way, and that is no fault of the packing.
            if abs(packed[request] - plain) > allowed or math.isnan(packed[request]) != math.isnan(plain):
                return f"{packed[request]:.6f} nats packed, {plain:.6f} alone"
        return ""
