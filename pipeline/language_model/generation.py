"""What a causal model writes: batched over requests and samples, each token of a prompt read once.

The prompts of a batch are read first, those of like length together, and their keys and values joined: before those of a
shorter prompt stands padding, which the model is told to pass over (`attention_mask`, `position_ids`). Samples of a prompt
share what was read of it, and prompts that begin alike (solved examples before each question) share their beginning.
Trials show whether the model allows either, and both together. Where none is allowed, a batch holds prompts of one length,
each read whole, and no mask is given; nor are positions, but where a model counts anew from every token that it is given (Bamba):
others count from elsewhere than 0 (RoBERTa). That is exact for every architecture. One that keeps what it has read in no cache
of transformers' (RWKV, GPT-1) reads the whole text anew for each token.
"""

import copy
import hashlib
import inspect
import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import cached_property

import torch
from transformers.cache_utils import Cache
from transformers.generation.utils import ALL_CACHE_NAMES

from pipeline.errors import CheckpointError
from pipeline.language_model.kept import SPARE, joinable, joined, with_room
from pipeline.language_model.lines import Line
from pipeline.language_model.reading import near_best
from pipeline.language_model.sampling import choose, uniforms
from pipeline.language_model.scorer import FEW, NO_MEMORY, few_rows
from pipeline.language_model.trie import common
from pipeline.requests import Generate

log = logging.getLogger(__name__)

# A text may not change unless this does: partial answers of another version are not taken up.
VERSION = 8
# Tokens from which on a beginning that prompts share is read once, and nats by which a logit may be another then.
SHARED, TOLERANCE = 64, 1e-3
# Tokens by which the prompts of a trial differ in length, at least.
APART = 5
# Tokens of the prompt on which it is seen how a model counts.
COUNTED = 8
# Packs whose keys and values may be kept at a time; no more than take the memory of the weights, but one in any case.
KEPT = 8


