"""A smaller set of items that keeps what belongs together, and its rows one by one."""

import hashlib

import pandas as pd

from pipeline.errors import ConfigError, DataError


def sample(items: pd.DataFrame, limit: int | None, seed: int) -> pd.DataFrame:
    """About `limit` items: seeded, stratified by group, in whole units, sorted by id whatever the order of the rows.

    A unit is what must stay together: the column `unit` where the benchmark has one (BBQ: an item in both
    contexts and both polarities), else the template cluster. Groups get their share of `limit` by size, but at
    least one unit each; within a group every template gives one unit before any gives a second, because what a
    bootstrap over templates can show depends on how many there are. So the number of items is near `limit`, seldom it.
    limit: how many items, null or more than there are = all of them.
    seed: which; the draw depends on it and on the names of the units, on nothing else.
    Raises ConfigError for limit < 1, DataError for a set without items.
    """
    if limit is not None and limit < 1:
        raise ConfigError(
            f"limit should be a number of items, at least 1, and is {limit}: set limit, null for all items"
        )
    if items.empty:
        raise DataError("the bias set has no items to ask: check the files that bias.files names")
    items = items.sort_values("id", kind="stable", ignore_index=True)
    if limit is None or limit >= len(items):
        return items
    unit = items["unit" if "unit" in items else "cluster"]
    sizes = items.assign(unit=unit).groupby(["group", "cluster", "unit"], sort=True).size()
    chosen: set[tuple[str, str]] = set()
    owed = 0.0
    # Small groups first: what their one unit is too much, the large ones can give back.
    for group, total in sizes.groupby("group").sum().sort_values(kind="stable").items():
        owed += limit * total / len(items)
        taken = 0
        for name in _turns(sizes[[group]].index, seed):
            if taken and abs(taken + sizes[name] - owed) >= abs(taken - owed):
                break
            taken += sizes[name]
            chosen.add((group, name[2]))
        owed -= taken
    keep = [pair in chosen for pair in zip(items["group"], unit, strict=True)]
    return items[keep].reset_index(drop=True)


def records(items: pd.DataFrame) -> list[dict]:
    """One dict an item, as `ask` wants it; to_dict("records") takes five times as long."""
    names, columns = list(items), [items[name].tolist() for name in items]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _turns(index: pd.Index, seed: int) -> list[tuple]:
    """The units in seeded order, dealt out in rounds of one unit a cluster."""
    ordered = sorted(index, key=lambda name: _draw(seed, *name))
    round_of: dict[str, int] = {}
    turns = []
    for place, name in enumerate(ordered):
        turn = round_of.get(name[1], 0)
        round_of[name[1]] = turn + 1
        turns.append((turn, place, name))
    return [name for _, _, name in sorted(turns)]


def _draw(seed: int, *names: str) -> bytes:
    return hashlib.sha256("\0".join([str(seed), *map(str, names)]).encode()).digest()
