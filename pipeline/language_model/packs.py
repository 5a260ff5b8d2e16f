"""Rows (see trie.py) in batches, as arrays: what one forward pass computes.

A *pack* is a batch of rows of like length without a stem, padded to the longest, or one row with its stem. Small rows
are first joined to longer ones, since no token sees another trie than its own: so that little is padding, and matrix
products have many rows, while attention, whose cost grows with a row's length, stays cheap.
Packs depend on the set of the requests and the limits, never on their order.
"""

import heapq
import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.language_model.trie import Costs, Row, Stem

# How many joined rows a batch may be meant to have: few leave little to padding, many make attention cheap.
SIDE_BY_SIDE = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class Pack:
    """A batch of rows as arrays. Shapes: B rows, N positions, A log-probabilities asked for.

    stem     what is read before; B is 1 where there is any
    tokens_BN, depths_BN, ends_BN   the tries; padding reads token 0 and sees itself alone
    requests_A, positions_A, targets_A   which request, where in the flattened B*N, which token
    masked   some row branches, or holds several tries: ends_BN must become a mask
    size     tokens without padding
    """

    stem: Stem
    tokens_BN: np.ndarray
    depths_BN: np.ndarray
    ends_BN: np.ndarray
    requests_A: np.ndarray
    positions_A: np.ndarray
    targets_A: np.ndarray
    masked: bool
    size: int


def joined(rows: list[Row], limit: int, even: float, horizon: float, costs: Costs) -> list[Row]:
    """The rows, small ones without a stem put one after the other, so that the batches of them cost least.

    limit    positions in a batch
    even     see `packs`
    horizon  depth of the rows that may be joined
    """
    ways = [rows, *(_joined(rows, limit, side_by_side, horizon) for side_by_side in SIDE_BY_SIDE)]
    return min(ways, key=lambda way: sum(map(partial(_cost, costs=costs), _batches(way, limit, even))))


def _joined(rows: list[Row], limit: int, side_by_side: int, horizon: float) -> list[Row]:
    """The rows, small ones joined to rows of about equal size, so many to a batch."""
    most = limit // side_by_side
    small = [row for row in rows if not row.stem and row.depth <= horizon and len(row.tokens) <= most]
    tokens = sum(len(row.tokens) for row in small)
    made = [Row() for _ in range(min(len(small), side_by_side * math.ceil(tokens / limit)))]
    # The longest first, each to the row that is the shortest so far.
    sizes = [(0, number) for number in range(len(made))]
    for row in sorted(small, key=_order):
        size, number = sizes[0]
        if size + len(row.tokens) > most:
            number = len(made)
            made.append(Row())
            heapq.heappush(sizes, (len(row.tokens), number))
        else:
            heapq.heapreplace(sizes, (size + len(row.tokens), number))
        made[number].append(row)
    known = set(map(id, small))
    return [row for row in made if row.tokens] + [row for row in rows if id(row) not in known]


def _cost(batch: list[Row], costs: Costs) -> float:
    """Of reading it, in tokens that are read alone."""
    size = max(len(row.tokens) for row in batch)
    return costs.start + len(batch) * costs.reading(size, batch[0].before)


def _order(row: Row) -> tuple:
    """The largest first."""
    return -len(row.tokens), row.tokens


def packs(rows: list[Row], limit: int, even: float = math.inf) -> list[Pack]:
    """Rows batched with their like, chains apart from tries, each row with a stem by itself.

    limit  positions in a pack, padding included; a row that is longer is a pack of its own
    even   and so is a row that is deeper than this
    """
    return [pack(batch) for batch in _batches(rows, limit, even)]


def _batches(rows: list[Row], limit: int, even: float) -> list[list[Row]]:
    batches: list[list[Row]] = []
    for branched in (True, False):
        batch: list[Row] = []
        for row in sorted((row for row in rows if row.branched == branched and not row.stem), key=_order):
            if batch and ((len(batch) + 1) * len(batch[0].tokens) > limit or max(row.depth, batch[-1].depth) > even):
                batches.append(batch)
                batch = []
            batch.append(row)
        batches.extend([batch] * bool(batch))
    return [*batches, *([row] for row in rows if row.stem)]


def segment(tokens: tuple[int, ...], before: int) -> Pack:
    """One segment of a stem, `before` tokens deep: a chain of which nothing is asked."""
    size, none = len(tokens), np.zeros(0, np.int64)
    depths = np.arange(before, before + size)[None]
    return Pack((), np.array([tokens], np.int64), depths, np.full((1, size), size), none, none, none, True, size)


def pack(batch: list[Row]) -> Pack:
    """Rows as one padded batch."""
    width = max(len(row.tokens) for row in batch)
    shape = (len(batch), width)
    tokens, depths = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    ends = np.tile(np.arange(1, width + 1), (len(batch), 1))
    for number, row in enumerate(batch):
        size = len(row.tokens)
        tokens[number, :size], depths[number, :size], ends[number, :size] = row.tokens, row.depths, row.ends
    asked = np.array(
        [
            (request, number * width + node, target)
            for number, row in enumerate(batch)
            for request, node, target in row.asked
        ],
        np.int64,
    )
    return Pack(
        batch[0].stem,
        tokens,
        depths,
        ends,
        asked[:, 0],
        asked[:, 1],
        asked[:, 2],
        any(row.branched for row in batch),
        sum(len(row.tokens) for row in batch),
    )
