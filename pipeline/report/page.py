"""The page: one HTML file that works offline, in light and dark and on a phone. All text in it is escaped."""

import math
from collections.abc import Iterable
from html import escape
from pathlib import Path

from pandas import DataFrame, Series
from plotly.offline import get_plotlyjs

from pipeline.report import pairs, prose
from pipeline.report.curves import outside
from pipeline.report.findings import Findings, Flip
from pipeline.report.interactive import figures
from pipeline.report.table import (
    LEGEND,
    arrange,
    base_of,
    cell_name,
    failures,
    is_base,
    is_finished,
    marks,
    panel_name,
    panels,
    short,
    text,
    truth,
    varying,
)
from pipeline.report.verdicts import accuracy_verdict, bias_verdict

# Refuses every load from elsewhere, so that "works offline" is kept by the browser and not by promise.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
NUMBERS = {
    "bias score": "bias_score",
    "bias change": "bias_change",
    "accuracy %": "accuracy",
    "accuracy change": "accuracy_change",
    "effective weight": "effective_weight",
    "weight": "weight",
    "perplexity ratio": "perplexity_ratio",
}
PAIRED = {"difference": "change", "p, corrected": "p_holm"}  # heading in a table of pairs, and its column
RESULTS = tuple(NUMBERS)[:5]  # in a failed row, its error stands in their place


def page(findings: Findings) -> str:
    """The whole page as text."""
    table = arrange(findings.table, findings.axes)
    drawn = figures(findings.table, findings.axes)
    plots = "[" + ",".join(figure.to_json() for _, figure in drawn) + "]"
    body = "\n".join(
        [
            f"<h1>{escape(findings.title)}</h1>",
            f'<p class="question">{escape(prose.question(table))}</p>',
            f"<pre>{escape(findings.command)}</pre>",
            _warnings(findings.warnings),
            _figures([title for title, _ in drawn], table, findings.axes),
            _table(table, findings.axes),
            _verdicts(table, findings.axes),
            _compared(findings.controls, "Beside their controls", prose.HOW_CONTROLLED, "controls.csv", opened=True),
            _compared(findings.pairs, "The cells against each other", prose.HOW_PAIRED, "pairs.csv"),
            _donors(findings),
            _flips(findings.flips),
            _provenance(findings),
        ]
    )
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(findings.title)}</title>",
            f"<style>\n{_beside('page.css')}</style>",
            "</head>",
            "<body>",
            body,
            '<script type="application/json" id="figures">' + plots.replace("<", "\\u003c") + "</script>",
            f"<script>{get_plotlyjs()}</script>",
            f"<script>\n{_beside('page.js')}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _warnings(warnings: Iterable[str]) -> str:
    lines = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return "<h2>Read this first</h2>\n" + (
        f'<ul class="warnings">{lines}</ul>' if lines else "<p>Nothing to warn of.</p>"
    )


def _figures(titles: list[str], table: DataFrame, axes: tuple[str, ...]) -> str:
    names = varying(table, axes)
    captions = ["; ".join(outside(rows, names)) for _, rows in panels(table)]
    plots = "".join(
        f'<figure><h3>{escape(title)}</h3><div id="figure-{place}"></div>'
        + (f"<figcaption>Outside the first view: {escape(caption)}.</figcaption>" if caption else "")
        + "</figure>"
        for place, (title, caption) in enumerate(zip(titles, captions, strict=True))
    )
    failed = "".join(f'<p class="failed">No result: {escape(sentence)}</p>' for sentence in failures(table, axes))
    return (
        f'<h2>The trade-off</h2>\n<p class="small">{escape(prose.HOW_TO_READ)} '
        f"Hover over a point for all its numbers; drag to zoom, double-click to zoom out.</p>\n"
        f'<div class="plots">{plots}</div>\n{failed}'
        "<noscript><p>The figures need JavaScript; tradeoff.png beside this page shows the same.</p></noscript>"
    )


def _table(table: DataFrame, axes: tuple[str, ...]) -> str:
    frame = short(table, axes)
    body = "".join(
        f"<tr{_row_class(row)}>"
        + "".join(_cell(name, value, row) for name, value in zip(frame.columns, line, strict=True))
        + "</tr>"
        for line, (_, row) in zip(frame.itertuples(index=False), table.iterrows(), strict=True)
    )
    everything = "".join(
        "<tr>" + "".join(f"<td{_sort_key(value)}>{escape(_raw(value))}</td>" for value in line) + "</tr>"
        for line in table.itertuples(index=False)
    )
    return (
        f'<h2>The table</h2>\n<div class="scroll"><table class="sortable"><thead><tr>{_head(frame.columns)}</tr></thead>'
        f'<tbody>{body}</tbody></table></div>\n<p class="small">{escape(LEGEND)}. Click a heading to sort.</p>\n'
        f"<details><summary>Every column, as in table.csv</summary>"
        f'<div class="scroll"><table class="sortable"><thead><tr>{_head(table.columns)}</tr></thead>'
        f"<tbody>{everything}</tbody></table></div></details>"
    )


def _head(names: Iterable[str]) -> str:
    return "".join(
        f'<th scope="col"{" class=number" if name in NUMBERS else ""}><button type="button">{escape(name or "marks")}'
        "</button></th>"
        for name in names
    )


