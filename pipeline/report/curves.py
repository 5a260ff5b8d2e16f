"""The trade-off curves of a table: which rows belong together, in which order, in which colour, marker and line."""

from dataclasses import dataclass

from pandas import DataFrame, Series

from pipeline.report import numerals
from pipeline.report.table import (
    CONTROL,
    base_of,
    cell_name,
    is_base,
    is_control,
    is_finished,
    text,
    truth,
    variant,
    varying,
)

# Okabe and Ito's palette, which readers with any colour vision can tell apart; black is the base's, yellow is too
# pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
# (matplotlib, plotly): as many as share no common divisor with the colours, so that 77 merges differ in the pair.
MARKERS = (
    ("o", "circle"),
    ("s", "square"),
    ("^", "triangle-up"),
    ("D", "diamond"),
    ("v", "triangle-down"),
    ("P", "cross"),
    ("X", "x"),
    ("p", "pentagon"),
    ("h", "hexagon"),
    ("<", "triangle-left"),
    (">", "triangle-right"),
)
LINES = (
    ("-", "solid"),
    ((0, (5, 2)), "dash"),
    ((0, (1, 1.5)), "dot"),
    ((0, (6, 2, 1, 2)), "dashdot"),
    ((0, (9, 3)), "longdash"),
)

CROWDED = 24  # points in a panel above which curves are labelled by name, and only the base and the front have bars
OUTLIER = 3.0  # ruined cells that would stretch an axis by more than this are left outside


@dataclass(frozen=True)
class Look:
    """How each method (a merge, or what debiases a model that is not merged) and each variant of a merge (donor, debias,
    axes, seed) is drawn, the same in all panels of a table."""

    methods: dict[str, tuple[int, int]]  # (colour, marker)
    lines: dict[str, int]  # of the variants that are drawn as lines over their weights

    def colour(self, name: str) -> str:
        """The method's colour."""
        return COLOURS[self.methods[name][0] % len(COLOURS)]

    def marker(self, name: str) -> tuple[str, str]:
        """The method's marker, for matplotlib and for plotly."""
        return MARKERS[self.methods[name][1] % len(MARKERS)]

    def line(self, variant: str) -> tuple:
        """The variant's line, for matplotlib and for plotly."""
        return LINES[self.lines.get(variant, 0) % len(LINES)]

    def is_small(self, curve: "Curve") -> bool:
        """Whether its markers are smaller: of a control, and of all variants that have a line but the first."""
        return is_control(curve.cells[0]) or self.lines.get(curve.variant, 0) > 0


@dataclass(frozen=True)
class Curve:
    """One merge with one variant: its finished cells by rising weight, and the base from which it starts."""

    merge: str
    variant: str
    base: Series | None
    cells: list[Series]

    @property
    def method(self) -> str:
        """What its colour and marker stand for."""
        return method(self.cells[0])

    @property
    def name(self) -> str:
        """The curve in words."""
        if self.merge == "keep":
            done = text(self.cells[0]["debias"])
            rest = self.variant.removeprefix(done).removeprefix(", ").replace("debias.", "")
            return f"{done}, {rest}" if rest else done
        return self.merge + (f" ({self.variant})" if self.variant else "")

    @property
    def label(self) -> str:
        """What is written beside it: a line over the weights shows its variant, points must be told apart."""
        return self.merge if self.cells[0]["weight"] == self.cells[0]["weight"] else self.name


def look(table: DataFrame, axes: tuple[str, ...] = ()) -> Look:
    """Colours, markers and lines for an arranged table.

    Each method has a colour and a marker of its own; where there are more methods than colours, a family of methods has
    one colour, if the table says which, and each of its methods a marker.
    """
    names = varying(table, axes)
    cells = [row for _, row in table.iterrows() if not is_base(row)]
    family = {method(row): text(row.get("family")) for row in cells}
    methods = {name: (place, place) for place, name in enumerate(family)}
    families = list(dict.fromkeys(family[name] for name in sorted(family, key=lambda name: family[name])))
    if len(methods) > len(COLOURS) and any(families):
        groups = {each: [name for name in family if family[name] == each] for each in families}
        methods = {
            name: (colour, place) for colour, each in enumerate(groups) for place, name in enumerate(groups[each])
        }
    drawn = dict.fromkeys(variant(row, names) for row in cells if row["weight"] == row["weight"])
    return Look(methods, {name: place for place, name in enumerate(drawn)})


