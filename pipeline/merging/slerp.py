"""slerp: spherical linear interpolation."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

from torch import Tensor

from pipeline.merging.blocks import elementwise, gram
from pipeline.merging.line import blend, line
from pipeline.merging.settings import Interval

DONORS = (1, 1)
# A tensor as short as this has no direction to speak of.
SHORT = 1e-8


def slerp(
    base: Tensor,
    donors: Sequence[Tensor],
    *,
    weight: float,
    colinear: Annotated[float, Interval("[0, 1)")] = 0.9995,
    compat: Literal["none", "mergekit"] = "none",
    notes: Counter | None = None,
) -> Tensor:
    """Along the arc between base x_0 and donor x_1, each tensor taken as one vector.

        theta = arccos <x_0 / ||x_0||, x_1 / ||x_1||>
        merged = sin((1 - a) theta) / sin(theta) x_0 + sin(a theta) / sin(theta) x_1
        merged = (1 - a) x_0 + a x_1    where |cos theta| > colinear

    weight    a, in [0, 1]
    colinear  |cos theta| above which the arc is taken as a line, in [0, 1); nearly opposite tensors are on a line too
    compat    mergekit defines the same, with colinear = 0.9995: nothing else changes
    notes     counts, by reason, the tensors where the definition degenerates

    A tensor of norm <= 1e-8 has no direction: theta is then a right angle, as in the implementations in use.
    Reference: Shoemake 1985, Animating rotation with quaternion curves, SIGGRAPH.
    """
    (donor,), notes = donors, Counter() if notes is None else notes
    if weight in (0, 1):
        return elementwise(lambda base, donor: line(base, donor, weight), base, donor, raw=True)
    (xx, xy), (_, yy) = gram([base, donor]).tolist()
    short = math.sqrt(xx) <= SHORT or math.sqrt(yy) <= SHORT
    cos = 0.0 if short else max(-1.0, min(1.0, xy / (math.sqrt(xx) * math.sqrt(yy))))
    if short and base.numel():
        notes["one of the two is zero and has no direction, so the angle is taken as 90 degrees"] += 1
    colinear = 0.9995 if compat == "mergekit" else colinear
    if abs(cos) > colinear:
        way = "parallel" if cos > 0 else "opposite"
        notes[f"the two are nearly {way} (|cos| > {colinear}), so the arc is a line"] += 1
        return elementwise(lambda base, donor: line(base, donor, weight), base, donor, raw=True)
    theta = math.acos(cos)
    to_base, to_donor = math.sin((1 - weight) * theta) / math.sin(theta), math.sin(weight * theta) / math.sin(theta)
    return elementwise(lambda base, donor: blend(base, to_base, donor, to_donor), base, donor, raw=True)
