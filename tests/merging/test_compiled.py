"""The compiled loops against the same by tensor calls, which tensors that are not contiguous (and a GPU's) take: bit for bit."""

import errno
import hashlib
import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.merging import blocks, compiled, dare, della, diagnose, line, task_vectors
from pipeline.merging.blocks import Uniform, arrays, dot
from pipeline.merging.compiled import loop as loops
from pipeline.merging.row_order import ascending

SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1e-39, 0.5, 2**-24, 3e38, -3e38]
LENGTHS = [0, 1, 63, 64, 65, 1023, 1024, 1025, 5000]
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def numbers(count: int, length: int, dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    """Neighbours of each other, with special numbers and equal entries strewn in."""
    random = np.random.default_rng(seed)
    first = random.standard_normal(length)
    made = [first + 0.1 * random.standard_normal(length) * (random.random(length) < 0.7) for _ in range(count)]
    for each in made:
        here = random.random(length) < 0.1
        each[here] = random.choice(SPECIAL[:9], int(here.sum()))
    return [torch.from_numpy(each).to(dtype) for each in made]


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """The same entries, every second one of a wider tensor."""
    wide = torch.zeros(2 * tensor.numel(), dtype=tensor.dtype)
    wide[::2] = tensor
    return wide[::2]


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    word = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return one.dtype == other.dtype and torch.equal(one.contiguous().view(word), other.contiguous().view(word))


def by_calls(function, *tensors):
    """What the tensor calls give."""
    turned = [strided(tensor) for tensor in tensors]
    assert all(tensor.numel() < 2 or arrays(tensor) is None for tensor in turned)
    return function(*turned)


ONE_BY_ONE = {
    "line": lambda x, y, _: line.line(x, y, 0.3),
    "line from the other end": lambda x, y, _: line.line(x, y, 0.7),
    "away": lambda x, y, z: line.away(x, y, z, 1.7),
    "away, zeros lifted": lambda x, y, z: line.away(x, y, z, -1.7, lift=True),
    "blend": lambda x, y, _: line.blend(x, 0.3, y, -1.1),
    "stepped": lambda x, y, _: task_vectors.stepped(x, y),
    "stepped by a factor": lambda x, y, _: task_vectors.stepped(x, y, 1 / 0.3),
    "trimmed": lambda x, y, _: task_vectors.trimmed(x, y, 0.1),
    "trimmed, all": lambda x, y, _: task_vectors.trimmed(x, y, 0.0),
    "trimmed, none": lambda x, y, _: task_vectors.trimmed(x, y, math.inf),
    "masked": lambda x, y, z: dare._masked(x, y, z.abs(), 0.3),
    "masked, none kept": lambda x, y, z: dare._masked(x, y, z.abs(), 0.0),
}


@dtypes
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_one_entry_at_a_time(name, length, dtype):
    tensors = numbers(3, length, dtype)
    assert same(ONE_BY_ONE[name](*tensors), by_calls(ONE_BY_ONE[name], *tensors))


@dtypes
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("shares", [[1.0, 1.0, 1.0], [0.3, 2.0, 0.7], [0.0, 1.0, 1e-3]], ids=str)
@pytest.mark.parametrize(
    ("vote", "combine"), list(itertools.product(task_vectors.VOTES, task_vectors.COMBINE)), ids=lambda word: word
)
def test_one_task_vector_out_of_several(vote, combine, shares, count, dtype):
    vectors = numbers(count, 3000, dtype)
    vectors[1][:50] = -vectors[0][:50]  # even votes

    base = numbers(1, 3000, dtype, 1)[0]
    for factor in (1.0, 1 / 0.3):

        def merged(base, *vectors, factor=factor):
            return task_vectors.voted(base, vectors, shares[:count], vote, combine, factor)

        assert same(merged(base, *vectors), by_calls(merged, base, *vectors))


@dtypes
@pytest.mark.parametrize("limits", [[0.0, 0.0, 0.0], [0.1, 0.05, math.inf]], ids=str)
@pytest.mark.parametrize(("vote", "combine"), [("plain", "mean"), ("weighted", "sum"), ("none", "max")])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_trimmed_and_elected_at_once(count, vote, combine, limits, dtype):
    (base, *donors), limits, shares = numbers(count + 1, 3000, dtype), limits[:count], [0.5, 1.0, 2.0][:count]

    def merged(base, *donors):
        return task_vectors.elected(base, donors, limits, shares, vote, combine)

    vectors = [task_vectors.trimmed(base, donor, limit) for donor, limit in zip(donors, limits, strict=True)]
    assert same(merged(base, *donors), by_calls(merged, base, *donors))
    assert same(merged(base, *donors), task_vectors.moved(base, donors, vectors, shares, vote, combine))


WITH_HALVES = ONE_BY_ONE | {
    "difference": lambda x, y, _: blocks.difference(x, y),
    "dot": lambda x, y, _: torch.tensor([blocks.dot(x, y)], dtype=torch.float64),
    "voted": lambda x, y, z: task_vectors.voted(x, [y.float(), z.float()], [1.0, 0.5], "weighted", "mean"),
    "elected": lambda x, y, z: task_vectors.elected(x, [y, z], [0.1, 0.2], [1.0, 0.5], "plain", "mean"),
    "elected, one donor": lambda x, y, _: task_vectors.elected(x, [y], [0.1], [1.0], "none", "sum"),
    "mean": lambda x, y, z: line.mean([x, y, z], [0.5, 1.0, 2.0]),
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", WITH_HALVES)
def test_what_is_stored_in_16_bits_is_read_as_what_it_stands_for(name, length):
    halves = [tensor.bfloat16() for tensor in numbers(3, length, torch.float32)]
    wide, function = [half.float() for half in halves], WITH_HALVES[name]
    for some in itertools.product(*zip(halves, wide, strict=True)):
        assert same(function(*some), function(*wide)), [each.dtype for each in some]
    assert same(by_calls(function, *halves), function(*wide))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_products_of_all_pairs(count, length, dtype):
    origin, *tensors = (tensor.to(dtype) for tensor in numbers(count + 1, length, torch.float64))
    tensors = [tensor.clamp(-10, 10) for tensor in tensors]
    for away in (None, origin.clamp(-10, 10)):
        found = blocks.gram(tensors, away)
        for i, j in itertools.product(range(count), repeat=2):
            x, y = tensors[i], tensors[j]
            wide = torch.float32 if dtype == torch.bfloat16 else torch.float64
            if away is not None:
                x, y = x.to(wide) - away.to(wide), y.to(wide) - away.to(wide)
            assert found[i, j] == dot(x.contiguous(), y.contiguous()) == dot(strided(x), strided(y))
        turned = strided(tensors[0])
        assert found[0, 0] == blocks.gram([turned, *tensors[1:]], away)[0, 0]


AT_THE_EDGE = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8, 1e-40, 9.2e-41, 4.6e-41, -1e-45, -0.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shares", [None, [1.0, 0.0, 3.0], [0.1, 5.0, 0.2]], ids=str)
@pytest.mark.parametrize("length", [0, 9, 64, 1025, 3000])
def test_a_block_is_rounded_and_measured(length, shares, dtype):
    base, *donors, merged = numbers(5, length, torch.float32)
    if length:
        merged[:9] = torch.tensor(AT_THE_EDGE)
    base, *donors = (each.to(dtype).float() if dtype == torch.float16 else each.to(dtype) for each in (base, *donors))
    stored, sums = diagnose.rounded(base, donors, merged, dtype, shares)
    assert same(stored, merged.to(dtype))
    turned = [strided(each) for each in (base, *donors, merged)]
    _, expected = diagnose.rounded(turned[0], turned[1:-1], turned[-1], dtype, shares)
    assert sums == expected and all(map(math.isfinite, sums))
    for none in (None, []):
        _, alone = diagnose.rounded(base, [], merged, dtype, none)
        assert (alone.dd, alone.base, alone.merged) == (0, sums.base, sums.merged)


@pytest.mark.parametrize("number", [3.3895e38, 3.3961e38, 3.4e38, -3.4e38, math.inf])
def test_what_is_beyond_the_dtype_is_infinite(number):
    merged, zeros = torch.full((70,), number), torch.zeros(70, dtype=torch.bfloat16)
    stored, sums = diagnose.rounded(zeros, [zeros], merged, torch.bfloat16)
    assert same(stored, merged.bfloat16()) and math.isfinite(sums.merged) == bool(stored.isfinite().all())


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0xFF800001])
def test_no_nan_is_rounded_to_a_number(bits):
    merged = torch.from_numpy(np.full(5, bits, np.uint32).view(np.float32))
    zeros = torch.zeros(5, dtype=torch.bfloat16)
    stored, sums = diagnose.rounded(zeros, [zeros], merged, torch.bfloat16)
    assert stored.isnan().all() and math.isnan(sums.merged)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(*[st.sampled_from(SPECIAL) | st.floats(-1e3, 1e3, width=32)] * 3), min_size=1, max_size=200),
    st.floats(0, 1),
)
def test_any_numbers(rows, t):
    tensors = [torch.tensor(column) for column in zip(*rows, strict=True)]
    for function in (
        lambda x, y, z: line.line(x, y, t),
        lambda x, y, z: line.away(x, y, z, t),
        lambda base, *vectors: task_vectors.voted(base, vectors, [1.0, t], "plain", "mean"),
    ):
        one, other = function(*tensors), by_calls(function, *tensors)
        finite = other.isfinite()
        assert torch.equal(one.isfinite(), finite) and same(one[finite], other[finite])


