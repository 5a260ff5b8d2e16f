"""report.md: what a paper's appendix needs, from the same findings as the page."""

from pandas import DataFrame

from pipeline.report import pairs, prose
from pipeline.report.findings import Findings
from pipeline.report.pipes import escape, pipes
from pipeline.report.table import LEGEND, arrange, base_of, cell_name, is_base, panel_name, panels, short, text, varying
from pipeline.report.verdicts import accuracy_verdict, bias_verdict


def report(findings: Findings, figure: str = "tradeoff.png") -> str:
    """The report as markdown; `figure` is the picture's path as seen from the report."""
    table = arrange(findings.table, findings.axes)
    lines = [
        f"# {escape(findings.title)}",
        "",
        escape(prose.question(table)),
        "",
        *_fenced(findings.command),
        f"![Accuracy against bias score]({figure})",
        "",
        escape(prose.HOW_TO_READ),
        "",
    ]
    lines += [
        "## Warnings",
        "",
        *([f"- {escape(warning)}" for warning in findings.warnings] or ["Nothing to warn of."]),
        "",
    ]
    lines += ["## Table", "", pipes(short(table, findings.axes)), "", escape(LEGEND) + ".", ""]
    lines += ["## Each cell against its base", "", escape(prose.HOW_TESTED), ""]
    names = varying(table, findings.axes)
    for panel, rows in panels(table):
        verdicts = [
            {
                "cell": cell_name(row, names),
                "bias": bias_verdict(row, base_of(row, rows, findings.axes)),
                "accuracy": accuracy_verdict(row, base_of(row, rows, findings.axes)),
            }
            for _, row in rows.iterrows()
            if not is_base(row)
        ]
        lines += [
            f"### {escape(panel_name(panel, table))}",
            "",
            pipes(DataFrame(verdicts)) if verdicts else "No merge.",
            "",
        ]
    if findings.controls is not None and len(findings.controls):
        lines += ["## Beside their controls", "", escape(prose.HOW_CONTROLLED), ""]
        lines += [pipes(pairs.short(findings.controls)), ""]
    if findings.pairs is not None and len(findings.pairs):
        more = len(findings.pairs) - pairs.SHOWN
        lines += ["## The cells against each other", "", escape(prose.HOW_PAIRED), ""]
        lines += [pipes(pairs.short(findings.pairs.head(pairs.SHOWN))), ""]
        lines += [f"{more:,} more pairs are in pairs.csv and on the page.", ""] if more > 0 else []
    if findings.donors:
        lines += ["## Donors", ""]
        for donor in findings.donors:
            lines += [
                f"### {escape(prose.donor_name(donor))}",
                "",
                *(f"- {escape(line)}" for line in prose.donor_lines(donor)),
                "",
            ]
    known = findings.provenance
    if known.get("method"):
        lines += ["## Method", "", *(f"- {escape(line)}" for line in known["method"]), ""]
    for title, rows in (("Models", known.get("models", [])), ("Data sets", known.get("data", []))):
        if rows:
            lines += [f"## {title}", "", pipes(DataFrame(rows).map(text)), ""]
    if known.get("versions"):
        lines += [
            "## Versions",
            "",
            escape(", ".join(f"{name} {version}" for name, version in known["versions"].items())),
            "",
        ]
    return "\n".join(lines)


def _fenced(command: str) -> list[str]:
    fence = "```" if "```" not in command else "~~~~"
    return [fence, command, fence, ""]
