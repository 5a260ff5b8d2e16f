"""Parts of operands that fit the nearest cache, as floating-point numbers whatever they are stored in.

The bits of a bfloat16 come as an unsigned integer of 16 bits: they are the upper half of a float32's.
"""

import numpy as np
from numba import types
from numba.extending import overload
from numpy import uint32

from pipeline.merging.compiled.loop import OPTIONS

TILE = 1024  # entries


def opened(x, start, stop, room):
    """x[start:stop] as floating-point numbers; `room`, TILE numbers in float32, is where they are widened."""
    raise NotImplementedError("numba chooses by dtype")


def closed(x, out, start, stop, room):
    """x as it is stored in out[start:stop], rounded to nearest, halves to even; and that as floating-point numbers."""
    raise NotImplementedError("numba chooses by dtype")


@overload(opened, jit_options=OPTIONS)
def _opened(x, start, stop, room):
    if x.dtype != types.uint16:
        return lambda x, start, stop, room: x[start:stop]

    def widened(x, start, stop, room):
        bits, part = room.view(np.uint32), x[start:stop]
        for i in range(len(part)):
            bits[i] = uint32(part[i]) << uint32(16)
        return room[: len(part)]

    return widened


@overload(closed, jit_options=OPTIONS)
def _closed(x, out, start, stop, room):
    if out.dtype != types.uint16:
        return lambda x, out, start, stop, room: x

    def rounded(x, out, start, stop, room):
        given, bits, part = x.view(np.uint32), room.view(np.uint32), out[start:stop]
        for i in range(len(part)):
            g = given[i]
            upper = uint32(uint32(g + uint32(0x7FFF)) + uint32(uint32(g >> uint32(16)) & uint32(1)))
            upper = uint32(0x7FC00000) if uint32(g & uint32(0x7FFFFFFF)) > uint32(0x7F800000) else upper  # NaN
            upper = uint32(upper & uint32(0xFFFF0000))
            bits[i], part[i] = upper, np.uint16(uint32(upper >> uint32(16)))
        return room[: len(part)]

    return rounded
