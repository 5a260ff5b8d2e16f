"""The table of a sweep as it is printed in a terminal."""

from pandas import DataFrame, Series
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.report import numerals
from pipeline.report.table import (
    CONTROL,
    LEGEND,
    arrange,
    epoch,
    failures,
    is_base,
    is_finished,
    is_tuned,
    marks,
    of_exam,
    panels,
    perplexity_ratio,
    results,
    status,
    text,
    truth,
    varying,
)

# Columns that go where a table is too wide, the first one first.
SPARE = ("effective\nweight", "perplexity\nratio", "epoch")


def rich_table(table: DataFrame, axes: tuple[str, ...] = (), width: int = 120) -> Table:
    """The table for a terminal of `width` columns: one block a panel, base first, failures and legend in words below.

    One line a cell where that fits; else intervals stand on a second line; else columns go, as SPARE says. Columns in
    which nothing stands are left out.
    """
    table = arrange(table, axes)
    for between, spared in ((" ", 0), *(("\n", count) for count in range(len(SPARE) + 1))):
        grid = _grid(table, axes, between, SPARE[:spared])
        console = Console(width=10_000)
        if console.measure(grid).maximum <= width:
            break
    grid.add_row(Text())
    for sentence in failures(table, axes):
        grid.add_row(Text(sentence, style="red"))
    grid.add_row(Text(LEGEND, style="dim"))
    return grid


def _grid(table: DataFrame, axes: tuple[str, ...], between: str, without: tuple[str, ...]) -> Table:
    grid, names, tuned = Table.grid(padding=0), varying(table, axes), is_tuned(table)
    blocks = [[_line(row, names, between, tuned) for _, row in rows.iterrows()] for _, rows in panels(table)]
    every = [line for block in blocks for line in block]
    shown = [name for name in (every[0] if every else ()) if name not in without and any(line[name] for line in every)]
    blocks = [[{name: line[name] for name in shown} for line in block] for block in blocks]
    widths = {
        heading: max(
            len(part)
            for block in blocks
            for line in block
            for part in (*heading.split("\n"), *line[heading].split("\n"))
        )
        for heading in (blocks[0][0] if blocks else ())
    }
    for place, ((panel, rows), block) in enumerate(zip(panels(table), blocks, strict=True)):
        if place:
            grid.add_row(Text())
        grid.add_row(_title(panel, rows, names))
        inner = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
        for heading, wide in widths.items():
            left = heading in ("merge", "", "status", *names)
            inner.add_column(heading, justify="left" if left else "right", min_width=wide, no_wrap=True)
        for (_, row), line in zip(rows.iterrows(), block, strict=True):
            style = (
                "red" if not is_finished(row) else "yellow" if truth(row["ruined"]) else "bold" if is_base(row) else ""
            )
            inner.add_row(*(Text(value) for value in line.values()), style=style)
        grid.add_row(inner)
    return grid


def _title(panel: tuple[str, str, str], rows: DataFrame, names: tuple[str, ...]) -> Text:
    model, bias, accuracy = panel
    items = sorted({int(value) for value in rows["items"].dropna()})
    parts = [
        f"bias: {bias}" + (f" ({', '.join(f'{n:,}' for n in items)} items)" if items else ""),
        f"accuracy: {accuracy}",
    ]
    for key in ("donor", "debias"):
        used = sorted({text(row[key]) for _, row in rows.iterrows() if not is_base(row)} - {"", "none"})
        if key not in names and used:
            parts.append(f"{key}: {used[0]}")
    return Text.assemble((model, "bold"), "  " + "  ".join(parts))


def _line(row: Series, names: tuple[str, ...], between: str, tuned: bool) -> dict[str, str]:
    numbers = {"\n".join(heading.split(" ", 1)): value for heading, value in results(row, between).items()}
    effective = numbers.pop("effective\nweight")
    return {
        "merge": "base" if is_base(row) else row["merge"],
        "weight": numerals.weight(row["weight"]),
        **{
            # "pcgu control" in two lines where there are two
            name: ""
            if is_base(row) and not of_exam(name)
            else text(row[name]).replace(CONTROL, between + CONTROL.strip())
            for name in names
        },
        **({"epoch": epoch(row)} if tuned else {}),
        **numbers,
        **({"perplexity\nratio": perplexity_ratio(row)} if tuned else {}),
        "effective\nweight": effective,
        "": marks(row),
        "status": status(row),
    }
