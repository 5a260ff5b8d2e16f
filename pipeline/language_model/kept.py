"""What a model keeps of what it has read, its keys and values: with room for more, and of several batches in one."""

import torch
from torch.nn import functional
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

# Layers of a cache that hold keys and values and nothing else; those derived from them hold more.
JOINABLE = (DynamicLayer, DynamicSlidingWindowLayer)
# A layer has room for so many tokens beyond those that it was given, or for a share of these: 1 / SPARE.
ROOM, SPARE = 8, 8


class Roomy(DynamicLayer):
    """A layer of a cache that writes new keys and values behind the old ones, instead of copying all for each token.

    `keys` and `values` are the parts in use of larger tensors: the first rows, and of these the first tokens.
    """

    def __init__(self, layer: DynamicLayer, more: int = 0):
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = layer.keys, layer.values
        self._room = (self.keys, self.values)
        if more:
            self._make_room(more)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_args, **_kwargs):
        """All keys and values, the new ones last; see DynamicLayer."""
        length = self.keys.shape[-2]
        size = length + key_states.shape[-2]
        if self._room[0].shape[-2] < size:
            self._make_room(size - length + max(ROOM, size // SPARE))
        for room, part in zip(self._room, (key_states, value_states), strict=True):
            room[..., length:size, :] = part
        self._use(size)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Some of the rows, in some order; the room that there was goes along."""
        self._room = tuple(room.index_select(0, beam_idx) for room in self._room)
        self._use(self.keys.shape[-2])

    def shrink(self, rows: int, moves: list[tuple[int, int]]) -> None:
        """The first rows alone, after others have come into the place of some: (the place, where they stood)."""
        for room in self._room:
            for place, stood in moves:
                room[place] = room[stood]
        self._room = tuple(room[:rows] for room in self._room)
        self._use(self.keys.shape[-2])

    def _make_room(self, more: int) -> None:
        self._room = tuple(functional.pad(part, (0, 0, 0, more)) for part in (self.keys, self.values))
        self._use(self.keys.shape[-2])

    def _use(self, size: int) -> None:
        self.keys, self.values = (room[..., :size, :] for room in self._room)


def joinable(cache: dict) -> list:
    """The layers of a cache, if they hold keys and values and nothing else; else none."""
    (layers,) = (getattr(kept, "layers", ()) for kept in cache.values())
    plain = layers and all(type(layer) in JOINABLE and layer.is_initialized for layer in layers)
    return list(layers) if plain else []


def joined(caches: list[dict]) -> dict:
    """The rows of several caches in the first of them; before those of shorter ones stand zeros, as many as they lack.

    Raises ValueError for caches that hold something else than keys and values.
    """
    every = [joinable(cache) for cache in caches]
    if not all(every):
        raise ValueError("the cache cannot be joined")
    for first, *others in zip(*every, strict=True):
        longest = max(layer.keys.shape[-2] for layer in (first, *others))
        for name in ("keys", "values"):
            parts = [getattr(layer, name) for layer in (first, *others)]
            widened = [functional.pad(part, (0, 0, longest - part.shape[-2], 0)) for part in parts]
            setattr(first, name, torch.cat(widened))
        if isinstance(first, DynamicSlidingWindowLayer):
            first.cumulative_length = max(layer.cumulative_length for layer in (first, *others))
        for layer in others:  # or all would be held twice
            layer.keys = layer.values = None
    return caches[0]


def with_room(cache: dict, more: int = 0) -> dict:
    """The same with room for so many more tokens, or more when they come, in place, where its layers are of the plain kind."""
    for kept in cache.values():
        layers = getattr(kept, "layers", None) or []
        for at, layer in enumerate(layers):  # one after the other: what each was leaves the memory
            if type(layer) is DynamicLayer and layer.is_initialized:
                layers[at] = Roomy(layer, more)
    return cache


def select(cache: dict, rows: list[int], index: torch.Tensor) -> None:
    """Rows of a cache, repeated or left out, in place; `index` is the same as a tensor on the model's device."""
    moves = [(place, stood) for place, stood in enumerate(rows) if place != stood]
    overwritten = any(stood < len(rows) for _, stood in moves)
    for kept in cache.values():
        layers = getattr(kept, "layers", ())
        if layers and not overwritten and all(isinstance(layer, Roomy) for layer in layers):
            for layer in layers:
                layer.shrink(len(rows), moves)
        else:
            kept.reorder_cache(index)  # the one selection that every kind of cache has


def left(rows: int, out: set[int]) -> list[int]:
    """What is left of so many rows, in an order in which the fewest move: the last ones into the places of those that are out."""
    size = rows - len(out)
    last = [row for row in range(size, rows) if row not in out]
    return [row if row not in out else last.pop() for row in range(size)]
