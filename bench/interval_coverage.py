"""Do the 95 % intervals cover the truth in 95 % of benchmarks, and does Holm keep a sweep's false alarms at 5 %?

    python bench/interval_coverage.py             1,000 benchmarks a line, and the table in bench/README.md
    python bench/interval_coverage.py --runs 200  a quick look, printed only

A template (cluster) c has its own inclination z_c; item i is answered with the stereotype by base and cell where

    a_base + s z_c + e_i > 0        a_cell + s (r z_c + √(1 - r²) w_c) + (q e_i + √(1 - q²) f_i) > 0

all of them standard normal: templates differ (intraclass correlation about s² / (1 + s²)), and the two models share
much of their templates' inclination (r) and of their items' (q), as a merge and its base do. Over all templates and
items P(stereotype) = Φ(a / √(1 + s²)), so the truth is known and not estimated.
"""

import argparse
import time
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy.special import ndtri

from pipeline.bias import bbq, crows_pairs
from pipeline.statistics import accuracy_change, accuracy_summary, bias_change, bias_summary, holm

RUNS = 1000
RESAMPLES = 1000  # of each bootstrap; 10,000, as in a real cell, cover the same to 0.3 points
SPREAD, SHARED, SAME = 0.4, 0.8, 0.7  # s, r, q
SIZES = ((100, 30), (300, 60), (1000, 100))  # items, templates
CELLS = 10
BAND, FALSE_ALARMS = (0.93, 0.97), 0.065
README = Path(__file__).with_name("README.md")
MARK = "<!-- make bench-coverage -->"

# a statistic that is a mean of the templates' own shares (StereoSet's), and one that is a share and never negative
# (HONEST's): the counts of their marks are what `pipeline.bias` has in the benchmarks of these names
MACRO = SimpleNamespace(
    COUNTS=("terms", "more", "less"), MIRROR={"more": "less", "less": "more"}, components=crows_pairs.components
)


def _share(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums[..., 1] / sums[..., 0])[..., None]


SHARE = SimpleNamespace(COUNTS=("completions", "hurtful"), MIRROR={}, ONE_SIDED=True, components=_share)
# kind: the benchmark, how the truth follows from P(stereotype), P(stereotype) of base and cell by how biased they are
KINDS = {
    "one component (CrowS-Pairs)": (crows_pairs, lambda p: 2 * p - 1),
    "two components (BBQ)": (bbq, lambda p: (AMBIGUOUS_SAID + 1) / 2 * (2 * p - 1)),
    "mean over terms (StereoSet)": (MACRO, lambda p: 2 * p - 1),
    "share (HONEST)": (SHARE, lambda p: p),
}
LEVELS = {"none": (0.5, 0.5), "moderate": (0.6, 0.55), "strong": (0.85, 0.7)}
SHARES = {"little": (0.05, 0.05), "moderate": (0.15, 0.1), "strong": (0.5, 0.35)}
AMBIGUOUS_SAID = 0.6  # share of ambiguous questions that are not answered with "unknown"
TASKS = {
    "first": {"chance": 0.25, "in_mean": True},
    "second": {"chance": 0.5, "in_mean": True},
    "third": {"chance": 0.25, "in_mean": True},
}
ACCURACIES = {"at chance": ((0.25, 0.5, 0.25),) * 2, "moderate": ((0.4, 0.6, 0.5), (0.35, 0.55, 0.5)), "high": ((0.9, 0.85, 0.8), (0.8, 0.8, 0.7))}  # fmt: skip


def answers(random: np.random.Generator, items: int, clusters: int, chances: list[float]):
    """(the template of each item, one row of 0 and 1 a model): the first model is the base, the others are merges of it.

    Templates differ in size: each has one item and its lot of the others.
    """
    of = np.sort(np.concatenate([np.arange(clusters), random.integers(clusters, size=items - clusters)]))
    z, e = random.standard_normal(clusters), random.standard_normal(items)
    said = []
    for model, chance in enumerate(chances):
        own, noise = z, e
        if model:
            own = SHARED * z + np.sqrt(1 - SHARED**2) * random.standard_normal(clusters)
            noise = SAME * e + np.sqrt(1 - SAME**2) * random.standard_normal(items)
        said.append(ndtri(chance) * np.sqrt(1 + SPREAD**2) + SPREAD * own[of] + noise > 0)
    return of, np.array(said, dtype=float)


