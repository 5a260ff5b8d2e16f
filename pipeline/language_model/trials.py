"""Trials: which ways of reading prompts a model allows, so that what it writes is what plain passes would give.

Its architecture is not asked. What is read together, behind padding or after a shared beginning is compared with the same
read alone, and where a logit is another by more than rounding, that way is not taken.
"""

import hashlib
import logging

import torch

from pipeline.errors import CheckpointError
from pipeline.language_model.kept import with_room
from pipeline.language_model.lines import Line
from pipeline.language_model.passes import Passes
from pipeline.language_model.reading import near_best
from pipeline.language_model.scorer import NO_MEMORY
from pipeline.language_model.trie import common

log = logging.getLogger(__name__)

# Tokens from which on a beginning that prompts share is read once, and nats by which a logit may be another then.
SHARED, TOLERANCE = 64, 1e-3
# Tokens by which the prompts of a trial differ in length, at least.
APART = 5
# Tokens of the prompt on which it is seen how a model counts.
COUNTED = 8


def _nearest(prompt: tuple[int, ...], prompts: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The prompt that shares the longest beginning with one of them; () where it is the only one."""
    ordered = sorted(set(prompts))
    at = ordered.index(prompt)
    return max(
        ordered[max(0, at - 1) : at] + ordered[at + 1 : at + 2], key=lambda near: common(near, prompt), default=()
    )


class Trials:
    """What is found by trials of one model; each is made once.

    shares, shares_padded  whether a beginning that prompts share is read once: prompts of one length, and of several
    """

    def __init__(self, passes: Passes):
        self.passes, self.model = passes, passes.model
        self.shares = self.shares_padded = False
        self._tried: dict[bytes, str] = {}
        self._seen: dict[tuple[int, ...], bool] = {}
        self._told: set[str] = set()

    @torch.inference_mode()
    def try_out(self, lines: list[Line], reach: float) -> float:
        """Up to which width prompts of several lengths may share a batch, 0 for none; and what may be shared.

        Tried are the longest prompt with the shortest, and with the one that shares most of it, each with the padding
        that they lead to, read in one pass and in two. What comes out depends on the lines alone.

        reach  tokens up to which each sees all before it, wherever they stand
        """
        asked = [line for line in lines if line.asked.beams == 1]
        self.passes.counts = bool(asked) and self._must_be_told(
            max((line.prompt for line in asked), key=lambda p: (len(p), p))
        )
        near = [line.prompt for line in asked if len(line.prompt) + line.asked.max_tokens <= reach]
        several, shared = "prompts of several lengths in a batch", "reading the shared beginning of prompts once"
        pads = self.shares = self.shares_padded = False
        if not asked or not self.passes.keeps:
            return 0
        if near:
            longest, shortest = (choice(near, key=lambda prompt: (len(prompt), prompt)) for choice in (max, min))
            pads = len(shortest) < len(longest) and self._allows(longest, shortest, 0, several)
        longest = max((line.prompt for line in asked), key=lambda prompt: (len(prompt), prompt))
        other = _nearest(longest, [line.prompt for line in asked])
        size = min(len(longest), len(other))
        same = min(common(longest, other), size - 1)
        self.shares = same >= SHARED and self._allows(longest[:size], other[:size], same, shared)
        if pads:
            longest = max(near, key=lambda prompt: (len(prompt), prompt))
            other = _nearest(longest, near)
            same = min(common(longest, other), len(other) - 1, len(longest) - 1 - APART)
            # half of what is not shared is lacking, if it can be
            size = min(len(other), len(longest) - APART, (same + len(longest) + 1) // 2)
            self.shares_padded = same >= SHARED and self._allows(
                longest, other[:size], same, f"{shared} beside {several}"
            )
        return reach if pads else 0

    def shared(self, prompts: list[tuple[int, ...]]) -> int:
        """Tokens that all prompts of a batch, the longest first, begin with and that are read once."""
        allowed = self.shares if len(prompts[0]) == len(prompts[-1]) else self.shares_padded
        same = min(common(min(prompts), max(prompts)), len(prompts[-1]) - 1) if allowed and len(prompts) > 1 else 0
        return same if same >= SHARED else 0

    def _must_be_told(self, prompt: tuple[int, ...]) -> bool:
        """Whether the model must be told positions; seen once for the same beginning of a prompt."""
        some = (prompt * 2)[:COUNTED]
        if some not in self._seen:
            self._seen[some] = "position_ids" in self.passes.known and self.passes.keeps and self._miscounts(some)
        return self._seen[some]

    def _miscounts(self, some: tuple[int, ...]) -> bool:
        """Whether a token after what is kept comes to something else than read in one pass, unless its position is told."""
        apart = {}
        whole_V = self.model(torch.tensor([some], device=self.model.device), use_cache=False).logits[0, -1].float()
        for self.passes.counts in (False, True):
            _, cache = self.passes.step([some[:-1]], {})
            apart[self.passes.counts] = self._apart(
                self.passes.step([some[-1:]], cache, None, len(some) - 1)[0][0], whole_V
            )
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

    def _allows(self, one: tuple[int, ...], two: tuple[int, ...], shared: int, what: str) -> bool:
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
        if not self.passes.layers:
            return "its cache cannot be joined"
        cut = shared + max(1, self.passes.limit // 2)  # two of this length make a pack
        apart = APART if len(two) < len(one) else 0
        in_one = (one[:cut], two[: max(shared + 1, min(len(two), cut - apart))]) if len(one) > cut else (one, two)
        whole = None
        for prompts, groups in ((in_one, [(0, 2)]), ((one, two), [(0, 1), (1, 2)])):
            if whole is None or prompts != in_one:
                whole = torch.cat([self._alone(prompt) for prompt in prompts], 1)
            try:
                logits_AV, cache, mask = self.passes.read(prompts, shared, groups)
                after, _, _ = self.passes.next(
                    [prompt[-1] for prompt in prompts], with_room(cache), mask, len(prompts[0])
                )
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
        logits_AV, cache = self.passes.step([prompt], {})
        return torch.stack([logits_AV, self.passes.step([prompt[-1:]], cache, None, len(prompt))[0]])
