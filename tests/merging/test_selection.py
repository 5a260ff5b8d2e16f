import numpy as np
import pytest
import torch
from hypothesis import given, strategies
from hypothesis.extra import numpy as arrays

from pipeline.merging import selection
from pipeline.merging.blocks import Stored, lazy, workers
from pipeline.merging.selection import distance, magnitude, order_statistics, thresholds

vectors = arrays.arrays(
    np.float32, strategies.integers(0, 60), elements=strategies.floats(width=32, allow_nan=False, allow_infinity=False)
)


def parts(vector, pieces):
    return [lazy(torch.tensor(part)) for part in np.array_split(vector, pieces)]


@pytest.fixture(params=["in memory", "guessed", "counted"])
def way(request, monkeypatch):
    """Every way to the same result, on small tensors."""
    if request.param != "in memory":
        monkeypatch.setattr(selection, "HELD", 0)
        monkeypatch.setattr(selection, "COUNTED", 8)
        monkeypatch.setattr(selection, "SAMPLE", 20)
    if request.param == "counted":
        monkeypatch.setattr(selection, "_guessed", lambda lists, *_: [None] * len(lists))
    return request.param


def read_by(part, times):
    """A tensor of 9,000 entries that counts how often a part of it is read."""
    flat = torch.tensor(part, dtype=torch.float32)
    return Stored(lambda start, stop: times.append((start, stop)) or flat[start:stop], flat.shape, flat.dtype)


def test_several_lists_are_read_in_one_pass(monkeypatch):
    for name, value in (("HELD", 0), ("COUNTED", 64), ("SAMPLE", 4500), ("WIDEST", 1 << 28)):
        monkeypatch.setattr(selection, name, value)
    random, times = np.random.default_rng(0), []
    base = random.standard_normal(9000)
    donors = [base + shift + scale * random.standard_normal(9000) for shift, scale in ((1, 0.1), (-3, 0.2), (0, 1e-3))]
    first = read_by(base, times)
    lists = [[distance(first, read_by(donor, []))] for donor in donors]
    monkeypatch.setattr(selection, "_counted", None)  # no guess is wrong
    for density in (0.2, 0.5, 0.9):
        expected = [
            np.sort(np.abs(np.float32(donor) - np.float32(base)))[-int(density * 9000)].astype(np.float32)
            for donor in donors
        ]
        times.clear()
        assert thresholds(lists, density) == expected
        assert len(times) == 2 * 141  # each of the blocks for the guess, and once more


def test_where_one_guess_fails_the_others_stand(monkeypatch):
    for name, value in (("HELD", 0), ("COUNTED", 64), ("SAMPLE", 4500), ("WIDEST", 1 << 26)):
        monkeypatch.setattr(selection, name, value)
    random, again = np.random.default_rng(1), []
    narrow, wide = 1 + 1e-3 * random.random(9000), np.exp(40 * random.standard_normal(9000)).clip(1e-30, 1e30)
    counted = selection._counted
    monkeypatch.setattr(selection, "_counted", lambda *given: again.append(given) or counted(*given))
    lists = [[read_by(part, [])] for part in (narrow, wide, narrow + 1)]
    found = thresholds(lists, 0.5)
    assert found == [np.sort(np.float32(part))[-4500] for part in (narrow, wide, narrow + 1)] and len(again) == 1


def test_lists_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="same shapes"):
        thresholds([[lazy(torch.zeros(3))], [lazy(torch.zeros(4))]], 0.5)


@given(vectors, strategies.floats(0, 1), strategies.integers(1, 7))
def test_the_threshold_is_the_kth_largest_magnitude(vector, density, pieces):
    (limit,) = thresholds([[magnitude(part) for part in parts(vector, pieces)]], density)
    k = int(density * len(vector))
    if density == 1:
        assert limit == 0
    elif k == 0:
        assert limit == float("inf")
    else:
        assert np.float32(limit) == np.sort(np.abs(vector))[-k]


def test_every_rank_of_signed_numbers(way):
    vector = np.array(
        [3, -0.0, 0, 1e-45, -1e-45, 2.5, -7, 3, 3.4e38, -3.4e38, 1e-20, -2.5, 9, 11, 13, 17, 19], np.float32
    )
    found = order_statistics(parts(vector, 3), lambda size, zeros: range(size), signed=True)
    assert found == np.sort(vector).tolist()


def test_every_rank_of_magnitudes_and_the_number_of_zeros(way):
    vector = np.abs(np.random.default_rng(0).standard_normal(101).astype(np.float32))
    vector[::7] = 0
    seen = []
    found = order_statistics(parts(vector, 4), lambda size, zeros: seen.append((size, zeros)) or range(size))
    assert found == np.sort(vector).tolist() and seen[-1] == (101, 15)


@pytest.mark.parametrize("scale", [1e-42, 1.0, 1e38])
def test_every_k_of_numbers_that_share_their_high_bits(scale, way):
    vector = (torch.arange(1, 40) * 1e-6 + 1) * scale
    expected = vector.abs().sort(descending=True).values
    for k in range(1, 39):
        assert thresholds([[lazy(vector.abs())]], (k + 0.5) / 39) == [float(expected[k - 1])]


@pytest.mark.parametrize("threads", [1, 3])
def test_large_tensors_of_different_sizes_as_numpy_sorts_them(threads, monkeypatch):
    monkeypatch.setattr(selection, "HELD", 0)
    random = np.random.default_rng(1)
    vectors = [random.standard_normal(n).astype(np.float32) * s for n, s in ((300_000, 1), (700_001, 1e-3), (5, 50))]
    together = np.sort(np.abs(np.concatenate(vectors)))
    with workers(threads):
        for density in (1e-6, 0.01, 0.2, 0.5, 0.999999):
            (limit,) = thresholds([[lazy(torch.tensor(vector).abs()) for vector in vectors]], density)
            k = int(density * len(together))
            assert limit == (together[-k] if k else np.inf)


def test_a_guess_that_misses_is_made_good(monkeypatch):
    """The entries that are looked at, the first of each block, are unlike the others."""
    monkeypatch.setattr(selection, "HELD", 0)
    monkeypatch.setattr(selection, "SAMPLE", 1 << 12)
    vector = torch.rand(1 << 20) + 1
    vector.reshape(-1, selection.COUNTED)[:, : 1 << 11] = 1e-3
    assert thresholds([[lazy(vector.abs())]], 0.5) == [float(vector.sort(descending=True).values[(1 << 19) - 1])]


def test_equal_entries_everywhere(monkeypatch):
    monkeypatch.setattr(selection, "HELD", 0)
    assert thresholds([[lazy(torch.full((1 << 19,), 2.5))]], 0.3) == [2.5]
    assert order_statistics([lazy(torch.zeros(1 << 19))], lambda size, zeros: [0, zeros - 1, size - 1]) == [0.0] * 3
