"""Packing of many requests into token tries, so that each distinct prefix is computed once.

A *row* is one trie laid out depth first: a token sees its ancestors and itself, its position is its depth. In this
order the descendants of token j are j+1 .. end_j - 1, so `ends` is the whole attention mask: i sees j iff
j <= i < end_j. A row without a branch is a plain sequence (a *chain*) and needs no mask.
A row may hang on a *stem*: a long beginning that it shares with other rows, read once and kept as keys and values. A
stem is a sequence of *segments*, each read in one pass after those before it, so that stems share segments in turn.
A row may also hold several tries, one after the other: none sees another (see packs.py, which makes batches of rows).
Rows depend on the set of the requests and the limits, never on their order.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipeline.errors import ConfigError

Stem = tuple[tuple[int, ...], ...]


class Encoded(NamedTuple):
    """One request in tokens: what the model reads, and what its last len(targets) outputs are asked for."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]


class Costs(NamedTuple):
    """What decides about rows, in tokens that are read alone: a pass over N tokens after P costs start + N + attention N (P + N).

    start      of a forward pass; infinity where no stem can be kept
    attention  of attending to one token
    """

    start: float
    attention: float

    def reading(self, size: float, before: float = 0) -> float:
        """Of `size` tokens after `before`, the start aside."""
        return size + self.attention * size * (before + size)

    @property
    def size(self) -> float:
        """Of the rows that are cheapest for each token: where start and attention cost the same."""
        return math.sqrt(self.start / self.attention) if self.attention else math.inf

    def least(self, before: int) -> float:
        """Of a token in such a row."""
        return (self.start + self.reading(self.size, before)) / self.size


@dataclass(slots=True)
class Row:
    """Tries, depth first, below their stem; `asked` holds (request, node, target) for every log-probability wanted."""

    stem: Stem = ()
    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    path: list[int] = field(default_factory=list)
    branched: bool = False
    depth: int = 0  # of the longest request
    spread: int = 0  # most tokens that stand between a request's own, and the request that has them
    widest: int = -1
    span: int = 0  # most tokens from the first of a request's own to its last, where strangers stand between: and which
    farthest: int = -1

    @property
    def size(self) -> int:
        """Tokens, those of the stem included."""
        return self.before + len(self.tokens)

    @property
    def before(self) -> int:
        """Tokens of the stem."""
        return sum(map(len, self.stem))

    def add(self, request: int, encoded: Encoded, shared: int) -> None:
        """Append what is new in a request, after the `shared` leading tokens that are here or in the stem."""
        inputs, targets = encoded
        before = self.before
        if shared < len(inputs):
            self.branched |= shared - before < len(self.path)
            for node in self.path[shared - before :]:
                self.ends[node] = len(self.tokens)
            del self.path[shared - before :]
        for depth in range(shared, len(inputs)):
            self.path.append(len(self.tokens))
            self.tokens.append(inputs[depth])
            self.depths.append(depth)
            self.ends.append(-1)
        self.depth = max(self.depth, len(inputs))
        steps = len(inputs) - before - 1
        start = 0 if self.stem else self.path[0]  # the tokens of a stem are a request's own, too
        spread = self.path[steps] - start - steps
        self._widen(spread, request, spread + steps if spread else 0, request)
        first = len(inputs) - len(targets) - before
        self.asked.extend((request, self.path[first + step], target) for step, target in enumerate(targets))

    def append(self, other: "Row") -> None:
        """The tries of another closed row after those of this one, neither with a stem."""
        before = len(self.tokens)
        self.branched = bool(before) or other.branched
        self.tokens += other.tokens
        self.depths += other.depths
        self.ends += [before + end for end in other.ends]
        self.asked += [(request, before + node, target) for request, node, target in other.asked]
        self.depth = max(self.depth, other.depth)
        self._widen(other.spread, other.widest, other.span, other.farthest)

    def _widen(self, spread: int, widest: int, span: int, farthest: int) -> None:
        if self.widest < 0 or spread > self.spread:
            self.spread, self.widest = spread, widest
        if self.farthest < 0 or span > self.span:
            self.span, self.farthest = span, farthest

    def close(self) -> None:
        """End the branch that is still open."""
        for node in self.path:
            self.ends[node] = len(self.tokens)


def rows(encoded: list[Encoded], limit: int, horizon: float, costs: Costs, even: float = math.inf) -> list[Row]:
    """The tries of a list of requests, one in each row.

    limit    tokens a row may have with its stem; raises ConfigError if a request alone has more
    horizon  longest request, in tokens, that may share a branching row: the reach of a sliding window, 0 where the
             model cannot read a trie at all, infinity where it always can
    even     tokens beyond which all positions mean something else: no row has requests on both sides of it
    """
    near, far = [], []
    for request in sorted(range(len(encoded)), key=lambda request: encoded[request]):
        length = len(encoded[request].inputs)
        if length > limit:
            raise ConfigError(
                f"a request has {length} tokens, but a pack may have {limit}: "
                f"set machine.tokens_per_pack to {length} or more"
            )
        (near if length <= horizon else far).append(request)
    return (Forest(encoded, near, limit, costs).rows() if near else []) + _chains(encoded, far, even)


