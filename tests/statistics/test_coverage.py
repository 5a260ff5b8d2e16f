"""A short run of bench/interval_coverage.py: intervals hold the truth, and Holm keeps false alarms rare."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

RUNS = 80
OFF = 3.5 * np.sqrt(0.05 * 0.95 / RUNS)  # what a simulation of so few can be off by


@pytest.fixture(scope="module")
def coverage():
    path = Path(__file__).parents[2] / "bench" / "interval_coverage.py"
    spec = importlib.util.spec_from_file_location("coverage", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.RESAMPLES = 300
    return module


@pytest.mark.parametrize("kind", ["two components (BBQ)", "mean over terms (StereoSet)", "share (HONEST)"])
def test_intervals_of_bias_hold_the_truth(coverage, kind):
    levels = coverage.SHARES if kind.startswith("share") else coverage.LEVELS
    for held in coverage.bias_coverage(kind, levels["moderate"], 300, 60, RUNS).values():
        assert held == pytest.approx(0.95, abs=OFF)


def test_false_alarms_after_holm(coverage):
    rates = coverage.false_alarms("one component (CrowS-Pairs)", 100, 30, RUNS // 2)
    assert rates["Holm"] <= 0.05 + OFF and rates["uncorrected"] > rates["Holm"]


def test_the_simulated_truth_is_the_truth(coverage):
    """P(stereotype) over templates and items is what it is said to be, whatever the templates' spread."""
    random = np.random.default_rng(0)
    said = np.mean([coverage.answers(random, 300, 100, [0.15, 0.6])[1].mean(axis=1) for _ in range(300)], axis=0)
    assert said == pytest.approx([0.15, 0.6], abs=0.01)
    (base,) = coverage.marks("two components (BBQ)", random, 90_000, 30_000, [0.7])
    kind, truth = coverage.KINDS["two components (BBQ)"]
    sums = base[list(kind.COUNTS)].sum().to_numpy()
    assert kind.components(sums).mean() == pytest.approx(truth(0.7), abs=0.02)


def test_the_readme_section_is_replaced_and_the_rest_stays(coverage, tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text("# Benchmarks\n\n<!-- make bench-merge -->\n## Merging\n\nkept\n")
    monkeypatch.setattr(coverage, "README", readme)
    for number in ("95.1", "94.2"):
        coverage._write([(["what", "bias"], [["one", number]])], [], 1000, 60)
    text = readme.read_text()
    assert text.count("## Intervals and tests") == 1 and "kept" in text and "94.2" in text and "95.1" not in text
