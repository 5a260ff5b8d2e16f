"""What a causal model writes: batched over requests and samples, each token of a prompt read once.

The prompts of a batch are read first, those of like length together, and their keys and values joined: before those of a
shorter prompt stands padding, which the model is told to pass over (`attention_mask`, `position_ids`). Samples of a prompt
share what was read of it, and prompts that begin alike (solved examples before each question) share their beginning. A
trial shows whether the model allows either. If not, a batch holds prompts of one length, each read whole, and neither mask
nor position is given: that is exact for every architecture that has a cache.
"""

import copy
import dataclasses
import inspect
import logging
from functools import cached_property

import torch
from transformers.generation.utils import ALL_CACHE_NAMES

from pipeline.errors import CheckpointError, ConfigError
from pipeline.language_model.kept import joinable, joined, with_room
from pipeline.language_model.sampling import choose, uniforms
from pipeline.language_model.scorer import NO_MEMORY
from pipeline.language_model.trie import common
from pipeline.requests import Generate

log = logging.getLogger(__name__)

# A text may not change unless this does: partial answers of another version are not taken up.
VERSION = 5
# A prompt and its completion are at least this share of the longest in their batch: the rest is padding.
LIKE = 1 / 2
# Tokens from which on a beginning that prompts share is read once, and nats by which a logit may be another then.
SHARED, TOLERANCE = 64, 1e-3
# Tokens by which the prompts of a trial differ in length, if they can.
APART = 5
# Packs whose keys and values may be kept at a time; no more than take the memory of the weights, but one in any case.
KEPT = 8


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


