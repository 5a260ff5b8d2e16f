"""Loops over entries that numba compiles: one pass over the operands, where a chain of tensor calls takes one for each.

Every function takes flat arrays of one floating dtype, rounds each operation as torch does, passes NaN on, and lets other
threads run.
Sums are in float64, in lanes that are added up in a fixed order: no machine, and no number of threads, changes a bit.
What is compiled is kept beside this file, or in the user's cache, for the next process.
"""

import functools

import numba
import numpy as np

LANES = 64
LOW = np.uint64(0xFFFFFFFF)
STRIDE = 16  # keys that are looked at together
TILE = 1024  # entries that are worked through at once, out of the nearest cache; a multiple of LANES
NO_VOTE, PLAIN, WEIGHTED = 0, 1, 2
SUM, MEAN, WEIGHTED_MEAN, MAX = 0, 1, 2, 3


def loop(function):
    """Compile a function at its first call, and keep the result where there is a place for it."""
    compiled = functools.partial(numba.njit, nogil=True, error_model="numpy")
    try:
        return compiled(cache=True)(function)
    except RuntimeError:  # neither the package nor the user has a folder to write into
        return compiled()(function)


@loop
def add_products(lanes, x, y):
    """lanes_j += the x_i y_i with i = j modulo LANES."""
    whole = len(x) // LANES * LANES
    for start in range(0, whole, LANES):
        a, b = x[start : start + LANES], y[start : start + LANES]
        for i in range(LANES):
            lanes[i] += np.float64(a[i]) * np.float64(b[i])
    for i in range(whole, len(x)):
        lanes[i - whole] += np.float64(x[i]) * np.float64(y[i])


@loop
def folded(lanes):
    """The sum of the lanes."""
    width = LANES
    while width > 1:
        width //= 2
        for i in range(width):
            lanes[i] += lanes[i + width]
    return lanes[0]


@loop
def dot(x, y):
    """<x, y>"""
    lanes = np.zeros(LANES)
    add_products(lanes, x, y)
    return folded(lanes)


@loop
def measured(base, donor, merged):
    """<d, d>, <d, m>, <m, m>, <base, base>, <merged, merged> with d = donor - base and m = merged - base."""
    dd, dm, mm = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    of_base, of_merged = np.zeros(LANES), np.zeros(LANES)
    way, step = np.empty(TILE, base.dtype), np.empty(TILE, base.dtype)
    for start in range(0, len(base), TILE):
        x, y, z = base[start : start + TILE], donor[start : start + TILE], merged[start : start + TILE]
        d, m = way[: len(x)], step[: len(x)]
        for i in range(len(x)):
            d[i] = y[i] - x[i]
            m[i] = z[i] - x[i]
        add_products(dd, d, d)
        add_products(dm, d, m)
        add_products(mm, m, m)
        add_products(of_base, x, x)
        add_products(of_merged, z, z)
    return folded(dd), folded(dm), folded(mm), folded(of_base), folded(of_merged)


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
                    total[i] = (x if x >= total[i] else total[i]) if combine == MAX else total[i] + x
            elif combine == MAX:
                for i in range(size):
                    x = v[i] * share
                    total[i] = x if abs(x) >= abs(total[i]) else total[i]
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


@loop
def counted(keys, low, width, offsets):
    """How many 32-bit keys are below `low`, and how many are in [low, low + width), of which the offsets are written."""
    below, inside = 0, 0
    for start in range(0, len(keys), STRIDE):
        part = keys[start : start + STRIDE]
        here = 0
        for i in range(len(part)):
            below += part[i] < low
            here += np.uint32(part[i] - low) < width  # wraps round below
        if here:  # few are
            for i in range(len(part)):
                if np.uint32(part[i] - low) < width:
                    offsets[inside] = part[i] - low
                    inside += 1
    return below, inside


@loop
def hashed(value, constants, multiplier):
    """One step of the hash of a SeedSequence, on 32 bits; the constant moves on."""
    value ^= constants[0]
    constants[0] = constants[0] * multiplier & LOW
    value = value * constants[0] & LOW
    return value ^ value >> np.uint64(16)


