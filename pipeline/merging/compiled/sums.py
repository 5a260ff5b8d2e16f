"""Sums of products, in float64, in lanes that are added up in a fixed order: no machine and no number of threads changes a bit."""

import numpy as np

from pipeline.merging.compiled.loop import loop

LANES = 64
TILE = 1024  # entries that are worked through at once, out of the nearest cache; a multiple of LANES


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
