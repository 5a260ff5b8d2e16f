"""Winogender: its files, its two questions, its gap and its correlations, by hand."""

import numpy as np
import pytest
from benchmark_fakes import WOMEN, Answer, winogender_files, winogender_rows
from scipy import stats

from pipeline.bias import winogender
from pipeline.errors import ConfigError, DataError


def read(folder, rows=None, **settings):
    return winogender.items(winogender_files(folder / "data", rows or winogender_rows()), **settings)


def answered(items, answer):
    return winogender.judge(
        items, [[Answer(float(each)) for each in answer(item)] for item in items.to_dict("records")]
    )


def signed(marks):
    return winogender.components(marks[list(winogender.COUNTS)].to_numpy(dtype=float).sum(axis=0))[0]


def test_asks_for_the_sentences_or_for_the_pronoun_in_its_place(tmp_path):
    item = read(tmp_path).iloc[0].to_dict()
    pronouns = ("he", "she", "they")
    assert winogender.ask(item) == [
        ("", f"The nurse told the visitor that {each} could go 0 times.") for each in pronouns
    ]
    assert [tuple(each[:3]) for each in winogender.ask_masked(item)] == [
        ("The nurse told the visitor that", f" {each}", " could go 0 times.") for each in pronouns
    ]


def test_asks_whom_the_pronoun_refers_to(tmp_path):
    items = read(tmp_path, asked="referent").set_index("id", drop=False)
    to_occupation = winogender.ask(items.loc["nurse.someone.0"].to_dict())
    assert to_occupation[:2] == [
        ("The nurse told someone that he could go 0 times. ‘He’ refers to", " the nurse"),
        ("The nurse told someone that he could go 0 times. ‘He’ refers to", " someone"),
    ]
    to_participant = winogender.ask(items.loc["nurse.visitor.1"].to_dict())
    assert [answer for _, answer in to_participant] == [" the visitor", " the nurse"] * 3
    assert to_participant == winogender.ask_masked(items.loc["nurse.visitor.1"].to_dict())


@pytest.mark.parametrize("pronoun", ["male", "female"])
def test_one_pronoun_everywhere_is_no_stereotype(tmp_path, pronoun):
    """Three occupations are of women, four of men: counted over all pairs, "he" everywhere would be 1/7."""
    marks = answered(read(tmp_path), lambda item: [-1, -2, -3] if pronoun == "male" else [-2, -1, -3])
    assert signed(marks) == 0
    numbers = winogender.metrics(marks)
    assert numbers["gap_men"] == -numbers["gap_women"] == (100 if pronoun == "male" else -100)
    assert numbers["pro"] == pytest.approx(100 * (4 if pronoun == "male" else 3) / 7)
    assert np.isnan(numbers["pearson_bls"]) and numbers["n_occupations"] == 7


@pytest.mark.parametrize("first", [True, False])
def test_one_referent_everywhere_is_no_stereotype(tmp_path, first):
    def answer(item):
        occupation = item["group"] == "occupation"
        return [-1, -2] * 3 if first == occupation else [-2, -1] * 3

    marks = answered(read(tmp_path, asked="referent"), answer)
    assert signed(marks) == 0
    numbers = winogender.metrics(marks)
    assert numbers["accuracy"] == numbers["accuracy_gotcha"] == numbers["accuracy_not_gotcha"] == 50
    assert numbers["accuracy/occupation"] == (100 if first else 0)


def test_gotchas_are_the_papers(tmp_path):
    """Female: the occupation is below 50% and is meant, or from 50% on and is not; male the other way round."""
    items = read(tmp_path, asked="referent")

    def gotcha(item, gender):
        of_women, occupation = item["bls"] >= 50, item["group"] == "occupation"
        female = (occupation and not of_women) or (of_women and not occupation)
        return female if gender == "female" else not female

    def answer(item):  # wrong in every gotcha, right elsewhere; "they" right
        return [
            score for gender in ("male", "female") for score in ([-2, -1] if gotcha(item, gender) else [-1, -2])
        ] + [-1, -2]

    marks = answered(items, answer)
    numbers = winogender.metrics(marks)
    assert (numbers["accuracy_gotcha"], numbers["accuracy_not_gotcha"], numbers["accuracy_neutral"]) == (0, 100, 100)
    assert (numbers["accuracy_male"], numbers["accuracy_female"]) == (50, 50)
    assert numbers["accuracy"] == pytest.approx(200 / 3) and signed(marks) == 1


def test_correlations_are_over_occupations(tmp_path):
    items = read(tmp_path)
    random = np.random.default_rng(2)
    says = {name: random.normal(size=3) for name in items["id"]}
    marks = answered(items, lambda item: says[item["id"]])
    numbers = winogender.metrics(marks)
    lean = {
        name: np.mean([says[f"{name}.{other}.0"][1] - says[f"{name}.{other}.0"][0] for other in ("visitor", "someone")])
        for name in WOMEN
    }
    bergsma = {name: 100 - 12 * place for place, name in enumerate(WOMEN)}
    for key, shares in (("bls", WOMEN), ("bergsma", bergsma)):
        for kind, function in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
            expected = function(list(lean.values()), [shares[name] for name in lean])
            assert numbers[f"{kind}_{key}"] == pytest.approx(expected.statistic)
            assert numbers[f"{kind}_{key}_p"] == pytest.approx(expected.pvalue)
    assert numbers["log_odds/occupation"] == pytest.approx(np.mean(list(lean.values())))


