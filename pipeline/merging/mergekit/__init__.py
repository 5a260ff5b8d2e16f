"""mergekit 0.1.5's numbers, where its definitions differ from the papers': what `compat: mergekit` and recipes compute.

linear(tensors, weights)                       weighted average
slerp(base, donor, t)                          arc between whole tensors
nuslerp(first, second, t, base=None)           arc between whole tensors, rows or columns
karcher(tensors)                               mean of directions, equal weights
multislerp(tensors, weights, base=None)        weighted mean of directions
nearswap(base, donor, t)                       steps of at most t
model_stock(base, donors)                      as far towards the mean as the angles say
arcee_fusion(base, donor)                      the donor where it matters
generalised_task_arithmetic(base, donors, weights, densities, ...)
                                               task_arithmetic, ties, dare_*, breadcrumbs*, della*
sce(base, donors)                              select, calculate, erase

All take whole tensors of one shape and give the working dtype: float32, or float64 where the first tensor is float64.
Norms, dots and L1 sums are float64, where mergekit's are float32: single entries differ from mergekit's by the rounding
of float32, and by more only where mergekit's own numbers are rounding noise (an arc between all but opposite tensors).
Written from the formulas; the numbers that it is held to were recorded from mergekit by bench/record_mergekit.py.

`parameters` knows mergekit's methods and their parameters, `reading` and `writing` its YAML.
Reference: Goddard et al. 2024, Arcee's MergeKit, arXiv 2403.13257, and the documentation of version 0.1.5.
"""

from pipeline.merging.mergekit.points import (
    arcee_fusion,
    karcher,
    linear,
    model_stock,
    multislerp,
    nearswap,
    nuslerp,
    slerp,
)
from pipeline.merging.mergekit.task_vectors import generalised_task_arithmetic, sce

__all__ = [
    "arcee_fusion",
    "generalised_task_arithmetic",
    "karcher",
    "linear",
    "model_stock",
    "multislerp",
    "nearswap",
    "nuslerp",
    "sce",
    "slerp",
]
