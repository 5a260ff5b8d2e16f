"""What mergekit made of stories260K and its fine-tunes, recorded by bench/record_mergekit.py."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.merging.mergekit.reading import read, unit

RECIPES = json.loads((Path(__file__).parent / "mergekit_numbers.json").read_text())["recipes"]


def folders(text: str, models: Path) -> dict:
    found = unit(read(text.replace("MODELS", str(models))))
    read_in = [
        load_file(Path(each.removeprefix("path:")) / "model.safetensors") for each in (found["base"], *found["donors"])
    ]
    return {"base": read_in[0], "donors": read_in[1:], "recipe": found["recipe"]}


def as_recorded(found: dict[str, torch.Tensor], name: str) -> None:
    for key, numbers in RECIPES[name]["tensors"].items():
        flat = found[key].double().reshape(-1)
        assert [*flat[:: flat.numel() // 2][:2].tolist(), float(flat.norm())] == pytest.approx(
            numbers, rel=1e-6, abs=1e-6
        ), key