class Forest:
    """Requests in the order of their tokens, where each shares most with its neighbours; any range of them is a trie.

    A trie becomes one row, or is cut at its first branching, whichever costs less. What it has in common before that
    becomes a segment of the stem, if that costs less than to have each part read it again.
    """

    def __init__(self, encoded: list[Encoded], order: list[int], limit: int, costs: Costs):
        self.encoded, self.order, self.limit, self.costs = encoded, order, limit, costs
        self.inputs = [encoded[request].inputs for request in order]
        # Leading tokens that each shares with the one before it.
        self.shared = [0, *(common(one, two) for one, two in itertools.pairwise(self.inputs))]
        new = [len(inputs) - shared for inputs, shared in zip(self.inputs, self.shared, strict=True)]
        self.sums = np.concatenate([[0], np.cumsum(new, dtype=np.int64)]).tolist()
        # Up to here no logits are asked for.
        self.context = [len(encoded[request].inputs) - len(encoded[request].targets) for request in order]

    def rows(self) -> list[Row]:
        """The rows of all requests, depth first."""
        made, waiting = [], [(0, len(self.order), ())]
        while waiting:
            first, last, stem = waiting.pop()
            before = sum(map(len, stem))
            branching = min(self.shared[first + 1 : last], default=len(self.inputs[first]))
            cut = self._cut(first, last, before, branching)
            if cut is None:
                made.append(self._row(first, last, stem))
                continue
            if cut > before:
                stem, before = (*stem, self.inputs[first][before:cut]), cut
            branches = [first, *(at for at in range(first + 1, last) if self.shared[at] == branching), last]
            parts = self._parts(branches, before)
            if len(parts) == 1:
                made.append(self._row(first, last, stem))
            else:
                waiting.extend((*part, stem) for part in reversed(parts))
        return made

    def _size(self, first: int, last: int, before: int) -> int:
        """Distinct tokens of some requests below a stem of `before` tokens."""
        return len(self.inputs[first]) - before + self.sums[last] - self.sums[first + 1]

    def _cut(self, first: int, last: int, before: int, branching: int) -> int | None:
        """How many tokens the stem of the parts should have; None to leave a range whole."""
        size, costs = self._size(first, last, before), self.costs
        fits = before + size <= self.limit
        chain = all(len(self.inputs[at - 1]) == self.shared[at] for at in range(first + 1, last))
        if chain or (fits and size <= costs.size):
            return None
        cut = max(before, min(branching, *self.context[first:last]))
        common, shared = cut - before, branching - before
        parts = math.ceil((size - shared) / min(costs.size, self.limit - before)) or 1
        whole = costs.start + costs.reading(size, before)
        again = parts * (costs.start + costs.reading((size - shared) / parts + shared, before))
        rest = (size - common) / parts
        stem = costs.start + costs.reading(common, before) + parts * (costs.start + costs.reading(rest, cut))
        if fits and whole <= min(again, stem):
            return None
        # Rows with a stem are read one by one, others in batches: the saving must be worth all their starts.
        return cut if common * (parts - 1) > costs.start * (parts + 1) else before

    def _parts(self, branches: list[int], before: int) -> list[tuple[int, int]]:
        """Neighbouring branches together, as long as that costs less."""
        parts: list[tuple[int, int]] = []
        for first, last in itertools.pairwise(branches):
            if parts and self._joins(parts[-1][0], first, last, before):
                parts[-1] = (parts[-1][0], last)
            else:
                parts.append((first, last))
        return parts

    def _joins(self, start: int, first: int, last: int, before: int) -> bool:
        """Whether the requests of first .. last - 1 share a row with those of start .. first - 1."""
        costs, size = self.costs, self._size(start, first, before)
        own = self._size(first, last, before)
        new = own - (self.shared[first] - before)
        more = costs.reading(size + new, before) - costs.reading(size, before)
        if before + size + new > self.limit:
            return False
        if not before:  # where a row of its own is read in a batch with others
            return size + new <= costs.size and more <= costs.reading(own)
        return more <= min(costs.start + costs.reading(own, before), own * costs.least(before))

    def _row(self, first: int, last: int, stem: Stem) -> Row:
        row = Row(stem)
        for at in range(first, last):
            row.add(self.order[at], self.encoded[self.order[at]], self.shared[at] if at > first else row.before)
        row.close()
        return row


def _chains(encoded: list[Encoded], order: list[int], even: float) -> list[Row]:
    """A row for each request; what is the beginning of the next shares its row."""
    made: list[Row] = []
    for request in order:
        inputs = encoded[request].inputs
        begun = made[-1].tokens if made else []
        if not made or common(begun, inputs) < len(begun) or len(begun) <= even < len(inputs):
            made.append(Row())
        made[-1].add(request, encoded[request], len(made[-1].tokens))
    for row in made:
        row.close()
    return made


def common(one: Sequence[int], two: Sequence[int]) -> int:
    """Number of leading tokens that two sequences share."""
    return next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
