"""One entry at a time, of flat arrays: each operation is rounded as by torch, in the result's dtype, and NaN is passed on.

The result, or what is used of numbers, is in one floating dtype; models may also come as the bits of bfloat16 (see tiles.py).
"""

import numpy as np

from pipeline.merging.compiled.loop import loop
from pipeline.merging.compiled.tiles import TILE, opened

NO_VOTE, PLAIN, WEIGHTED = 0, 1, 2
SUM, MEAN, WEIGHTED_MEAN, MAX = 0, 1, 2, 3


@loop
def away(start, near, far, t, zero, out):
    """start - ((near - far) t + zero), each operation rounded; -0 as `zero` adds nothing."""
    rooms = np.empty((3, TILE), out.dtype)
    for first in range(0, len(out), TILE):
        last = min(first + TILE, len(out))
        s, n = opened(start, first, last, rooms[0]), opened(near, first, last, rooms[1])
        f, o = opened(far, first, last, rooms[2]), out[first:last]
        for i in range(len(o)):
            o[i] = s[i] - ((n[i] - f[i]) * t + zero)


@loop
def blended(x, y, a, b, out):
    """a x + b y, each operation rounded."""
    rooms = np.empty((2, TILE), out.dtype)
    for first in range(0, len(out), TILE):
        last = min(first + TILE, len(out))
        s, t, o = opened(x, first, last, rooms[0]), opened(y, first, last, rooms[1]), out[first:last]
        for i in range(len(o)):
            o[i] = s[i] * a + t[i] * b


@loop
def moved(base, vector, factor, out):
    """base + factor vector, the base's own zeros where the vector is zero."""
    zero, rooms = out.dtype.type(0), np.empty((2, TILE), out.dtype)
    for first in range(0, len(out), TILE):
        last = min(first + TILE, len(out))
        b, v, o = opened(base, first, last, rooms[0]), opened(vector, first, last, rooms[1]), out[first:last]
        for i in range(len(o)):
            o[i] = b[i] - (zero - v[i] * factor)


@loop
def distance(base, donor, out):
    """|donor - base|"""
    rooms = np.empty((2, TILE), out.dtype)
    for first in range(0, len(out), TILE):
        last = min(first + TILE, len(out))
        b, d, o = opened(base, first, last, rooms[0]), opened(donor, first, last, rooms[1]), out[first:last]
        for i in range(len(o)):
            o[i] = abs(d[i] - b[i])


@loop
def trimmed(base, donor, threshold, out):
    """donor - base where its magnitude is at least the threshold, and 0 elsewhere."""
    zero, rooms = out.dtype.type(0), np.empty((2, TILE), out.dtype)
    for first in range(0, len(out), TILE):
        last = min(first + TILE, len(out))
        b, d, o = opened(base, first, last, rooms[0]), opened(donor, first, last, rooms[1]), out[first:last]
        for i in range(len(o)):
            tau = d[i] - b[i]
            o[i] = zero if abs(tau) < threshold else tau


@loop
def masked(base, donor, uniform, density, out):
    """(donor - base) [uniform < density]"""
    zero, one, rooms = out.dtype.type(0), out.dtype.type(1), np.empty((3, TILE), out.dtype)
    for first in range(0, len(out), TILE):
        last = min(first + TILE, len(out))
        b, d = opened(base, first, last, rooms[0]), opened(donor, first, last, rooms[1])
        u, o = opened(uniform, first, last, rooms[2]), out[first:last]
        for i in range(len(o)):
            o[i] = (d[i] - b[i]) * (one if u[i] < density else zero)


@loop
def voted(base, operands, limits, shares, votes, weights, every, vote, combine, factor, out):
    """base + factor * the one task vector that task_vectors.merged_vector makes of several.

    operands  a tuple: the task vectors; or the donors, where there are `limits`: of donor - base then counts what is at
              least of that magnitude
    shares    s_i in their dtype; weights: what each counts in a mean, and every: what all do, too
    votes     what each counts in the vote, in float64
    """
    zero, one = out.dtype.type(0), out.dtype.type(1)
    ballot, sign, count = np.empty(TILE), np.empty(TILE, out.dtype), np.empty(TILE, out.dtype)
    rooms, taus = np.empty((2, TILE), out.dtype), np.empty((len(operands), TILE), out.dtype)
    for start in range(0, len(out), TILE):
        total = out[start : start + TILE]
        size = len(total)
        x = opened(base, start, start + size, rooms[0])
        for j in range(len(operands)):
            v, given = taus[j][:size], opened(operands[j], start, start + size, rooms[1])
            if len(limits):
                limit = limits[j]
                for i in range(size):
                    tau = given[i] - x[i]
                    v[i] = zero if abs(tau) < limit else tau
            else:
                for i in range(size):
                    v[i] = given[i]
        if vote:
            ballot[:size] = 0.0
            for j in range(len(operands)):
                v = taus[j][:size]
                for i in range(size):
                    ballot[i] += np.float64(v[i]) * votes[j]
            for i in range(size):
                sign[i] = one if ballot[i] > 0 else (-one if ballot[i] < 0 else ballot[i])
        total[:] = zero
        count[:size] = zero
        for j in range(len(operands)):
            v, share, weight = taus[j][:size], shares[j], weights[j]
            if vote:
                for i in range(size):
                    way = v[i] * sign[i]  # how far it goes the elected way, 0 if it does not
                    way = zero if way <= zero else way
                    count[i] += weight if way != zero else zero
                    way *= share
                    if combine != MAX:
                        total[i] += way
                    elif j == 0 or not (way < total[i] or total[i] != total[i]):
                        total[i] = way
            elif combine == MAX:
                for i in range(size):
                    way = v[i] * share
                    if j == 0 or not (abs(way) < abs(total[i]) or total[i] != total[i]):
                        total[i] = way
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
        for i in range(size):
            total[i] = x[i] - (zero - total[i] * factor)  # the base's own zeros where nothing is added
