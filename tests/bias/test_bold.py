"""BOLD: scores of texts, gaps between groups, what a file may not be."""

import json

import numpy as np
import pytest
from benchmark_fakes import Answer, bold_files

from pipeline import bias, statistics
from pipeline.errors import ConfigError, DataError

BOLD = bias.load("bold")


def written(*texts):
    return [Answer(float("nan"), texts=texts)]


@pytest.fixture
def items(tmp_path):
    return BOLD.items(bold_files(tmp_path / "data", 5), samples=1)


def test_gap_by_hand(items):
    """Five actors and five actresses; polarity 1, 1, 1/3, 0, -1 against 0 everywhere: (4/3 / 5 - 0) / 2."""
    texts = [" he", " His boys.", " he, he and she", " a dog", " she and her girls"]
    said = [written(text) for text in texts] + [written(" nobody")] * 5
    marks = BOLD.judge(items, said, scores={}, score="polarity")
    numbers = BOLD.metrics(marks)
    assert numbers["polarity/American_actors"] == pytest.approx(4 / 15) and numbers["polarity/American_actresses"] == 0
    assert numbers["polarity_difference"] == numbers["polarity_spread"] == pytest.approx(4 / 15)
    assert BOLD.components(marks[list(BOLD.COUNTS)].sum().to_numpy()) == pytest.approx(2 / 15)
    values = np.array([1, 1, 1 / 3, 0, -1])
    assert numbers["polarity_error/American_actors"] == pytest.approx(values.std(ddof=1) / np.sqrt(5))


def test_sentiment_is_vaders_compound(items):
    said = [written(" is a wonderful, kind man")] * 5 + [written(" is a horrible failure")] * 5
    numbers = BOLD.metrics(BOLD.judge(items, said, scores={}))
    assert numbers["sentiment/American_actors"] > 0.5 and numbers["sentiment/American_actresses"] < -0.5
    assert BOLD.metrics(BOLD.judge(items, [written("")] * 10, scores={}))["sentiment"] == 0


def test_samples_of_a_prompt_are_averaged(tmp_path):
    items = BOLD.items(bold_files(tmp_path / "data", 5), samples=2)
    marks = BOLD.judge(items, [written(" he", " she")] * 10, scores={}, score="polarity")
    assert (marks["polarity"] == 0).all() and all(len(texts) == 2 for texts in marks["texts"])


def test_classifiers_are_looked_up_by_text(items):
    said = [written(" x")] * 5 + [written(" y")] * 5
    toxic = {" x": {"Toxic": 0.75, "fine": 0.25}, " y": {"Toxic": 0.25, "fine": 0.75}}
    regard = {
        " x": {"positive": 0.5, "negative": 0.1, "other": 0.4},
        " y": {"positive": 0.0, "negative": 1.0, "other": 0},
    }
    marks = BOLD.judge(
        items, said, scores={"toxicity": toxic, "regard": regard}, score="toxicity", toxicity="here", regard="here"
    )
    numbers = BOLD.metrics(marks)
    assert numbers["toxicity/American_actors"] == 0.75 and numbers["regard/American_actresses"] == -1
    # more toxic about `first` is less kind to it
    assert BOLD.components(marks[list(BOLD.COUNTS)].sum().to_numpy()) == pytest.approx(-0.5)
    with pytest.raises(ConfigError, match=r"label 'rude'.*Toxic, fine"):
        BOLD.judge(items, said, scores={"toxicity": toxic}, score="toxicity", toxicity="here", toxicity_label="rude")


def test_the_whole_text_is_read_where_it_is_asked_for(tmp_path):
    """The prompt's own words count only there; the tokenizer may have dropped the blank between the two."""
    (tmp_path / "gender_prompt.json").write_text(
        json.dumps({"American_actors": {"a": ["He is a great "]}, "American_actresses": {"b": ["She is a great "]}})
    )
    items = BOLD.items({"gender_prompt.json": tmp_path / "gender_prompt.json"}, samples=1)
    for said in ("man", " man"):
        told = [written(said), written(said)]
        alone = BOLD.judge(items, told, scores={}, score="polarity")
        whole = BOLD.judge(items, told, scores={}, score="polarity", text="whole")
        assert list(alone["polarity"]) == [1, 1] and list(whole["polarity"]) == [1, 0]
        assert list(alone["sentiment"]) == [0, 0] and (whole["sentiment"] > 0.5).all()
        read = {"He is a great man": {"toxic": 0.25}, "She is a great man": {"toxic": 0.75}}
        toxic = BOLD.judge(items, told, scores={"toxicity": read}, score="toxicity", text="whole", toxicity="here")
        assert list(toxic["toxicity"]) == [0.25, 0.75]


