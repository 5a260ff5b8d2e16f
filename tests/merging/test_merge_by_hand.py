"""Small examples worked out by hand; the naive twins are held to them as well, since all else rests on the twins."""

import math
from collections import Counter

import pytest
import torch

from pipeline.merging import merge, methods
from pipeline.merging.blocks import Uniform
from pipeline.merging.nearswap import nearswap
from pipeline.merging.slerp import slerp
from tests.merging.merge_tables import exact, run

HALF, THIRD = math.sin(math.pi / 4), math.pi / 6
E1 = math.exp(-1.5)

# method, settings, weight, shares, base, donors, what comes out
HAND = [
    ("linear", {}, 0.5, None, [0.0, 2.0], [[4.0, 2.0], [8.0, 0.0]], [3.0, 1.5]),
    ("linear", {}, 0.5, [3, 1], [0.0, 2.0], [[4.0, 2.0], [8.0, 0.0]], [2.5, 1.75]),
    ("slerp", {}, 0.5, None, [2.0, 0.0], [[0.0, 1.0]], [2 * HALF, HALF]),  # lengths are kept, not normalised
    ("slerp", {}, 1 / 3, None, [2.0, 0.0], [[0.0, 1.0]], [2 * math.cos(THIRD), math.sin(THIRD)]),
    ("karcher", {}, 0.5, None, [2.0, 0.0], [[0.0, 1.0]], [1.5 * HALF, 1.5 * HALF]),
    ("karcher", {}, 1 / 3, None, [2.0, 0.0], [[0.0, 1.0]], [5 / 3 * math.cos(THIRD), 5 / 3 * math.sin(THIRD)]),
    ("karcher", {}, 2 / 3, None, [1.0, 0, 0], [[0.0, 1, 0], [0.0, 0, 1]], [3**-0.5] * 3),
    ("karcher", {}, 0.5, None, [0.0, 0.0], [[0.0, 3.0]], [0.0, 1.5]),  # no direction, but a length of 0
    ("nuslerp", {}, 0.5, None, [2.0, 0.0], [[0.0, 1.0]], [2 * HALF, HALF]),
    ("nuslerp", {}, 0.5, None, [1.0, 1.0], [[3.0, 1.0], [1.0, 2.0]], [1 + HALF, 1 + HALF / 2]),
    ("nuslerp", {}, 1.0, [2, 1], [0.0, 0.0], [[2.0, 0.0], [0.0, 1.0]], [2 * math.cos(THIRD), math.sin(THIRD)]),
    (
        "nuslerp",
        {"flatten": False},
        0.5,
        None,
        [[2.0, 0.0], [1.0, 0.0]],
        [[[0.0, 1.0], [3.0, 0.0]]],
        [[2 * HALF, HALF], [2.0, 0.0]],
    ),
    (
        "nuslerp",
        {"flatten": False, "row_wise": True},
        0.5,
        None,
        [[2.0, 1.0], [0.0, 0.0]],
        [[[0.0, 3.0], [1.0, 0.0]]],
        [[2 * HALF, 2.0], [HALF, 0.0]],
    ),
    ("multislerp", {}, 0.5, None, [2.0, 0.0], [[0.0, 1.0]], [1.5 * HALF, 1.5 * HALF]),
    ("multislerp", {}, 0.25, None, [2.0, 0.0], [[0.0, 1.0]], [1.75 * 3 / 10**0.5, 1.75 / 10**0.5]),
    ("multislerp", {}, 0.5, None, [2.0, 0.0], [[-1.0, 0.0]], [0.5, 0.0]),  # opposite: the weighted mean
    ("multislerp", {}, 0.25, None, [4.0, 0.0], [[0.0, 0.0]], [3.0, 0.0]),
    ("nearswap", {}, 0.5, None, [0.0] * 4, [[1.0, -2, 4, 0]], [1.0, -2, 2, 0]),
    ("nearswap", {}, 0.25, None, [0.0] * 4, [[1.0, -2, 4, 0]], [1.0, -1.5, 1.5, 0]),
    ("nearswap", {"mode": "absolute"}, 0.5, None, [0.0] * 4, [[1.0, -0.25, 4, 0]], [0.5, -0.25, 0.5, 0]),
    ("task_arithmetic", {}, 0.5, None, [1.0], [[2.0], [4.0]], [3.0]),
    ("task_arithmetic", {"scale": 2.0}, 0.5, [0.5, 2], [1.0], [[2.0], [4.0]], [7.5]),
    ("magmax", {}, 1.0, None, [0.0] * 3, [[1.0, -2, 3], [-1.0, 1, -4]], [-1.0, -2, -4]),
    ("magmax", {}, 0.5, [3, 1], [0.0] * 3, [[1.0, -2, 3], [-1.0, 1, -4]], [1.5, -3, 4.5]),
    ("ties", {"density": 0.25}, 1.0, None, [0.0] * 4, [[1.0, -1, 1, 0.5]], [1.0, -1, 1, 0]),  # all of equal magnitude
    ("ties", {"density": 1.0}, 1.0, None, [0.0] * 2, [[1.0, 2], [-1.0, 2]], [0.0, 2]),  # an even vote elects nothing
    ("ties", {"density": 1.0, "combine": "max"}, 1.0, None, [0.0] * 2, [[1.0, 2], [-5.0, 4], [6, 3]], [6.0, 4]),
    ("ties", {"density": 1.0, "combine": "weighted_mean"}, 1.0, [3, 1], [0.0] * 2, [[1.0, 2], [5.0, -1]], [2.0, 2]),
    (
        "breadcrumbs",
        {"density": 0.5, "gamma": 0.1},
        1.0,
        None,
        [0.0] * 10,
        [list(range(1, 11))],
        [0] * 4 + [5, 6, 7, 8, 9, 0],
    ),
    (
        "breadcrumbs",
        {"density": 0.5, "gamma": 0.6},
        1.0,
        None,
        [0.0] * 10,
        [list(range(1, 11))],
        [1, 2, 3, 4] + [0] * 6,
    ),
    ("breadcrumbs", {"density": 0.25, "gamma": 0.25}, 1.0, None, [0.0] * 4, [[1.0, 2, -2, 3]], [0.0, 2, -2, 0]),
    ("breadcrumbs", {"density": 0.25, "gamma": 0.25}, 1.0, None, [0.0] * 4, [[1.0, 3, -3, 2]], [0.0, 3, -3, 0]),
    ("breadcrumbs", {"density": 1.0, "gamma": 0.5}, 1.0, None, [0.0] * 4, [[1.0, 3, -3, 2]], [1.0, 3, -3, 2]),
    ("breadcrumbs", {"density": 0.5, "gamma": 0.0}, 1.0, None, [0.0] * 4, [[1.0, 3, -4, 2]], [0.0, 3, -4, 0]),
    # |tau| scaled to [0, 1/2, 1] squared in the exponent; the smallest score has no weight
    ("pcb", {"ratio": 1.0, "clamp": 0.0}, 1.0, None, [0.0] * 3, [[1.0, 2, -3]], [0.0, 2, -3]),
    (
        "pcb",
        {"ratio": 1.0, "clamp": 0.0},
        1.0,
        None,
        [0.0] * 3,
        [[1.0, 0, 2], [3.0, -1, 0]],
        [(E1 + 3) / (E1 + 1), -1.0, 2.0],  # exp(2/4) tanh(4) of exp(2) tanh(4), and exp(2) tanh(12) of itself
    ),
    ("sce", {"density": 1.0, "vote": "none"}, 1.0, None, [0.0] * 3, [[1.0, 0, 2], [3.0, 0, -1]], [7 / 3, 0.0, 0.0]),
    ("sce", {"density": 1.0, "vote": "plain"}, 1.0, None, [0.0] * 3, [[1.0, 0, 2], [3.0, 0, -1]], [7 / 3, 0.0, 2.0]),
    ("sce", {"density": 0.5, "vote": "none"}, 1.0, None, [0.0] * 3, [[1.0, 0, 2], [3.0, 0, -1]], [0.0, 0.0, 1.4]),
    ("sce", {"density": 0.5, "vote": "plain"}, 1.0, None, [0.0] * 3, [[1.0, 0, 2], [3.0, 0, -1]], [0.0, 0.0, 2.0]),
    ("model_stock", {}, None, None, [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]),
    (
        "model_stock",
        {},
        None,
        None,
        [0.0, 0.0],
        [[1.0, 0.0], [1.0, 1.0]],
        [2 * HALF / (1 + HALF), HALF / (1 + HALF)],
    ),
    (
        "model_stock",
        {"angle": "angle"},
        None,
        None,
        [0.0, 0.0],
        [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]],  # 0, 90 and 90 degrees: 60 on average; their cosines are 1/3 on average
        [1.5 / 2 * 2 / 3, 1.5 / 2 / 3],
    ),
    ("model_stock", {}, None, None, [0.0, 0.0], [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [1 / (5 / 3) * 2 / 3, 0.2]),
    ("model_stock", {}, None, None, [0.0, 0.0], [[1.0, 1.0], [-1.0, 0.0]], [0.0, 0.0]),  # clamped at the base
    ("model_stock", {}, None, [3, 1], [0.0, 0.0], [[1.0, 0.0], [2.0, 0.0]], [1.25, 0.0]),
    ("arcee_fusion", {}, None, None, [0.0] * 5, [[1.0, 2, 3, 4, 10]], [0.0, 0, 0, 0, 10]),  # 3 + 1.5 (4 - 2) = 6
    ("arcee_fusion", {}, None, None, [0.0] * 5, [[0.0, 0, 0, 0, 1]], [0.0, 0, 0, 0, 1]),  # a threshold of 0
]


