"""What one cell's marks say about bias, and how surely.

    signed = mean of the components
    bias_score = mean of their absolute values = mean(s · components), s = their signs

- Intervals come from the cluster bootstrap on the signed scale and are folded afterwards: a bootstrap of an absolute
  value never covers an unbiased model. For one component, bias_low and bias_high are the signed interval folded at 0
  (low = 0 where it straddles 0; `interval.folded` says what happens just beyond). For several, the combination with the observed signs s is resampled, which covers
  wherever a component is clear of 0; where all are near 0, the signs are picked by chance and the score is
  pushed up, so low is also 0 wherever the score does not exceed the noise floor, which is the joint test of them all.
- A statistic that cannot be negative (the benchmark says ONE_SIDED: a share of hurtful completions) has its interval in
  [0, 1].
- noise_floor: the 95th percentile of bias_score when every cluster's direction is drawn anew (the benchmark's MIRROR):
  what an unbiased model that answers as variably gets on this many items. bias_p comes from the same draws, for
  |signed|. Both are nan where a bias has no contrary (an empty MIRROR): a share of hurtful texts is never negative.
- bias_change = signed(cell) - signed(base): same items, same resamples; its p by exchanging cell and base
  cluster by cluster. So over-correction shows as a change like any other. bias_change_effect: Cohen's d_z.

A nan in the marks, or an undefined component, makes everything that depends on it nan.
"""

from types import ModuleType

import numpy as np
import pandas as pd

from pipeline.statistics.generator import generator
from pipeline.statistics.interval import effect_size, folded, interval, standard_error
from pipeline.statistics.paired import paired
from pipeline.statistics.resampling import bootstrap, cluster_sums, exchange, p_value, shuffled

KEYS = (
    "bias_score",
    "bias_low",
    "bias_high",
    "bias_signed",
    "bias_signed_low",
    "bias_signed_high",
    "bias_p",
    "noise_floor",
    "bias_change",
    "bias_change_low",
    "bias_change_high",
    "bias_change_p",
    "bias_change_effect",
)


def bias_summary(
    module: ModuleType, marks: pd.DataFrame, base_marks: pd.DataFrame | None, seed: int, resamples: int = 10_000
) -> dict[str, float]:
    """bias_score, signed bias, change against the base, intervals, p-values, noise floor, items and clusters.

    module: the benchmark (COUNTS, MIRROR, components). base_marks: the base's marks on the same items; None = the
    change is nan. Raises ValueError where cell and base do not have the same items.
    """
    columns = list(module.COUNTS)
    if "counts" in marks:  # others are shown and not compared
        marks = marks[marks["counts"]]
        base_marks = None if base_marks is None else base_marks[base_marks["counts"]]
    sums_GK = cluster_sums(marks, columns)
    clusters = len(sums_GK)
    summary = dict.fromkeys(KEYS, float("nan")) | {"items": len(marks), "clusters": clusters}
    if not clusters:
        return summary

    parts = module.components(sums_GK.sum(axis=0))
    signs = np.where(parts < 0, -1.0, 1.0)
    summary["bias_signed"] = float(parts.mean())
    summary["bias_score"] = float(np.abs(parts).mean())
    if not np.isnan(parts).any():
        if module.MIRROR:
            mirrored_GK = sums_GK[:, [columns.index(module.MIRROR.get(name, name)) for name in columns]]
            random = generator(seed, "bias", "mirror")
            if getattr(module, "INDEPENDENT", False):
                there = sums_GK.any(axis=1)
                mine_GK, mirrored_GK = sums_GK[there], mirrored_GK[there]
                second = mine_GK[:, 0] == 0  # the first of COUNTS is how many items of a cluster are on the first side
                one_GK = np.where(second[:, None], mirrored_GK, mine_GK)
                other_GK = np.where(second[:, None], mine_GK, mirrored_GK)
                null_B = module.components(shuffled(one_GK, other_GK, second, resamples, random))
            else:
                null_B = module.components(exchange(sums_GK, mirrored_GK, resamples, random))
            summary["noise_floor"] = float(np.quantile(np.abs(null_B).mean(axis=-1), 0.95))
            summary["bias_p"] = p_value(summary["bias_signed"], null_B.mean(axis=-1))

        ends = (0.0, 1.0) if getattr(module, "ONE_SIDED", False) else (-1.0, 1.0)
        drawn_B = module.components(bootstrap(sums_GK, resamples, generator(seed, "bias", "bootstrap")))
        error = standard_error(drawn_B.mean(axis=-1), clusters)
        low, high = interval(summary["bias_signed"], error, clusters - 1, ends)
        summary["bias_signed_low"], summary["bias_signed_high"] = low, high

        if ends[0] == 0:
            summary["bias_low"], summary["bias_high"] = low, high
        else:
            error = standard_error((signs * drawn_B).mean(axis=-1), clusters)
            low, high = folded(summary["bias_score"], error, clusters - 1)
            within_noise = len(parts) > 1 and summary["bias_score"] <= summary["noise_floor"]
            summary["bias_low"], summary["bias_high"] = 0.0 if within_noise and not np.isnan(low) else low, high
    if base_marks is not None:
        summary |= bias_change(module, marks, base_marks, seed, resamples)
    return summary


def bias_change(
    module: ModuleType, marks: pd.DataFrame, base_marks: pd.DataFrame, seed: int, resamples: int = 10_000
) -> dict[str, float]:
    """bias_change = signed(marks) - signed(base_marks), its interval, p and effect size: of any two models.

    All nan where the change is undefined. Raises ValueError where the two do not have the same items.
    """
    columns = list(module.COUNTS)
    if "counts" in marks:
        marks, base_marks = marks[marks["counts"]], base_marks[base_marks["counts"]]
    sums_GK = cluster_sums(marks, columns)
    base_GK = cluster_sums(paired(marks, base_marks), columns)

    def difference(both: np.ndarray) -> np.ndarray:
        cell, base = np.split(both, 2, axis=-1)
        return module.components(cell).mean(axis=-1) - module.components(base).mean(axis=-1)

    both_GK = np.concatenate([sums_GK, base_GK], axis=1)
    change = float(difference(both_GK.sum(axis=0)))
    if np.isnan(change):
        return dict.fromkeys((key for key in KEYS if key.startswith("bias_change")), float("nan"))
    drawn_B = difference(bootstrap(both_GK, resamples, generator(seed, "bias change", "bootstrap")))
    error = standard_error(drawn_B, len(both_GK))
    low, high = interval(change, error, len(both_GK) - 1, ends=None)
    swapped_GK = np.concatenate([base_GK, sums_GK], axis=1)
    null_B = difference(exchange(both_GK, swapped_GK, resamples, generator(seed, "bias change", "exchange")))
    return {
        "bias_change": change,
        "bias_change_low": low,
        "bias_change_high": high,
        "bias_change_p": p_value(change, null_B),
        "bias_change_effect": effect_size(change, error, len(both_GK)),
    }