NOT_LOOKED_AT = {  # operands that a function takes, but not their values
    "line": {2},
    "line from the other end": {2},
    "blend": {2},
    "stepped": {2},
    "stepped by a factor": {2},
    "trimmed": {2},
    "trimmed, all": {2},
    "trimmed, none": {2},
    "masked": {2},
    "masked, none kept": {2},
}


@pytest.mark.parametrize("place", range(3))
def test_nan_is_passed_on(place):
    tensors = [torch.full((5,), 0.25 * (i + 1)) for i in range(3)]
    tensors[place][3] = math.nan
    spoilt = [False] * 3 + [True, False]
    for name, function in ONE_BY_ONE.items():
        if place not in NOT_LOOKED_AT.get(name, ()):
            assert function(*tensors).isnan().tolist() == spoilt, name
    for vote, combine in itertools.product(task_vectors.VOTES, task_vectors.COMBINE):
        for some in (tensors, [strided(tensor) for tensor in tensors]):
            merged = task_vectors.voted(some[0], some[1:], [1.0, 1.0], vote, combine)
            assert merged.isnan().tolist() == spoilt, (vote, combine)
    assert any(map(math.isnan, diagnose.rounded(tensors[0], tensors[1:2], tensors[2], tensors[2].dtype)[1]))


