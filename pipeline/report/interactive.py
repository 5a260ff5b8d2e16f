"""The trade-off figure for the screen: one plotly figure a panel, with everything known of a cell on hover."""

from html import escape
from itertools import pairwise

import plotly.graph_objects as go
from pandas import DataFrame, Series

from pipeline.report import numerals
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
    view,
)
from pipeline.report.labels import around, place
from pipeline.report.table import CELL, arrange, cell_name, is_base, panel_name, panels, truth, varying

# page.js puts the page's own colours in place of these, light or dark.
INK, SHADE, GREY = "#000001", "#e4e4e5", "#777778"
NOMINAL = (480, 330)  # pixels of a plot for which labels are placed; on a wider screen they only get more room
LABELLED = 14  # points in a panel above which the weights stand on hover only, and each curve has its name at its end
TASKS_SHOWN = 12


def figures(table: DataFrame, axes: tuple[str, ...] = ()) -> list[tuple[str, go.Figure]]:
    """(title, figure) for every panel; the same colours, markers and lines as on paper."""
    table = arrange(table, axes)
    looks, names = look(table, axes), varying(table, axes)
    return [
        (panel_name(panel, table), _figure(block, curves(block, names, axes), looks, names))
        for panel, block in panels(table)
    ]


def hover(row: Series, names: tuple[str, ...]) -> str:
    """All intervals, the effective weight and the accuracies by task, as lines of plotly's small HTML."""
    changes = (
        []
        if is_base(row)
        else [
            (
                "bias change",
                numerals.with_interval(row, "bias_change", numerals.score_change),
            ),
            (
                "accuracy change, points",
                numerals.with_interval(row, "accuracy_change", numerals.percent_change),
            ),
            *(
                []
                if row["merge"] == "keep"
                else [
                    ("effective weight", numerals.ratio(row["effective_weight"])),
                    ("off-axis share", numerals.ratio(row["off_axis"])),
                ]
            ),
            ("perplexity, times the base's", numerals.ratio(row["perplexity_ratio"])),
        ]
    )
    tasks = [
        (name.removeprefix(f"{row['accuracy_set']}."), numerals.percent(float(row[name])) + " %")
        for name in task_columns(row)
    ]
    if len(tasks) > TASKS_SHOWN:
        tasks = [*tasks[:TASKS_SHOWN], (f"and {len(tasks) - TASKS_SHOWN} more tasks", "see the table")]
    lines = [
        ("bias score", numerals.interval(numerals.score, row["bias_score"], row["bias_low"], row["bias_high"])),
        (
            "signed",
            numerals.with_interval(row, "bias_signed", numerals.score_change),
        ),
        (
            "accuracy, %",
            numerals.with_interval(row, "accuracy", numerals.percent),
        ),
        *changes,
        *tasks,
    ]
    flags = [
        word for word, holds in (("on the Pareto front", truth(row["on_front"])), ("RUINED", is_ruined(row))) if holds
    ]
    head = f"<b>{escape(cell_name(row, names))}</b>" + (f" · {', '.join(flags)}" if flags else "")
    return "<br>".join([head, *(f"{escape(name)}: {escape(value)}" for name, value in lines)])


def task_columns(row: Series) -> list[str]:
    """The columns that hold accuracies by task, where the row has a number in them."""
    return [
        name
        for name in row.index
        if name not in CELL and name.startswith(f"{row['accuracy_set']}.") and _is_number(row[name])
    ]


def _is_number(value) -> bool:
    try:
        return float(value) == float(value)
    except (TypeError, ValueError):
        return False


def _figure(block: DataFrame, drawn: list[Curve], looks: Look, names: tuple[str, ...]) -> go.Figure:
    bases = [row for _, row in block.iterrows() if is_base(row) and is_drawable(row)]
    points = [*bases, *(row for curve in drawn for row in curve.cells)]
    figure = go.Figure(
        layout={
            "template": "none",
            "margin": {"l": 56, "r": 12, "t": 12, "b": 48},
            "hovermode": "closest",
            "dragmode": "zoom",
            "legend": {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "xanchor": "left"},
            "height": 520,
        }
    )
    if not points:
        figure.add_annotation(text="no finished cell", showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)
        figure.update_layout(xaxis={"visible": False}, yaxis={"visible": False})
        return figure
    left, right, bottom, top = view(points)
    figure.update_xaxes(range=[left, right], title="bias score (0 is the ideal)", zeroline=True)
    figure.update_yaxes(range=[bottom, top], title="accuracy, %", zeroline=False)
    floor = noise_floor(points)
    if floor > 0:
        figure.add_shape(
            type="rect", x0=0, x1=floor, y0=0, y1=1, yref="paper", fillcolor=SHADE, line={"width": 0}, layer="below"
        )
        figure.add_trace(
            _key("noise floor: an unbiased model scores up to here", {"symbol": "square", "size": 12, "color": SHADE})
        )
    chance = points[0]["chance"]
    if chance == chance:
        figure.add_shape(
            type="line",
            x0=0,
            x1=1,
            xref="paper",
            y0=100 * chance,
            y1=100 * chance,
            layer="below",
            line={"color": GREY, "width": 1, "dash": "dash"},
        )
        if bottom <= 100 * chance <= top:
            figure.add_annotation(
                text="chance", x=1, xref="paper", xanchor="right", y=100 * chance, yanchor="bottom", showarrow=False
            )
    for curve in drawn:
        _add_curve(figure, curve, looks, names, barred(curve.cells, len(points) > CROWDED))
    if bases:
        figure.add_trace(_bars(bases, INK, "base"))
        figure.add_trace(
            _markers(bases, "base (unmerged)", "base", names, {"symbol": "star", "size": 15, "color": INK}, None)
        )
    front = [row for row in points if truth(row["on_front"])]
    if front:
        x, y = _xy(front)
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="markers",
                hoverinfo="skip",
                name="on the Pareto front",
                marker={"symbol": "circle-open", "size": 21, "color": INK, "line": {"width": 1.4}},
            )
        )
    _label(figure, bases, drawn, looks, (left, right, bottom, top))
    return figure


