"""Where the units lie that a partitioned debiasing changed: a map of layers and modules, for print."""

import re
from pathlib import Path

import numpy
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pandas import DataFrame

from pipeline.report.figure import STYLE

OUTSIDE = "outside the layers"


def shares(units: DataFrame) -> DataFrame:
    """In percent: of each module's units (columns) in each layer (rows), how many an update changed on average.

    units  tensor, units (how many it has), chosen (in how many of the updates one was), updates; one row a chosen unit
    """
    by_tensor = units.groupby("tensor").agg(
        chosen=("chosen", "sum"), units=("units", "first"), updates=("updates", "first")
    )
    placed = [_place(name) for name in by_tensor.index]
    table = by_tensor.assign(layer=[layer for layer, _ in placed], module=[module for _, module in placed])
    cells = table.groupby(["layer", "module"]).agg(
        chosen=("chosen", "sum"), units=("units", "sum"), updates=("updates", "first")
    )
    found = (100 * cells["chosen"] / (cells["units"] * cells["updates"])).unstack(fill_value=0.0)
    last = max((layer for layer in found.index if layer >= 0), default=-1)
    return found.reindex([-1, *range(last + 1)] if -1 in found.index else range(last + 1), fill_value=0.0)


def draw(units: DataFrame, folder: Path) -> list[Path]:
    """Write units.png and units.svg into the folder; returns their paths, none where no unit was chosen."""
    if units.empty:
        return []
    table = shares(units)
    with rc_context(STYLE):
        figure = Figure(figsize=(1.8 + 0.55 * len(table.columns), 1.6 + 0.2 * len(table)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        seen = axes.imshow(table.to_numpy(), aspect="auto", cmap="magma_r", vmin=0)
        axes.set_xticks(range(len(table.columns)), table.columns, rotation=40, ha="right", rotation_mode="anchor")
        step = max(1, len(table) // 16)
        places = numpy.arange(0, len(table), step)
        axes.set_yticks(places, [OUTSIDE if table.index[p] < 0 else f"layer {table.index[p]}" for p in places])
        axes.spines[:].set_visible(False)
        axes.set_title("Units changed, % of a module's per update")
        figure.colorbar(seen, ax=axes, shrink=0.8)
        paths = [folder / "units.png", folder / "units.svg"]
        figure.savefig(paths[0], dpi=200, metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None, "Creator": None})
    return paths


def _place(tensor: str) -> tuple[int, str]:
    """The layer, -1 outside of them, and the module's own name: (7, "mlp.down_proj") of model.layers.7.mlp.down_proj.weight."""
    found = re.search(r"(?:^|\.)(\d+)\.(.+)$", tensor)
    layer, name = (int(found[1]), found[2]) if found else (-1, tensor)
    plain = name.removesuffix(".weight").removesuffix(".bias")
    kind = "" if tensor.endswith(".weight") else " (bias)"
    return layer, (plain if layer >= 0 else plain.split(".")[-1]) + kind
