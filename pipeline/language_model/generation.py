"""What a causal model writes: batched over requests and samples, each token of a prompt read once.

A batch holds prompts of like length without any padding: all are read up to the length of the shortest, then token by
token, and a row goes on reading its prompt until that ends and it writes. So no mask and no position has to be given,
and it is exact for every architecture that has a cache. The samples of a prompt share what was read of it, and prompts that
begin alike (solved examples before each question) share their beginning, where a trial shows that the model allows it.

The random numbers of a sample belong to (seed, prompt, sample, token) and come from nowhere else; each picks one token
by the inverse of the cumulative distribution, in float64. Two models asked the same draw the same numbers.
"""

import copy
import dataclasses
import hashlib
import inspect
import logging
from functools import cached_property

import numpy as np
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation.utils import ALL_CACHE_NAMES

from pipeline.errors import CheckpointError, ConfigError
from pipeline.language_model.scorer import NO_MEMORY
from pipeline.language_model.trie import common
from pipeline.requests import Generate

log = logging.getLogger(__name__)

# A text may not change unless this does: partial answers of another version are not taken up.
VERSION = 4
# How many tokens longer than the shortest prompt of a batch another may be, at least. They cost a step each, but up to
# as many as are to be written, or MOST_SLACK, they are read in the steps in which the others write.
SLACK, MOST_SLACK = 16, 64
# Tokens from which on a beginning that prompts share is read once, and nats by which a logit may be another then.
SHARED, TOLERANCE = 64, 1e-3
# Packs whose keys and values may be kept at a time; no more than take the memory of the weights, but one in any case.
KEPT = 8
# Layers of a cache that hold keys and values and nothing else; those derived from them hold more.
JOINABLE = (DynamicLayer, DynamicSlidingWindowLayer)
# Probabilities alive at a time: 32 MB in float64, and as much for each step of the sampling.
PROBABILITIES = 2**22


@dataclasses.dataclass(frozen=True, order=True)
class Line:
    """One completion to be written, or all of them where there is no chance in it; what is not compared is not needed."""

    kind: tuple  # temperature, top_k, top_p, beams, and of beams all that they share: lines of a kind can share a batch
    length: int
    prompt: tuple[int, ...]
    asked: Generate
    sample: int
    request: int = dataclasses.field(compare=False)


def check(asked: Generate) -> None:
    """Raises ConfigError for settings that mean nothing."""
    for right, told in (
        (asked.samples >= 1, f"samples of at least 1, found {asked.samples}"),
        (asked.max_tokens >= 1, f"max_tokens of at least 1, found {asked.max_tokens}"),
        (asked.temperature >= 0, f"a temperature of 0 or more, found {asked.temperature}"),
        (asked.top_k >= 0, f"a top_k of 0 or more, found {asked.top_k}"),
        (0 < asked.top_p <= 1, f"a top_p above 0 and up to 1, found {asked.top_p}"),
        (asked.beams >= 1, f"beams of at least 1, found {asked.beams}"),
        (asked.beams == 1 or asked.temperature == 0, f"temperature 0 with beams, found {asked.temperature}"),
        (asked.beams == 1 or asked.samples <= asked.beams, f"samples up to the {asked.beams} beams, found {asked.samples}"),
        (all(asked.stop), "stop strings that are not empty"),
    ):  # fmt: skip
        if not right:
            raise ConfigError(f"generation needs {told}: change it in the benchmark's or the task's settings")


def lines(prompts: list[tuple[int, ...]], requests: list[Generate]) -> list[Line]:
    """A line for each sample, from the longest prompt to the shortest of each kind, whatever the order of the requests."""
    made = []
    for number, (prompt, asked) in enumerate(zip(prompts, requests, strict=True)):
        alike = (asked.max_tokens, asked.samples) if asked.beams > 1 else ()
        kind = (asked.temperature, asked.top_k, asked.top_p, asked.beams, *alike)
        copies = asked.samples if asked.temperature > 0 else 1
        made += [Line(kind, -len(prompt), prompt, asked, sample, number) for sample in range(copies)]
    return sorted(made)