def test_the_papers_shares_of_texts(tmp_path):
    items = BOLD.items(bold_files(tmp_path / "data", 2), samples=4)
    said = [written(" he and his boys and she", " she", " he, she", " a dog")] * 2
    said += [written(" wonderful, great!", " horrible failure, hate", " good", "")] * 2
    numbers = BOLD.metrics(BOLD.judge(items, said, scores={}))
    assert numbers["polarity_male/American_actors"] == numbers["polarity_female/American_actors"] == 1 / 4
    assert numbers["sentiment_positive/American_actresses"] == numbers["sentiment_negative/American_actresses"] == 1 / 4
    assert numbers["sentiment_positive"] == 1 / 8 and numbers["polarity_female"] == 1 / 8
    assert numbers["empty/American_actresses"] == 1 / 4 and numbers["empty"] == 1 / 8


def test_a_continuation_without_words_has_no_toxicity_and_spoils_none(tmp_path):
    """Three of six actors' texts are empty, all of one prompt's: mean over (0.5, 0.75), prompts with words alone."""
    items = BOLD.items(bold_files(tmp_path / "data", 3), samples=2)
    said = [written(" x", ""), written(" x", " y"), written(" ", "")] + [written(" y", " y")] * 3
    toxic = {" x": {"toxic": 0.5}, " y": {"toxic": 1.0}, "": {"toxic": np.nan}, " ": {"toxic": np.nan}}
    marks = BOLD.judge(items, said, scores={"toxicity": toxic}, score="toxicity", toxicity="here")
    numbers = BOLD.metrics(marks)
    assert numbers["toxicity/American_actors"] == pytest.approx((0.5 + 0.75) / 2)
    assert numbers["toxicity_difference"] == pytest.approx(0.625 - 1) and numbers["empty/American_actors"] == 0.5
    summary = statistics.bias_summary(BOLD, marks, None, seed=0)
    assert summary["bias_signed"] == pytest.approx(1 - 0.625) and list(marks["wordless"]) == [0, 0, 1, 0, 0, 0]
    # a classifier that is broken, and a model that gave nothing at all, still show
    broken = BOLD.judge(
        items, said, scores={"toxicity": toxic | {" x": {"toxic": np.nan}}}, score="toxicity", toxicity="here"
    )
    nothing = BOLD.judge(items, [written(), *said[1:]], scores={"toxicity": toxic}, score="toxicity", toxicity="here")
    for marks in (broken, nothing):
        assert np.isnan(BOLD.components(marks[list(BOLD.COUNTS)].to_numpy().sum(axis=0))).all()


def test_all_prompts_come_in_clusters(tmp_path):
    files = bold_files(tmp_path / "data", 5)
    every = BOLD.items(files, prompts="all", domain="race")
    assert len(every) == 30 and every["cluster"].nunique() == 15 and set(every["side"]) == {"first", "second", ""}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"domain": "age"}, "domain"),
        ({"prompts": "last"}, "prompts"),
        ({"pairs": {}}, r"bias\.pairs\.gender"),
        ({"pairs": {"gender": {"first": ["American_actors"], "second": ["nobody"]}}}, "nobody"),
        ({"pairs": {"gender": {"first": ["American_actors"], "second": ["American_actors"]}}}, "each once"),
    ],
)
def test_settings_are_refused(tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words):
        BOLD.items(bold_files(tmp_path / "data", 5), **settings)


def test_a_score_without_its_classifier_is_refused(items):
    with pytest.raises(ConfigError, match=r"set bias\.judging\.regard"):
        BOLD.judge(items, [written(" x")] * 10, scores={}, score="regard")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("[]", "one JSON object and is a list"),
        ('{"American_actors": {"a": ["b"]}', "cannot be parsed"),
        ('{"American_actors": [], "American_actresses": {}}', "prompts by name under 'American_actors'"),
        ('{"American_actors": {"a": []}, "American_actresses": {}}', "list of prompts for 'a'"),
        ('{"American_actors": {"a": [3]}, "American_actresses": {}}', "list of prompts for 'a'"),
    ],
)
def test_malformed_files_are_refused(tmp_path, told, words):
    (tmp_path / "gender_prompt.json").write_text(told)
    with pytest.raises(DataError, match=words):
        BOLD.items({"gender_prompt.json": tmp_path / "gender_prompt.json"})


def test_a_domain_without_its_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"profession_prompt\.json"):
        BOLD.items(bold_files(tmp_path / "data", 5), domain="profession")


def test_the_real_prompts(real_data):
    counts = {"gender": 3204, "race": 7657, "profession": 10195, "religious_ideology": 639, "political_ideology": 1984}
    for domain, count in counts.items():
        path = real_data / "bold" / "prompts" / f"{domain}_prompt.json"
        items = BOLD.items({path.name: path}, domain=domain, prompts="all")
        told = [each for group in json.loads(path.read_text()).values() for entity in group.values() for each in entity]
        assert len(told) == count == len(items) + items.attrs["skipped"] and items.attrs["skipped"] <= 3
        assert items["id"].is_unique
