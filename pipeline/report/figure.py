"""The trade-off figure for print: accuracy against bias, one panel a bias set and model, as png and svg."""

import textwrap
from itertools import pairwise
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from pandas import DataFrame, Series

from pipeline.report.curves import (
    CROWDED,
    Curve,
    Look,
    barred,
    curves,
    is_drawable,
    is_ruined,
    labels,
    look,
    noise_floor,
    outside,
    view,
)
from pipeline.report.labels import around, place
from pipeline.report.table import arrange, failures, is_base, is_control, panel_name, panels, truth, varying

# The salt and the absent date make the svg the same bytes each time.
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "svg.hashsalt": "tradeoff",
    "svg.fonttype": "path",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "path.simplify": False,
}
PANEL_WIDTH, PANEL_HEIGHT = 5.4, 4.3  # inches
SAME_PLACE = 5  # points (1/72 inch) within which two cells of a curve share one label
INK, GREY, SHADE = "#000000", "#555555", "#E8E8E8"


def write(table: DataFrame, folder: Path, axes: tuple[str, ...] = ()) -> list[Path]:
    """Write tradeoff.png (200 dpi) and tradeoff.svg into the folder; returns their paths."""
    with rc_context(STYLE):
        drawn = tradeoff(table, axes)
        drawn.savefig(folder / "tradeoff.png", dpi=200, metadata={"Software": None})
        drawn.savefig(folder / "tradeoff.svg", metadata={"Date": None, "Creator": None})
    return [folder / "tradeoff.png", folder / "tradeoff.svg"]


