"""The order of magnitudes within rows: by 32-bit keys, the same as by a stable sort."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.merging import row_order
from pipeline.merging.della import della
from pipeline.merging.row_order import ascending


def rows(kind: str, count: int, columns: int, seed: int) -> torch.Tensor:
    draw = np.random.default_rng(seed).standard_normal((count, columns)).astype(np.float32)
    if kind == "bf16":  # differences of bf16 numbers: many are equal
        base = torch.from_numpy(draw).bfloat16()
        return ((base.float() * 1.01).bfloat16().float() - base.float()).abs()
    size = np.abs(draw)
    made = {
        "normal": lambda: size,
        "heavy": lambda: size**9,  # nearly all share the first steps with others
        "equal": lambda: np.full_like(draw, 0.5),
        "two": lambda: np.where(draw > 0, 1.0, np.nextafter(np.float32(1), np.float32(2))),
        "zero": lambda: np.zeros_like(draw),
        "subnormal": lambda: size * np.float32(1e-42),
        "huge": lambda: np.minimum(size, 1.5) * np.float32(2e38),
        "outlier": lambda: np.where(np.arange(columns) == columns // 2, np.float32(1e30), size),
        "falling": lambda: np.linspace(1 + 1e-4, 1, columns, dtype=np.float32) + 0 * draw,
    }[kind]
    return torch.from_numpy(made().astype(np.float32))


KINDS = ("normal", "bf16", "heavy", "equal", "two", "zero", "subnormal", "huge", "outlier", "falling")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [1, 2, 299, 300, 896, 4096, 4864, 8192, 8193])
def test_it_is_the_order_of_a_stable_sort(kind, columns):
    magnitudes = rows(kind, 5, columns, columns)
    assert torch.equal(ascending(magnitudes), magnitudes.sort(dim=1, stable=True).indices)


def test_what_shares_a_step_stays_in_its_order():
    row = torch.full((1, 400), 5.0)
    row[0, :4] = torch.tensor([0.25, np.nextafter(np.float32(0.25), np.float32(1)), 0.25, 0.25])
    assert ascending(row)[0, :4].tolist() == [0, 2, 3, 1]


@settings(max_examples=60)
@given(st.sampled_from(KINDS), st.integers(2, 600), st.integers(1, 4), st.integers(0, 1000))
def test_the_keys_that_are_half_as_wide_give_the_order_or_nothing(kind, columns, count, seed):
    magnitudes = rows(kind, count, columns, seed)
    found = row_order._by_steps(magnitudes)
    if found is not None:
        assert torch.equal(found, magnitudes.sort(dim=1, stable=True).indices)


@pytest.mark.parametrize("kind", ["normal", "bf16"])
def test_of_usual_task_vectors_the_keys_suffice(kind):
    """Otherwise each row would be sorted twice."""
    assert row_order._by_steps(rows(kind, 50, 896, 0)) is not None


@pytest.mark.parametrize("columns", [200, 896, 9000])
def test_what_is_stored_turned(columns):
    """GPT-2's matrices: rows are their first dimension."""
    magnitudes = rows("normal", 7, columns, 0)
    assert torch.equal(ascending(magnitudes.T.contiguous().T), magnitudes.sort(dim=1, stable=True).indices)


def test_a_row_whose_entries_share_a_step_is_sorted_whole():
    """Rather than swapped into order, neighbour by neighbour."""
    magnitudes = rows("normal", 70, 4096, 0)
    magnitudes[3] = torch.linspace(1e-3, 1e-4, 4096)
    magnitudes[3, 0] = 1e30
    assert row_order._by_steps(magnitudes) is None
    assert torch.equal(ascending(magnitudes), magnitudes.sort(dim=1, stable=True).indices)


@pytest.mark.parametrize("transposed", [False, True])
def test_della_ranks_the_rows_of_what_is_stored_turned(transposed):
    """With p from 0 to 1 the smallest change of each row is never kept, and the largest always."""
    change = torch.from_numpy(np.random.default_rng(0).permutation(7 * 400).astype(np.float32).reshape(7, 400) + 1)
    base = torch.zeros(7, 400)
    turn = (lambda tensor: tensor.T.contiguous()) if transposed else (lambda tensor: tensor)
    settings = {"density": 0.5, "epsilon": 0.5, "rescale": "none", "name": "w", "transposed": transposed}
    end = turn(della(turn(base), [turn(change)], **settings))
    assert torch.equal(end.amax(1), change.amax(1)) and not end.gather(1, change.argmin(1)[:, None]).any()
    assert 0.4 < (end != 0).float().mean() < 0.6
