import pytest
import torch

SHAPES = {
    "embed.weight": (33, 8),
    "layers.0.w": (16, 8),
    "layers.0.norm": (8,),
    "layers.1.w": (5, 7, 3),
    "scalar": (),
    "one": (1,),
    "empty": (0, 4),
}


@pytest.fixture(scope="session")
def models():
    """models(count, dtype): dicts of tensors, equal to each other up to a random difference, with one integer buffer."""

    def make(count: int, dtype=torch.float32, spread: float = 0.5) -> list[dict]:
        generator = torch.Generator().manual_seed(count)

        def draw(shape):
            return torch.randn(shape, generator=generator)

        base = {name: draw(shape) for name, shape in SHAPES.items()}
        made = [
            {name: (tensor + (spread * draw(tensor.shape) if i else 0)).to(dtype) for name, tensor in base.items()}
            for i in range(count)
        ]
        return [model | {"positions": torch.arange(4) + i} for i, model in enumerate(made)]

    return make
