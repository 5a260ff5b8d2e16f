"""TSVM as one would write it first: whole models in memory, torch.linalg.svd in float32. The bench's other side.

python bench/naive_tsvm.py OUT WEIGHT BASE DONOR...
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def polar(matrix: torch.Tensor) -> torch.Tensor:
    U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U @ Vh


def merged(taus: list[torch.Tensor]) -> torch.Tensor:
    rank = min(taus[0].shape) // len(taus)
    parts = [torch.linalg.svd(tau, full_matrices=False) for tau in taus]
    U = torch.cat([U[:, :rank] for U, _, _ in parts], 1)
    S = torch.cat([S[:rank] for _, S, _ in parts])
    Vh = torch.cat([Vh[:rank] for _, _, Vh in parts])
    return polar(U) * S @ polar(Vh)


def main(out: str, weight: str, base: str, *donors: str) -> None:
    start, *ends = (load_file(Path(folder) / "model.safetensors") for folder in (base, *donors))
    result = {}
    for name, tensor in start.items():
        taus = [end[name].float() - tensor.float() for end in ends]
        tau = merged(taus) if tensor.ndim == 2 and "embed" not in name else sum(taus) / len(taus)
        result[name] = (tensor.float() + float(weight) * tau).to(tensor.dtype)
    Path(out).mkdir(parents=True)
    save_file(result, Path(out) / "model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    main(*sys.argv[1:])