def batches(sorted_lines: list[Line], limit: int, kept: int, most: int) -> list[list[Line]]:
    """Up to `most` lines of one kind and like length; `kept` tokens in all, those to be written included.

    limit  tokens of a line, and of a batch of beam searches, which are read at once
    Raises ConfigError where a line alone has more.
    """
    made: list[list[Line]] = []
    widest = 0
    for line in sorted_lines:
        width, beams = len(line.prompt) + line.asked.max_tokens, line.asked.beams
        if width * beams > limit:
            raise ConfigError(
                f"a prompt and its completion have {width * beams} tokens, but a pack may have {limit}: "
                f"set machine.tokens_per_pack to {width * beams} or more"
            )
        batch = made[-1] if made else []
        slack = 0 if beams > 1 else max(SLACK, min(line.asked.max_tokens, MOST_SLACK))
        room = limit if beams > 1 else kept
        if (
            batch
            and len(batch) < most
            and batch[0].kind == line.kind
            and len(batch[0].prompt) - len(line.prompt) <= slack
            and (len(batch) + 1) * max(widest, width) * beams <= room
        ):
            batch.append(line)
            widest = max(widest, width)
        else:
            made.append([line])
            widest = width
    return made


def uniforms(asked: Generate, sample: int) -> np.ndarray:
    """A number in [0, 1) for each token of a sample; the beginning does not depend on how many there are."""
    key = hashlib.sha256(repr((asked.seed, asked.prompt, sample)).encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(key[:16], "little"))).random(asked.max_tokens)