@loop
def seeded(words, state):
    """What numpy's SeedSequence(words).generate_state gives (after O'Neill's seed_seq_fe), as many 64-bit words as `state` has."""
    pool, constants = np.zeros(4, np.uint64), np.full(1, 0x43B0D7E5, np.uint64)
    for i in range(4):
        pool[i] = hashed(words[i], constants, np.uint64(0x931E8875))
    for source in range(len(words)):
        for i in range(4):
            if source != i:
                value = hashed(pool[source] if source < 4 else words[source], constants, np.uint64(0x931E8875))
                value = (pool[i] * np.uint64(0xCA01F9DD) - value * np.uint64(0x4973F715)) & LOW
                pool[i] = value ^ value >> np.uint64(16)
    constants[0] = 0x8B51F9DD
    for i in range(len(state)):
        low = hashed(pool[2 * i % 4], constants, np.uint64(0x58F38DED))
        state[i] = low | hashed(pool[(2 * i + 1) % 4], constants, np.uint64(0x58F38DED)) << np.uint64(32)


@loop
def uniform(words, start, segment, out):
    """The numbers in [0, 1) from place `start` on, 24 bits each.

    Each segment's come from a generator of its own, numpy's SFC64(SeedSequence(words)) with the segment's number as the last word:
    of each of its 64-bit words the lower half first.
    """
    words, state, stop = words.copy(), np.empty(3, np.uint64), start + len(out)
    for number in range(start // segment, (stop + segment - 1) // segment):
        words[-1] = number
        seeded(words, state)
        a, b, c, counter = state[0], state[1], state[2], np.uint64(1)
        first = number * segment - start  # its place in `out`
        for place in range(first - 24, min(first + segment, len(out)), 2):
            word = a + b + counter
            counter += np.uint64(1)
            a, b, c = b ^ b >> np.uint64(11), c + (c << np.uint64(3)), (c << np.uint64(24) | c >> np.uint64(40)) + word
            if place >= first:  # after the 12 words that the generator's seeding throws away
                if place >= 0:
                    out[place] = np.float32((word & LOW) >> np.uint64(8)) * np.float32(2**-24)
                if 0 <= place + 1 < len(out):
                    out[place + 1] = np.float32(word >> np.uint64(40)) * np.float32(2**-24)


@loop
def pruned(tau, uniforms, order, probabilities, least, divide, out):
    """tau / max(p, least) [uniform < p], or not divided, with p by the place of an entry in the order of its row."""
    zero, one = out.dtype.type(0), out.dtype.type(1)
    for row in range(len(order)):
        values, chances, places, kept = tau[row], uniforms[row], order[row], out[row]
        for rank in range(len(places)):
            i, p = places[rank], probabilities[rank]
            value = values[i] / max(p, least) if divide else values[i]
            kept[i] = value * (one if chances[i] < p else zero)


@loop
def keyed(magnitudes, steps, bits, least, keys):
    """The root of each magnitude in so many steps up to the row's largest, before its column in the lower bits."""
    roots = np.empty(magnitudes.shape[1], magnitudes.dtype)
    for row in range(len(keys)):
        sizes, out = magnitudes[row], keys[row]
        largest = least
        for i in range(len(roots)):
            roots[i] = np.sqrt(sizes[i])  # most entries are small, and steps of the root are finer there
            largest = max(largest, roots[i])
        factor = steps / largest
        for i in range(len(roots)):  # products with one factor and their whole parts are monotone
            out[i] = np.uint32(np.int64(roots[i] * factor)) << bits | np.uint32(i)


@loop
def settled(magnitudes, mask, most, order):
    """Put each row's columns, nearly in the order of their magnitudes, in that order, equal ones by their place.

    A column is in the bits of the mask. Whether it took at most so many moves; where not, the order is left half done.
    """
    rows, columns = order.shape
    ordered = np.empty(columns, magnitudes.dtype)
    moves = 0
    for row in range(rows):
        places, sizes = order[row], magnitudes[row]
        for j in range(columns):
            places[j] &= mask
            ordered[j] = sizes[places[j]]
        for j in range(1, columns):
            if ordered[j - 1] <= ordered[j]:
                continue
            size, place, k = ordered[j], places[j], j
            while k > 0 and ordered[k - 1] > size:
                ordered[k], places[k] = ordered[k - 1], places[k - 1]
                k -= 1
            ordered[k], places[k] = size, place
            moves += j - k
            if moves > most:
                return False
    return True


def load() -> None:
    """Load all that the first call of a loop loads."""
    dot(np.zeros(1, np.float32), np.zeros(1, np.float32))