def _nearest(prompt: tuple[int, ...], prompts: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The prompt that shares the longest beginning with one of them; () where it is the only one."""
    ordered = sorted(set(prompts))
    at = ordered.index(prompt)
    return max(
        ordered[max(0, at - 1) : at] + ordered[at + 1 : at + 2], key=lambda near: common(near, prompt), default=()
    )


def _cache(outputs) -> dict[str, Cache]:
    """What a model has kept, under its name for it; nothing where that is of the model's own kind, which may hold more than is selected."""
    name = next((name for name in ALL_CACHE_NAMES if outputs.get(name) is not None), None)
    return {name: outputs[name]} if name and type(outputs[name]).__module__ == Cache.__module__ else {}


class Writer:
    """Writes completions with one model.

    model      a transformers model with a causal head, in evaluation mode
    tokenizer  its tokenizer
    limit      most tokens in one forward pass
    start      what a forward pass costs besides its tokens, in tokens
    turns      tokens beyond which the model takes all positions in another way (LongRoPE): what was kept is then read anew
    EOS is the tokenizer's, or any that generation_config.json names; what else that file says of generation is not used.
    """

    def __init__(self, model, tokenizer, limit: int, start: float = 0, turns: float = math.inf):
        self.model, self.tokenizer, self.limit, self.start, self.turns = model, tokenizer, limit, start, turns
        declared = getattr(model, "generation_config", None)
        named = getattr(declared, "eos_token_id", None)
        ends = {tokenizer.eos_token_id, *(named if isinstance(named, list | tuple) else [named])}
        self.ends = sorted(end for end in ends if end is not None)
        self.known = inspect.signature(model.forward).parameters
        # some take it, with other words, without naming it
        self._can_keep = "use_cache" in self.known or any(each.kind is each.VAR_KEYWORD for each in self.known.values())
        self.last_only = {"logits_to_keep": 1} if "logits_to_keep" in self.known else {}
        # whether a beginning that prompts share is read once: prompts of one length, and of several
        self.shares = self.shares_padded = False
        self.counts = False  # whether the model is told positions where nothing is padded
        self._tried: dict[bytes, str] = {}
        self._seen: dict[tuple[int, ...], bool] = {}
        self._told: set[str] = set()
        unused = {
            name: value
            for name, none in (("repetition_penalty", 1.0), ("no_repeat_ngram_size", 0), ("suppress_tokens", None))
            if (value := getattr(declared, name, None)) not in (None, none)
        }
        if unused:
            log.warning("generation_config.json asks for %s, which is not applied to what the model writes", unused)

    @cached_property
    def _keeps(self) -> bool:
        """Whether the model keeps what it has read, in one of transformers' caches."""
        keeps = False
        if self._can_keep:
            token = torch.zeros(1, 1, dtype=torch.long, device=self.model.device)
            with torch.inference_mode(), suppress(RuntimeError, ValueError, TypeError, IndexError, AttributeError):
                keeps = bool(_cache(self.model(input_ids=token, use_cache=True)))
        if not keeps:
            log.warning(
                "%s keeps what it has read in no cache of transformers': each token that it writes reads the whole text "
                "anew, which is slower",
                type(self.model).__name__,
            )
        return keeps

    @cached_property
    def _layers(self) -> list:
        """The layers of a cache with one token, if caches of this model can be joined."""
        with torch.inference_mode():
            return joinable(self._step([(0,)], {})[1]) if self._keeps else []

    @cached_property
    def kept(self) -> int:
        """Tokens whose keys and values are kept at a time: `limit` where a cache holds something else, for it cannot be joined."""
        if not self._layers:
            return self.limit
        token = sum(layer.keys.nbytes + layer.values.nbytes for layer in self._layers) * (1 + 1 / SPARE)
        weights = sum(weight.nbytes for weight in self.model.parameters())
        return max(self.limit, min(KEPT * self.limit, int(weights / token)))

    @torch.inference_mode()
    def try_out(self, lines: list[Line], reach: float) -> float:
        """Up to which width prompts of several lengths may share a batch, 0 for none; and for `write`, what may be shared.

        Tried are the longest prompt with the shortest, and with the one that shares most of it, each with the padding
        that they lead to, read in one pass and in two. What comes out depends on the lines alone.

        reach  tokens up to which each sees all before it, wherever they stand
        """
        asked = [line for line in lines if line.asked.beams == 1]
        self.counts = bool(asked) and self._must_be_told(
            max((line.prompt for line in asked), key=lambda p: (len(p), p))
        )
        near = [line.prompt for line in asked if len(line.prompt) + line.asked.max_tokens <= reach]
        several, shared = "prompts of several lengths in a batch", "reading the shared beginning of prompts once"
        pads = self.shares = self.shares_padded = False
        if not asked or not self._keeps:
            return 0
        if near:
            longest, shortest = (choice(near, key=lambda prompt: (len(prompt), prompt)) for choice in (max, min))
            pads = len(shortest) < len(longest) and self._passes(longest, shortest, 0, several)
        longest = max((line.prompt for line in asked), key=lambda prompt: (len(prompt), prompt))
        other = _nearest(longest, [line.prompt for line in asked])
        size = min(len(longest), len(other))
        same = min(common(longest, other), size - 1)
        self.shares = same >= SHARED and self._passes(longest[:size], other[:size], same, shared)
        if pads:
            longest = max(near, key=lambda prompt: (len(prompt), prompt))
            other = _nearest(longest, near)
            same = min(common(longest, other), len(other) - 1, len(longest) - 1 - APART)
            # half of what is not shared is lacking, if it can be
            size = min(len(other), len(longest) - APART, (same + len(longest) + 1) // 2)
            self.shares_padded = same >= SHARED and self._passes(
                longest, other[:size], same, f"{shared} beside {several}"
            )
        return reach if pads else 0

    def _must_be_told(self, prompt: tuple[int, ...]) -> bool:
        """Whether the model must be told positions; seen once for the same beginning of a prompt."""
        some = (prompt * 2)[:COUNTED]
        if some not in self._seen:
            self._seen[some] = "position_ids" in self.known and self._keeps and self._miscounts(some)
        return self._seen[some]

    def _miscounts(self, some: tuple[int, ...]) -> bool:
        """Whether a token after what is kept comes to something else than read in one pass, unless its position is told."""
        apart = {}
        whole_V = self.model(torch.tensor([some], device=self.model.device), use_cache=False).logits[0, -1].float()
        for self.counts in (False, True):
            _, cache = self._step([some[:-1]], {})
            apart[self.counts] = self._apart(self._step([some[-1:]], cache, None, len(some) - 1)[0][0], whole_V)
        if self.model.dtype.itemsize >= 4 and not min(apart.values()) <= self._allowed(whole_V):
            log.warning(
                "%s comes to something else after what it keeps than in one pass (a logit is another by %.2g): its texts "
                "are those of transformers' own generate, not of plain passes",
                type(self.model).__name__,
                min(apart.values()),
            )
        return apart[True] < apart[False] and apart[False] > self._allowed(whole_V)

    @staticmethod
    def _apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
        """By how much a logit is another, at most; those far below the best of their row may be anything."""
        return (found - wanted)[near_best(wanted)].abs().max().item()

    def _allowed(self, logits: torch.Tensor) -> float:
        """By how much it may be: rounding."""
        if self.model.dtype.itemsize >= 4:
            return TOLERANCE
        return torch.finfo(self.model.dtype).eps * logits[near_best(logits)].abs().max().item()

    def _passes(self, one: tuple[int, ...], two: tuple[int, ...], shared: int, what: str) -> bool:
        """Whether two prompts, the longer first, come to the same read together as alone, and a token after each."""
        key = hashlib.sha256(repr((one, two, shared)).encode()).digest()
        if key not in self._tried:
            fault = self._fault(one, two, shared)
            if fault and what not in self._told:
                log.warning("%s does not allow %s (%s), which is slower", type(self.model).__name__, what, fault)
                self._told.add(what)
            self._tried[key] = fault
        return not self._tried[key]

    def _fault(self, one: tuple[int, ...], two: tuple[int, ...], shared: int) -> str:
        if not self._layers:
            return "its cache cannot be joined"
        cut = shared + max(1, self.limit // 2)  # two of this length make a pack
        apart = APART if len(two) < len(one) else 0
        in_one = (one[:cut], two[: max(shared + 1, min(len(two), cut - apart))]) if len(one) > cut else (one, two)
        whole = None
        for prompts, groups in ((in_one, [(0, 2)]), ((one, two), [(0, 1), (1, 2)])):
            if whole is None or prompts != in_one:
                whole = torch.cat([self._alone(prompt) for prompt in prompts], 1)
            try:
                logits_AV, cache, mask = self._read(prompts, shared, groups)
                after, _, _ = self._next([prompt[-1] for prompt in prompts], with_room(cache), mask, len(prompts[0]))
            except (CheckpointError, RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
                if isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in NO_MEMORY):
                    raise
                return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
            apart = self._apart(torch.stack([logits_AV, after]), whole)
            if not apart <= self._allowed(whole):
                return f"a logit is another by {apart:.2g}"
        return ""

    def _alone(self, prompt: tuple[int, ...]) -> torch.Tensor:
        """The logits after a prompt, and those after its last token once more, of shape [2, 1, V]."""
        logits_AV, cache = self._step([prompt], {})
        return torch.stack([logits_AV, self._step([prompt[-1:]], cache, None, len(prompt))[0]])

    @torch.inference_mode()
    def write(self, batch: list[Line]) -> list[tuple]:
        """The completions of a batch of `batches`: (request, sample, tokens, text) of each."""
        if batch[0].asked.beams > 1:
            return self._search(batch)
        with ExitStack() as stack:
            return self._write(batch, stack)

    def _write(self, batch: list[Line], stack: ExitStack) -> list[tuple]:
        prompts = sorted({line.prompt for line in batch}, key=lambda prompt: (-len(prompt), prompt))
        allowed = self.shares if len(prompts[0]) == len(prompts[-1]) else self.shares_padded
        shared = min(common(min(prompts), max(prompts)), len(prompts[-1]) - 1) if allowed and len(prompts) > 1 else 0
        logits_AV, cache, mask = self._read(prompts, shared if shared >= SHARED else 0)
        place = {prompt: number for number, prompt in enumerate(prompts)}
        logits_AV, mask = self._select([place[line.prompt] for line in batch], cache, logits_AV, mask)
        cache = with_room(cache)
        numbers = [uniforms(line.asked, line.sample) if line.asked.temperature > 0 else None for line in batch]
        written: list[list[int]] = [[] for _ in batch]
        going, few = list(range(len(batch))), False
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
            if len(going) < FEW.stop and not few:  # lines only end: there will not be more of them
                stack.enter_context(few_rows(self.model))
                few = True
            length = len(prompts[0]) + step
            if length == self.turns or not self._keeps:  # prompts of several lengths end before
                logits_AV, cache, mask = self._read([batch[line].prompt + tuple(written[line]) for line in going], 0)
                cache = with_room(cache)
            else:
                logits_AV, cache, mask = self._next([written[line][-1] for line in going], cache, mask, length)
        return [
            (line.request, line.sample, len(tokens), self._text(tokens, line.asked.stop))
            for line, tokens in zip(batch, written, strict=True)
        ]

    def _read(
        self, prompts: Sequence[tuple[int, ...]], shared: int, groups: list[tuple[int, int]] | None = None
    ) -> tuple[torch.Tensor, dict, torch.Tensor | None]:
        """The logits after prompts, the longest first, what is kept of them, and which of it is not padding (None: all).

        The first `shared` tokens of all are read once; the prompts of a group, from one place to another, in one pass.
        """
        before = self._step([prompts[0][:shared]], {})[1] if shared else {}
        logits, caches, masks = [], [], []
        groups = groups or self._groups([len(prompt) - shared for prompt in prompts])
        for number, (start, stop) in enumerate(groups):
            some = [prompt[shared:] for prompt in prompts[start:stop]]
            cache = copy.deepcopy(before) if number < len(groups) - 1 else before
            if shared:
                self._select([0] * len(some), cache)
            mask = torch.tensor([[1] * shared + [0] * (len(some[0]) - len(rest)) + [1] * len(rest) for rest in some])
            padded = [(0,) * (len(some[0]) - len(rest)) + rest for rest in some]
            found, cache = self._step(padded, cache, None if mask.all() else mask.to(self.model.device), shared)
            logits.append(found)
            caches.append(cache)
            masks.append(torch.nn.functional.pad(mask, (len(prompts[0]) - shared - len(some[0]), 0)))
        mask = torch.cat(masks).to(self.model.device)
        cache = joined(caches) if len(caches) > 1 and self._keeps else caches[0]
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
        self, tokens: list[int], cache: dict, mask: torch.Tensor | None, before: int
    ) -> tuple[torch.Tensor, dict, torch.Tensor | None]:
        """What `_read` gives, one token of each row further."""
        if mask is not None:
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        return *self._step([(token,) for token in tokens], cache, mask, before), mask

    def _step(
        self, tokens: list[tuple[int, ...]], cache: dict, mask: torch.Tensor | None = None, before: int = 0
    ) -> tuple[torch.Tensor, dict]:
        """The logits after the last of some tokens, and what is kept of all that was read, under the model's name for it.

        mask    1 for what is no padding, of all that was read and these; None: there is none
        before  tokens that were read, padding included
        """
        told, size = {}, len(tokens[0])
        if mask is not None:
            told["attention_mask"] = mask
            if "position_ids" in self.known:
                told["position_ids"] = (mask.cumsum(-1) - 1).clamp_(min=0)[:, -size:]
        elif self.counts:
            places = torch.arange(before, before + size, device=self.model.device)
            told["position_ids"] = places.expand(len(tokens), -1)
        if self._can_keep:
            told["use_cache"] = self._keeps
        read = torch.tensor(tokens, device=self.model.device)
        outputs = self.model(input_ids=read, **self.last_only, **told, **cache)
        logits_AV = outputs.logits[:, -1].float()
        if logits_AV.amax().isnan():  # nan if any is
            raise CheckpointError("the model should give logits that are numbers, found nan: its weights are broken")
        return logits_AV, _cache(outputs) if self._keeps else {}

    def _select(self, rows: list[int], cache: dict, *tensors: torch.Tensor | None) -> list[torch.Tensor | None]:
        """Rows of the cache, repeated or left out, in place; the same rows of some tensors."""
        index = torch.tensor(rows, device=self.model.device)
        for kept in cache.values():
            kept.reorder_cache(index)  # the one selection that every kind of cache has
        return [None if tensor is None else tensor[index] for tensor in tensors]

    def _ended(self, asked: Generate, tokens: list[int]) -> bool:
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
            use_cache=self._keeps,  # of another kind of cache than transformers' own, not all may follow the beams
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
