"""The merge stage: folders in, a folder out that transformers loads."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import config as configuration
from pipeline.errors import CheckpointError, ConfigError
from pipeline.stages.merge import line_end, merge
from tests.merging import naive_merges as naive
from tests.merging.merge_tables import declared, distance, exact, of_tensors, takes
from tests.merging.merge_tables import run as in_memory

ALL = declared()
DONORS = ("stories260K-ft-stereotype", "stories260K-ft-anti-stereotype", "stories260K-ft-gsm8k")


@pytest.fixture(scope="module")
def stories() -> Path:
    folder = os.environ.get("PIPELINE_MODELS")
    if not folder or not (Path(folder) / "stories260K").is_dir():
        pytest.skip("PIPELINE_MODELS names no folder with stories260K")
    return Path(folder)


def small(folder: Path, seed: int, dtype=torch.float32, **changed) -> Path:
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    names = {f"model.layers.{i}.w": (4, 5) for i in (0, 9, 10)} | {"model.embed.weight": (6, 4), "model.scale": ()}
    tensors = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in names.items()}
    save_file(
        tensors | {"model.positions": torch.arange(3)} | changed,
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    return folder


def run(
    folder: Path, base: Path, *donors: Path, name="linear", weight: float | None = 0.3, shares=None, **changed
) -> dict:
    """The merge as a cell makes it: by way of the end of the line where the method keeps it."""
    folder.mkdir()
    recipe = {
        "base": {"source": f"path:{base.name}", "sha256": "11"},
        "donors": [{"source": f"hub:o/{d.name}@12", "sha256": "22"} for d in donors],
    }
    told = {key: changed.pop(key) for key in ("shard_size", "vocab", "machine") if key in changed}
    unit = ALL[name] | changed
    method = {"name": name, "version": unit["version"], **configuration.settings(unit)}
    shared = {"base": base, "donors": list(donors), "method": method, "shares": shares}
    if unit.get("keeps_end"):
        shared["end"] = folder.parent / f"end of {folder.name}"
        shared["end"].mkdir()
        kept = {key: value for key, value in told.items() if key != "shard_size"}
        line_end(shared["end"], **{key: value for key, value in shared.items() if key != "end"}, **kept)
    return merge(folder, weight=weight if unit["uses_weight"] else None, recipe=recipe, **shared, **told)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", of_tensors())
def test_whole_real_models_as_dicts_of_tensors_and_against_float64(name, count, stories, tmp_path):
    """Streamed from files, in blocks, on threads, and by way of an end: the same bits as from dicts."""
    if not takes(name, count):
        pytest.skip(f"{name} takes another number of donors than {count}")
    shares = None if count == 1 else [0.5, 0.2, 0.3]
    folders = [stories / "stories260K", *(stories / donor for donor in DONORS[:count])]
    run(tmp_path / "out", *folders, name=name, weight=0.4, shares=shares, machine={"device": "cpu", "threads": 3})
    merged = load_file(tmp_path / "out" / "model.safetensors")
    base, *donors = (load_file(folder / "model.safetensors") for folder in folders)
    again = in_memory(name, base, donors, 0.4, shares)
    assert merged.keys() == again.keys()
    for key, tensor in again.items():
        assert torch.equal(merged[key], tensor), key
    if hasattr(naive, name):
        errors = distance(merged, exact(name, base, donors, 0.4, shares), [base, *donors])
        assert max(errors.values()) < 1e-6, errors


def test_transformers_loads_the_folder(stories, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    models = stories / "stories260K", stories / DONORS[0]
    run(tmp_path / "out", *models, weight=0.5)
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out")("Once upon a time", return_tensors="pt")["input_ids"]
    parents = [AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in models]
    key = "model.layers.3.mlp.up_proj.weight"
    assert torch.allclose(model.state_dict()[key], (parents[0][key] + parents[1][key]) / 2, atol=1e-6)
    assert model(tokens).logits.isfinite().all()


@pytest.mark.parametrize("base", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", of_tensors())
def test_what_a_donor_is_stored_in_changes_nothing(name, base, tmp_path):
    """Numbers that float8 can hold, so that every dtype holds the same."""
    base = small(tmp_path / "base", 0, base)
    for count in (1, 2):
        if not takes(name, count):
            continue
        found = {}
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn):
            place = tmp_path / f"{count} {dtype}"
            place.mkdir()
            donors = [small(place / str(i), 1 + i, torch.float8_e4m3fn) for i in range(count)]
            for donor in donors:
                tensors = load_file(donor / "model.safetensors")
                wider = {key: each.to(dtype) if each.is_floating_point() else each for key, each in tensors.items()}
                save_file(wider, donor / "model.safetensors", metadata={"format": "pt"})
            summary = run(place / "out", base, *donors, name=name)
            found[dtype] = load_file(place / "out" / "model.safetensors"), str(summary)
        first, said = found.pop(torch.float32)
        for dtype, (merged, summary) in found.items():
            assert all(torch.equal(merged[key], tensor) for key, tensor in first.items()), (dtype, count)
            assert summary == said, dtype


@pytest.mark.parametrize("name", of_tensors())
def test_shards_threads_and_a_second_run_do_not_change_a_bit(name, tmp_path):
    base, *donors = (small(tmp_path / role, seed) for seed, role in enumerate(("base", "donor", "other")))
    donors = donors[: 1 if takes(name, 1) else 2]
    one = run(tmp_path / "one", base, *donors, name=name)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 3)
        assert run(tmp_path / "two", base, *donors, name=name, machine={"threads": 5}) == one
        run(tmp_path / "shards", base, *donors, name=name, shard_size=100)
        run(tmp_path / "from_shards", tmp_path / "shards", *donors, name="keep")
    finally:
        torch.set_num_threads(before)
    for file in ("model.safetensors", "README.md", "diagnosis.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    whole = load_file(tmp_path / "one" / "model.safetensors")
    again = load_file(tmp_path / "from_shards" / "model.safetensors")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert all(torch.equal(again[key], tensor) for key, tensor in whole.items())


def test_the_summary_the_diagnosis_and_the_card(tmp_path):
    base, one, two = (small(tmp_path / role, seed) for seed, role in enumerate(("base", "one", "two")))
    summary = run(tmp_path / "out", base, one, two, weight=0.25, shares=[1.0, 3.0])
    assert summary["effective_weight"] == pytest.approx(0.25, abs=1e-6) and summary["off_axis"] < 1e-6
    assert summary["tensors"] == 6 and summary["notes"] == [
        "1 tensors are not floating-point parameters and are the base's"
    ]
    assert summary["smallest_norm_ratio"] <= summary["norm_ratio"] <= summary["largest_norm_ratio"]
    diagnosis = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert list(diagnosis["layers"]) == ["model", "model.embed", "model.layers.0", "model.layers.9", "model.layers.10"]
    assert diagnosis["effective_weight"] == summary["effective_weight"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith('---\nbase_model:\n- "o/one"\n- "o/two"\nlibrary_name: transformers\ntags:\n- merge\n---\n')
    for words in (
        "`linear` merge (version 1) of the base and 2 donors at weight 0.25",
        "shares 1, 3",
        "source `path:base`",
        "sha256 `22`",
    ):
        assert words in card
    assert (tmp_path / "out" / "config.json").read_text() == "{}" and (tmp_path / "out" / "tokenizer.json").is_file()


def test_degenerate_merges_say_so(tmp_path):
    base, donor = (small(tmp_path / role, seed) for seed, role in enumerate(("base", "donor")))
    near = small(tmp_path / "near", 0, **{"model.scale": torch.tensor(3.0)})
    same = run(tmp_path / "same", base, base)
    assert math.isnan(same["effective_weight"]) and math.isnan(same["off_axis"])
    assert json.loads((tmp_path / "same" / "diagnosis.json").read_text())["off_axis"] is None
    assert (
        any("no tensor differs" in note for note in same["notes"])
        and "the result is bit-identical to the base" in same["notes"]
    )
    assert "the result is bit-identical to the base" in run(tmp_path / "zero", base, donor, weight=0.0)["notes"]
    assert "the result is bit-identical to the donor 1" in run(tmp_path / "full", base, donor, weight=1.0)["notes"]
    assert (
        "the result is bit-identical to the donor 1"
        in run(tmp_path / "ties", base, donor, name="ties", weight=1.0, density=1.0)["notes"]
    )
    notes = run(tmp_path / "slerp", base, near, name="slerp")["notes"]
    assert "on 5 of 5 tensors the two are nearly parallel (|cos| > 0.9995), so the arc is a line" in notes
    assert (
        run(tmp_path / "keep", base, name="keep", weight=None)["notes"][0] == "the result is bit-identical to the base"
    )


def test_float16_that_overflows_is_refused(tmp_path):
    base = small(tmp_path / "base", 0, torch.float16)
    donor = small(tmp_path / "donor", 1, torch.float16, **{"model.layers.9.w": torch.full((4, 5), 6e4).half()})
    with pytest.raises(
        CheckpointError, match=r"model.layers.9.w should be finite, found 20 of 20 entries .*float16.* merge.scale"
    ):
        run(tmp_path / "out", base, donor, name="ties", weight=1.0, density=1.0, scale=2.0)


@pytest.mark.parametrize("name", [name for name in of_tensors() if name != "keep"])
def test_nan_is_refused_by_name(name, tmp_path):
    base = small(tmp_path / "base", 0)
    donor = small(tmp_path / "donor", 1, **{"model.layers.9.w": torch.full((4, 5), math.nan)})
    more = [] if takes(name, 1) else [small(tmp_path / "other", 2)]
    for i, pair in enumerate([(base, donor, *more), (donor, base, *more)]):
        with pytest.raises(CheckpointError, match=r"model.layers.9.w should hold finite numbers"):
            run(tmp_path / f"out{i}", *pair, name=name)


def test_what_headers_can_tell_is_told_before_a_tensor_is_read(tmp_path, monkeypatch):
    base, donor, large = (
        small(tmp_path / role, seed, **extra)
        for seed, (role, extra) in enumerate([("base", {}), ("donor", {}), ("large", {"model.scale": torch.zeros(2)})])
    )

    def never(*_):
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("pipeline.checkpoint.Reader.read", never)
    with pytest.raises(
        CheckpointError, match=r"model.scale should have one shape, found \[\] in the base .* and \[2\] in the donor"
    ):
        run(tmp_path / "1", base, donor, large)
    with pytest.raises(ConfigError, match=r"merge.density"):
        run(tmp_path / "2", base, donor, name="ties", density=7)
    with pytest.raises(ConfigError, match=r"donor.shares"):
        run(tmp_path / "3", base, donor, shares=[1.0, 2.0])
    with pytest.raises(ConfigError, match="exactly 1 donor"):
        run(tmp_path / "4", base, donor, donor, name="slerp")
    with pytest.raises(ConfigError, match="weight should lie between"):
        run(tmp_path / "5", base, donor, weight=1.5)
    with open(donor / "model.safetensors", "r+b") as file:
        file.truncate(300)
    with pytest.raises(CheckpointError, match="truncated"):
        run(tmp_path / "6", base, donor)