def tradeoff(table: DataFrame, axes: tuple[str, ...] = ()) -> Figure:
    """The figure: a panel for each model, bias set and accuracy set, a legend, and in words what has no place in it."""
    with rc_context(STYLE):
        table = arrange(table, axes)
        looks, names, blocks = look(table, axes), varying(table, axes), panels(table)
        columns = min(2, max(1, len(blocks)))
        rows = max(1, -(-len(blocks) // columns))
        tall = max(
            1.0, min(2.0, (len(looks.methods) + len(looks.lines)) / 14)
        )  # a legend of many merges needs the room
        seen: set[str] = set()
        notes: list[str] = []
        figure = Figure(
            figsize=(
                PANEL_WIDTH * tall**0.5 * columns + (2.0 if columns == 1 else 0),
                PANEL_HEIGHT * tall**0.5 * rows + 1.2,
            ),
            layout="constrained",
        )
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in grid[len(blocks) :]:
            axis.set_axis_off()
        tasks = []
        for axis, (panel, block) in zip(grid[: len(blocks)], blocks, strict=True):
            drawn = curves(block, names, axes)
            title = panel_name(panel, table)
            items = block["items"].dropna()
            axis.set_title(
                "\n".join(textwrap.wrap(title + (f" ({int(items.iloc[0]):,} items)" if len(items) else ""), 62))
            )
            _draw(axis, block, drawn, looks, seen)
            if left_out := outside(block, names):
                where = f" of {title}" if len(blocks) > 1 else ""
                notes.append(f"Outside the view{where}: {'; '.join(left_out)}.")
            tasks.append((axis, block, drawn))
        notes += [f"No result: {sentence}" for sentence in failures(table, axes)]
        _legend(figure, looks, seen, columns)
        _caption(figure, notes, columns)
        figure.draw_without_rendering()  # settles the layout, on which the places of the labels depend
        figure.set_layout_engine("none")
        for axis, block, drawn in tasks:
            _label(axis, block, drawn, looks)
    return figure


def _draw(axis: Axes, block: DataFrame, drawn: list[Curve], looks: Look, seen: set[str]) -> None:
    bases = [row for _, row in block.iterrows() if is_base(row) and is_drawable(row)]
    points = [*bases, *(row for curve in drawn for row in curve.cells)]
    if not points:
        axis.text(0.5, 0.5, "no finished cell", transform=axis.transAxes, ha="center", va="center", color=GREY)
        axis.set(xticks=[], yticks=[])
        return
    left, right, bottom, top = view(points)
    axis.set(xlim=(left, right), ylim=(bottom, top), xlabel="bias score  (0 is the ideal)", ylabel="accuracy, %")
    axis.grid(color="#EEEEEE", linewidth=0.6)
    axis.set_axisbelow(True)
    floor = noise_floor(points)
    if floor > max(left, 0):
        axis.axvspan(0, min(floor, right), color=SHADE, zorder=0.5, linewidth=0)
        seen.add("floor")
    if left < 0:
        axis.axvline(0, color=GREY, linewidth=0.8, zorder=0.6)
    chance = 100 * points[0]["chance"]
    if bottom <= chance <= top:
        axis.axhline(chance, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0.6)
        seen.add("chance")
    crowded = len(points) > CROWDED
    faint = 0.4 if len(points) <= 8 or crowded else 0.25
    drawn_bars = {row.name for row in barred(points, crowded)}
    seen.add("some bars" if crowded else "bars")
    for curve in drawn:
        colour, marker, line = looks.colour(curve.method), looks.marker(curve.method)[0], looks.line(curve.variant)[0]
        size = 4.8 if looks.is_small(curve) else 6.5
        if is_control(curve.cells[0]):
            seen.add("control")
        path = ([curve.base] if curve.base is not None else []) + curve.cells
        if len(path) > 1 and curve.cells[0]["weight"] == curve.cells[0]["weight"]:
            axis.plot(*_xy(path), color=colour, linestyle=line, linewidth=1.4, zorder=2)
        for row in curve.cells:
            if row.name in drawn_bars:
                _bars(axis, row, colour, faint)
            hollow = is_ruined(row)
            if hollow and left <= row["bias_score"] <= right and bottom <= 100 * row["accuracy"] <= top:
                seen.add("ruined")
            axis.plot(
                *_xy([row]),
                linestyle="none",
                marker=marker,
                markersize=size,
                color=colour,
                zorder=4,
                markerfacecolor="white" if hollow else colour,
                markeredgewidth=1.3 if hollow else 0.6,
                markeredgecolor=colour if hollow else "white",
            )
    for row in bases:
        _bars(axis, row, INK, 0.6)
        axis.plot(
            *_xy([row]),
            linestyle="none",
            marker="*",
            markersize=13,
            color=INK,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=5,
        )
    for row in points:
        if truth(row["on_front"]):
            seen.add("front")
            axis.plot(
                *_xy([row]),
                linestyle="none",
                marker="o",
                markersize=15,
                markerfacecolor="none",
                markeredgecolor=INK,
                markeredgewidth=1.0,
                zorder=3,
            )


def _xy(rows: list[Series]) -> tuple[list[float], list[float]]:
    return [row["bias_score"] for row in rows], [100 * row["accuracy"] for row in rows]


def _bars(axis: Axes, row: Series, colour: str, alpha: float) -> None:
    # Drawn as plain lines: an interval need not contain the value (folded at 0), which errorbar() refuses.
    x, y = row["bias_score"], 100 * row["accuracy"]
    axis.plot(
        [row["bias_low"], row["bias_high"]],
        [y, y],
        color=colour,
        alpha=alpha,
        linewidth=1.0,
        zorder=1.5,
        marker="|",
        markersize=4,
    )
    axis.plot(
        [x, x],
        [100 * row["accuracy_low"], 100 * row["accuracy_high"]],
        color=colour,
        alpha=alpha,
        linewidth=1.0,
        zorder=1.5,
        marker="_",
        markersize=4,
    )


def _label(axis: Axes, block: DataFrame, drawn: list[Curve], looks: Look) -> None:
    renderer = axis.figure.canvas.get_renderer()
    unit = axis.figure.dpi / 72
    inside = axis.get_window_extent(renderer)
    frame = (inside.x0, inside.y0, inside.x1, inside.y1)
    bases = [row for _, row in block.iterrows() if is_base(row) and is_drawable(row)]
    cells = [(curve, row) for curve in drawn for row in curve.cells]
    pixels = {row.name: axis.transData.transform(_xy([row])).ravel() for row in [*bases, *(row for _, row in cells)]}
    wanted = [(pixels[row.name], "base", INK) for row in bases[:1]]
    crowded = len(bases) + len(cells) > CROWDED
    for curve in drawn:
        wanted += [
            (point, words, looks.colour(curve.method))
            for point, words in labels(curve, crowded, pixels, SAME_PLACE * unit)
        ]
    wanted = [
        (point, words, colour)
        for point, words, colour in wanted
        if frame[0] <= point[0] <= frame[2] and frame[1] <= point[1] <= frame[3]
    ]
    taken = []
    for row in [*bases, *(row for _, row in cells)]:
        reach = (9 if truth(row["on_front"]) else 5) * unit
        taken.append(around(tuple(pixels[row.name]), 2 * reach, 2 * reach))
    taken += _fixed_words(axis, renderer)
    lines = []
    for curve in drawn:
        path = [pixels[row.name] for row in ([curve.base] if curve.base is not None else []) + curve.cells]
        lines += [(*one, *other) for one, other in pairwise(path)]
    bars = []
    for row in [*bases, *barred([row for _, row in cells], crowded)]:
        x, y = _xy([row])
        ends = axis.transData.transform(
            [
                (row["bias_low"], y[0]),
                (row["bias_high"], y[0]),
                (x[0], 100 * row["accuracy_low"]),
                (x[0], 100 * row["accuracy_high"]),
            ]
        )
        bars += [(*ends[0], *ends[1]), (*ends[2], *ends[3])]
    texts = [
        axis.text(
            0,
            0,
            words,
            color=colour,
            fontsize=8.5,
            fontweight="bold",
            ha="center",
            va="center",
            zorder=6,
            path_effects=[withStroke(linewidth=2.2, foreground="white")],
        )
        for _, words, colour in wanted
    ]
    sizes = [(box.width, box.height) for box in (text.get_window_extent(renderer) for text in texts)]
    points = [tuple(point) for point, _, _ in wanted]
    places = place(points, sizes, taken, lines, frame, unit, bars)
    for text, point, centre, (width, height) in zip(texts, points, places, sizes, strict=True):
        text.set_position(axis.transData.inverted().transform(centre))
        edge = (
            min(max(point[0], centre[0] - width / 2), centre[0] + width / 2),
            min(max(point[1], centre[1] - height / 2), centre[1] + height / 2),
        )
        if ((edge[0] - point[0]) ** 2 + (edge[1] - point[1]) ** 2) ** 0.5 > 13 * unit:
            ends = axis.transData.inverted().transform([point, edge])
            axis.plot(
                ends[:, 0], ends[:, 1], color=text.get_color(), linewidth=0.7, zorder=3.5, scalex=False, scaley=False
            )


def _fixed_words(axis: Axes, renderer) -> list[tuple[float, float, float, float]]:
    return [(box.x0, box.y0, box.x1, box.y1) for box in (text.get_window_extent(renderer) for text in axis.texts)]


def _legend(figure: Figure, looks: Look, seen: set[str], columns: int) -> None:
    handles = [Line2D([], [], color=INK, marker="*", markersize=12, linestyle="none", label="base (unmerged)")]
    handles += [
        Line2D(
            [],
            [],
            color=looks.colour(name),
            marker=looks.marker(name)[0],
            markersize=6.5,
            linewidth=1.4,
            label=name,
        )
        for name in sorted(looks.methods, key=looks.methods.get)
    ]
    if len(looks.lines) > 1:
        handles += [
            Line2D([], [], color=GREY, linestyle=looks.line(name)[0], linewidth=1.4, label=name or "(none)")
            for name in looks.lines
        ]
    kinds = {
        "control": Line2D(
            [], [], linestyle="none", marker="o", markersize=4.8, color=GREY, label="smaller: its control"
        ),
        "front": Line2D(
            [],
            [],
            linestyle="none",
            marker="o",
            markersize=13,
            markerfacecolor="none",
            markeredgecolor=INK,
            label="on the Pareto front",
        ),
        "ruined": Line2D(
            [],
            [],
            linestyle="none",
            marker="o",
            markersize=6.5,
            markerfacecolor="white",
            markeredgecolor=GREY,
            markeredgewidth=1.3,
            label="hollow: ruined",
        ),
        "floor": Patch(color=SHADE, label="noise floor: an unbiased\nmodel scores up to here"),
        "chance": Line2D([], [], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), label="accuracy by chance"),
    }
    handles += [handle for name, handle in kinds.items() if name in seen]
    which = "95 % interval" + (" (in crowded\npanels: base and front)" if "some bars" in seen else "")
    handles.append(Line2D([], [], color=GREY, alpha=0.6, linewidth=1.0, marker="|", markersize=4, label=which))
    if columns == 1:
        figure.legend(
            handles=handles, loc="outside right upper", frameon=False, fontsize=8.5, handlelength=2.6, labelspacing=0.8
        )
    else:
        figure.legend(
            handles=handles,
            loc="outside upper center",
            frameon=False,
            fontsize=8.5,
            handlelength=2.6,
            ncols=min(5, len(handles)),
            labelspacing=0.8,
        )


def _caption(figure: Figure, notes: list[str], columns: int) -> None:
    if notes:
        lines = [line for note in notes for line in textwrap.wrap(note, 120 if columns == 1 else 175)]
        figure.supxlabel("\n".join(lines), fontsize=8, color=GREY, ha="left", x=0.01)
