"""Task vectors of which only some entries are kept."""

import numpy as np

from tests.merging.naive.vectors import along, together


def ties(base, donors, weight, shares, density, trim, vote, combine, scale=1.0, **_):
    vectors = _vectors(base, donors)
    for vector in vectors:
        everything = np.concatenate([np.zeros(0), *(tau.ravel() for tau in vector.values())])
        for name, tau in vector.items():
            limit = _limit(everything if trim == "model" else tau.ravel(), density)
            vector[name] = np.where(np.abs(tau) >= limit, tau, 0)
    return _merged(base, vectors, weight * scale, shares, vote, combine)


def dare(base, donors, weight, shares, uniform, density, rescale, vote, combine, scale=1.0, **_):
    vectors = _vectors(base, donors)
    for vector, numbers in zip(vectors, uniform, strict=True):
        for name, tau in vector.items():
            vector[name] = _rescaled(tau, numbers[name] < density, np.full(tau.shape, float(density)), rescale)
    return _merged(base, vectors, weight * scale, shares, vote, combine)


def della(base, donors, weight, shares, uniform, density, epsilon, rescale, vote, combine, scale=1.0, **_):
    vectors = _vectors(base, donors)
    for vector, numbers in zip(vectors, uniform, strict=True):
        for name, tau in vector.items():
            if density < 1:
                p = _della_chances(tau, density, epsilon) if density > 0 else np.zeros(tau.shape)
                vector[name] = _rescaled(tau, numbers[name] < p, p, rescale)
    return _merged(base, vectors, weight * scale, shares, vote, combine)


def breadcrumbs(base, donors, weight, shares, density, gamma, vote, combine, scale=1.0, **_):
    vectors = _vectors(base, donors)
    for vector in vectors:
        for name, tau in vector.items():
            n_top, n_keep = int(gamma * tau.size), int(density * tau.size)
            n_keep = min(n_keep, tau.size - n_top)
            falling = np.sort(np.abs(tau), axis=None)[::-1]
            if density == 1:
                continue
            if not n_keep:
                vector[name] = np.zeros_like(tau)
                continue
            inside = (np.abs(tau) <= falling[n_top]) & (np.abs(tau) >= falling[n_top + n_keep - 1])
            vector[name] = np.where(inside, tau, 0)
    return _merged(base, vectors, weight * scale, shares, vote, combine)


def _vectors(base, donors):
    return [{name: donor[name] - tensor for name, tensor in base.items()} for donor in donors]


def _merged(base, vectors, coefficient, shares, vote, combine):
    return along(base, coefficient, lambda name: together([vector[name] for vector in vectors], shares, vote, combine))


def _limit(flat, density):
    k = int(density * len(flat))
    return np.sort(np.abs(flat))[-k] if k else np.inf


def _rescaled(tau, keep, chance, rescale):
    kept = np.where(keep, tau, 0)
    if rescale == "inverse_prob":
        return np.where(keep, tau / np.where(keep, chance, 1), 0)
    if rescale == "l1" and np.abs(kept).sum() > 0:
        return kept * (np.abs(tau).sum() / np.abs(kept).sum())
    return kept


def _della_chances(tau, density, epsilon):
    n = tau.shape[-1] if tau.ndim else 1
    if n == 1 or not tau.size:
        return np.full(tau.shape, float(density))
    rank = np.abs(tau).reshape(-1, n).argsort(-1, kind="stable").argsort(-1, kind="stable")
    return ((density - epsilon) + 2 * epsilon * rank / (n - 1)).reshape(tau.shape)