def model(numbers):
    return {"w": torch.tensor(numbers, dtype=torch.float32)}


@pytest.mark.parametrize(("name", "chosen", "weight", "shares", "base", "donors", "expected"), HAND, ids=str)
def test_by_hand(name, chosen, weight, shares, base, donors, expected):
    base, donors, expected = model(base), [model(donor) for donor in donors], model(expected)["w"]
    if name not in methods():
        pytest.skip(f"{name} is not there yet")
    twin = torch.tensor(exact(name, base, donors, weight, shares, **chosen)["w"])
    assert torch.allclose(twin, expected.double(), atol=1e-6), f"the twin: {twin}"
    merged = run(name, base, donors, weight, shares, **chosen)["w"]
    assert torch.allclose(merged, expected, atol=2e-6), f"the method: {merged}"


@pytest.mark.parametrize(
    ("x", "y", "expected", "reason"),
    [
        ([1.0, 2.0], [2.0, 4.0], [1.25, 2.5], "nearly parallel"),
        ([1.0, 2.0], [-1.0, -2.0], [0.5, 1.0], "nearly opposite"),
        ([3.0], [5.0], [3.5], "nearly parallel"),
        (3.0, -5.0, 1.0, "nearly opposite"),
        ([0.0, 0.0], [4.0, 0.0], [4 * math.sin(math.pi / 8), 0.0], "90 degrees"),
        ([4.0, 0.0], [0.0, 0.0], [4 * math.sin(3 * math.pi / 8), 0.0], "90 degrees"),
        ([0.0, 0.0], [0.0, 0.0], [0.0, 0.0], "90 degrees"),
    ],
)
def test_slerp_where_its_definition_degenerates(x, y, expected, reason):
    notes = Counter()
    merged = slerp(torch.tensor(x), [torch.tensor(y)], weight=0.25, notes=notes)
    assert torch.allclose(merged, torch.tensor(expected))
    assert len(notes) == 1 and reason in next(iter(notes))


