import matplotlib
import pandas
import pytest
from matplotlib.colors import to_hex
from report_tables import cell, failed, five_rows, survey

from pipeline.report import figure, labels
from pipeline.report.curves import COLOURS, MARKERS, curves, look, outside
from pipeline.report.table import arrange, varying


def texts(drawn):
    return [text.get_text() for axis in drawn.axes for text in axis.texts]


def test_the_same_table_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        figure.write(five_rows(), tmp_path / name)
    for name in ("tradeoff.png", "tradeoff.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert b"dc:date" not in (tmp_path / "one" / "tradeoff.svg").read_bytes()


def test_no_global_setting_changes():
    before = dict(matplotlib.rcParams)
    figure.tradeoff(five_rows())
    assert dict(matplotlib.rcParams) == before


def test_cells_on_one_point_share_a_label():
    assert sorted(texts(figure.tradeoff(five_rows()))) == ["0.3", "0.3, 0.5", "0.5", "base"]


def test_a_panel_for_each_model_and_bias_set():
    drawn = figure.tradeoff(survey())
    assert [axis.get_title(loc="left").split(" (")[0] for axis in drawn.axes] == [
        "qwen3_0.6b · bbq", "qwen3_0.6b · crows_pairs", "smollm2_135m_instruct · bbq", "smollm2_135m_instruct · crows_pairs",
    ]  # fmt: skip


def test_failed_cells_and_those_outside_the_view_stand_in_the_caption():
    caption = figure.tradeoff(survey()).get_supxlabel()
    assert (
        "killed by signal 9" in caption and "ties 0.6 (bias_inverted), ruined (bias 0.155, accuracy 31.0 %)" in caption
    )


def test_a_curve_starts_at_the_base_and_follows_the_weight():
    table = arrange(five_rows())
    drawn = {curve.name: curve for curve in curves(table, ())}
    assert drawn["ties"].base["merge"] == "keep"
    assert [row["weight"] for row in drawn["ties"].cells] == [0.3, 0.5]


def test_a_debiased_curve_starts_at_the_debiased_base_or_nowhere():
    rows = [cell("keep"), cell(debias="inlp"), cell("keep", debias="inlp", signed=0.19)]
    names = ("debias",)
    with_start = [curve for curve in curves(arrange(pandas.DataFrame(rows)), names) if curve.merge == "slerp"]
    assert with_start[0].base["bias_signed"] == 0.19
    without = curves(arrange(pandas.DataFrame(rows[:2])), names)
    assert without[0].base is None


def test_debiased_models_that_are_not_merged_are_told_apart():
    rows = [cell(merge="keep", weight=float("nan"), debias=name) for name in ("none", "pcgu", "negation")]
    table = arrange(pandas.DataFrame(rows))
    drawn = curves(table, ("debias",))
    assert {curve.label for curve in drawn} == {"pcgu", "negation"}
    looks = look(table)
    assert len({looks.colour(curve.method) for curve in drawn}) == 2
    assert not looks.lines, "what has no weight has no line, and none in the legend"


def test_a_control_looks_like_its_method_but_smaller():
    axes = ("debias.control", "debias.units")
    rows = [cell(merge="keep", weight=float("nan")) | dict.fromkeys(axes, "")] + [
        cell(merge="keep", weight=float("nan"), debias=name, signed=0.2 - place / 50)
        | {"debias.control": control, "debias.units": units}
        for place, (name, control, units) in enumerate(
            [("pcgu", "False", "1"), ("pcgu control", "True", "1"), ("pcgu", "False", "2")]
        )
    ]
    table = arrange(pandas.DataFrame(rows), axes)
    looks, drawn = look(table, axes), curves(table, varying(table, axes), axes)
    assert {curve.label: looks.is_small(curve) for curve in drawn} == {
        "pcgu, units=1": False,
        "pcgu, units=2": False,
        "pcgu control, units=1": True,
    }
    assert {curve.method for curve in drawn} == {"pcgu"}
    assert sorted(texts(figure.tradeoff(pandas.DataFrame(rows), axes))) == ["base", *sorted(c.label for c in drawn)]


def test_ruined_cells_are_hollow():
    rows = [cell("keep"), cell(), cell("ties", ruined=True)]
    axis = figure.tradeoff(pandas.DataFrame(rows)).axes[0]
    faces = {
        line.get_marker(): to_hex(line.get_markerfacecolor()) for line in axis.lines if line.get_linestyle() == "None"
    }
    assert faces["s"] == "#ffffff" and faces["o"] != "#ffffff"


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [cell("keep")],
        [cell()],
        [failed("keep"), failed()],
        [cell("keep", bias_score=float("nan")), cell(accuracy=float("nan"))],
        [
            cell("keep", noise_floor=float("nan"), chance=float("nan")),
            cell(bias_low=float("nan"), bias_high=float("nan")),
        ],
        [cell("keep"), cell(weight=float("nan"))],
        [cell("keep"), cell("ties", bias_low=0.0, bias_high=0.01)],
    ],
)
def test_odd_tables_are_drawn(rows, tmp_path):
    columns = five_rows().columns
    figure.write(pandas.DataFrame(rows, columns=columns), tmp_path)
    assert (tmp_path / "tradeoff.png").stat().st_size > 1000


