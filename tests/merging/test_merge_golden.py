"""A number may not change unless its version does: change both here and in conf/merge."""

import hashlib

import pytest
import torch

from tests.merging.merge_tables import of_tensors, run, settings, takes

ALL = of_tensors()
# (method, version, donors)
GOLDEN = {
    ("della", 2, 1): "de54ac6eb90c6f26",
    ("della", 2, 2): "661607d7e4524dd0",
    ("pcb", 1, 1): "09f9b6e5a6e4d0da",
    ("pcb", 1, 2): "f57aaaf380bab4b3",
    ("sce", 3, 1): "4b1a4ae133d2da1e",
    ("sce", 3, 2): "834a0305a503a85c",
    ("arcee_fusion", 1, 1): "c0c7484ec58b8fd7",
    ("breadcrumbs", 1, 1): "1932475d6b335fef",
    ("breadcrumbs", 1, 2): "c38ed4bbe25bdf38",
    ("dare", 2, 1): "d519818d53a9e3b2",
    ("dare", 2, 2): "835826cf86ddc1bd",
    ("karcher", 3, 1): "c0b6483247787fa4",
    ("karcher", 3, 2): "71c3731deedbe862",
    ("keep", 1, 1): "b6df61d340c43a4d",
    ("keep", 1, 2): "b6df61d340c43a4d",
    ("linear", 1, 1): "4b1a4ae133d2da1e",
    ("linear", 1, 2): "ce61014ee3c2eb00",
    ("magmax", 1, 1): "4b1a4ae133d2da1e",
    ("magmax", 1, 2): "a5c64c963ec789c7",
    ("model_stock", 3, 2): "9b343026a2a06c48",
    ("multislerp", 2, 1): "f94a7cbf7543d9e4",
    ("multislerp", 2, 2): "6d2bf48898a588e6",
    ("nearswap", 1, 1): "995830065502948e",
    ("nuslerp", 3, 1): "6bcc25f5ceb1dd48",
    ("nuslerp", 3, 2): "f3e440a8d6487978",
    ("slerp", 3, 1): "fa09406f35c6d213",
    ("task_arithmetic", 1, 1): "4b1a4ae133d2da1e",
    ("task_arithmetic", 1, 2): "0f6054ed26f270f0",
    ("ties", 2, 1): "5482f50fe4d0584c",
    ("ties", 2, 2): "6ed104e7a526e029",
}
# The last bits of a singular value decomposition differ between machines: a sum over the entries instead of their bits.
DECOMPOSED = ("tsvm", "r_tsvm", "iso_c", "iso_cts")
SUMS = {
    ("iso_c", 1, 1): 28.474904685085743,
    ("iso_c", 1, 2): 27.17569321656127,
    ("iso_cts", 1, 1): 28.474904685085743,
    ("iso_cts", 1, 2): 26.69061053274876,
    ("r_tsvm", 1, 1): 29.007167658037318,
    ("r_tsvm", 1, 2): 27.842072083548885,
    ("tsvm", 1, 1): 29.007167658037318,
    ("tsvm", 1, 2): 27.842072083548885,
}
counted = [(name, count) for name in ALL for count in (1, 2) if takes(name, count)]


def merged(name, count):
    grid = torch.arange(-60, 60).reshape(8, 15)
    base = {"a": (grid * 37 % 101).float() / 64, "b": torch.tensor([0.5, -1.5, 2.25])}
    donors = [
        {"a": (grid * 53 % 97).float() / 64, "b": torch.tensor([0.25, -1.0, -2.0])},
        {"a": (grid * 29 % 89).float() / 64, "b": torch.tensor([1.25, -1.5, 2.0])},
    ]
    return run(name, base, donors[:count], 0.375, **settings(ALL[name]))


@pytest.mark.parametrize(("name", "count"), [case for case in counted if case[0] not in DECOMPOSED])
def test_golden(name, count):
    numbers = b"".join(tensor.numpy().astype("<f4").tobytes() for tensor in merged(name, count).values())
    check(GOLDEN, name, count, hashlib.sha256(numbers).hexdigest()[:16])


@pytest.mark.parametrize(("name", "count"), [case for case in counted if case[0] in DECOMPOSED])
def test_golden_sum(name, count):
    a = merged(name, count)["a"].double()
    found = float((a * torch.linspace(-1, 2, 120, dtype=torch.float64).reshape(a.shape).sin()).sum())
    check(SUMS, name, count, pytest.approx(found, rel=1e-5))


def check(known, name, count, found):
    if name not in {method for method, *_ in known}:
        pytest.skip(f"{name} has no golden number yet: ({name!r}, {ALL[name]['version']}, {count}): {found!r}")
    assert known.get((name, ALL[name]["version"], count)) == found