def batches(sorted_lines: list[Line], limit: int, kept: int, most: int, padded: bool = False) -> list[list[Line]]:
    """Up to `most` lines of one kind and like length; `kept` tokens in all, those to be written and padding included.

    limit   tokens of a line, and of a batch of beam searches, which are read at once
    padded  whether lines of like length may share a batch, or of one length only
    Raises ConfigError where a line alone has more than `limit`.
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
        room, wider = (limit if beams > 1 else kept), max(widest, width)
        if (
            batch
            and len(batch) < most
            and batch[0].kind == line.kind
            and (len(batch) + 1) * wider * beams <= room
            and (len(line.prompt) == len(batch[0].prompt) or (padded and beams == 1 and width >= LIKE * wider))
        ):
            batch.append(line)
            widest = wider
        else:
            made.append([line])
            widest = width
    return made


class Writer:
    """Writes completions with one model.

    model      a transformers model with a causal head, in evaluation mode
    tokenizer  its tokenizer
    limit      most tokens in one forward pass
    start      what a forward pass costs besides its tokens, in tokens
    EOS is the tokenizer's, or any that generation_config.json names; what else that file says of generation is not used.
    """

    def __init__(self, model, tokenizer, limit: int, start: float = 0):
        self.model, self.tokenizer, self.limit, self.start = model, tokenizer, limit, start
        declared = getattr(model, "generation_config", None)
        named = getattr(declared, "eos_token_id", None)
        ends = {tokenizer.eos_token_id, *(named if isinstance(named, list | tuple) else [named])}
        self.ends = sorted(end for end in ends if end is not None)
        self.known = inspect.signature(model.forward).parameters
        self.last_only = {"logits_to_keep": 1} if "logits_to_keep" in self.known else {}
        self.shares = False  # whether a beginning that prompts share is read once
        self._tried: dict[tuple, str] = {}
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
        layers = joinable(cache)
        if not layers:
            return self.limit
        token = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
        weights = sum(weight.nbytes for weight in self.model.parameters())
        return max(self.limit, min(KEPT * self.limit, weights // token))

    @torch.inference_mode()
    def try_out(self, prompts: list[tuple[int, ...]], reaches: bool = True) -> bool:
        """Whether prompts of several lengths may share a batch; and, for `write`, whether their beginnings are shared.

        Both are tried, on the longest prompt with the shortest and with the one that shares most of it. What comes out
        depends on the prompts alone.

        reaches  whether each token sees all before it: beyond a window what is kept of shorter prompts cannot be joined
        """
        longest, shortest = (choice(prompts, key=lambda prompt: (len(prompt), prompt)) for choice in (max, min))
        pads = (
            reaches
            and len(shortest) < len(longest)
            and not self._fault(longest, shortest, 0, "prompts of several lengths in a batch")
        )
        ordered = sorted(set(prompts))
        at = ordered.index(longest)
        other = max(
            ordered[max(0, at - 1) : at] + ordered[at + 1 : at + 2], key=lambda near: common(near, longest), default=()
        )
        shared = min(common(other, longest), len(other) - 1, len(longest) - 1)
        # with padding between what is shared and the rest, if there may be any
        length = min(len(other), max(shared + 1, len(longest) - APART)) if pads else min(len(other), len(longest))
        one, two = (longest, other[:length]) if pads else (longest[:length], other[:length])
        shared = min(shared, length - 1)
        self.shares = shared >= SHARED and not self._fault(
            one, two, shared, "reading the shared beginning of prompts once"
        )
        return pads

    def _fault(self, one: tuple[int, ...], two: tuple[int, ...], shared: int, what: str) -> str:
        """What is wrong with two prompts and a token after each, read together, against each alone; empty if nothing is."""
        key = (one, two, shared)
        if key not in self._tried:
            alone = []
            for prompt in (one, two):
                logits_AV, cache = self._step([prompt], {})
                alone.append(torch.stack([logits_AV, self._step([prompt[-1:]], cache)[0]]))
            whole = torch.cat(alone, 1)
            try:
                fault = "" if joinable(cache) else "its cache cannot be joined"
                if not fault:
                    logits_AV, cache, mask = self._read([one, two], shared)
                    after, _, _ = self._next([one[-1], two[-1]], cache, mask)
                    apart = (torch.stack([logits_AV, after]) - whole).abs().max().item()
                    exact = self.model.dtype.itemsize >= 4
                    allowed = TOLERANCE if exact else torch.finfo(self.model.dtype).eps * whole.abs().max().item()
                    fault = f"a logit is another by {apart:.2g}" if not apart <= allowed else ""
            except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
                if isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in NO_MEMORY):
                    raise
                fault = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
            if fault:
                log.warning("%s does not allow %s (%s), which is slower", type(self.model).__name__, what, fault)
            self._tried[key] = fault
        return self._tried[key]

    @torch.inference_mode()
    def write(self, batch: list[Line]) -> list[tuple]:
        """The completions of a batch of `batches`: (request, sample, tokens, text) of each."""
        if batch[0].asked.beams > 1:
            return self._search(batch)
        prompts = sorted({line.prompt for line in batch}, key=lambda prompt: (-len(prompt), prompt))
        shared = (
            min(common(min(prompts), max(prompts)), len(prompts[-1]) - 1) if self.shares and len(prompts) > 1 else 0
        )
        logits_AV, cache, mask = self._read(prompts, shared if shared >= SHARED else 0)
        place = {prompt: number for number, prompt in enumerate(prompts)}
        logits_AV, mask = self._select([place[line.prompt] for line in batch], cache, logits_AV, mask)
        cache = with_room(cache)
        numbers = [uniforms(line.asked, line.sample) if line.asked.temperature > 0 else None for line in batch]
        written: list[list[int]] = [[] for _ in batch]
        going = list(range(len(batch)))
        while True:
            step = len(written[going[0]])
            wanted = [numbers[line] is not None and numbers[line][step] for line in going]
            for line, token in zip(going, choose(logits_AV, batch[0].asked, wanted), strict=True):
                written[line].append(token)
            keep = [at for at, line in enumerate(going) if not self._ended(batch[line].asked, written[line])]
            if not keep:
                break
            if len(keep) < len(going):
                _, mask = self._select(keep, cache, None, mask)
                going = [going[at] for at in keep]
            logits_AV, cache, mask = self._next([written[line][-1] for line in going], cache, mask)
        return [
            (line.request, line.sample, len(tokens), self._text(tokens, line.asked.stop))
            for line, tokens in zip(batch, written, strict=True)
        ]

    def _read(self, prompts: list[tuple[int, ...]], shared: int) -> tuple[torch.Tensor, dict, torch.Tensor | None]:
        """The logits after prompts, the longest first, what is kept of them, and which of it is not padding (None: all).

        The first `shared` tokens of all are read once.
        """
        before = self._step([prompts[0][:shared]], {})[1] if shared else {}
        logits, caches, masks = [], [], []
        groups = self._groups([len(prompt) - shared for prompt in prompts])
        for number, (start, stop) in enumerate(groups):
            some = [prompt[shared:] for prompt in prompts[start:stop]]
            cache = copy.deepcopy(before) if number < len(groups) - 1 else before
            if shared:
                self._select([0] * len(some), cache)
            mask = torch.tensor([[1] * shared + [0] * (len(some[0]) - len(rest)) + [1] * len(rest) for rest in some])
            padded = [(0,) * (len(some[0]) - len(rest)) + rest for rest in some]
            found, cache = self._step(padded, cache, None if mask.all() else mask.to(self.model.device))
            logits.append(found)
            caches.append(cache)
            masks.append(torch.nn.functional.pad(mask, (len(prompts[0]) - shared - len(some[0]), 0)))
        mask = torch.cat(masks).to(self.model.device)
        cache = joined(caches) if len(caches) > 1 else caches[0]
        return torch.cat(logits), cache, None if mask.all() else mask

    def _groups(self, lengths: list[int]) -> list[tuple[int, int]]:
        """Which prompts are read in one pass, from the longest to the shortest: what they have of padding is worth it."""
        groups, first, padding = [], 0, 0
        for at, length in enumerate(lengths):
            padding += lengths[first] - length
            if at > first and (padding > self.start or (at - first + 1) * lengths[first] > self.limit):
                groups.append((first, at))
                first, padding = at, 0
        return [*groups, (first, len(lengths))]

    def _next(
        self, tokens: list[int], cache: dict, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict, torch.Tensor | None]:
        """What `_read` gives, one token of each row further."""
        if mask is not None:
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        return *self._step([(token,) for token in tokens], cache, mask), mask

    def _step(
        self, tokens: list[tuple[int, ...]], cache: dict, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict]:
        """The logits after the last of some tokens, and what is kept of all that was read, under the model's name for it.

        mask  1 for what is no padding, of all that was read and these; None: there is none
        """
        told = {}
        if mask is not None:
            told["attention_mask"] = mask
            if "position_ids" in self.known:
                told["position_ids"] = (mask.cumsum(-1) - 1).clamp_(min=0)[:, -len(tokens[0]) :]
        outputs = self.model(
            input_ids=torch.tensor(tokens, device=self.model.device), use_cache=True, **self.last_only, **told, **cache
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

    def _select(self, rows: list[int], cache: dict, *tensors: torch.Tensor | None) -> list[torch.Tensor | None]:
        """Rows of the cache, repeated or left out, in place; the same rows of some tensors."""
        index = torch.tensor(rows, device=self.model.device)
        for kept in cache.values():
            kept.reorder_cache(index)  # the one selection that every kind of cache has
        return [None if tensor is None else tensor[index] for tensor in tensors]

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
