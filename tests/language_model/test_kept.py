"""Keys and values with room for more: the same as transformers' own layer, whatever is done with it."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache, DynamicLayer

from pipeline.language_model.kept import ROOM, Roomy, joined, left, select, with_room


def states(rows: int, length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, 2, length, 3, generator=generator) for _ in range(2))


def layer(rows: int, length: int, seed: int = 0) -> DynamicLayer:
    made = DynamicLayer()
    made.update(*states(rows, length, seed))
    return made


@given(
    st.lists(
        st.one_of(
            st.integers(1, 3 * ROOM), st.lists(st.integers(0, 1), min_size=2, max_size=2).map(tuple)
        ),  # tokens that come, or rows that stay
        max_size=8,
    )
)
def test_it_holds_what_transformers_layer_holds(doings):
    theirs = layer(2, 4)
    ours = Roomy(layer(2, 4))
    for seed, doing in enumerate(doings, 1):
        if isinstance(doing, tuple):
            for each in (theirs, ours):
                each.reorder_cache(torch.tensor(doing))
        else:
            new = states(2, doing, seed)
            for one, two in zip(theirs.update(*new), ours.update(*new), strict=True):
                assert torch.equal(one, two)
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert torch.equal(ours.keys, theirs.keys) and torch.equal(ours.values, theirs.values)


@given(st.integers(0, 20), st.lists(st.sets(st.integers(0, 5)), max_size=4), st.data())
def test_rows_that_are_left_out_leave_the_others_as_they_were(more, outs, data):
    theirs, (ours,) = DynamicCache(), with_room({"past_key_values": DynamicCache()}).values()
    theirs.layers, ours.layers = [layer(6, 4)], [layer(6, 4)]
    cache, rows = with_room({"past_key_values": ours}, more), 6
    for seed, out in enumerate(outs, 1):
        out = {row for row in out if row < rows}
        if len(out) == rows:
            break
        kept = left(rows, out)
        assert sorted(kept) == [row for row in range(rows) if row not in out]
        assert all(row == place or row >= len(kept) for place, row in enumerate(kept))
        index = torch.tensor(kept)
        select(cache, kept, index)
        theirs.reorder_cache(index)
        rows = len(kept)
        new = states(rows, data.draw(st.integers(1, 12)), seed)
        for one, two in zip(theirs.update(*new, 0), ours.update(*new, 0), strict=True):
            assert torch.equal(one, two)


def test_rows_that_are_left_out_copy_nothing_but_what_takes_their_place():
    cache = with_room({"past_key_values": DynamicCache()})
    cache["past_key_values"].layers = [layer(6, 4)]
    (ours,) = with_room(cache, 8)["past_key_values"].layers
    place = ours.keys.data_ptr()
    select(cache, left(6, {1, 5}), torch.tensor([0, 4, 2, 3]))
    assert ours.keys.data_ptr() == place and ours.keys.shape[0] == 4
    ours.update(*states(4, 1, 2))
    assert ours.keys.data_ptr() == place


def test_repeated_rows_take_their_room_along():
    cache = {"past_key_values": DynamicCache()}
    cache["past_key_values"].layers = [layer(2, 4)]
    (ours,) = with_room(cache, 8)["past_key_values"].layers
    select(cache, [0, 0, 1, 1, 1], torch.tensor([0, 0, 1, 1, 1]))
    assert torch.equal(ours.keys, layer(2, 4).keys[[0, 0, 1, 1, 1]])
    place = ours.keys.data_ptr()
    ours.update(*states(5, 8, 2))
    assert ours.keys.data_ptr() == place


def test_a_token_more_copies_nothing_before_it():
    ours = Roomy(layer(2, 4))
    ours.update(*states(2, 1, 1))
    place = ours.keys.data_ptr()
    for step in range(ROOM):
        ours.update(*states(2, 1, step))
        assert ours.keys.data_ptr() == place


def test_a_selection_lets_go_of_what_it_selects_from():
    ours = Roomy(layer(4, 40))
    ours.update(*states(4, 1, 1))
    ours.reorder_cache(torch.tensor([2]))
    assert {part.untyped_storage().nbytes() for part in (ours.keys, ours.values, *ours._room)} == {2 * 49 * 3 * 4}
    place = ours.keys.data_ptr()
    ours.update(*states(1, 1, 2))  # and keeps its room
    assert ours.keys.data_ptr() == place


def test_what_was_given_stays_as_it_was():
    given_ = layer(2, 4)
    before = given_.keys.clone()
    ours = Roomy(given_)
    ours.update(*states(2, 3, 1))
    assert torch.equal(given_.keys, before)


def test_shorter_ones_are_joined_behind_zeros():
    caches = []
    for rows, length in ((2, 5), (1, 3)):
        cache = DynamicCache()
        cache.layers = [layer(rows, length, seed) for seed in (length, length + 1)]
        caches.append({"past_key_values": cache})
    long, short = (layer(2, 5, 5), layer(1, 3, 3))
    (cache,) = with_room(joined(caches)).values()
    assert all(type(each) is Roomy for each in cache.layers) and cache.get_seq_length() == 5
    assert torch.equal(cache.layers[0].keys[:2], long.keys)
    assert torch.equal(cache.layers[0].values[2:, :, 2:], short.values)
    assert not cache.layers[0].keys[2:, :, :2].any()