def test_many_merges_differ_in_colour_or_marker(tmp_path):
    rows = [
        cell("keep"),
        *(cell(f"merge{n:02d}", w, 0.2 - n / 200, 0.6 - w / 20) for n in range(30) for w in (0.2, 0.5, 0.8)),
    ]
    table = pandas.DataFrame(rows)
    looks = look(arrange(table))
    assert len({(looks.colour(merge), looks.marker(merge)) for merge in looks.methods}) == 30
    assert len(COLOURS) * len(MARKERS) == 77
    figure.write(table, tmp_path)


def test_more_merges_than_colours_share_one_by_family_and_are_named_at_their_ends():
    families = ["interpolation"] * 5 + ["sparse task vectors"] * 4 + ["spectra"] * 2
    rows = [
        cell(f"merge{n:02d}", w, 0.2 - n / 200, 0.6 - w / 20, family=family)
        for n, family in enumerate(families)
        for w in (0.2, 0.5, 0.8)
    ]
    table = pandas.DataFrame([cell("keep"), *rows])
    looks = look(arrange(table))
    assert len({(looks.colour(merge), looks.marker(merge)) for merge in looks.methods}) == 11
    assert len({looks.colour(merge) for merge in looks.methods}) == 3
    assert looks.colour("merge00") == looks.colour("merge04") != looks.colour("merge05")
    assert sorted(texts(figure.tradeoff(table))) == ["base", *sorted(looks.methods)]


def test_a_ruined_outlier_does_not_squash_the_view():
    sound = [cell("keep"), cell()]
    ruined = cell("ties", 0.9, 0.9, 0.05, ruined=True)
    table = arrange(pandas.DataFrame([*sound, ruined]))
    assert len(outside(table, ())) == 1
    assert outside(arrange(pandas.DataFrame(sound)), ()) == []


def test_labels_keep_clear_of_each_other_and_of_the_markers():
    points = [(100.0, 100.0), (101.0, 100.0), (102.0, 101.0)]
    sizes = [(24.0, 10.0)] * 3
    markers = [labels.around(point, 10, 10) for point in points]
    centres = labels.place(points, sizes, markers, [], (0, 0, 300, 300))
    boxes = [labels.around(centre, *size) for centre, size in zip(centres, sizes, strict=True)]
    for place, box in enumerate(boxes):
        assert all(labels.overlap(box, other) == 0 for other in [*markers, *boxes[:place]])
        assert box[0] >= 0 and box[2] <= 300