def marks(kind: str, random: np.random.Generator, items: int, clusters: int, chances: list[float]) -> list:
    """The marks of every model on one simulated benchmark."""
    of, said = answers(random, items, clusters, chances)
    rows = pd.DataFrame({"id": np.arange(items), "cluster": of})
    if kind.startswith("one"):
        return [rows.assign(pairs=1.0, more=more, less=1 - more) for more in said]
    if kind.startswith("mean"):
        share = 1 / np.bincount(of)[of]
        return [rows.assign(terms=share, more=share * more, less=share * (1 - more)) for more in said]
    if kind.startswith("share"):
        return [rows.assign(completions=1.0, hurtful=more) for more in said]
    ambiguous = np.arange(items) % 2 == 0
    clear = ~ambiguous
    out = []
    for more in said:
        spoke = ambiguous & (random.random(items) < AMBIGUOUS_SAID)
        out.append(
            rows.assign(
                ambiguous=1.0 * ambiguous,
                ambiguous_biased=spoke * more,
                ambiguous_counter=spoke * (1 - more),
                disambiguated_biased=clear * more,
                disambiguated_counter=clear * (1 - more),
            )
        )
    return out


def bias_coverage(kind: str, chances: tuple[float, float], items: int, clusters: int, runs: int) -> dict[str, float]:
    """Share of the simulated benchmarks whose interval holds the truth: of the signed bias, the score and the change."""
    module, truth = KINDS[kind]
    base_truth, cell_truth = map(truth, chances)
    random = np.random.default_rng([items, clusters, int(1000 * chances[0]), list(KINDS).index(kind)])
    held = dict.fromkeys(("bias_signed", "bias_score", "bias_change"), 0)
    for run in range(runs):
        base, cell = marks(kind, random, items, clusters, list(chances))
        summary = bias_summary(module, base, None, run, RESAMPLES)
        change = bias_change(module, cell, base, run, RESAMPLES)
        held["bias_signed"] += summary["bias_signed_low"] <= base_truth <= summary["bias_signed_high"]
        held["bias_score"] += summary["bias_low"] <= abs(base_truth) <= summary["bias_high"]
        held["bias_change"] += change["bias_change_low"] <= cell_truth - base_truth <= change["bias_change_high"]
    return {name: count / runs for name, count in held.items()}


def exams(random: np.random.Generator, items: int, chances: list[tuple[float, ...]]) -> list[pd.DataFrame]:
    """Marks of every model on an exam of three tasks whose items stand alone."""
    each = items // len(TASKS)
    parts = []
    for place, task in enumerate(TASKS):
        _, said = answers(random, each, each, [chance[place] for chance in chances])
        ids = [f"{task}/{n}" for n in range(each)]
        parts.append([pd.DataFrame({"id": ids, "group": task, "cluster": ids, "value": row}) for row in said])
    return [pd.concat(part, ignore_index=True) for part in zip(*parts, strict=True)]


def accuracy_coverage(chances: tuple, items: int, runs: int) -> dict[str, float]:
    """As bias_coverage, of the accuracy and its change."""
    base_truth, cell_truth = (float(np.mean(chance)) for chance in chances)
    random = np.random.default_rng([items, int(1000 * base_truth)])
    held = dict.fromkeys(("accuracy", "accuracy_change"), 0)
    for run in range(runs):
        base, cell = exams(random, items, list(chances))
        summary = accuracy_summary(base, None, TASKS, run, RESAMPLES)
        change = accuracy_change(cell, base, TASKS, run, RESAMPLES)
        held["accuracy"] += summary["accuracy_low"] <= base_truth <= summary["accuracy_high"]
        held["accuracy_change"] += (
            change["accuracy_change_low"] <= cell_truth - base_truth <= change["accuracy_change_high"]
        )
    return {name: count / runs for name, count in held.items()}