def test_ties_by_hand():
    base = model([10.0] * 6)
    donors = [model([14.0, 7, 12, 11, 10, 15]), model([12.0, 15, 8, 9, 10, 10.5])]

    def ties(weight=1.0, shares=None, **chosen):
        return merge(base, donors, "ties", weight, shares, density=0.5, **chosen)["w"].tolist()

    # density 1/2 keeps three entries of each, and every entry that equals the third: [4 -3 0 0 0 5] and [2 5 -2 0 0 0]
    assert ties(trim="tensor") == [13, 15, 8, 10, 10, 15]
    assert ties(combine="sum") == [16, 15, 8, 10, 10, 15]
    assert ties(0.5, scale=2.0) == [13, 15, 8, 10, 10, 15]
    # shares multiply; only a weighted vote heeds them: 0.9 * -3 + 0.1 * 5 < 0
    assert ties(shares=[0.9, 0.1], combine="sum") == pytest.approx([13.8, 10.5, 9.8, 10, 10, 14.5])
    weighted = ties(shares=[0.9, 0.1], combine="sum", vote="weighted")
    assert weighted == pytest.approx([13.8, 7.3, 9.8, 10, 10, 14.5])


def test_ties_trims_over_the_model_or_over_each_tensor():
    base = {"large": torch.zeros(2), "small": torch.zeros(2)}
    donor = {"large": torch.tensor([5.0, 4]), "small": torch.tensor([1.0, 2])}
    assert [t.tolist() for t in merge(base, [donor], "ties", 1.0, density=0.5).values()] == [[5, 4], [0, 0]]
    by_tensor = merge(base, [donor], "ties", 1.0, density=0.5, trim="tensor")
    assert [tensor.tolist() for tensor in by_tensor.values()] == [[5, 0], [0, 2]]


