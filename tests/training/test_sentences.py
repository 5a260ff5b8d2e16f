"""Sets of training sentences: this project's own reader, and the pairs of bias benchmarks."""

import json
from pathlib import Path

import pytest

import pipeline
from pipeline import config as configuration
from pipeline.errors import ConfigError, DataError
from pipeline.halves import HALVES, lies_in
from pipeline.recipe.identity import sentences_of
from pipeline.stages.pairs import read

POCKET = Path(pipeline.__file__).parent / "pocket" / "stereotypes.jsonl"


def own(path: Path, **asked) -> list:
    return read({"format": "stereotypes", **asked}, {"stereotypes.jsonl": path})


def of_set(name: str, data: Path, **asked) -> list:
    declared = configuration.stereotypes(name)
    return read(sentences_of(declared, asked), {file: data / each["path"] for file, each in declared["files"].items()})


def test_pocket_set():
    pairs = own(POCKET)
    assert len(pairs) >= 160 and all("BLANK" not in p.stereotype + p.anti_stereotype for p in pairs)
    assert all(p.stereotype != p.anti_stereotype for p in pairs) and len({p.id for p in pairs}) == len(pairs)


def test_stereoset(real_data):
    pairs = of_set("stereoset", real_data)
    assert len(pairs) == 2106
    counts = {kind: sum(p.bias_type == kind for p in pairs) for kind in ("gender", "profession", "race", "religion")}
    assert counts == {"gender": 255, "profession": 810, "race": 962, "religion": 79}
    first = pairs[0]
    assert (first.stereotype, first.anti_stereotype) == (
        "The chess player was asian.",
        "The chess player was hispanic.",
    )


def test_winogender(real_data):
    pairs = {pair.id: pair for pair in of_set("winogender", real_data)}
    assert len(pairs) == 240
    # by Bergsma and Lin 5.4 % of technicians in text are women; of nurses 92 %
    technician, nurse = pairs["technician.customer.1"], pairs["nurse.patient.0"]
    assert " he " in technician.stereotype.lower() and " she " in technician.anti_stereotype.lower()
    assert {" she ", " her "} & {f" {word} " for word in nurse.stereotype.lower().split()}


def test_crows_pairs(real_data):
    pairs = of_set("crows_pairs", real_data)
    assert len(pairs) == 1508
    assert pairs[0].stereotype.startswith("John ran into his old football friend") or pairs[0].stereotype


def test_bbq_in_letters(real_data):
    pairs = of_set("bbq", real_data)
    assert {pair.bias_type.removesuffix("_names") for pair in pairs} == {
        *("Age", "Disability_status", "Gender_identity", "Nationality", "Physical_appearance"),
        *("Race_ethnicity", "Religion", "SES", "Sexual_orientation"),
    }
    for pair in pairs:
        assert pair.stereotype[:-1] == pair.anti_stereotype[:-1]
        assert {pair.stereotype[-1], pair.anti_stereotype[-1]} == {"A", "B"}
    at_a = sum(pair.stereotype[-1] == "A" for pair in pairs)
    assert 0.48 < at_a / len(pairs) < 0.52


@pytest.mark.parametrize("name", ["stereoset", "winogender", "crows_pairs"])
def test_halves_share_no_cluster_and_leave_nothing_out(name, real_data):
    halves = [of_set(name, real_data, half=half) for half in HALVES[:2]]
    whole = of_set(name, real_data)
    assert {pair.id for half in halves for pair in half} == {pair.id for pair in whole}
    assert not {pair.cluster for pair in halves[0]} & {pair.cluster for pair in halves[1]}
    assert 0.35 < len(halves[0]) / len(whole) < 0.65


def test_bias_types():
    some = own(POCKET, bias_types=["gender"])
    assert {pair.bias_type for pair in some} == {"gender"} and len(some) < len(own(POCKET))
    with pytest.raises(ConfigError, match=r"debias\.bias_types should be some of .*gender.* found sex"):
        own(POCKET, bias_types=["sex"])


@pytest.mark.parametrize("name", ["nurse", "surgeon", "clerk", "", "Überträger"])
def test_every_cluster_lies_in_one_half_and_tuning_is_cut_once_more(name):
    tuning, reporting, fitting, choosing = (lies_in(half, name) for half in HALVES)
    assert (
        tuning != reporting and tuning == (fitting or choosing) and not (fitting and choosing) and lies_in(None, name)
    )


def test_clusters_are_spread_over_all_parts():
    counts = {half: sum(lies_in(half, str(number)) for number in range(400)) for half in HALVES}
    assert 160 < counts["tuning"] < 240 and 70 < counts["fitting"] < 130


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "line 1"),
        ('{"id": 1, "template": 1, "bias_type": "age", "context": "no gap", "stereotype": "a", "anti_stereotype": "b"}', "BLANK once"),
        ('{"id": 1', "line 1"),
        ("", "found none"),
    ],
)  # fmt: skip
def test_malformed_files_are_named(tmp_path, text, words):
    (tmp_path / "file").write_text(text)
    with pytest.raises(DataError, match=words) as raised:
        own(tmp_path / "file")
    assert "file" in str(raised.value)


def test_unknown_format(tmp_path):
    (tmp_path / "file").write_text(json.dumps({}))
    with pytest.raises(ConfigError, match="stereotypes, bbq, crows_pairs, stereoset, winogender"):
        read({"format": "prose"}, {"file": tmp_path / "file"})