def curves(rows: DataFrame, names: tuple[str, ...], axes: tuple[str, ...] = ()) -> list[Curve]:
    """The curves of one panel; a cell without a bias score or an accuracy is on none.

    A curve starts at the base, or, with a debiasing, at the debiased base where the table has that.
    """
    groups: dict[tuple[str, str], list[Series]] = {}
    for _, row in rows.iterrows():
        if not is_base(row) and is_drawable(row):
            groups.setdefault((row["merge"], variant(row, names)), []).append(row)
    result = []
    for (merge, name), cells in groups.items():
        starts = [
            row
            for _, row in rows.iterrows()
            if row["merge"] == "keep"
            and is_drawable(row)
            and merge != "keep"
            and text(row["debias"]) == text(cells[0]["debias"])
            and all(
                text(row.get(key)) == text(cells[0].get(key))
                for key in ("seed", *(a for a in axes if a.startswith("debias.")))
            )
            and text(row.get("base_id")) == text(cells[0].get("base_id"))
        ]
        base = starts[0] if starts else base_of(cells[0], rows, axes)
        weighted = all(cell["weight"] == cell["weight"] for cell in cells)
        start = (
            base if weighted and base is not None and is_drawable(base) and (starts or not debiased(cells[0])) else None
        )
        result.append(Curve(merge, name, start, sorted(cells, key=lambda cell: cell["weight"]) if weighted else cells))
    return result


def noise_floor(points: list[Series]) -> float:
    """What an unbiased model would score up to: the bases' floor, for a damaged merge must not widen it for all.

    Without a base the largest of the cells; 0 where none is defined.
    """
    defined = [row for row in points if row["noise_floor"] == row["noise_floor"]]
    bases = [row for row in defined if is_base(row)]
    return max((row["noise_floor"] for row in bases or defined), default=0)


def method(row: Series) -> str:
    """What was done to the base: the merge, or, where there is none, the debiasing; a control is its method's."""
    return row["merge"] if row["merge"] != "keep" else text(row["debias"]).removesuffix(CONTROL)


def debiased(row: Series) -> bool:
    """Whether a debiasing was applied to the cell."""
    return text(row["debias"]).lower() not in ("", "none", "keep")


def is_drawable(row: Series) -> bool:
    """Whether the cell has a place in the figure."""
    return bool(is_finished(row) and row["bias_score"] == row["bias_score"] and row["accuracy"] == row["accuracy"])


def is_ruined(row: Series) -> bool:
    """Whether the cell is known to be ruined."""
    return bool(truth(row["ruined"]))


def view(points: list[Series]) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) of a panel, bias on [0, 1] and accuracy in percent, with margins.

    All intervals of the sound cells are in view, ruined ones where they do not stretch an axis threefold; 0, the
    ideal, is in view unless that would leave most of the panel empty.
    """
    sound = [row for row in points if not is_ruined(row)] or points
    x_low, x_high = _span(sound, points, "bias_score", "bias_low", "bias_high")
    y_low, y_high = _span(sound, points, "accuracy", "accuracy_low", "accuracy_high")
    if x_low < 0.6 * x_high:
        x_low = 0.0
    x_margin, y_margin = 0.06 * (x_high - x_low), 0.07 * (y_high - y_low)
    return x_low - x_margin, x_high + x_margin, 100 * (y_low - y_margin), 100 * (y_high + y_margin)


def labels(curve: Curve, crowded: bool, places: dict, near: float) -> list[tuple]:
    """(place, label) of a curve: its weights, or in a crowded panel its name at its end."""
    if crowded:
        return [(places[curve.cells[-1].name], curve.label)]
    return together(curve, curve.cells, places, near)


def barred(rows: list[Series], crowded: bool) -> list[Series]:
    """The cells whose intervals are drawn: all, in a crowded panel those on the front."""
    return [row for row in rows if not crowded or truth(row["on_front"])]


def together(curve: Curve, cells: list[Series], places: dict, near: float) -> list[tuple]:
    """(place, label) of the cells; neighbours within `near` of each other share one: "0.3, 0.5".

    places: where each cell lies, by row.name.
    """
    groups: list[list[Series]] = []
    for row in cells:
        last = places[groups[-1][-1].name] if groups else None
        if (
            last is not None
            and max(abs(here - there) for here, there in zip(places[row.name], last, strict=True)) < near
        ):
            groups[-1].append(row)
        else:
            groups.append([row])
    return [
        (
            places[group[0].name],
            ", ".join(numerals.weight(row["weight"]) for row in group) if group[0]["weight"] >= 0 else curve.label,
        )
        for group in groups
    ]


def outside(rows: DataFrame, names: tuple[str, ...]) -> list[str]:
    """The cells of a panel that its view leaves out, in words."""
    points = [row for _, row in rows.iterrows() if is_drawable(row)]
    left, right, bottom, top = view(points) if points else (0, 0, 0, 0)
    return [
        f"{cell_name(row, names)}{', ruined' if is_ruined(row) else ''} "
        f"(bias {numerals.score(row['bias_score'])}, accuracy {numerals.percent(row['accuracy'])} %)"
        for row in points
        if not (left <= row["bias_score"] <= right and bottom <= 100 * row["accuracy"] <= top)
    ]


def _span(sound: list[Series], points: list[Series], *names: str, least: float = 0.02) -> tuple[float, float]:
    def ends(rows: list[Series]) -> tuple[float, float]:
        numbers = [row[name] for row in rows for name in names if row[name] == row[name]]
        return min(numbers), max(numbers)

    (small, large), (all_small, all_large) = ends(sound), ends(points)
    if all_large - all_small <= OUTLIER * max(large - small, least):
        small, large = all_small, all_large
    short = max(0.0, least - (large - small)) / 2
    return small - short, large + short
