"""Methods that derive their own ratio: no weight."""

import itertools

import numpy as np


def model_stock(base, donors, weight, shares, angle, clamp, **_):
    shares = np.ones(len(donors)) if shares is None else np.array(shares, float)
    count = len(donors)
    merged = {}
    for name, x in base.items():
        taus = [donor[name] - x for donor in donors]
        cosines = [_cosine(one, other) for one, other in itertools.combinations(taus, 2)]
        cos = np.cos(np.mean(np.arccos(cosines))) if angle == "angle" else np.mean(cosines)
        below = 1 + (count - 1) * cos
        t = count * cos / below if below > 0 else -np.inf  # as far apart as so many can be
        if clamp:
            t = min(1.0, max(0.0, t))
        merged[name] = x + t * sum(s * tau for s, tau in zip(shares / shares.sum(), taus, strict=True))
    return merged


def _cosine(one, other):
    product = np.linalg.norm(one) * np.linalg.norm(other)
    return np.clip(np.vdot(one, other) / product, -1, 1) if product > 0 else 0.0


def arcee_fusion(base, donors, weight, shares, **_):
    merged = {}
    for name, x in base.items():
        y = donors[0][name]
        if not x.size:
            merged[name] = x.copy()
            continue
        p, q = _softmax(np.atleast_1d(y)) + 1e-8, _softmax(np.atleast_1d(x)) + 1e-8
        divergence = (p * np.log(p / q)).sum(-1, keepdims=True)
        importance = (np.abs(np.atleast_1d(y - x)) * divergence).reshape(x.shape)
        ordered = np.sort(importance.ravel())
        first, median, third = (ordered[int(share * (x.size - 1))] for share in (0.25, 0.5, 0.75))
        merged[name] = np.where(importance >= median + 1.5 * (third - first), y, x)
    return merged


def _softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
