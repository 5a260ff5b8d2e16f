"""Sums of products, in float64, in lanes that are added up in a fixed order: no machine and no number of threads changes a bit."""

import numpy as np

from pipeline.merging.compiled.loop import loop
from pipeline.merging.compiled.tiles import TILE, closed, opened

LANES = 64  # TILE is a multiple of it


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
    lanes, rooms = np.zeros(LANES), np.empty((2, TILE), np.float32)
    for start in range(0, len(x), TILE):
        stop = min(start + TILE, len(x))
        add_products(lanes, opened(x, start, stop, rooms[0]), opened(y, start, stop, rooms[1]))
    return folded(lanes)


@loop
def products(tensors, origin, away, out):
    """<x_i - origin, x_j - origin> for i <= j, row by row, into `out`; <x_i, x_j> where `away` is false.

    tensors  a tuple of arrays of one dtype, in which (bfloat16: in float32) differences are rounded
    """
    count = len(tensors)
    lanes, wide, rooms = np.zeros((len(out), LANES)), np.empty((count, TILE)), np.empty((2, TILE), np.float32)
    for start in range(0, len(origin), TILE):
        stop = min(start + TILE, len(origin))
        y = opened(origin, start, stop, rooms[1])
        for i in range(count):
            x, row = opened(tensors[i], start, stop, rooms[0]), wide[i]
            if away:
                for k in range(len(y)):
                    row[k] = x[k] - y[k]
            else:
                for k in range(len(y)):
                    row[k] = x[k]
        pair = 0
        for i in range(count):
            for j in range(i, count):
                add_products(lanes[pair], wide[i][: len(y)], wide[j][: len(y)])
                pair += 1
    for pair in range(len(out)):
        out[pair] = folded(lanes[pair])


@loop
def add_measures(lanes, base, donor, merged):
    """The rows of lanes += <d, d>, <d, m>, <m, m>, <base, base>, <merged, merged> with d = donor - base, m = merged - base."""
    whole = len(base) // LANES * LANES
    for start in range(0, whole, LANES):
        stop = start + LANES
        x, y, z = base[start:stop], donor[start:stop], merged[start:stop]
        for i in range(LANES):
            d, m = np.float64(y[i] - x[i]), np.float64(z[i] - x[i])
            of_base, of_merged = np.float64(x[i]), np.float64(z[i])
            lanes[0, i] += d * d
            lanes[1, i] += d * m
            lanes[2, i] += m * m
            lanes[3, i] += of_base * of_base
            lanes[4, i] += of_merged * of_merged
    if whole == len(base):
        return
    x, y, z = base[whole:], donor[whole:], merged[whole:]
    add_products(lanes[0], y - x, y - x)
    add_products(lanes[1], y - x, z - x)
    add_products(lanes[2], z - x, z - x)
    add_products(lanes[3], x, x)
    add_products(lanes[4], z, z)


@loop
def measured(base, donors, steps, nearer, merged, out):
    """The five sums of `add_measures`; `merged` is rounded into `out`, if that is of another dtype, and then measured.

    donors         a tuple; of their mean the sums are
    steps, nearer  how far each goes into the running mean of those before it: from the mean, or from itself where nearer
    """
    lanes, rooms, mean = np.zeros((5, LANES)), np.empty((3, TILE), merged.dtype), np.empty(TILE, merged.dtype)
    for start in range(0, len(merged), TILE):
        stop = min(start + TILE, len(merged))
        d = mean[: stop - start]
        for j in range(len(donors)):
            y, t = opened(donors[j], start, stop, rooms[0]), steps[j]
            if j == 0:
                for i in range(len(d)):
                    d[i] = y[i]
            elif nearer[j]:
                for i in range(len(d)):
                    d[i] = y[i] - (y[i] - d[i]) * t
            else:
                for i in range(len(d)):
                    d[i] -= (d[i] - y[i]) * t
        x = opened(base, start, stop, rooms[1])
        add_measures(lanes, x, d, closed(merged[start:stop], out, start, stop, rooms[2]))
    return folded(lanes[0]), folded(lanes[1]), folded(lanes[2]), folded(lanes[3]), folded(lanes[4])
