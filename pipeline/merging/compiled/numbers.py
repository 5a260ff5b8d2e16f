"""Random numbers by place: those of numpy's SFC64, seeded by numpy's SeedSequence, bit for bit."""

import numpy as np

from pipeline.merging.compiled.loop import loop

LOW = np.uint64(0xFFFFFFFF)


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
