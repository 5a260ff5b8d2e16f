"""Task vectors: base + weight * scale * (what the donors' task vectors make together)."""

import numpy as np


def task_arithmetic(base, donors, weight, shares, scale=1.0, **_):
    return along(base, weight * scale, lambda name: scaled(base, donors, shares, name).sum(0))


def magmax(base, donors, weight, shares, scale=1.0, **_):
    return along(base, weight * scale, lambda name: largest(scaled(base, donors, shares, name)))


def sce(base, donors, weight, shares, density, vote, scale=1.0, **_):
    def merged(name):
        x = scaled(base, donors, shares, name)
        count = len(x)
        mask = np.ones(x.shape[1:])
        if density < 1:
            # the variance from pairs of donors: exactly 0 where all are equal
            variance = sum((x[i] - x[j]) ** 2 for i in range(count) for j in range(i)) / count**2 + 0 * x[0]
            k = int((variance != 0).sum() * density)
            limit = np.sort(variance, axis=None)[-k] if k else np.inf
            mask = variance >= limit
        x = x * mask
        sign = np.sign(x.sum(0))
        takes = np.ones(x.shape) if vote == "none" else (np.sign(x) == sign) & (sign != 0)
        w = np.array([np.mean(one**2) if one.size else 0.0 for one in x])
        w = w / w.sum() if w.sum() > 0 else np.full(count, 1 / count)
        w = w.reshape(-1, *[1] * (x.ndim - 1))
        below = (w * takes).sum(0)
        return np.where(below > 0, (x * w * takes).sum(0) / np.where(below > 0, below, 1), 0)

    return along(base, weight * scale, merged)


def pcb(base, donors, weight, shares, ratio, clamp, scale=1.0, **_):
    names = sorted(base)
    flat = [scaled(base, donors, shares, name).reshape(len(donors), -1) for name in names]
    x = np.concatenate(flat, axis=1) if flat else np.zeros((len(donors), 0))
    d = x.shape[1]
    if not d:
        return {name: tensor.copy() for name, tensor in base.items()}
    total = x.sum(0)
    above, below = np.zeros(d), np.zeros(d)
    for one in x:
        ordered = np.sort(np.abs(one))
        b = np.clip(np.abs(one), ordered[int(d * clamp)], ordered[int(d * (1 - clamp) - 1)])
        score = np.exp(len(x) * minmax(b) ** 2) * np.tanh(one * total)
        limit = np.sort(score)[min(d - 1, int(d * (1 - ratio)))]
        q = minmax(np.maximum(score, limit))
        above, below = above + np.sign(one) * b * q, below + q
    merged = above / np.maximum(below, 1e-12)
    ends = np.cumsum([base[name].size for name in names])
    parts = dict(zip(names, np.split(merged, ends[:-1]), strict=True))
    return along(base, weight * scale, lambda name: parts[name].reshape(base[name].shape))


def minmax(x):
    return (x - x.min()) / (x.max() - x.min()) if x.max() > x.min() else np.zeros_like(x)


def along(base, coefficient, merged):
    return {name: tensor + coefficient * merged(name) for name, tensor in base.items()}


def scaled(base, donors, shares, name):
    """s_i tau_i, one above the other."""
    shares = np.ones(len(donors)) if shares is None else shares
    return np.stack([s * (donor[name] - base[name]) for s, donor in zip(shares, donors, strict=True)])


def largest(stack):
    """The entry of largest magnitude, the later donor's where equal."""
    place = len(stack) - 1 - np.argmax(np.abs(stack[::-1]), axis=0)
    return np.take_along_axis(stack, place[None], axis=0)[0]


def together(taus, shares, vote, combine):
    """One task vector out of several: elect a sign, put together what agrees with it."""
    taus = np.stack(taus)
    s = (np.ones(len(taus)) if shares is None else np.array(shares, float)).reshape(-1, *[1] * (taus.ndim - 1))
    if vote == "none":
        takes = np.ones(taus.shape, bool)
    else:
        sign = np.sign((s * taus if vote == "weighted" else taus).sum(0))
        takes = (np.sign(taus) == sign) & (sign != 0)
    if combine == "max":
        return largest(s * taus * takes)
    total = (s * taus * takes).sum(0)
    if combine == "sum":
        return total
    below = ((s if combine == "weighted_mean" else 1.0) * takes).sum(0)
    return np.where(below > 0, total / np.where(below > 0, below, 1), 0)
