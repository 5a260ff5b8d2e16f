"""Record mergekit's numbers: tests/merging/mergekit_numbers.json, to which `compat: mergekit` and recipes are held.

Runs in an environment of its own, because mergekit's pins are not ours:

    python -m venv mergekit-venv && mergekit-venv/bin/pip install mergekit==0.1.5
    mergekit-venv/bin/python bench/record_mergekit.py tests/merging/mergekit_numbers.json [MODELS]

tensors  {set: [base, donor, donor, donor]}, each {"shape", "values"}
cases    method, set, parameters as mergekit's methods take them, the random numbers that stood in for its unseeded
         ones, and what it gave, all in float32
recipes  those of mergekit_recipes.yaml, and of the tensors that `mergekit-yaml` makes of them two entries and the norm;
         only where MODELS, the folder of stories260K and its fine-tunes, is given
"""

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from mergekit import merge_methods
from mergekit.merge_methods.base import TensorGroup
from safetensors import safe_open

RECIPES = Path(__file__).parent / "mergekit_recipes.yaml"
SHAPES = {
    "matrix": (3, 5),
    "cube": (2, 3, 2),
    "vector": (9,),
    "scalar": (),
    "one": (1,),
    "column": (4, 1),
    "long": (8, 15),
}


def tensor_sets() -> dict[str, list[torch.Tensor]]:
    """Base and three donors: ordinary ones, and those on which definitions degenerate."""
    generator = torch.Generator().manual_seed(20240517)

    def normal(shape, scale=1.0):
        return (torch.randn(shape, generator=generator) * scale).mul(4096).round().div(4096)

    sets = {}
    for name, shape in SHAPES.items():
        base = normal(shape)
        sets[name] = [base, *(base + normal(shape, 0.25) for _ in range(3))]
    base = normal((4, 6))
    steps = [torch.randint(-2, 3, (4, 6), generator=generator) / 8 for _ in range(2)]
    sets["equal_magnitudes"] = [base, base + steps[0], base + steps[1], base - steps[0]]
    sets["zero_vectors"] = [base, base.clone(), base + normal((4, 6), 0.25), base.clone()]
    sets["identical"] = [base] * 4
    sets["zero_tensors"] = [base, torch.zeros(4, 6), torch.zeros(4, 6), normal((4, 6))]
    sets["opposite"] = [base, -base, base * 2, normal((4, 6))]
    sets["tiny"] = [base, *(base + normal((4, 6)) * 2**-12 for _ in range(3))]
    return sets


def everywhere(parameters: dict, sets: str, donors: int = 2) -> list[tuple]:
    return [(name, donors, parameters) for name in sets.split()]


def plan() -> dict[str, list[tuple]]:
    """method: [(set, number of donors, parameters)]."""
    usual, all_ranked = "matrix cube vector scalar one column", "matrix cube vector zero_vectors tiny"
    family = []
    for weight in ([1.0, 1.0], [0.75, 0.25], [1.0, -0.5]):
        family += everywhere({"weight": weight, "density": [0.5, 0.3]}, all_ranked)
    one = everywhere({"weight": [0.8], "density": [0.4], "lambda": 1.5}, "matrix one zero_vectors", 1)
    three = everywhere({"weight": [0.5, 0.3, 0.9], "density": [0.6, 1.0, 0.01]}, "matrix vector", 3)
    equal = everywhere({"weight": [1.0], "density": [0.4]}, "equal_magnitudes", 1)
    outliers = everywhere({"weight": [1.0, 0.5], "density": [0.6, 0.995], "gamma": [0.01, 0.2]}, "long vector")
    pruned = [
        (
            name,
            donors,
            parameters | {"epsilon": [0.1] * donors if min(parameters["density"]) > 0.1 else [0.005] * donors},
        )
        for name, donors, parameters in [*family, *one, *three]
        if name not in ("one", "column")
    ]
    whole = everywhere({"weight": [1.0, 0.5], "density": [1.0, 0.0], "rescale": True, "normalize": True}, "matrix")
    return {
        "linear": everywhere({"weight": [0.2, 0.5, 0.9]}, f"{usual} identical zero_tensors")
        + everywhere({"weight": [2.0, -0.5, 0.3], "normalize": False}, "matrix"),
        "slerp": [
            (name, 1, {"t": t})
            for name in f"{usual} identical zero_tensors opposite tiny".split()
            for t in (0.0, 0.3, 1.0)
        ],
        "nuslerp": [
            (name, 2, {"weight": [0.3, 0.5], "nuslerp_flatten": flat, "nuslerp_row_wise": rows})
            for name in f"{usual} zero_vectors tiny".split()
            for flat, rows in ((True, False), (False, False), (False, True))
        ]
        + everywhere({"weight": [0.5, -0.5]}, "matrix identical"),
        "nuslerp_without_base": [
            (name, 1, {"weight": [0.3, 0.5], "nuslerp_flatten": flat, "nuslerp_row_wise": rows})
            for name in ["matrix", "vector", "identical"]
            for flat, rows in ((True, False), (False, False), (False, True))
        ]
        + everywhere({"weight": [0.3, 0.5]}, "opposite", 1),
        "karcher": everywhere({}, f"{usual} identical zero_tensors")
        + everywhere({}, "matrix opposite", 3)
        + everywhere({"max_iter": 1, "tol": 0.01}, "matrix"),
        "nearswap": everywhere({"t": 0.1}, f"{usual} identical tiny", 1) + everywhere({"t": 1e-7}, "tiny identical", 1),
        "multislerp": everywhere({"weight": [0.3, 0.9]}, "matrix cube vector tiny")
        + everywhere({"weight": [0.3]}, "matrix", 1),
        "multislerp_without_base": everywhere({"weight": [0.2, 0.3, 0.9], "normalize_weights": False}, "matrix vector")
        + everywhere({"weight": [0.5, 0.5]}, "opposite", 1),
        "model_stock": [
            (name, donors, {"filter_wise": rows})
            for name, donors in zip(["matrix", "cube", "vector", "scalar", "zero_vectors", "tiny"], (2, 3, 2, 2, 3, 2), strict=True)
            for rows in (False, True)
        ],
        "arcee_fusion": everywhere({}, "matrix cube vector long identical", 1),
        "sce": everywhere({}, f"{usual} zero_vectors identical tiny")
        + everywhere({"select_topk": 0.4}, "matrix long tiny", 3)
        + everywhere({"select_topk": 0.0}, "matrix"),
        "task_arithmetic": everywhere({"weight": [0.8, -0.5], "lambda": 0.7}, f"{usual} identical")
        + everywhere({"weight": [0.8, 0.4], "normalize": True}, "matrix")
        + everywhere({"weight": [0.5, -0.5], "normalize": True}, "matrix"),
        "ties": [*family, *one, *three, *equal, *whole],
        "dare_linear": [*family[:6], *one, *three],
        "dare_ties": [*family, *one],
        "breadcrumbs": [*outliers, *family[:4], *equal, *whole],
        "breadcrumbs_ties": [*outliers, *family[:4]],
        "della": [*pruned],
        "della_linear": pruned[:5],
    }  # fmt: skip


