"""Forward passes of a causal model that keep what they have read: each token of a prompt is read once.

The prompts of a batch are read first, those of like length together, and their keys and values joined: before those of a
shorter prompt stands padding, which the model is told to pass over (`attention_mask`, `position_ids`). What prompts begin with
alike can be read once. A model that keeps what it has read in no cache of transformers' (RWKV, GPT-1) must read the whole text anew.
"""

import copy
import inspect
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property

import torch
from transformers.cache_utils import Cache
from transformers.generation.utils import ALL_CACHE_NAMES

from pipeline.errors import CheckpointError
from pipeline.language_model.kept import SPARE, joinable, joined, select

log = logging.getLogger(__name__)

# Packs whose keys and values may be kept at a time; no more than take the memory of the weights, but one in any case.
KEPT = 8


def _cache(outputs) -> dict[str, Cache]:
    """What a model has kept, under its name for it; nothing where that is of the model's own kind, which may hold more than is selected."""
    name = next((name for name in ALL_CACHE_NAMES if outputs.get(name) is not None), None)
    return {name: outputs[name]} if name and type(outputs[name]).__module__ == Cache.__module__ else {}


class Passes:
    """The passes of one model.

    model   a transformers model with a causal head, in evaluation mode
    limit   most tokens in one forward pass
    start   what a forward pass costs besides its tokens, in tokens
    counts  whether the model is told positions where nothing is padded: it counts anew from every token that it is given
    """

    def __init__(self, model, limit: int, start: float = 0):
        self.model, self.limit, self.start, self.counts = model, limit, start, False
        self.known = inspect.signature(model.forward).parameters
        # some take it, with other words, without naming it
        self._can_keep = "use_cache" in self.known or any(each.kind is each.VAR_KEYWORD for each in self.known.values())
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in self.known else {}

    @cached_property
    def keeps(self) -> bool:
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
    def layers(self) -> list:
        """The layers of a cache with one token, if caches of this model can be joined."""
        with torch.inference_mode():
            return joinable(self.step([(0,)], {})[1]) if self.keeps else []

    @cached_property
    def kept(self) -> int:
        """Tokens whose keys and values are kept at a time: `limit` where a cache holds something else, for it cannot be joined."""
        if not self.layers:
            return self.limit
        token = sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers) * (1 + 1 / SPARE)
        weights = sum(weight.nbytes for weight in self.model.parameters())
        return max(self.limit, min(KEPT * self.limit, int(weights / token)))

    def read(
        self, prompts: Sequence[tuple[int, ...]], shared: int, groups: list[tuple[int, int]] | None = None
    ) -> tuple[torch.Tensor, dict, torch.Tensor | None]:
        """The logits after prompts, the longest first, what is kept of them, and which of it is not padding (None: all).

        The first `shared` tokens of all are read once; the prompts of a group, from one place to another, in one pass.
        """
        before = self.step([prompts[0][:shared]], {})[1] if shared else {}
        logits, caches, masks = [], [], []
        groups = groups or self._groups([len(prompt) - shared for prompt in prompts])
        for number, (start, stop) in enumerate(groups):
            some = [prompt[shared:] for prompt in prompts[start:stop]]
            cache = copy.deepcopy(before) if number < len(groups) - 1 else before
            if shared:
                self.select([0] * len(some), cache)
            mask = torch.tensor([[1] * shared + [0] * (len(some[0]) - len(rest)) + [1] * len(rest) for rest in some])
            padded = [(0,) * (len(some[0]) - len(rest)) + rest for rest in some]
            found, cache = self.step(padded, cache, None if mask.all() else mask.to(self.model.device), shared)
            logits.append(found)
            caches.append(cache)
            masks.append(torch.nn.functional.pad(mask, (len(prompts[0]) - shared - len(some[0]), 0)))
        mask = torch.cat(masks).to(self.model.device)
        cache = joined(caches) if len(caches) > 1 and self.keeps else caches[0]
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

    def next(
        self, tokens: list[int], cache: dict, mask: torch.Tensor | None, before: int
    ) -> tuple[torch.Tensor, dict, torch.Tensor | None]:
        """What `read` gives, one token of each row further."""
        if mask is not None:
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        return *self.step([(token,) for token in tokens], cache, mask, before), mask

    def step(
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
            told["use_cache"] = self.keeps
        read = torch.tensor(tokens, device=self.model.device)
        outputs = self.model(input_ids=read, **self._last_only, **told, **cache)
        logits_AV = outputs.logits[:, -1].float()
        if logits_AV.amax().isnan():  # nan if any is
            raise CheckpointError("the model should give logits that are numbers, found nan: its weights are broken")
        return logits_AV, _cache(outputs) if self.keeps else {}

    def select(self, rows: list[int], cache: dict, mask: torch.Tensor | None = None) -> torch.Tensor | None:
        """Rows of the cache, repeated or left out, in place; the same rows of the mask."""
        index = torch.tensor(rows, device=self.model.device)
        select(cache, rows, index)
        return None if mask is None else mask[index]
