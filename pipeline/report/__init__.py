"""Figures, the page and the texts of a sweep, all from one table. Pure but for `write`, which fills a given folder."""

from pathlib import Path

from pipeline.report import figure, markdown, page, pairs, table
from pipeline.report.findings import Donor, Findings, Flip, Provenance
from pipeline.report.terminal import rich_table
from pipeline.report.words import warnings

__all__ = ["Donor", "Findings", "Flip", "Provenance", "rich_table", "warnings", "write"]


def write(findings: Findings, folder: Path) -> list[Path]:
    """Write table.csv, table.parquet, table.md, pairs.csv, controls.csv, tradeoff.png, .svg, .html and report.md into `folder`.

    The folder must exist. The same findings give the same bytes.
    """
    written = table.write(findings.table, folder, findings.axes)
    written += pairs.write(findings.pairs, folder)
    written += pairs.write(findings.controls, folder, "controls.csv")
    written += figure.write(findings.table, folder, findings.axes)
    for name, text in (("tradeoff.html", page.page(findings)), ("report.md", markdown.report(findings))):
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    return written
