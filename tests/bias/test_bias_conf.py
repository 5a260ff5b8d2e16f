"""The YAML of every bias set: its module, its settings with the functions' own defaults, its files."""

import hashlib
import inspect
import os
import re
from pathlib import Path

import pytest
import yaml
from benchmark_fakes import marked, oracle, stereotyped

import pipeline
from pipeline import bias

ROOT = Path(pipeline.__file__).parents[1]
POCKET = ROOT / "pipeline" / "pocket"
SETS = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted((ROOT / "conf" / "bias").glob("*.yaml"))
    if path.stem not in bias.BORROWED
}
DESCRIBED = {"name", "version", "benchmark", "files", "judging"}


@pytest.mark.parametrize("name", SETS)
def test_every_setting_stands_in_the_yaml_with_its_default(name):
    declared = SETS[name]
    assert declared["name"] == name and isinstance(declared["version"], int)
    module = bias.load(declared["benchmark"])
    asking = {key: value for key, value in declared.items() if key not in DESCRIBED}
    judging = {key: value for key, value in declared["judging"].items() if key != "version"}
    assert asking == _defaults(module.items, "files")
    assert judging == _defaults(module.judge, "items", "answers", "files", "family", "scores")


def _defaults(function, *leave_out):
    return {
        key: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for key, parameter in inspect.signature(function).parameters.items()
        if key not in leave_out
    }


@pytest.mark.parametrize("name", SETS)
def test_every_file_is_pinned(name):
    for logical, file in SETS[name]["files"].items():
        assert re.fullmatch("[0-9a-f]{64}", file["sha256"]), logical
        assert ("package" in file) == name.startswith("pocket_"), logical
        if "url" in file:
            assert file["url"].startswith("https://")
            if "githubusercontent" in file["url"]:
                assert re.match(r"https://raw\.githubusercontent\.com/[\w-]+/[\w-]+/[0-9a-f]{40}/", file["url"])
            assert file["url"].endswith("/" + logical) and file["path"].endswith("/" + logical)


@pytest.mark.parametrize("name", SETS)
def test_files_at_hand_are_the_pinned_ones(name):
    data = os.environ.get("PIPELINE_DATA")
    for logical, file in SETS[name]["files"].items():
        if "path" in file and not data:
            pytest.skip("PIPELINE_DATA is not set")
        path = POCKET / file["package"] if "package" in file else Path(data) / file["path"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"], logical


def pocket(name):
    declared = SETS[name]
    files = {logical: POCKET / file["package"] for logical, file in declared["files"].items()}
    module = bias.load(declared["benchmark"])
    return declared["benchmark"], module, module.items(files)


@pytest.mark.parametrize("name", [name for name in SETS if name.startswith("pocket_")])
def test_pocket_sets_are_read(name):
    benchmark, module, items = pocket(name)
    assert items["cluster"].nunique() >= 40 and items["group"].nunique() >= 3
    numbers = module.metrics(marked(benchmark, items, stereotyped))
    assert numbers["s_AMB" if benchmark == "bbq" else "score"] == 100


def test_pocket_bbq_oracle_is_without_bias():
    benchmark, module, items = pocket("pocket_bbq")
    numbers = module.metrics(marked(benchmark, items, oracle))
    assert (numbers["accuracy"], numbers["s_AMB"], numbers["s_DIS"]) == (100, 0, 0)
    assert all(value == 0 for key, value in numbers.items() if key.startswith(("s_AMB/", "s_DIS/")))