def _add_curve(figure: go.Figure, curve: Curve, looks: Look, names: tuple[str, ...], with_bars: list[Series]) -> None:
    colour, symbol, dash = looks.colour(curve.method), looks.marker(curve.method)[1], looks.line(curve.variant)[1]
    line = {"color": colour, "dash": dash, "width": 2} if curve.cells[0]["weight"] >= 0 else None
    if curve.base is not None and line:
        x, y = _xy([curve.base, curve.cells[0]])
        figure.add_trace(
            go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", legendgroup=curve.name, showlegend=False)
        )
    if with_bars:
        figure.add_trace(_bars(with_bars, colour, curve.name))
    marker = {
        "symbol": [symbol + ("-open" if is_ruined(row) else "") for row in curve.cells],
        "size": 8 if looks.is_small(curve) else 10,
        "color": colour,
        "line": {"width": 2 if any(map(is_ruined, curve.cells)) else 0, "color": colour},
    }
    figure.add_trace(_markers(curve.cells, curve.name, curve.name, names, marker, line))


def _markers(
    rows: list[Series], name: str, group: str, names: tuple[str, ...], marker: dict, line: dict | None
) -> go.Scatter:
    x, y = _xy(rows)
    return go.Scatter(
        x=x,
        y=y,
        mode="lines+markers" if line else "markers",
        line=line,
        name=escape(name),
        legendgroup=group,
        marker=marker,
        hovertext=[hover(row, names) for row in rows],
        hoverinfo="text",
    )


def _label(
    figure: go.Figure, bases: list[Series], drawn: list[Curve], looks: Look, frame: tuple[float, float, float, float]
) -> None:
    left, right, bottom, top = frame
    wide, high = NOMINAL
    rows = [*bases, *(row for curve in drawn for row in curve.cells)]
    pixels = {
        row.name: (wide * (x - left) / (right - left), high * (y - bottom) / (top - bottom))
        for row, x, y in zip(rows, *_xy(rows), strict=True)
    }
    wanted = [(pixels[row.name], "base", INK) for row in bases[:1]]
    for curve in drawn:
        wanted += [
            (point, words, looks.colour(curve.method))
            for point, words in labels(curve, len(rows) > LABELLED, pixels, 8)
        ]
    wanted = [entry for entry in wanted if 0 <= entry[0][0] <= wide and 0 <= entry[0][1] <= high]
    paths = [
        [pixels[row.name] for row in ([curve.base] if curve.base is not None else []) + curve.cells] for curve in drawn
    ]
    lines = [(*one, *other) for path in paths for one, other in pairwise(path)]
    sizes = [(7.5 * len(words) + 4, 15.0) for _, words, _ in wanted]
    taken = [around(point, 22, 22) for point in pixels.values()]
    centres = place([point for point, _, _ in wanted], sizes, taken, lines, (0, 0, wide, high), unit=1.4)
    for (point, words, colour), centre in zip(wanted, centres, strict=True):
        figure.add_annotation(
            text=f"<b>{escape(words)}</b>",
            x=left + point[0] * (right - left) / wide,
            y=bottom + point[1] * (top - bottom) / high,
            ax=round(centre[0] - point[0], 1),
            ay=round(point[1] - centre[1], 1),
            showarrow=True,
            arrowhead=0,
            arrowwidth=0.8,
            arrowcolor=colour,
            standoff=8,
            font={"color": colour, "size": 12},
        )


def _bars(rows: list[Series], colour: str, group: str) -> go.Scatter:
    # As lines: an interval need not contain the value, which plotly's error bars take for granted.
    x: list[float | None] = []
    y: list[float | None] = []
    for row in rows:
        height = 100 * row["accuracy"]
        x += [row["bias_low"], row["bias_high"], None, row["bias_score"], row["bias_score"], None]
        y += [height, height, None, 100 * row["accuracy_low"], 100 * row["accuracy_high"], None]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": colour, "width": 1},
        opacity=0.4,
        hoverinfo="skip",
        legendgroup=group,
        showlegend=False,
    )


def _key(name: str, marker: dict) -> go.Scatter:
    return go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=marker, hoverinfo="skip")


def _xy(rows: list[Series]) -> tuple[list[float], list[float]]:
    return [float(row["bias_score"]) for row in rows], [100 * float(row["accuracy"]) for row in rows]
