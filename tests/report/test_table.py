import io

import numpy as np
import pandas
import pytest
from report_tables import cell, failed, five_rows, survey
from rich.console import Console

from pipeline import report
from pipeline.errors import DataError
from pipeline.report import numerals, prose
from pipeline.report.pipes import escape
from pipeline.report.table import CELL, MORE, RESULTS, arrange, base_of, cell_name, comparisons, failures, short, write


def printed(table, width=120, axes=()):
    out = io.StringIO()
    Console(width=width, file=out).print(report.rich_table(table, axes, width))
    return out.getvalue()


def test_columns_stand_in_the_order_of_the_public_interface():
    table = arrange(five_rows().assign(**{"merge.density": 0.2}), ("merge.density",))
    expected = [*CELL, "merge.density", *RESULTS, *MORE, "weights_sha256"]
    assert list(table.columns)[: len(expected)] == expected
    assert list(table.columns)[len(expected) :] == ["pocket_bbq.s_amb", "pocket.facts", "pocket.reading"]


def test_a_missing_column_is_refused_by_name():
    with pytest.raises(DataError, match="bias_low"):
        arrange(five_rows().drop(columns="bias_low"))


def test_the_base_comes_first_whatever_the_order_of_the_cells():
    table = survey()
    arranged = arrange(table)
    for _, rows in arranged.groupby(["model", "bias"], sort=False):
        assert rows["merge"].iloc[0] == "keep" and "keep" not in set(rows["merge"].iloc[1:])
    shuffled = arrange(table.sample(frac=1, random_state=3))
    pandas.testing.assert_frame_equal(arranged, shuffled)


def test_files_hold_every_row_and_are_the_same_each_time(tmp_path):
    table = survey()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(table.sample(frac=1, random_state=len(name) + (name == "two")), tmp_path / name)
    for name in ("table.csv", "table.parquet", "table.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    csv, parquet = (
        pandas.read_csv(tmp_path / "one" / "table.csv"),
        pandas.read_parquet(tmp_path / "one" / "table.parquet"),
    )
    assert len(csv) == len(parquet) == len(table)
    assert list(csv.columns) == list(parquet.columns)
    np.testing.assert_array_equal(csv["bias_score"], parquet["bias_score"])
    assert csv["weight"].isna().sum() == 4 and set(csv.loc[csv["weight"].isna(), "merge"]) == {"keep"}
    assert "400.0" not in (tmp_path / "one" / "table.csv").read_text().splitlines()[1].split(",")[8]
    csv_again = arrange(csv)
    assert failures(csv_again) == failures(arrange(table))


def test_items_that_came_as_floats_are_written_as_whole_numbers(tmp_path):
    write(five_rows().astype({"items": "float64"}), tmp_path)
    assert pandas.read_csv(tmp_path / "table.csv", dtype=str)["items"].tolist() == ["400"] * 5


def test_an_axis_of_mixed_values_can_be_written(tmp_path):
    axes = {"merge.mixup": [None, 0.2, 0.4, None, "auto"], "merge.normalise": [True, False, None, True, True]}
    write(
        five_rows().assign(**{name: pandas.Series(values, dtype=object) for name, values in axes.items()}),
        tmp_path,
        tuple(axes),
    )
    kept = pandas.read_parquet(tmp_path / "table.parquet")
    assert set(kept["merge.mixup"]) == {"", "0.2", "0.4", "auto"} and set(kept["merge.normalise"]) == {
        "",
        "True",
        "False",
    }


def test_the_terminal_shows_base_marks_and_legend():
    lines = printed(five_rows()).splitlines()
    assert max(map(len, lines)) <= 120
    assert lines[0].startswith("smollm2_135m_instruct") and "pocket_bbq (400 items)" in lines[0]
    assert lines[3].startswith("base") and " * " in lines[3]
    assert "0.210 [0.160, 0.260]" in lines[4] and "-0.010 [-0.040, 0.020]" in lines[4]
    assert "* on the Pareto front" in printed(five_rows())


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_terminal_table_fits(width):
    text = printed(five_rows(), width)
    assert max(map(len, text.splitlines())) <= width
    for number in ("0.210", "[0.160,", "61.8", "done"):
        assert number in text


def test_a_failed_cell_is_said_in_words():
    text = printed(pandas.DataFrame([*five_rows().to_dict("records"), failed()]))
    assert "ties 0.9 failed: CheckpointError: tensor lm_head is not finite | see the log" in " ".join(text.split())


def test_a_failed_cell_without_an_error_says_so():
    table = arrange(pandas.DataFrame([cell("keep"), failed(error=None, status="missing")]))
    assert failures(table) == ["ties 0.9 missing: it left no error message"]


def test_undefined_is_said_in_words():
    rows = [cell("keep"), cell(bias_score=np.nan), cell(weight=0.5, bias_low=np.nan, bias_high=np.nan)]
    lines = short(arrange(pandas.DataFrame(rows)))
    assert lines["bias score"].tolist() == ["0.200 [0.150, 0.250]", "undefined", "0.200 (no interval)"]


