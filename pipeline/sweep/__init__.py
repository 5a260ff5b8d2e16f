"""A grid of cells that survives what happens in one of them.

The parent opens the sweep (folder, MLflow store, record), Hydra's launcher runs the cells wherever it
likes, each in a process of its own, and the parent closes the sweep: whatever happened, every cell that
was asked for has its row.

    runs/sweeps/<date>/<time>/sweep.json     what was asked for
    runs/sweeps/<date>/<time>/<n>/cell.json  what became of cell n
    runs/sweeps/<date>/<time>/results/       the table, the figures, the page
"""

from pipeline.sweep.cell import cell
from pipeline.sweep.forecast import plan
from pipeline.sweep.grid import as_dict, expand, spelled
from pipeline.sweep.parent import Opening, aggregate, announce, close
from pipeline.sweep.record import Sweep
from pipeline.sweep.words import complain, console

__all__ = [
    "Opening",
    "Sweep",
    "aggregate",
    "announce",
    "as_dict",
    "cell",
    "close",
    "complain",
    "console",
    "expand",
    "plan",
    "spelled",
]
