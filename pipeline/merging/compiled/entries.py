"""One entry at a time, of flat arrays of one floating dtype: each operation is rounded as by torch, and NaN is passed on."""

import numpy as np

from pipeline.merging.compiled.loop import loop

TILE = 1024  # entries that are worked through at once, out of the nearest cache
NO_VOTE, PLAIN, WEIGHTED = 0, 1, 2
SUM, MEAN, WEIGHTED_MEAN, MAX = 0, 1, 2, 3


@loop
def away(start, near, far, t, zero, out):
    """start - ((near - far) t + zero), each operation rounded; -0 as `zero` adds nothing."""
    for i in range(len(out)):
        out[i] = start[i] - ((near[i] - far[i]) * t + zero)


@loop
def blended(x, y, a, b, out):
    """a x + b y, each operation rounded."""
    for i in range(len(out)):
        out[i] = x[i] * a + y[i] * b


@loop
def moved(base, vector, factor, out):
    """base + factor vector, the base's own zeros where the vector is zero."""
    zero = out.dtype.type(0)
    for i in range(len(out)):
        out[i] = base[i] - (zero - vector[i] * factor)


@loop
def distance(base, donor, out):
    """|donor - base|"""
    for i in range(len(out)):
        out[i] = abs(donor[i] - base[i])


@loop
def trimmed(base, donor, threshold, out):
    """donor - base where its magnitude is at least the threshold, and 0 elsewhere."""
    zero = out.dtype.type(0)
    for i in range(len(out)):
        tau = donor[i] - base[i]
        out[i] = zero if abs(tau) < threshold else tau


@loop
def masked(base, donor, uniform, density, out):
    """(donor - base) [uniform < density]"""
    zero, one = out.dtype.type(0), out.dtype.type(1)
    for i in range(len(out)):
        out[i] = (donor[i] - base[i]) * (one if uniform[i] < density else zero)


@loop
def voted(base, vectors, shares, votes, weights, every, vote, combine, factor, out):
    """base + factor * the one task vector that task_vectors.merged_vector makes of several.

    vectors  a tuple
    shares   s_i in their dtype; weights: what each counts in a mean, and every: what all do, too
    votes    what each counts in the vote, in float64
    """
    zero, one = out.dtype.type(0), out.dtype.type(1)
    ballot, sign, count = np.empty(TILE), np.empty(TILE, out.dtype), np.empty(TILE, out.dtype)
    for start in range(0, len(out), TILE):
        total = out[start : start + TILE]
        size = len(total)
        if vote:
            ballot[:size] = 0.0
            for j in range(len(vectors)):
                v = vectors[j][start : start + TILE]
                for i in range(size):
                    ballot[i] += np.float64(v[i]) * votes[j]
            for i in range(size):
                sign[i] = one if ballot[i] > 0 else (-one if ballot[i] < 0 else ballot[i])
        total[:] = zero
        count[:size] = zero
        for j in range(len(vectors)):
            v, share, weight = vectors[j][start : start + TILE], shares[j], weights[j]
            if vote:
                for i in range(size):
                    x = v[i] * sign[i]  # how far it goes the elected way, 0 if it does not
                    x = zero if x <= zero else x
                    count[i] += weight if x != zero else zero
                    x *= share
                    if combine != MAX:
                        total[i] += x
                    elif j == 0 or not (x < total[i] or total[i] != total[i]):
                        total[i] = x
            elif combine == MAX:
                for i in range(size):
                    x = v[i] * share
                    if j == 0 or not (abs(x) < abs(total[i]) or total[i] != total[i]):
                        total[i] = x
            else:
                for i in range(size):
                    total[i] += v[i] * share
        if combine in (MEAN, WEIGHTED_MEAN):
            if vote:
                for i in range(size):
                    total[i] /= count[i] if count[i] != zero else one
            else:
                for i in range(size):
                    total[i] /= every
        if vote:
            for i in range(size):
                total[i] *= sign[i]
        x = base[start : start + TILE]
        for i in range(size):
            total[i] = x[i] - (zero - total[i] * factor)  # the base's own zeros where nothing is added
