"""Low-rank training: of every linear map of a model only a product of two thin matrices is learned.

    y = x W^T + (alpha / r) (x A^T) B^T          W = W0 stays as it came, A [r, in] and B [out, r] are trained
    task vector = (alpha / r) B A                of rank r at most, [out, in]; transposed where a layer stores [in, out]

A starts uniform in +-1/sqrt(in), B at 0, so that training starts from the model as it came. There is no dropout: a step has
one value, and a resumed run has the same bits. Embeddings, the head, norms, biases and whatever is not a linear layer of
its own (experts that lie in one tensor) stay as they are.

Reference: Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen (2022), LoRA: Low-Rank Adaptation of Large Language Models, ICLR.
"""

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from pipeline.errors import ConfigError


class LowRank(torch.nn.Module):
    """The thin matrices of a model: its own parameters are they, and nothing of the model's is renamed.

    The model is folded at first and whenever `fold` was the last call: its weights are W0 + (alpha / r) B A, as one would
    save or measure them. Between `unfold` and `fold` they are W0 and the product is added on the way, so that gradients
    reach A and B alone.

    model        float32; its parameters are taken out of training. A copy of the weights of its linear maps is kept
    rank, alpha  r >= 1 and alpha > 0
    seed         A is keyed by (seed, name of the layer)
    Errors of folding: float64 within, one rounding to float32.
    Raises ConfigError for settings that mean nothing, and for a model without linear maps.
    """

    def __init__(self, model: torch.nn.Module, rank: int, alpha: float, seed: int = 0):
        super().__init__()
        check(rank, alpha)
        model.requires_grad_(False)
        head = model.get_output_embeddings()
        self._layers = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
        }
        if not self._layers:
            raise ConfigError(
                f"lora_rank should be 0 for {type(model).__name__}, which has no linear layers of their own, found {rank}; "
                "set lora_rank=0"
            )
        self._start = [module.weight.detach().clone() for module in self._layers.values()]
        self._scale, self._open = alpha / rank, False
        self.down, self.up = torch.nn.ParameterList(), torch.nn.ParameterList()  # A and B of every layer
        for name, module in self._layers.items():
            inside, outside = _sizes(module)
            digest = hashlib.sha256(f"lora/{seed}/{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
            drawn = (2 * torch.rand(rank, inside, generator=generator) - 1) / inside**0.5
            self.down.append(torch.nn.Parameter(drawn.to(module.weight.device)))
            self.up.append(torch.nn.Parameter(torch.zeros(outside, rank, device=module.weight.device)))
            module.register_forward_hook(self._adding(self.down[-1], self.up[-1]))

    def unfold(self) -> None:
        """W0 in the weights, and the product added on the way: to train."""
        if not self._open:
            self._write(self._start)
        self._open = True

    def fold(self) -> None:
        """The product in the weights: to measure, to keep, to be done."""
        self._open = False
        self._write(
            start.double() + _as_stored(module, self._scale * (up.double() @ down.double()))
            for module, start, down, up in zip(self._layers.values(), self._start, self.down, self.up, strict=True)
        )

    @contextlib.contextmanager
    def without(self) -> Iterator[None]:
        """While unfolded: the model as it came."""
        self._open = False
        try:
            yield
        finally:
            self._open = True

    @torch.no_grad()
    def _write(self, weights) -> None:
        for module, weight in zip(self._layers.values(), weights, strict=True):
            module.weight.copy_(weight)

    def _adding(self, down: torch.Tensor, up: torch.Tensor):
        def hook(module, inputs, output):
            return output + self._scale * linear(linear(inputs[0], down), up) if self._open else None

        return hook


def check(rank: int, alpha: float) -> None:
    """Refuse what means nothing: a rank below 0 (0: full training), an alpha that is not above 0."""
    if rank < 0:
        raise ConfigError(f"lora_rank should be 0 (full training) or more, found {rank}; change lora_rank")
    if not alpha > 0:
        raise ConfigError(f"lora_alpha should be above 0, found {alpha:g}; change lora_alpha")


def _sizes(module: torch.nn.Module) -> tuple[int, int]:
    """How many inputs and outputs a linear map has: GPT-2's layer stores [in, out]."""
    shape = module.weight.shape
    return tuple(shape) if isinstance(module, Conv1D) else (shape[1], shape[0])


def _as_stored(module: torch.nn.Module, product: torch.Tensor) -> torch.Tensor:
    return product.T if isinstance(module, Conv1D) else product