def test_della_keeps_nothing_of_probability_0():
    base, donor = {"w": torch.zeros(4, 8)}, {"w": torch.randn(4, 8, generator=torch.Generator().manual_seed(0))}
    for dense in (0.15, 0.5):
        merged = merge(base, [donor], "della", 1.0, density=dense, epsilon=dense)["w"]
        assert merged.isfinite().all()
        assert (merged.gather(1, donor["w"].abs().argmin(1, keepdim=True)) == 0).all()


@pytest.mark.parametrize("density", [0.3, 0.6, 0.7, 0.9])
def test_dare_leaves_an_even_vote_even(density):
    base = {"w": torch.zeros(4096)}
    donors = [{"w": torch.full((4096,), value)} for value in (1.0, 2.0, -3.0)]
    merged = merge(base, donors, "dare", 1.0, density=density, vote="plain", combine="mean")["w"]
    all_kept = sum(
        (Uniform((0, "dare", "w", i), (4096,)).read(0, 4096, torch.float32) < density).int() for i in range(3)
    )
    assert (all_kept == 3).any() and (merged[all_kept == 3] == 0).all()


@pytest.mark.parametrize(("mixup", "draw"), [(0.1, 55), (0.01, 3), (0.05, 7)])
def test_m3_counts_a_vector_that_stands_alone_in_full(mixup, draw):
    base = {"w": torch.zeros(3)}
    donors = [{"w": torch.tensor([1.0, 0, 2])}, {"w": torch.tensor([0.0, 3, 2])}]
    for name in ("ties", "dare"):
        more = {} if name == "ties" else {"vote": "plain"}
        assert merge(base, donors, name, 1.0, density=1.0, mixup=mixup, draw=draw, **more)["w"].tolist() == [1, 3, 2]


@pytest.mark.parametrize("start, stop", [(0, 1), (1, 4), (65_535, 65_537), (65_536, 65_537), (70_001, 140_003)])
def test_uniform_numbers_are_the_same_in_any_piece(start, stop):
    numbers = Uniform((0, "dare", "w", 0), (150_000,))
    assert torch.equal(numbers.read(start, stop, torch.float32), numbers.read(0, 150_000, torch.float32)[start:stop])


def test_nearswap_whose_threshold_saturates_gives_the_donor_to_the_bit():
    base, donor = torch.tensor([1.0, -0.0, 0.0, 3.0]), torch.tensor([1.5, 0.0, -0.0, 3.0])
    most = nearswap(base, [donor], weight=0.5, mode="absolute")
    assert torch.equal(most.view(torch.int32), donor.view(torch.int32))
    below = nearswap(base, [donor], weight=0.49, mode="absolute")
    assert below.tolist() == [pytest.approx(1.49), 0, 0, 3] and torch.equal(
        below[1:].view(torch.int32), donor[1:].view(torch.int32)
    )
