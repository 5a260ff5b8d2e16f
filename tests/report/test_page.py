import json
import re
from html.parser import HTMLParser

import pandas
import pytest
from plotly.offline import get_plotlyjs
from report_tables import cell, failed, findings, five_rows, survey

from pipeline import report
from pipeline.report.markdown import report as report_md
from pipeline.report.page import page

EVIL = "</script><script>alert('x')</script>"


class Reader(HTMLParser):
    """The tags, the attributes and the words of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.words, self.policy = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"]

    def handle_data(self, data):
        self.words.append(data)


def own(text):
    """The page without plotly's script, which names addresses that it loads for maps only."""
    assert text.count(get_plotlyjs()) == 1
    return text.replace(get_plotlyjs(), "")


@pytest.fixture(scope="module")
def five():
    return page(findings(five_rows()))


def test_nothing_is_loaded_from_elsewhere(five):
    read = Reader(own(five))
    assert read.addresses == [] and not {"link", "img", "iframe"} & set(read.tags)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|\bcdn\b|@import|url\(""", own(five))
    assert read.policy.startswith("default-src 'none'") and "http" not in read.policy


def test_all_text_is_escaped():
    table = five_rows().replace({"model": {"smollm2_135m_instruct": EVIL}, "merge": {"ties": "<b>&ties"}})
    table = pandas.DataFrame([*table.to_dict("records"), failed(error=EVIL, model=EVIL)])
    told = findings(table)
    text = page(
        report.Findings(
            table, f"python {EVIL}", warnings=[EVIL, *told.warnings], donors=[{"model": EVIL, "donor": EVIL, EVIL: EVIL}], flips=told.flips,
            provenance={"data": [{EVIL: EVIL}], "versions": {EVIL: EVIL}, "method": [EVIL]}, title=EVIL,
        )
    )  # fmt: skip
    assert EVIL not in text and "<b>&ties" not in text
    assert Reader(own(text)).tags.count("script") == 3


def test_the_page_says_all_that_was_found(five):
    words = " ".join(" ".join(Reader(own(five)).words).split())
    for part in ("python -m pipeline -m merge=slerp,ties weight=0.3,0.5", "0.120 [0.070, 0.170]", "Less biased than the base, by 0.100 (corrected p",
                 "No difference that 400 items could show (about 7,100 would be needed).", "fall 1.340 nats a token", "0.0213",
                 "beyond noise", "base, biased answer", "merged, the item cannot tell", "cd" * 32, "transformers 5.23.0",
                 "Apache-2.0, written for this project", "there it is a line"):  # fmt: skip
        assert part in words, part
    assert five.count('class="flip"') == 10


def test_hover_tells_intervals_and_accuracies_by_task(five):
    raw = re.search(r'<script type="application/json" id="figures">(.*?)</script>', five, re.S).group(1)
    (figure,) = json.loads(raw)
    hover = [words for trace in figure["data"] for words in trace.get("hovertext", [])]
    assert len(hover) == 5
    ties = next(words for words in hover if words.startswith("<b>ties 0.5</b>"))
    for part in (
        "bias score: 0.120 [0.070, 0.170]",
        "effective weight: 0.62",
        "facts: 64.2 %",
        "reading: 54.2 %",
        "accuracy, %: 59.2",
    ):
        assert part in ties


def test_failed_cells_are_red_words():
    text = own(page(findings(survey())))
    assert text.count('<tr class="failed">') == 4  # in the table and among the verdicts
    assert "most likely for lack of memory" in text and '<tr class="ruined">' in text


def test_the_same_findings_give_the_same_page(five):
    assert page(findings(five_rows())) == five


@pytest.mark.parametrize("rows", [[], [cell("keep")], [failed()], [cell("keep", bias_score=float("nan"))]])
def test_odd_tables_have_a_page(rows, tmp_path):
    table = pandas.DataFrame(rows, columns=five_rows().columns)
    names = {path.name for path in report.write(report.Findings(table, "command"), tmp_path)}
    assert names == {path.name for path in tmp_path.iterdir()}
    assert names == {
        "table.csv",
        "table.parquet",
        "table.md",
        "pairs.csv",
        "controls.csv",
        "tradeoff.png",
        "tradeoff.svg",
        "tradeoff.html",
        "report.md",
    }


def test_the_markdown_report():
    text = report_md(findings(five_rows()))
    for part in ("```\npython -m pipeline -m merge=slerp,ties weight=0.3,0.5\n```", "![Accuracy against bias score](tradeoff.png)", "## Warnings",
                 "| base ", "## Method", "Less biased than the base, by 0.100 (corrected p", "stereotype loss: 3.410 before"):  # fmt: skip
        assert part in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 6 + 5 + 2 + 3 and EVIL not in text


def test_a_table_in_markdown_keeps_its_columns():
    text = report_md(findings(pandas.DataFrame([cell("keep"), failed(error="a | b")])))
    assert r"a \| b" in text