def probabilities(logits_AV: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """softmax(logits / temperature) over the top_k likeliest and then the least set that has top_p of it, in float64."""
    scores = logits_AV.double()
    for warper in (
        TemperatureLogitsWarper(float(temperature)) if temperature != 1 else None,
        TopKLogitsWarper(top_k) if top_k else None,
        TopPLogitsWarper(float(top_p)) if top_p < 1 else None,
    ):
        scores = scores if warper is None else warper(None, scores)
    return scores.softmax(-1)


def pick(probabilities_AV: torch.Tensor, numbers: list[float]) -> list[int]:
    """In each row the first token up to which the probabilities add up to more than its number."""
    sums = probabilities_AV.cumsum(-1)
    # a number below 1 times the total is below the total, in floats too: what is picked has some probability
    wanted = torch.tensor(numbers, dtype=torch.float64, device=sums.device)[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, wanted, right=True)[:, 0].tolist()


def _shared(prompts: list[tuple[int, ...]]) -> int:
    """How many tokens all prompts begin with: those that the first and the last share, in sorted order."""
    return common(min(prompts), max(prompts))


def _joinable(cache: dict) -> list:
    """The layers of a cache, if they hold keys and values and nothing else; else none."""
    (layers,) = (getattr(kept, "layers", ()) for kept in cache.values())
    return list(layers) if layers and all(type(layer) in JOINABLE for layer in layers) else []


class Writer:
    """Writes completions with one model.

    model      a transformers model with a causal head, in evaluation mode
    tokenizer  its tokenizer
    limit      most tokens in one forward pass
    EOS is the tokenizer's, or any that generation_config.json names; what else that file says of generation is not used.
    """

    def __init__(self, model, tokenizer, limit: int):
        self.model, self.tokenizer, self.limit = model, tokenizer, limit
        declared = getattr(model, "generation_config", None)
        named = getattr(declared, "eos_token_id", None)
        ends = {tokenizer.eos_token_id, *(named if isinstance(named, list | tuple) else [named])}
        self.ends = sorted(end for end in ends if end is not None)
        known = inspect.signature(model.forward).parameters
        # Whether the model may go on from a beginning that was read before, and up to which length that was tried.
        self.shares, self.tried = True, 0
        self.last_only = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        unused = {
            name: value
            for name, none in (("repetition_penalty", 1.0), ("no_repeat_ngram_size", 0), ("suppress_tokens", None))
            if (value := getattr(declared, name, None)) not in (None, none)
        }
        if unused:
            log.warning("generation_config.json asks for %s, which is not applied to what the model writes", unused)

    @cached_property
    def kept(self) -> int:
        """Tokens whose keys and values are kept at a time: `limit` where a cache holds something else, for it cannot be joined."""
        with torch.inference_mode():
            _, cache = self._step([(0,)], {})
        layers = _joinable(cache)
        if not layers:
            return self.limit
        token = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
        weights = sum(weight.nbytes for weight in self.model.parameters())
        return max(self.limit, min(KEPT * self.limit, weights // token))

    @torch.inference_mode()
    def write(self, batch: list[Line]) -> list[tuple]:
        """The completions of a batch of `batches`: (request, sample, tokens, text) of each."""
        if batch[0].asked.beams > 1:
            return self._search(batch)
        prompts = sorted({line.prompt for line in batch})
        read = min(map(len, prompts))
        logits_AV, cache = self._begin([prompt[:read] for prompt in prompts])
        place = {prompt: number for number, prompt in enumerate(prompts)}
        logits_AV = self._select(logits_AV, cache, [place[line.prompt] for line in batch])
        numbers = [uniforms(line.asked, line.sample) if line.asked.temperature > 0 else None for line in batch]
        written: list[list[int]] = [[] for _ in batch]
        going = list(range(len(batch)))
        while True:
            writing = [at for at, line in enumerate(going) if len(batch[line].prompt) <= read]
            chosen = self._choose(
                logits_AV[writing],
                batch[0].asked,
                [numbers[going[at]] is not None and numbers[going[at]][len(written[going[at]])] for at in writing],
            )
            for at, token in zip(writing, chosen, strict=True):
                written[going[at]].append(token)
            keep = [at for at, line in enumerate(going) if not self._ended(batch[line].asked, written[line])]
            if not keep:
                break
            if len(keep) < len(going):
                self._select(None, cache, keep)
                going = [going[at] for at in keep]
            fed = [written[line][-1] if written[line] else batch[line].prompt[read] for line in going]
            logits_AV, cache = self._step([(token,) for token in fed], cache)
            read += 1
        return [
            (line.request, line.sample, len(tokens), self._text(tokens, line.asked.stop))
            for line, tokens in zip(batch, written, strict=True)
        ]

    def _begin(self, prompts: list[tuple[int, ...]]) -> tuple[torch.Tensor, dict]:
        """The logits after prompts of one length, and what is kept of them: as many at a time as make a pack."""
        shared = min(_shared(prompts), len(prompts[0]) - 1) if len(prompts) > 1 else 0
        if shared < SHARED or not self._may_share(prompts, shared):
            shared = 0
        return self._read(prompts, shared)

    def _read(self, prompts: list[tuple[int, ...]], shared: int) -> tuple[torch.Tensor, dict]:
        """What `_begin` gives; the first `shared` tokens of all are read once."""
        before = self._step([prompts[0][:shared]], {})[1] if shared else {}
        most, parts = max(1, self.limit // (len(prompts[0]) - shared)), []
        for start in range(0, len(prompts), most):
            some = [prompt[shared:] for prompt in prompts[start : start + most]]
            cache = copy.deepcopy(before) if start + most < len(prompts) else before
            if shared:
                self._select(None, cache, [0] * len(some))
            parts.append(self._step(some, cache))
        if len(parts) == 1:
            return parts[0]
        caches = [cache for _, whole in parts for cache in whole.values()]
        for first, *others in zip(*(cache.layers for cache in caches), strict=True):
            first.keys = torch.cat([first.keys, *(layer.keys for layer in others)])
            first.values = torch.cat([first.values, *(layer.values for layer in others)])
            for layer in others:  # or all would be held twice
                layer.keys = layer.values = None
        return torch.cat([logits_AV for logits_AV, _ in parts]), parts[0][1]

    def _may_share(self, prompts: list[tuple[int, ...]], shared: int) -> bool:
        """Whether the last prompt comes to the same in two parts as in one; tried on the longest so far."""
        if self.shares and len(prompts[0]) > self.tried:
            self.tried = len(prompts[0])
            tried = [prompts[0], prompts[-1]]
            whole, cache = self._step(tried[1:], {})
            try:
                fault = "its cache cannot be joined" if not _joinable(cache) else ""
                if not fault:
                    apart = (self._read(tried, shared)[0][1:] - whole).abs().max().item()
                    exact = self.model.dtype.itemsize >= 4
                    allowed = TOLERANCE if exact else torch.finfo(self.model.dtype).eps * whole.abs().max().item()
                    fault = f"a logit is another by {apart:.2g}" if not apart <= allowed else ""
            except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
                if isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in NO_MEMORY):
                    raise
                fault = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
            self.shares = not fault
            if fault:
                log.warning(
                    "%s does not allow reading the shared beginning of prompts once (%s): each is read whole, which is slower",
                    type(self.model).__name__,
                    fault,
                )
        return self.shares

    def _step(self, tokens: list[tuple[int, ...]], cache: dict) -> tuple[torch.Tensor, dict]:
        """The logits after the last of some tokens, and what is kept of all that was read, under the model's name for it."""
        outputs = self.model(
            input_ids=torch.tensor(tokens, device=self.model.device), use_cache=True, **self.last_only, **cache
        )
        name = next((name for name in ALL_CACHE_NAMES if outputs.get(name) is not None), None)
        if name is None or not hasattr(outputs[name], "reorder_cache"):
            raise ConfigError(
                f"model.base must keep what it has read in a cache to write, which {type(self.model).__name__} does not: "
                "choose another model or a benchmark that asks for log-likelihoods"
            )
        logits_AV = outputs.logits[:, -1].float()
        if logits_AV.isnan().any():
            raise CheckpointError("the model should give logits that are numbers, found nan: its weights are broken")
        return logits_AV, {name: outputs[name]}

    def _select(self, logits_AV: torch.Tensor | None, cache: dict, rows: list[int]) -> torch.Tensor | None:
        """Rows of the cache, repeated or left out, in place; the same rows of the logits."""
        index = torch.tensor(rows, device=self.model.device)
        for kept in cache.values():
            kept.reorder_cache(index)  # the one selection that every kind of cache has
        return None if logits_AV is None else logits_AV[index]

    def _choose(self, logits_AV: torch.Tensor, asked: Generate, numbers: list) -> list[int]:
        if not len(logits_AV):
            return []
        if asked.temperature == 0:
            return logits_AV.argmax(-1).tolist()
        rows, chosen = max(1, PROBABILITIES // logits_AV.shape[1]), []
        for start in range(0, len(numbers), rows):
            some = slice(start, start + rows)
            chosen += pick(probabilities(logits_AV[some], asked.temperature, asked.top_k, asked.top_p), numbers[some])
        return chosen

    def _ended(self, asked: Generate, tokens: list[int]) -> bool:
        if not tokens:
            return False
        if tokens[-1] in self.ends or len(tokens) == asked.max_tokens:
            return True
        if not asked.stop:
            return False
        text = self.tokenizer.decode(tokens)
        return any(stop in text for stop in asked.stop)

    def _text(self, tokens: list[int], stop: tuple[str, ...]) -> str:
        """Without EOS and special tokens, up to the first stop string: one after the other, as lm-eval cuts."""
        if tokens and tokens[-1] in self.ends:
            tokens = tokens[:-1]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        for each in stop:
            text = text.split(each)[0]
        return text

    def _search(self, batch: list[Line]) -> list[tuple]:
        """Beam search by transformers; its completions are cut at stop strings afterwards. All prompts have one length."""
        asked, length = batch[0].asked, len(batch[0].prompt)
        prompts = torch.tensor([line.prompt for line in batch], device=self.model.device)
        found = self.model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            num_beams=asked.beams,
            num_return_sequences=asked.samples,
            do_sample=False,
            temperature=1.0,
            top_k=50,
            top_p=1.0,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            max_new_tokens=asked.max_tokens,
            max_length=None,
            eos_token_id=self.ends or None,
            pad_token_id=self.ends[0] if self.ends else 0,
        )[:, length:].tolist()
        made = []
        for number, tokens in enumerate(found):
            line = batch[number // asked.samples]
            end = next((at + 1 for at, token in enumerate(tokens) if token in self.ends), len(tokens))
            text = self._text(tokens[:end], line.asked.stop)
            made.append((line.request, number % asked.samples, end, text))
        return made