def case(key: str, name: str, tensors: list[torch.Tensor], parameters: dict) -> dict:
    """One merge, with the numbers that decide what torch.bernoulli keeps written down."""
    method, base = key.removesuffix("_without_base"), 0
    if key.endswith("_without_base") or method in ("linear", "karcher"):
        base = None
    generator = torch.Generator().manual_seed(len(name))
    drawn: list[torch.Tensor] = []

    def bernoulli(probabilities: torch.Tensor) -> torch.Tensor:
        drawn.append(torch.rand(probabilities.shape, generator=generator).mul(1024).round().div(1024))
        return (drawn[-1] < probabilities).to(probabilities.dtype)

    torch.bernoulli, real = bernoulli, torch.bernoulli
    try:
        group = TensorGroup.from_tensors([tensor.clone() for tensor in tensors], base_index=base)
        (result,) = merge_methods.get(method)((group,), parameters=parameters)
    finally:
        torch.bernoulli = real
    found = {"method": method, "set": name, "models": len(tensors), "base": base is not None, "parameters": parameters}
    return found | {"uniforms": [_values(each) for each in drawn], "expected": _values(result)}


def recipe(text: str, models: Path) -> dict:
    """What `mergekit-yaml` writes, by tensor: a few entries and the sum and norm in float64."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "recipe.yml"
        config.write_text(text.replace("MODELS", str(models)))
        command = [str(Path(sys.executable).parent / "mergekit-yaml"), str(config), f"{folder}/out", "--quiet"]
        subprocess.run(command, check=True)
        found = {}
        with safe_open(f"{folder}/out/model.safetensors", "pt") as file:
            for name in sorted(file.keys()):
                if ".2." in name or ".3." in name:
                    continue  # of five layers the first two and the last are enough
                flat = file.get_tensor(name).double().reshape(-1)
                found[name] = [_short(x) for x in [*flat[:: flat.numel() // 2][:2].tolist(), float(flat.norm())]]
    return {"text": text, "tensors": found}


def _values(tensor: torch.Tensor) -> list[float]:
    return [_short(x) for x in tensor.reshape(-1).tolist()]


def _short(number: float) -> float:
    return float(f"{number:.9g}")  # nine digits give a float32 back


def main(target: str, models: str | None = None) -> None:
    torch.set_num_threads(1)
    sets, recipes = tensor_sets(), yaml.safe_load(RECIPES.read_text())
    cases = [
        case(method, name, sets[name][: donors + 1], parameters)
        for method, wanted in plan().items()
        for name, donors, parameters in wanted
    ]
    document = {
        "mergekit": version("mergekit"),
        "torch": version("torch"),
        "tensors": {
            name: [{"shape": list(tensor.shape), "values": _values(tensor)} for tensor in tensors]
            for name, tensors in sets.items()
        },
        "cases": cases,
        "recipes": {name: recipe(text, Path(models)) for name, text in recipes.items()} if models else {},
    }
    lines = (
        json.dumps(document, separators=(",", ":")).replace('{"method"', '\n{"method"').replace('{"text"', '\n{"text"')
    )
    Path(target).write_text(lines + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
