"""The stage with the methods that make something of the pairs before they are stepped on it."""

from pathlib import Path

import pandas
import pytest
from safetensors.torch import load_file

from pipeline.stages import debias
from tests.debiasing.planted_bert import staged, taught

STEPPED = {
    "steering": ({}, {"difference"}),
    "dpce": ({"attributes": [["he"], ["she", "woman"]]}, {"loss", "orthogonality", "distance"}),
    "auto_debias": (
        {"tuples": [["he", "she"]], "stereotypes": ["slow", "old"], "vocabulary": 5, "beam": 2, "prompt_length": 2},
        {"divergence"},
    ),
}


@pytest.mark.parametrize("name", STEPPED)
def test_stage(name, tmp_path, monkeypatch):
    monkeypatch.setattr(debias, "_measured", lambda *_: {"bias": 0.0, "meaningful": 1.0, "perplexity": 1.0})
    changed, told = STEPPED[name]
    unit, summary, made = staged(name, changed, tmp_path)
    assert summary["relative_norm"] > 0 and summary["epoch"] == unit["epochs"]
    assert (summary["pairs"] == 0) == (name == "auto_debias"), "which finds its prompts in the model"
    epochs = pandas.read_parquet(made / "epochs.parquet")
    assert told <= set(epochs.columns) and len(epochs) == unit["epochs"] + 1
    before, after = load_file(Path(taught().name) / "model.safetensors"), load_file(made / "model.safetensors")
    assert before.keys() == after.keys() and any((before[key] != after[key]).any() for key in before)
    if name == "auto_debias":
        assert len(pandas.read_parquet(made / "prompts.parquet")) == 4
