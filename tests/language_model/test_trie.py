"""Rows hold every request whole, whatever the requests, the limits and the costs."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.language_model import packs, trie
from pipeline.language_model.trie import Costs, Encoded

words = st.lists(st.integers(0, 2), max_size=9).map(tuple)


@st.composite
def requests(draw):
    """Some requests that begin alike, are beginnings of each other, or equal."""
    beginnings = draw(st.lists(words, min_size=1, max_size=3))
    made = []
    for context, continuation in draw(st.lists(st.tuples(words, words.filter(len)), max_size=16)):
        whole = (*draw(st.sampled_from(beginnings)), *draw(st.sampled_from(beginnings)), 0, *context, *continuation)
        made.append(Encoded(whole[:-1], continuation))
    return made


costs = st.builds(Costs, st.sampled_from([0.1, 1.0, 5.0, math.inf]), st.sampled_from([0.0, 0.01, 0.2]))


@settings(max_examples=400)
@given(asked=requests(), costs=costs, slack=st.integers(0, 40), horizon=st.sampled_from([0, 12, math.inf]))
def test_every_request_is_there_whole(asked, costs, slack, horizon):
    limit = max((len(each.inputs) for each in asked), default=1) + slack
    rows = trie.rows(asked, limit, horizon, costs)
    found = {}
    for row in rows:
        assert row.size <= limit and row.tokens
        assert not row.stem or (costs.start < math.inf and all(row.stem))
        stem = tuple(token for segment in row.stem for token in segment)
        for request, node, target in row.asked:
            path = stem + tuple(row.tokens[at] for at in range(node + 1) if node < row.ends[at])
            assert row.depths[node] == len(path) - 1
            found.setdefault(request, []).append((path, target))
            assert not row.branched or len(asked[request].inputs) <= horizon
    assert found == {
        number: [
            (each.inputs[: len(each.inputs) - len(each.targets) + step + 1], target)
            for step, target in enumerate(each.targets)
        ]
        for number, each in enumerate(asked)
    }
    read = sum(len(row.tokens) for row in rows)
    stems = {row.stem[:end] for row in rows for end in range(1, len(row.stem) + 1)}
    assert read + sum(len(stem[-1]) for stem in stems) <= sum(len(each.inputs) for each in asked)


@settings(max_examples=100)
@given(asked=requests(), costs=costs, seed=st.randoms(use_true_random=False))
def test_the_order_does_not_count(asked, costs, seed):
    order = list(range(len(asked)))
    seed.shuffle(order)
    one, two = (
        [(row.stem, row.tokens, row.ends) for row in trie.rows(some, 60, math.inf, costs)]
        for some in (asked, [asked[at] for at in order])
    )
    assert one == two


def test_a_long_beginning_is_a_stem_and_a_longer_one_has_another_segment():
    few_shot, passages = tuple(range(1000)), [tuple(range(2000 + 300 * at, 2300 + 300 * at)) for at in range(3)]
    asked = [
        Encoded((*few_shot, *passage, *(5000 + 100 * question + at for at in range(40))), (1, 2))
        for passage in passages
        for question in range(30)
    ]
    rows = trie.rows(asked, 2048, math.inf, Costs(32, 1 / 1728))
    assert {row.stem for row in rows} == {(few_shot, passage) for passage in passages}
    assert all(100 < len(row.tokens) < 400 for row in rows)
    assert sum(len(row.tokens) for row in rows) == 3 * 30 * 40
    # the stem may not hold what is asked for
    asked = [Encoded((*few_shot, at), (*few_shot[1:], at, 1)) for at in range(300)]
    assert not any(row.stem for row in trie.rows(asked, 2048, math.inf, Costs(32, 1 / 1728)))


def test_each_the_beginning_of_the_next():
    tokens = tuple(range(600))
    asked = [Encoded(tokens[:length], (9,)) for length in range(1, 601)]
    rows = trie.rows(asked, 600, math.inf, Costs(32, 1 / 1728))
    assert [(len(row.asked), len(row.tokens)) for row in rows] == [(600, 600)]


def test_what_does_not_fit_names_the_setting():
    with pytest.raises(ConfigError, match="set machine.tokens_per_pack to 9 or more"):
        trie.rows([Encoded(tuple(range(9)), (1,))], 8, math.inf, Costs(32, 0.1))


@settings(max_examples=400)
@given(
    asked=requests(),
    costs=costs,
    limit=st.integers(1, 60),
    even=st.sampled_from([8, math.inf]),
    reach=st.sampled_from([0, 12, math.inf]),
)
def test_joined_rows_hold_the_same_tries_and_fit(asked, costs, limit, even, reach):
    horizon = min(reach, even)
    rows = trie.rows(asked, 60, horizon, costs)
    joined = packs.joined(rows, limit, even, horizon, costs)

    def tries(rows):
        """Of each row: a trie's stem, tokens, depths, and where it branches, all counted from its own beginning."""
        found = []
        for row in rows:
            starts = [at for at, depth in enumerate(row.depths) if depth == row.before]
            for start, end in itertools.pairwise([*starts, len(row.tokens)]):
                ends = [node - start for node in row.ends[start:end]]
                places = [(request, node - start, target) for request, node, target in row.asked if start <= node < end]
                found.append((row.stem, row.tokens[start:end], row.depths[start:end], ends, places))
        return sorted(found)

    assert tries(joined) == tries(rows)
    alone = {tuple(row.tokens) for row in rows}
    assert all(len(row.tokens) <= limit or tuple(row.tokens) in alone for row in joined)
    assert all(row.depth == max(row.depths) + 1 for row in joined)
    for row in joined:
        spreads, spans = {}, {}
        for request, node, _ in row.asked:
            ancestors = [at for at in range(node + 1) if row.ends[at] > node]
            start = 0 if row.stem else ancestors[0]
            spreads[request] = node + 1 - start - len(ancestors)
            spans[request] = node - start if spreads[request] else 0
        assert row.spread == max(spreads.values()) == spreads[row.widest]
        assert row.span == max(spans.values()) == spans[row.farthest]
    made = packs.packs(joined, limit, even)
    assert sum(pack.size for pack in made) == sum(len(row.tokens) for row in rows)
    assert all(pack.tokens_BN.size <= limit or len(pack.tokens_BN) == 1 for pack in made)
    for pack in made:
        assert pack.masked or (pack.ends_BN == pack.ends_BN.shape[1]).all() or len(pack.tokens_BN) > 1


def test_small_rows_fill_a_batch():
    """Eight tries of 30 tokens in batches of 128: joined by two, with nothing to spare, in place of four and four."""
    asked = [Encoded(tuple(range(100 * at, 100 * at + 30)), (1,)) for at in range(8)]
    costs = Costs(16, 1 / 100)
    rows = trie.rows(asked, 128, math.inf, costs)
    shapes = [pack.tokens_BN.shape for pack in packs.packs(packs.joined(rows, 128, math.inf, math.inf, costs), 128)]
    assert [pack.tokens_BN.shape for pack in packs.packs(rows, 128)] == [(4, 30), (4, 30)] == shapes
    # of unequal length, what would be padding holds another
    asked = [Encoded(tuple(range(100 * at, 100 * at + 20 + 10 * (at % 3))), (1,)) for at in range(8)]
    rows = trie.rows(asked, 128, math.inf, costs)
    plain, better = (
        sum(pack.tokens_BN.size for pack in packs.packs(some, 128))
        for some in (rows, packs.joined(rows, 128, math.inf, math.inf, costs))
    )
    distinct = sum(len(each.inputs) for each in asked)
    assert distinct <= better < plain
