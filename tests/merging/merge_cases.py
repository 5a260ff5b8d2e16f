"""Settings with which each method is held against its naive twin."""

from itertools import product

from pipeline.merging import methods
from tests.merging import naive_merges as naive

TOGETHER = [{"vote": v, "combine": c} for v in ("none", "plain", "weighted") for c in ("sum", "mean")]
TOGETHER += [{"vote": v, "combine": c} for v, c in (("none", "max"), ("plain", "weighted_mean"), ("weighted", "max"))]
TOGETHER += [{"vote": "none", "combine": "weighted_mean"}]
RESCALE = ("inverse_prob", "l1", "none")


def _grid(**choices) -> list[dict]:
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


CHOICES = {
    "slerp": _grid(colinear=[0.9995, 0.5]),
    "nuslerp": _grid(flatten=[True]) + _grid(flatten=[False], row_wise=[False, True]),
    "nearswap": _grid(mode=["quantile", "absolute"]),
    "task_arithmetic": _grid(scale=[1.0, 1.7]),
    "magmax": _grid(scale=[1.0, 0.5]),
    "ties": [
        {"density": density, "trim": trim, "scale": scale} | how
        for (density, scale), trim in product([(0.2, 1.0), (0.55, 1.7)], ["model", "tensor"])
        for how in TOGETHER
        if how["vote"] != "none"
    ]
    + _grid(density=[0.0, 1.0], combine=["mean", "sum"]),
    "dare": [{"density": 0.5} | how for how in TOGETHER]
    + _grid(density=[0.0, 0.3, 1.0], rescale=RESCALE)
    + _grid(density=[0.8], rescale=["l1"], vote=["plain"], combine=["mean"], draw=[3], scale=[1.7]),
    "della": [{"density": 0.5} | how for how in TOGETHER]
    + _grid(density=[0.3, 0.8], epsilon=[0.0, 0.15], rescale=RESCALE)
    + _grid(density=[0.0, 1.0])
    + _grid(density=[0.4], draw=[3], scale=[1.7]),
    "breadcrumbs": [{"density": 0.5, "gamma": 0.1} | how for how in TOGETHER]
    + _grid(density=[0.0, 0.3, 0.9, 1.0], gamma=[0.0, 0.01, 0.3]),
    "pcb": _grid(ratio=[0.1, 0.5, 1.0], clamp=[0.0001, 0.05]) + _grid(scale=[1.2]),
    "sce": _grid(density=[0.0, 0.4, 1.0], vote=["none", "plain"]),
    "model_stock": _grid(angle=["cosine", "angle"], clamp=[True, False]),
}

# every method with a twin, as soon as it is there
CASES = [(name, chosen) for name in methods() if hasattr(naive, name) for chosen in [{}, *CHOICES.get(name, [])]]
MIXED = [
    (name, {"mixup": a, "draw": draw})
    for name in ("linear", "task_arithmetic", "ties", "dare")
    for a, draw in ((0.5, 0), (2.0, 7))
]
