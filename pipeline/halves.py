"""One half of a data set to tune on, the other to report: the same halves wherever the set is read.

What shares a cluster (a template, an occupation, a target term) lies in one half, so that no near copy of a reported
item was tuned on. A cluster's half depends on its name alone: not on the seed, the order, or what else is in the file.
"""

import hashlib

HALVES = ("tuning", "reporting")


def half_of(cluster: str) -> str:
    """tuning or reporting."""
    return HALVES[hashlib.sha256(f"half\0{cluster}".encode()).digest()[0] % 2]
