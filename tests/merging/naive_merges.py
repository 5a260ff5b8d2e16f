"""Each method again, in float64 numpy, straight from its definition and sharing nothing with the pipeline's blocks.

naive.NAME(base, donors, weight, shares, **settings) on dicts of arrays. Those that draw at random take `uniform` too: for
each donor a dict of numbers in [0, 1). `scale` multiplies the weight of the task-vector family; `draw`, `mixup` and
`compat` are ignored: who calls gives the shares and the numbers that were drawn.
"""

from tests.merging.naive.interpolation import karcher, keep, linear, multislerp, nearswap, nuslerp, slerp
from tests.merging.naive.ratios import arcee_fusion, model_stock
from tests.merging.naive.sparse import breadcrumbs, dare, della, ties
from tests.merging.naive.vectors import magmax, pcb, sce, task_arithmetic

__all__ = [
    "arcee_fusion",
    "breadcrumbs",
    "dare",
    "della",
    "karcher",
    "keep",
    "linear",
    "magmax",
    "model_stock",
    "multislerp",
    "nearswap",
    "nuslerp",
    "pcb",
    "sce",
    "slerp",
    "task_arithmetic",
    "ties",
]