def test_the_vote_is_by_the_shares_as_given():
    """0.1 + 0.2 is not 0.3 in floats, and 1/3 + 2/3 is 1."""
    base, ones = torch.zeros(1), torch.ones(1)
    for combine in task_vectors.COMBINE:
        merged = task_vectors.voted(base, [ones, ones, -ones], [0.1, 0.2, 0.3], "weighted", combine)
        assert merged.item() > 0, combine


@pytest.mark.parametrize("share", [0.1, 0.3, 1 / 3, 0.7])
def test_two_of_one_share_are_even_only_where_they_are(share):
    x = torch.rand(64, dtype=torch.float64) + 1
    y = -torch.nextafter(x, torch.zeros_like(x))
    assert (task_vectors.voted(torch.zeros_like(x), [x, y], [share, share], "weighted", "mean") > 0).all()


def test_what_is_not_as_long_has_no_product():
    with pytest.raises(ValueError, match="4 and 3"):
        dot(torch.ones(4), torch.ones(3))


@dtypes
@pytest.mark.parametrize("length", LENGTHS)
def test_sums_are_those_of_float64(length, dtype):
    x, y, z = (each.clamp(-10, 10) for each in numbers(3, length, dtype))
    d, m = (y - x).double(), (z - x).double()
    wide = x.double(), z.double()
    for found, (a, b) in zip(
        diagnose.rounded(x, [y], z, dtype)[1], ((d, d), (d, m), (m, m), (wide[0],) * 2, (wide[1],) * 2), strict=True
    ):
        exact = math.fsum((a * b).tolist())
        assert found == pytest.approx(exact, rel=1e-13, abs=1e-13)
    assert dot(x, z) == pytest.approx(math.fsum((wide[0] * wide[1]).tolist()), rel=1e-13, abs=1e-13)
    assert dot(strided(x), strided(z)) == dot(x, z)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 2**21), st.integers(0, 70), st.integers(0, 1000))
