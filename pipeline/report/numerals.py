"""Numbers as text: one way to print each kind, everywhere. What is undefined is said to be so, never as nan or 0."""

import math

UNDEFINED = "undefined"


def score(value: float) -> str:
    """A bias score on [0, 1] or a signed one on [-1, 1]: three decimals, no -0.000."""
    return _fixed(value, 3)


def score_change(value: float) -> str:
    """A difference of bias, with its sign."""
    return _fixed(value, 3, sign=True)


def percent(value: float) -> str:
    """An accuracy on [0, 1] in percent: one decimal, no percent sign."""
    return _fixed(100 * value, 1)


def percent_change(value: float) -> str:
    """A difference of accuracies in percentage points, with its sign."""
    return _fixed(100 * value, 1, sign=True)


def ratio(value: float) -> str:
    """An effective weight or an off-axis share: two decimals."""
    return _fixed(value, 2)


def signed_ratio(value: float) -> str:
    """An effect size: two decimals, with its sign."""
    return _fixed(value, 2, sign=True)


def plain(value: float) -> str:
    """Any number, to four significant digits."""
    return UNDEFINED if math.isnan(value) else f"{value:.4g}"


def weight(value: float) -> str:
    """A weight as it was typed; the base has none."""
    return "" if math.isnan(value) else f"{value:g}"


def count(value: float) -> str:
    """A number of items, two leading digits when large: 5,400."""
    if value < 100:
        return str(math.ceil(value))
    step = 10 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / step) * step:,}"


def p_value(value: float) -> str:
    """A p with its sign: "= 0.043", "< 0.001"."""
    return f"is {UNDEFINED}" if math.isnan(value) else "< 0.001" if value < 0.001 else f"= {value:.3f}"


def interval(show, value: float, low: float, high: float, between: str = " ", sign: str = "") -> str:
    """value [low, high], each printed by `show`; a plus sign is kept for the value alone, which `sign` may follow."""
    if math.isnan(value):
        return UNDEFINED
    if math.isnan(low) or math.isnan(high):
        return f"{show(value)}{sign}{between}(no interval)"
    return f"{show(value)}{sign}{between}[{show(low).lstrip('+')}, {show(high).lstrip('+')}]"


def with_interval(row, name: str, show, between: str = " ", sign: str = "") -> str:
    """The row's value called `name` with its columns `<name>_low` and `<name>_high`."""
    return interval(show, row[name], row[f"{name}_low"], row[f"{name}_high"], between, sign)


def _fixed(value: float, decimals: int, sign: bool = False) -> str:
    if math.isnan(value):
        return UNDEFINED
    rounded = round(value, decimals) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{rounded:+.{decimals}f}" if sign and rounded else f"{rounded:.{decimals}f}"