def _cell(name: str, value: str, row: Series) -> str:
    if name not in NUMBERS:
        return f'<td class="name">{escape(value)}</td>'
    if not is_finished(row) and name in RESULTS:
        if name != RESULTS[0]:
            return ""
        error = escape(row["error"] or "it left no error message")
        return f'<td class="words" data-sort="" colspan="{len(RESULTS)}">{error}</td>'
    number = row[NUMBERS[name]]
    shown, bracket, rest = value.partition(" [")
    interval = f' <span class="interval">{escape(bracket.strip() + rest)}</span>' if bracket else ""
    return f'<td class="number"{_sort_key(number)}>{escape(shown)}{interval}</td>'


def _row_class(row: Series) -> str:
    kinds = [
        name
        for name, holds in (("failed", not is_finished(row)), ("ruined", truth(row["ruined"])), ("base", is_base(row)))
        if holds
    ]
    return f' class="{kinds[0]}"' if kinds else ""


def _sort_key(value) -> str:
    if isinstance(value, str) or value is None:
        return ""
    return f' data-sort="{"" if math.isnan(float(value)) else float(value)!r}"'


def _raw(value) -> str:
    return (str(value) if math.isnan(value) else repr(float(value))) if isinstance(value, float) else text(value)


def _verdicts(table: DataFrame, axes: tuple[str, ...]) -> str:
    names, blocks = varying(table, axes), []
    for panel, rows in panels(table):
        lines = "".join(
            f'<tr{_row_class(row)}><td class="name">{escape(cell_name(row, names))} {marks(row)}</td>'
            f'<td class="words">{escape(bias_verdict(row, base_of(row, rows, axes)))}</td>'
            f'<td class="words">{escape(accuracy_verdict(row, base_of(row, rows, axes)))}</td></tr>'
            for _, row in rows.iterrows()
            if not is_base(row)
        )
        blocks.append(
            f'<h3>{escape(panel_name(panel, table))}</h3><div class="scroll"><table><thead><tr>'
            f"<th>cell</th><th>bias</th><th>accuracy</th></tr></thead><tbody>{lines}</tbody></table></div>"
        )
    return f'<h2>Each cell against its base</h2>\n<p class="small">{escape(prose.HOW_TESTED)}</p>\n' + "\n".join(blocks)


def _compared(found: DataFrame | None, title: str, how: str, file: str, opened: bool = False) -> str:
    if found is None or found.empty:
        return ""
    frame = pairs.short(found)
    keys = {f"{room} {what}": f"{room}_{key}" for room in ("bias", "accuracy") for what, key in PAIRED.items()}
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="number"{_sort_key(row[keys[name]])}>{escape(value)}</td>'
            if name in keys
            else f'<td class="name">{escape(value)}</td>'
            for name, value in zip(frame.columns, line, strict=True)
        )
        + "</tr>"
        for line, (_, row) in zip(frame.itertuples(index=False), found.iterrows(), strict=True)
    )
    return (
        f'<h2>{title}</h2>\n<p class="small">{escape(how)}</p>\n<details{" open" * opened}><summary>'
        f"{len(found):,} {'pair' if len(found) == 1 else 'pairs'}, as in {file}</summary>"
        f'<div class="scroll"><table class="sortable"><thead><tr>{_head(frame.columns)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></details>"
    )


def _donors(findings: Findings) -> str:
    if not findings.donors:
        return ""
    parts = []
    for donor in findings.donors:
        lines = "".join(f"<li>{escape(line)}</li>" for line in prose.donor_lines(donor))
        parts.append(f"<h3>{escape(prose.donor_name(donor))}</h3><ul>{lines}</ul>")
    return "<h2>How strong the donors are</h2>\n" + "\n".join(parts)


def _flips(flips: list[Flip]) -> str:
    head = "<h2>Answers that changed</h2>\n"
    if not flips:
        return head + "<p>No answer differs between the base and a merged model.</p>"
    return head + "\n".join(
        f'<div class="flip"><div class="small">{escape(flip["cell"])} · {escape(flip["bias"])} · '
        f"{escape(flip['group'])} · item {escape(flip['id'])}</div>"
        f'<div class="prompt">{escape(flip["prompt"])}</div><div class="answers">'
        f'<p><span class="small">base, {prose.biased(flip["base_biased"])}</span><br>{escape(flip["base_answer"])}</p>'
        f'<p><span class="small">merged, {prose.biased(flip["merged_biased"])}</span><br>'
        f"{escape(flip['merged_answer'])}</p>"
        f"</div></div>"
        for flip in flips
    )


def _provenance(findings: Findings) -> str:
    known, parts = findings.provenance, ["<h2>Where the numbers come from</h2>"]
    for title, rows in (("Models", known.get("models", [])), ("Data sets", known.get("data", []))):
        if rows:
            names = list(dict.fromkeys(name for row in rows for name in row))
            lines = "".join(
                "<tr>" + "".join(f"<td>{escape(text(row.get(name)))}</td>" for name in names) + "</tr>" for row in rows
            )
            heads = "".join(f"<th>{escape(name)}</th>" for name in names)
            parts.append(
                f'<h3>{title}</h3><div class="scroll"><table><thead><tr>{heads}</tr></thead>'
                f"<tbody>{lines}</tbody></table></div>"
            )
    if known.get("method"):
        parts.append("<h3>Method</h3><ul>" + "".join(f"<li>{escape(line)}</li>" for line in known["method"]) + "</ul>")
    if known.get("versions"):
        versions = " · ".join(f"{name} {version}" for name, version in known["versions"].items())
        parts.append(f'<h3>Versions</h3><p class="small">{escape(versions)}</p>')
    return "\n".join(parts)