def test_keys_are_counted(low, width, size, seed):
    random = np.random.default_rng(seed)
    near = np.clip(low + random.integers(-(2**22), 2**22, size), 0, 2**32 - 1)
    keys = np.where(random.random(size) < 0.5, near, random.integers(0, 2**32, size)).astype(np.uint32)
    width = min(width, 2**32 - low)
    offsets = np.empty(size, np.uint32)
    zero = keys[0] if size and seed % 2 else np.uint32(0)
    zeros, below, inside = compiled.counted(keys, zero, np.uint32(low), np.uint32(width), offsets)
    wanted = keys[(keys >= low) & (keys.astype(np.int64) < low + width)]
    assert below == (keys < low).sum() and (offsets[:inside] == wanted - np.uint32(low)).all()
    assert inside == len(wanted) and zeros == (keys == zero).sum()


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=5), st.integers(0, 10), st.integers(0, 3 * Uniform.SEGMENT), st.integers(0, 300))
def test_random_numbers_are_those_of_numpys_generator(word, draw, start, size):
    numbers = Uniform((draw, word), [4 * Uniform.SEGMENT])
    digest = hashlib.sha256(f"{draw}/{word}".encode()).digest()
    expected = []
    for place in range(start, start + size):
        number, at = divmod(place, Uniform.SEGMENT)
        if at == 0 or not expected:
            seed = np.random.SeedSequence([*np.frombuffer(digest, "<u4").tolist(), number])
            bits = np.random.SFC64(seed).random_raw(Uniform.SEGMENT // 2).astype("<u8").view("<u4")
        expected.append(np.float32(int(bits[at]) >> 8) * np.float32(2**-24))
    assert numbers.read(start, start + size, torch.float32).tolist() == expected


@dtypes
@pytest.mark.parametrize("rescale", ["inverse_prob", "none"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (4, 500)], ids=str)
def test_pruned_by_rank(shape, rescale, dtype):
    tau, uniform = (each.reshape(shape) for each in numbers(2, math.prod(shape), dtype))
    uniform = uniform.abs() % 1
    by_rank = torch.linspace(0, 0.8, shape[1], dtype=dtype)
    order = ascending(tau.abs().float())
    out = torch.empty_like(tau)
    least = tau.numpy().dtype.type(della.LEAST)
    given = (each.numpy() for each in (tau, uniform, order, by_rank))
    compiled.pruned(*given, least, rescale == "inverse_prob", out.numpy())
    assert same(out, della._scattered(tau, uniform, order, by_rank, rescale))


def doubled(x):
    return x.sum() * 2


NUMBERS = [np.arange(3, dtype=np.float32), np.arange(3, dtype=np.float64)]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Where loops are kept; a call of the other is what a new process does."""
    monkeypatch.setattr(loops, "PLACES", (tmp_path,))
    loops._folder.cache_clear()

    def process():
        compiled = loops.loop(doubled)
        assert [compiled(numbers) for numbers in NUMBERS] == [6, 6]
        return sum(compiled.stats.cache_hits.values())

    yield tmp_path, process
    loops._folder.cache_clear()


def files(folder: Path, ending: str) -> list[Path]:
    return sorted(path for path in folder.rglob(f"*{ending}") if path.is_file())


def test_a_loop_is_compiled_once(kept):
    _, process = kept
    assert [process() for _ in range(2)] == [0, 2]


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
@pytest.mark.parametrize("rest", [0, 10])
def test_a_damaged_file_is_made_anew(ending, rest, kept):
    folder, process = kept
    process()
    for file in files(folder, ending):
        os.truncate(file, rest)
    assert process() == 0
    assert ending == ".nbi" or process() == 2


def test_what_stands_under_another_number_is_not_taken(kept):
    """As two processes left it that wrote at once."""
    folder, process = kept
    process()
    one, two = files(folder, ".nbc")
    one.rename(folder / "aside"), two.rename(one), (folder / "aside").rename(two)
    assert process() == 0


def test_other_sources_have_another_folder(kept, monkeypatch):
    folder, process = kept
    process()
    monkeypatch.setattr(loops.numba, "__version__", "0.0")
    loops._folder.cache_clear()
    assert process() == 0 and len(list(folder.iterdir())) == 2


def test_where_there_is_no_room_it_is_compiled(kept, monkeypatch):
    _, process = kept

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_data", full)
    assert [process() for _ in range(2)] == [0, 0]


def test_where_nothing_can_be_written_it_is_compiled(kept, monkeypatch):
    folder, process = kept
    (folder / "file").touch()
    monkeypatch.setattr(loops, "PLACES", (folder / "file",))
    loops._folder.cache_clear()
    assert loops._folder() is None and [process() for _ in range(2)] == [0, 0]