def test_a_change_that_stands_after_correction_is_marked():
    rows = [cell("keep"), cell(signed=0.1), cell(weight=0.5, signed=0.1, bias_change_p_holm=0.06), cell(weight=0.6)]
    changes = short(arrange(pandas.DataFrame(rows)))["bias change"].tolist()
    assert changes[1] == "-0.120† [-0.150, -0.090]" and not any("†" in change for change in changes[2:])


def test_models_with_the_same_weights_are_one_test():
    rows = [
        cell("keep"),
        cell(weights_sha256="x", bias_change=-0.02),
        cell(weight=0.5, weights_sha256="x", bias_change=-0.02),
        cell(weight=0.6, weights_sha256="x", bias_change=-0.03),
        cell(weight=0.7, weights_sha256="x", bias="other"),
        cell(weight=0.8, bias_change_p=np.nan),
        failed(),
    ]
    numbers = comparisons(pandas.DataFrame(rows), "bias")
    assert numbers.tolist()[1:5] == [0, 0, 1, 2] and numbers.isna().tolist() == [True, *[False] * 4, True, True]


def test_ruined_is_marked():
    line = short(arrange(pandas.DataFrame([cell("keep"), cell(ruined=True)]))).iloc[1]
    assert line["status"] == "ruined" and line[""] == "!"


def test_base_is_that_of_the_same_panel_seed_and_axes():
    rows = [
        cell("keep", model=model, seed=seed, limit=limit) for model in "ab" for seed in (0, 1) for limit in (100, 200)
    ]
    table = arrange(pandas.DataFrame([*rows, cell(model="b", seed=1, limit=200)]), ("limit",))
    merged = table[table["merge"] == "slerp"].iloc[0]
    base = base_of(merged, table, ("limit",))
    assert (base["model"], base["seed"], base["limit"]) == ("b", 1, 200)


def test_cells_are_named_by_what_varies():
    rows = arrange(pandas.DataFrame([cell("keep"), cell(), cell(donor="random_direction")]))
    assert [cell_name(row, ("donor",)) for _, row in rows.iterrows()] == [
        "base",
        "slerp 0.3 (bias_inverted)",
        "slerp 0.3 (random_direction)",
    ]


def test_an_empty_table_prints():
    assert "Pareto" in printed(five_rows().iloc[:0])


def test_numbers():
    assert numerals.score_change(-0.00001) == "0.000" and numerals.score_change(0.01) == "+0.010"
    assert numerals.percent(float("nan")) == "undefined"
    assert [numerals.p_value(p) for p in (0.0004, 0.0432, 1.0)] == ["< 0.001", "= 0.043", "= 1.000"]
    assert [numerals.count(n) for n in (7.2, 99.5, 5345, 5400, 123456)] == ["8", "100", "5,400", "5,400", "130,000"]


def test_markdown_text_stays_text():
    assert escape("a|b *c* <i> [x](http://y)\nz") == r"a\|b \*c\* \<i\> [x]\(http://y) z"


def test_of_tuned_models_the_epoch_and_the_perplexity_are_told():
    rows = [
        cell("keep"),
        cell("keep", debias="pcgu") | {"debias.epoch": 3.0},
        cell("keep", debias="pcgu control") | {"debias.epoch": 0.0},
    ]
    told = short(arrange(pandas.DataFrame(rows)))
    assert list(told["epoch"]) == ["", "3", "0"]
    assert "perplexity ratio" in told and list(told["effective weight"]) == ["", "", ""]
    assert "epoch" not in short(arrange(pandas.DataFrame([cell("keep"), cell()])))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([cell()], "Does merging smollm2_135m_instruct with bias_inverted by slerp reduce"),
        ([cell("keep", debias="pcgu")], "Does debiasing smollm2_135m_instruct by pcgu reduce"),
        (
            [cell(), cell("keep", debias="pcgu")],
            "Does merging smollm2_135m_instruct with bias_inverted by slerp, or debiasing it by pcgu, reduce",
        ),
    ],
)
def test_the_question_is_what_was_done(rows, words):
    assert prose.question(arrange(pandas.DataFrame([cell("keep"), *rows]))).startswith(words)


def test_bases_that_were_asked_in_two_ways_can_be_told_apart():
    """Nothing is merged: the setting of the examination is all that the rows differ by."""
    rows = five_rows()
    base = rows[rows["merge"] == "keep"]
    bases = pandas.concat([base.assign(**{"model.chat_template": value}) for value in (True, False)])
    axes = ("model.chat_template",)
    shown = printed(arrange(bases, axes), 140, axes)
    assert "model.chat_template" in shown and "False" in shown and "True" in shown
    assert set(short(arrange(bases, axes), axes)["model.chat_template"]) == {"False", "True"}
    names = [cell_name(row, axes) for _, row in arrange(bases, axes).iterrows()]
    assert names == ["base (model.chat_template=False)", "base (model.chat_template=True)"]
    # one that all bases share is not told
    assert "model.chat_template" not in printed(arrange(bases.iloc[:1], axes), 140, axes)
