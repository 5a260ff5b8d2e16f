"""One half of a data set to tune on, the other to report: the same halves wherever the set is read.

What shares a cluster (a template, an occupation, a target term) lies in one half, so that no near copy of a reported
item was tuned on. A cluster's half depends on its name alone: not on the seed, the order, or what else is in the file.
The tuning half is cut once more, for who tunes and chooses by one set: `fitting` and `choosing`.
"""

import hashlib

HALVES = ("tuning", "reporting", "fitting", "choosing")


def lies_in(half: str | None, cluster: str) -> bool:
    """Whether a cluster belongs to a half, or to a half of the tuning half; all do where it is None."""
    if half is None:
        return True
    number = HALVES.index(half)
    if number < 2:
        return _bit("half", cluster) == number
    return _bit("half", cluster) == 0 and _bit("half of tuning", cluster) == number - 2


def _bit(cut: str, cluster: str) -> int:
    return hashlib.sha256(f"{cut}\0{cluster}".encode()).digest()[0] % 2
