"""Keys that order as the magnitudes do: counted, made, put in order; and what is done by rank."""

import numpy as np

from pipeline.merging.compiled.loop import loop

STRIDE = 64  # keys that are looked at together


@loop
def counted(keys, zero, low, width, offsets):
    """How many 32-bit keys are `zero`, how many below `low`, and how many in [low, low + width): their offsets are written."""
    zeros, below, inside = 0, 0, 0
    for start in range(0, len(keys), STRIDE):
        part = keys[start : start + STRIDE]
        nothing, less, here = np.uint32(0), np.uint32(0), np.uint32(0)
        for i in range(len(part)):
            nothing = np.uint32(nothing + np.uint32(part[i] == zero))
            less = np.uint32(less + np.uint32(part[i] < low))
            here = np.uint32(here + np.uint32(np.uint32(part[i] - low) < width))  # wraps round below
        zeros += nothing
        below += less
        if here:
            for i in range(len(part)):  # no branch: which ones are inside cannot be predicted
                offset = np.uint32(part[i] - low)
                offsets[inside] = offset
                inside += offset < width
    return zeros, below, inside


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
