"""M3: a draw is a split of one, kept by its number, and nothing else changes with it."""

import pytest
import torch
from hypothesis import given, strategies

from pipeline.errors import ConfigError
from pipeline.merging import merge
from pipeline.merging.mixup import mixed
from tests.merging.merge_cases import MIXED
from tests.merging.merge_tables import declared

NAMES = sorted({name for name, _ in MIXED})
alphas = strategies.floats(0.01, 100)
draws = strategies.integers(0, 10**6)


def parents(count=2):
    generator = torch.Generator().manual_seed(5)
    base, *donors = ({"w": torch.randn(6, 5, generator=generator)} for _ in range(count + 1))
    return base, donors


@given(alphas, draws, strategies.integers(2, 6))
def test_shares_split_one(alpha, draw, count):
    shares = mixed(None, alpha, draw, count)
    assert len(shares) == count and all(0 <= share <= 1 for share in shares)
    assert sum(shares) == pytest.approx(1, abs=1e-12)
    assert shares == mixed(None, alpha, draw, count)


@given(draws, alphas, alphas)
def test_a_larger_alpha_draws_nearer_to_the_half(draw, one, other):
    distances = [abs(mixed(None, alpha, draw, 2)[0] - 0.5) for alpha in sorted((one, other))]
    assert distances[0] >= distances[1] - 1e-12


@pytest.mark.parametrize(("alpha", "count"), [(0.5, 2), (1.0, 2), (3.0, 2), (0.5, 3), (2.0, 4)])
def test_the_draws_have_the_mean_and_the_variance_of_the_distribution(alpha, count):
    first = torch.tensor([mixed(None, alpha, draw, count)[0] for draw in range(2000)], dtype=torch.float64)
    mean, variance = 1 / count, (count - 1) / count**2 / (count * alpha + 1)
    assert first.mean().item() == pytest.approx(mean, abs=5 * (variance / 2000) ** 0.5)
    assert first.var().item() == pytest.approx(variance, rel=0.2)


def test_no_mixup_leaves_the_shares():
    assert mixed([0.2, 0.3], None, 0, 2) == [0.2, 0.3] and mixed(None, None, 0, 2) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_merge_with_mixup_is_the_merge_with_the_shares_it_draws(name):
    base, donors = parents()
    how = {"vote": "plain", "combine": "weighted_mean"} if name == "ties" else {}
    for draw in range(3):
        drawn = merge(base, donors, name, 0.7, mixup=0.5, draw=draw)["w"]
        given_ = {**how, **({"draw": draw} if name == "dare" else {})}
        assert torch.equal(drawn, merge(base, donors, name, 0.7, mixed(None, 0.5, draw, 2), **given_)["w"])


@pytest.mark.parametrize("name", NAMES)
def test_the_draw_decides_and_repeats(name):
    base, donors = parents()
    first, again, other = (merge(base, donors, name, 0.7, mixup=0.5, draw=draw)["w"] for draw in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_linear_and_task_arithmetic_are_the_same_at_weight_1():
    base, donors = parents()
    one, other = (merge(base, donors, name, 1.0, mixup=0.5, draw=2)["w"] for name in ("linear", "task_arithmetic"))
    assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_one_donor_or_shares_beside_a_draw_are_refused(name):
    base, donors = parents()
    with pytest.raises(ConfigError, match="at least 2 donors"):
        merge(base, donors[:1], name, 0.5, mixup=0.5)
    with pytest.raises(ConfigError, match=r"donor\.shares"):
        merge(base, donors, name, 0.5, [0.5, 0.5], mixup=0.5)
    with pytest.raises(ConfigError, match=r"merge\.mixup"):
        merge(base, donors, name, 0.5, mixup=0.0)


def test_the_yamls_that_mix():
    assert sorted(name for name, unit in declared().items() if "mixup" in unit) == NAMES
