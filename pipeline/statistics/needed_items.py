"""How many items would have shown it."""

import math

from scipy.special import ndtri

POWER = 0.8  # share of the repetitions that would find it
LEVEL = 0.05  # of the test, two-sided


def needed_items(change: float, low: float, high: float, items: float, tests: int = 1) -> float:
    """Items at which a change of this size would be told from none.

        n · ((z(1 - 0.05 / 2 tests) + z(0.8)) · e / |change|)²,     e = (high - low) / 2 z(0.975)

    change, low, high: the observed change and its 95 % interval; items: how many it was seen on, in as many templates
    for an item as before. tests: over how many Holm's correction goes; the change must then pass at 0.05 / tests, since
    it cannot count on the others. nan for no change at all, and where a number is missing.

    Reference: Cohen (1988), Statistical Power Analysis for the Behavioral Sciences, ch. 2.
    """
    error = (high - low) / (2 * ndtri(0.975))
    if not abs(change) > 1e-9 or not error > 0 or math.isnan(items):
        return float("nan")
    return float(math.ceil(items * ((ndtri(1 - LEVEL / (2 * tests)) + ndtri(POWER)) * error / abs(change)) ** 2))
