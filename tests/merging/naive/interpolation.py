"""Between base and donors: the base counts 1 - weight, the donors share the weight."""

import numpy as np


def keep(base, donors, weight, shares, **_):
    return {name: tensor.copy() for name, tensor in base.items()}


def linear(base, donors, weight, shares, **_):
    return _each(
        base, donors, weight, shares, lambda models, weights: sum(w * x for w, x in zip(weights, models, strict=True))
    )


def karcher(base, donors, weight, shares, **_):
    return _each(base, donors, weight, shares, _karcher)


def _karcher(models, weights):
    lengths = [np.linalg.norm(x) for x in models]
    length = sum(w * n for w, n in zip(weights, lengths, strict=True))
    alive = [(w, x / n) for w, x, n in zip(weights, models, lengths, strict=True) if w > 0 and n > 0]
    if not alive:
        return np.zeros_like(models[0])
    everything = sum(w for w, _ in alive)
    alive = [(w / everything, u) for w, u in alive]
    mean = sum(w * u for w, u in alive)
    if np.linalg.norm(mean) < 1e-12:
        mean = alive[0][1]
    for _ in range(2000):
        mean = mean / np.linalg.norm(mean)
        step = np.zeros_like(mean)
        for w, u in alive:
            cos = np.clip(np.vdot(u, mean), -1, 1)
            tangent = u - cos * mean
            if np.linalg.norm(tangent) > 1e-14:  # neither here nor opposite, where every way is as short
                step = step + w * np.arccos(cos) * tangent / np.linalg.norm(tangent)
        angle = np.linalg.norm(step)
        if angle < 1e-14:
            break
        mean = np.cos(angle) * mean + np.sin(angle) * step / angle
    return length * mean


def slerp(base, donors, weight, shares, colinear, **_):
    return {name: _slerp(tensor, donors[0][name], weight, colinear) for name, tensor in base.items()}


def _slerp(x, y, t, colinear):
    lengths = np.linalg.norm(x), np.linalg.norm(y)
    cos = np.vdot(x, y) / (lengths[0] * lengths[1]) if min(lengths) > 1e-8 else 0.0
    if abs(cos) > colinear:
        return (1 - t) * x + t * y
    theta = np.arccos(cos)
    return (np.sin((1 - t) * theta) * x + np.sin(t * theta) * y) / np.sin(theta)


def nuslerp(base, donors, weight, shares, flatten, row_wise, **_):
    def turned(x, y, t):
        if flatten or x.ndim == 0:
            return _turn(x.ravel(), y.ravel(), t).reshape(x.shape)
        axis = 0 if row_wise else -1
        x, y = np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1)
        result = np.zeros_like(x)
        for place in np.ndindex(x.shape[:-1]):
            result[place] = _turn(x[place], y[place], t)
        return np.moveaxis(result, -1, axis)

    if len(donors) == 1:
        return {name: turned(tensor, donors[0][name], weight) for name, tensor in base.items()}
    first, second = [1, 1] if shares is None else shares
    return {
        name: x + weight * turned(donors[0][name] - x, donors[1][name] - x, second / (first + second))
        for name, x in base.items()
    }


def _turn(x, y, t):
    unit_x, unit_y = x / max(np.linalg.norm(x), 1e-7), y / max(np.linalg.norm(y), 1e-7)
    theta = np.arccos(np.clip(np.vdot(unit_x, unit_y), -1, 1))
    # arccos near -1 is only good to 1e-8: an angle that differs from half a turn by less is noise, which 1 / sin blows up
    if abs(np.sin(theta)) < 1e-6:
        return (1 - t) * x + t * y
    return (np.sin((1 - t) * theta) * x + np.sin(t * theta) * y) / np.sin(theta)


def multislerp(base, donors, weight, shares, **_):
    def closed(models, weights):
        lengths = [np.linalg.norm(x) for x in models]
        mean = sum(w * (x / n if n > 0 else x) for w, x, n in zip(weights, models, lengths, strict=True))
        if np.linalg.norm(mean) < 1e-8:
            return sum(w * x for w, x in zip(weights, models, strict=True))
        return mean / np.linalg.norm(mean) * sum(w * n for w, n in zip(weights, lengths, strict=True))

    return _each(base, donors, weight, shares, closed)


def nearswap(base, donors, weight, shares, mode, **_):
    merged = {}
    for name, x in base.items():
        tau = donors[0][name] - x
        differing = np.abs(tau)[tau != 0]
        limit = weight
        if mode == "quantile":
            limit = np.quantile(differing, weight) if differing.size and weight > 0 else 0.0
        merged[name] = x + np.clip(tau, -limit, limit)
    return merged


def _each(base, donors, weight, shares, function):
    shares = np.ones(len(donors)) if shares is None else np.array(shares, float)
    weights = [1 - weight, *(weight * shares / shares.sum())]
    return {name: function([x, *(donor[name] for donor in donors)], weights) for name, x in base.items()}