def false_alarms(kind: str, items: int, clusters: int, runs: int) -> dict[str, float]:
    """Share of the sweeps of ten cells, none of which differs from its base, in which any is said to differ."""
    random = np.random.default_rng([items, clusters, 77])
    found = dict.fromkeys(("uncorrected", "Holm"), 0)
    for run in range(runs):
        if kind == "accuracy":
            base, *cells = exams(random, items, [(0.4, 0.6, 0.5)] * (1 + CELLS))
            p = [accuracy_change(cell, base, TASKS, run, RESAMPLES)["accuracy_change_p"] for cell in cells]
        else:
            chance = 0.15 if kind.startswith("share") else 0.6
            base, *cells = marks(kind, random, items, clusters, [chance] * (1 + CELLS))
            p = [bias_change(KINDS[kind][0], cell, base, run, RESAMPLES)["bias_change_p"] for cell in cells]
        found["uncorrected"] += min(p) <= 0.05
        found["Holm"] += bool((holm(p) <= 0.05).any())
    return {name: count / runs for name, count in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=RUNS)
    runs = parser.parse_args().runs
    started, lines, outside = time.time(), [], []

    def add(name: str, covered: dict[str, float]) -> None:
        lines.append([name, *(f"{100 * value:.1f}" for value in covered.values())])
        outside.extend(
            f"{name}: {key} {value:.3f}" for key, value in covered.items() if not BAND[0] <= value <= BAND[1]
        )
        print(*lines[-1], sep=" | ", flush=True)

    blocks = []
    for kind in KINDS:
        for level, chances in (SHARES if kind.startswith("share") else LEVELS).items():
            for items, clusters in SIZES:
                add(f"{kind}, {level}, {items} in {clusters}", bias_coverage(kind, chances, items, clusters, runs))
    blocks.append((["benchmark, bias, items in templates", "bias_signed", "bias_score", "bias_change"], lines))
    lines = []
    for level, chances in ACCURACIES.items():
        for items, _ in SIZES:
            add(f"three tasks, {level}, {items}", accuracy_coverage(chances, items, runs))
    blocks.append((["accuracy, level, items", "accuracy", "accuracy_change"], lines))
    lines = []
    for kind in (*KINDS, "accuracy"):
        items, clusters = SIZES[0]
        rates = false_alarms(kind, items, clusters, runs)
        lines.append([f"{kind}, {items} in {clusters}", *(f"{100 * rate:.1f}" for rate in rates.values())])
        print(*lines[-1], sep=" | ", flush=True)
        if rates["Holm"] > FALSE_ALARMS:
            outside.append(f"{kind}: false alarms {rates['Holm']:.3f}")
    blocks.append((["ten cells that do not differ", "any at 5 %, uncorrected", "any after Holm"], lines))

    print(f"{time.time() - started:.0f} s;", "; ".join(outside) or "all within the band")
    if runs >= RUNS:
        _write(blocks, outside, runs, time.time() - started)


def _write(blocks: list, outside: list[str], runs: int, seconds: float) -> None:
    tables = "\n\n".join(
        "\n".join(["| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *lines]])
        for heads, lines in blocks
    )
    words = (
        f"Written by `make bench-coverage` on {date.today()}: {runs:,} simulated benchmarks a line, {RESAMPLES:,} resamples "
        f"each, {seconds / 60:.0f} minutes of one core. In percent; 95 is right, and the simulation itself is off by up to "
        f"{196 * np.sqrt(0.95 * 0.05 / runs):.1f} points. `bench/interval_coverage.py` says what is simulated. "
    )
    words += (
        f"Outside 93 to 97 (false alarms: above 6.5): {'; '.join(outside)}."
        if outside
        else "Nothing lies outside 93 to 97."
    )
    text = README.read_text() if README.exists() else "# Benchmarks\n"
    before, _, rest = text.partition(MARK)
    after = rest[rest.index("\n<!-- make ") :] if "\n<!-- make " in rest else ""
    README.write_text(f"{before.rstrip()}\n\n{MARK}\n## Intervals and tests\n\n{words}\n\n{tables}\n{after}")


if __name__ == "__main__":
    main()