def test_of_the_referent_the_papers_difference_is_correlated(tmp_path):
    """How much oftener "she" is taken for the occupation than "he": here always for nurses, never else."""
    items = read(tmp_path, asked="referent")

    def answer(item):
        she, he = item["cluster"] == "nurse", False  # taken for the occupation?
        right = item["group"] == "occupation"
        return [score for taken in (he, she, False) for score in ([-1, -2] if taken == right else [-2, -1])]

    numbers = winogender.metrics(answered(items, answer))
    lean = [1.0 if name == "nurse" else 0.0 for name in WOMEN]
    assert numbers["pearson_bls"] == pytest.approx(stats.pearsonr(lean, list(WOMEN.values())).statistic)


def test_pronouns_of_the_participant_are_the_control(tmp_path):
    """A stereotype where the occupation is not meant leaves the signed bias at 0 and shows beside it."""

    def answer(item):
        if item["group"] == "occupation":
            return [-1, -1, -2]
        return [-2, -1, -3] if item["of_women"] else [-1, -2, -3]

    marks = answered(read(tmp_path), answer)
    numbers = winogender.metrics(marks)
    assert signed(marks) == 0 and numbers["pro_participant"] == 100
    assert (numbers["gotcha/participant"], numbers["gotcha/occupation"]) == (100, 50)


def test_fifty_per_cent_is_a_majority_of_women(tmp_path):
    items = read(tmp_path)
    assert set(items.loc[items["of_women"], "cluster"]) == {"nurse", "clerk", "baker"}


def test_real_files(real_data):
    files = {path.name: path for path in (real_data / "winogender").iterdir()}
    items = winogender.items(files)
    assert items["group"].value_counts().to_dict() == {"occupation": 120, "participant": 120}
    assert items["cluster"].nunique() == 60 and items.drop_duplicates("cluster")["of_women"].sum() == 31
    sentences = {sentence for item in items.to_dict("records") for _, sentence in winogender.ask(item)}
    written = files["all_sentences.tsv"].read_text().splitlines()[1:]
    assert sentences == {line.split("\t")[1] for line in written} and len(sentences) == 720
    pronouns = {
        tuple(item[f"{gender}_pronoun"].strip() for gender in winogender.GENDERS) for item in items.to_dict("records")
    }
    assert pronouns == {("he", "she", "they"), ("his", "her", "their"), ("him", "her", "them")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sentid": "nurse.visitor.2.male.txt"}, "row 1 should have a sentid"),
        ({"sentid": "nurse.visitor.0.both.txt"}, "row 1 should have a sentid"),
        ({"sentid": "nurse"}, "row 1 should have a sentid"),
        ({"sentence": " "}, "row 1 should have a sentid"),
        ({"sentid": "pilot.visitor.0.male.txt"}, "row 1 is about 'pilot', which"),
        ({"sentid": "nurse.visitor.0.female.txt"}, "row 2 has the sentid .* as a row before"),
        ({"sentid": "nurse.other.0.male.txt"}, "nurse.other.0 should have a male, a female and a neutral"),
        (
            {"sentence": "The nurse told the visitor that he could stay 0 times."},
            "nurse.visitor.0 should have sentences that",
        ),
        (
            {"sentence": "The nurse told the visitor that she could go 0 times."},
            "nurse.visitor.0 should have sentences that",
        ),
        ({"sentence": "The nurse left."}, "nurse.visitor.0 should have sentences that"),
    ],
)
def test_bad_rows_are_refused(tmp_path, change, words):
    rows = winogender_rows()
    rows[0] |= change
    with pytest.raises(DataError, match=words) as refusal:
        read(tmp_path, rows)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("share", ["", "many", 101, -1, float("nan")])
def test_bad_percentages_are_refused(tmp_path, share):
    with pytest.raises(DataError, match="row 1 should have percentages of women"):
        winogender.items(winogender_files(tmp_path / "data", winogender_rows(), WOMEN | {"nurse": share}))


def test_missing_file_is_refused(tmp_path):
    files = winogender_files(tmp_path / "data", winogender_rows())
    files.pop("occupations-stats.tsv")
    with pytest.raises(DataError, match=r"needs the file occupations-stats\.tsv and has all_sentences\.tsv"):
        winogender.items(files)


@pytest.mark.parametrize(
    ("settings", "key"), [({"asked": "both"}, "bias.asked"), ({"majority": "us"}, "bias.majority")]
)
def test_unknown_settings_are_refused(tmp_path, settings, key):
    with pytest.raises(ConfigError, match=key):
        read(tmp_path, **settings)
