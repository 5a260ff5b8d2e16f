"""Sums over resampled clusters: the bootstrap and the exchange of sides, in one form.

Items of one template are alike, so templates are what is drawn. A statistic here is a function of sums over items, and
a cluster is therefore its vector of sums; a resample is a vector of weights times the matrix of these sums. Clusters
with equal sums are interchangeable: they are drawn together, which makes 10,000 resamples of thousands of rows cheap.
Letters in names: G clusters, K sums, B resamples.
"""

import numpy as np
import pandas as pd

CHUNK = 2_000_000  # random numbers held at once: 16 MB


def cluster_sums(marks: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """sums_GK of the columns over each cluster, clusters in the order of their names; nan stays nan."""
    # Sorted by id, since a floating-point sum depends on its order and ours may not depend on the order of the rows.
    marks = marks.sort_values("id", kind="stable")
    codes, names = pd.factorize(marks["cluster"], sort=True)
    values = marks[list(columns)].to_numpy(dtype=float)
    sums_GK = np.zeros((len(names), len(columns)))
    np.add.at(sums_GK, codes, values)  # not groupby().sum(): that skips nan
    return sums_GK


def bootstrap(sums_GK: np.ndarray, resamples: int, random: np.random.Generator) -> np.ndarray:
    """sums_BK of G clusters drawn with replacement, `resamples` times."""
    clusters = len(sums_GK)
    distinct, count = np.unique(sums_GK, axis=0, return_counts=True)
    rows = max(1, CHUNK // len(distinct))
    return np.concatenate(
        [
            random.multinomial(clusters, count / clusters, size=min(rows, resamples - start)) @ distinct
            for start in range(0, resamples, rows)
        ]
    )


def exchange(one_GK: np.ndarray, other_GK: np.ndarray, resamples: int, random: np.random.Generator) -> np.ndarray:
    """sums_BK where every cluster enters as `one` or as `other` with probability ½ each.

    With `other` = the cluster with stereotype and contrary changed over, this is the sign-flip null of "no direction";
    with one = (cell, base) and other = (base, cell), the permutation null of "the two do not differ".
    """
    pairs, count = np.unique(np.concatenate([one_GK, other_GK], axis=1), axis=0, return_counts=True)
    one, other = np.split(pairs, 2, axis=1)
    rows = max(1, CHUNK // len(pairs))
    flipped = [
        random.binomial(count, 0.5, size=(min(rows, resamples - start), len(count))) @ (other - one)
        for start in range(0, resamples, rows)
    ]
    return count @ one + np.concatenate(flipped)


def shuffled(
    one_GK: np.ndarray, other_GK: np.ndarray, swapped: np.ndarray, resamples: int, random: np.random.Generator
) -> np.ndarray:
    """sums_BK where `swapped` decides who enters as `other`, dealt out anew among the clusters, so many as there are.

    one_GK, other_GK  each cluster as a member of the first group and of the second
    swapped           [G], which of them are of the second
    The permutation null of "two independent groups do not differ".
    """
    count, clusters = int(swapped.sum()), len(one_GK)
    step, total = other_GK - one_GK, one_GK.sum(axis=0)
    drawn = []
    for start in range(0, resamples, rows := max(1, CHUNK // max(clusters, 1))):
        places = random.random((min(rows, resamples - start), clusters)).argsort(axis=1)[:, :count]
        drawn.append(total + step[places].sum(axis=1))
    return np.concatenate(drawn)


def p_value(observed: float, null_B: np.ndarray) -> float:
    """Two-sided: how often chance alone is at least as far from 0; counts the observation itself, so never 0.

    Draws that are undefined count against the finding. nan if the observation is.
    """
    if np.isnan(observed):
        return float("nan")
    # 1e-12: sums of ½ and ⅓ in another order may differ in the last bit and would break true ties
    extreme = ~(np.abs(null_B) < abs(observed) - 1e-12)
    return float((1 + extreme.sum()) / (1 + len(null_B)))
