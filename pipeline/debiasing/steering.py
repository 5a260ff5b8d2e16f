"""Steering, folded into the weights: the direction in which stereotypes differ is taken out of what some layers write.

Of all pairs, h_l the output of layer l (the residual stream above it) at the last token of what differs:

    d_l = mean over pairs of (h_l(stereotype) - h_l(anti-stereotype))        v_l = d_l / ||d_l||
    W  <- W - s v_l v_l^T W,    b <- b - s v_l v_l^T b                       s the strength

for both matrices of the layer that write into the residual stream: the attention's output projection and the MLP's
second one, W of shape [out, in]. With s = 1 neither writes anything along v_l any more; what came in from below keeps
its own part of it. The difference is summed, and the weights are folded, in float64.

In a model that normalises after each sum (BERT, RoBERTa, ALBERT) the projection stands before LayerNorm, whose scale
may turn some of it back in. Where layers share their weights (ALBERT), d is the mean over those of the chosen layers
that do. A layer in which the two sides do not differ stays as it is.

One epoch is the whole method; a second one takes out what is left, along a direction of its own.

References: the removal of a mean-difference direction, Bolukbasi, Chang, Zou, Saligrama, Kalai (2016), Man is to computer
programmer as woman is to homemaker?, NeurIPS (hard debiasing, of word embeddings); its folding into the weights, Arditi,
Obeso, Syed, Paleka, Panickssery, Gurnee, Nanda (2024), Refusal in language models is mediated by a single direction,
NeurIPS, who fold one direction into all layers and the embeddings. One direction a layer, and some layers, are ours.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from pipeline.debiasing.pairs import TokenPair, difference, padded, text
from pipeline.errors import ConfigError

# config.model_type -> where its layers are, and what in a layer writes into the residual stream
LLAMA = ("model.layers", ("self_attn.o_proj", "mlp.down_proj"))
WRITERS = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "gpt2": ("transformer.h", ("attn.c_proj", "mlp.c_proj")),
    "bert": ("bert.encoder.layer", ("attention.output.dense", "output.dense")),
    "roberta": ("roberta.encoder.layer", ("attention.output.dense", "output.dense")),
    "albert": ("albert.encoder.albert_layer_groups", ("attention.dense", "ffn_output")),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What conf/debias/steering.yaml may say of the method.

    layers    which, from 0; null: the middle third, for the first layers still tell words apart and the last ones
              already say the next word, so that a word's meaning is best changed between them
    strength  s; 1 takes the direction out, 2 turns it round
    """

    layers: list[int] | None = None
    strength: float = 1.0

    def check(self) -> None:
        whole = isinstance(self.layers, (list, tuple)) and all(type(layer) is int for layer in self.layers)
        if self.layers is not None and not (whole and self.layers):
            raise ConfigError(
                f"debias.layers should be null or a list of whole numbers, found {self.layers!r}; change debias.layers"
            )
        if not (math.isfinite(self.strength) and 0 <= self.strength <= 2):
            raise ConfigError(
                f"debias.strength should lie between 0 and 2, found {self.strength}; change debias.strength"
            )


def fits(model: torch.nn.Module, settings: Settings) -> None:
    """Raises ConfigError for an architecture that is not known here, and for layers that a model of this shape has not."""
    _chosen(len(layers_of(model)), settings)


def _chosen(count: int, settings: Settings) -> list[int]:
    """Which of so many layers; raises ConfigError for one that is not among them."""
    third = count // 3
    chosen = range(third, count - third) if settings.layers is None else settings.layers
    if absent := [layer for layer in chosen if not 0 <= layer < count]:
        raise ConfigError(
            f"debias.layers should lie between 0 and {count - 1} for this model, found {absent[0]}; change debias.layers"
        )
    return sorted(set(chosen))


class Example(NamedTuple):
    """The two texts of a pair in tokens, and in either the last place of what the other does not have."""

    stereotype: tuple[int, ...]
    anti_stereotype: tuple[int, ...]
    places: tuple[int, int]


class Method:
    """The method on one model, which it changes in place at the end of an epoch. Shapes: L layers, B texts, D width.

    Raises ConfigError for an architecture whose writing matrices are not known here, and for layers that it has not.
    """

    def __init__(self, model: torch.nn.Module, settings: Settings, scratch: Path | None = None, seed: int = 0):
        settings.check()
        self.model, self.settings = model, settings
        self.layers = layers_of(model)
        self.chosen = _chosen(len(self.layers), settings)
        self._start()

    def prepare(self, scorer, pairs: Sequence[TokenPair]) -> list[Example]:
        """The pairs as whole texts: a masked model, too, is to see what differs."""
        return [example(*(text(side, scorer.family) for side in pair)) for pair in pairs]

    @torch.no_grad()
    def step(self, examples: Sequence[Example]) -> dict[str, float]:
        """Add a batch to the sums; one forward pass of both sides together.

        difference  mean over pairs and chosen layers of ||h_l(stereotype) - h_l(anti-stereotype)||
        """
        ids_BL, seen_BL = padded([each.stereotype for each in examples] + [each.anti_stereotype for each in examples])
        places_B = torch.tensor([each.places[0] for each in examples] + [each.places[1] for each in examples])
        with outputs_of(self.layers) as outputs:
            self.model(input_ids=ids_BL.to(self.model.device), attention_mask=seen_BL.to(self.model.device))
        rows_B = torch.arange(len(places_B))
        told = 0.0
        for layer in self.chosen:
            hidden_BD = outputs[layer][rows_B, places_B].double()
            apart_BD = hidden_BD[: len(examples)] - hidden_BD[len(examples) :]
            self.sums[layer] = self.sums[layer] + apart_BD.sum(0)
            told += apart_BD.norm(dim=1).mean().item() / len(self.chosen)
        self.pairs += len(examples)
        return {"difference": told}

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Fold the directions into the weights."""
        for block in dict.fromkeys(self.layers[layer] for layer in self.chosen):
            shared = [layer for layer in self.chosen if self.layers[layer] is block]
            d_D = sum(self.sums[layer] for layer in shared) / (self.pairs * len(shared))
            if d_D.norm() > 0:
                for module in writers_of(self.model, block):
                    fold(module, d_D / d_D.norm(), self.settings.strength)
        self._start()

    def state(self) -> dict:
        """Nothing: between two epochs all is in the weights."""
        return {}

    def load_state(self, state: dict) -> None:
        self._start()

    def _start(self) -> None:
        self.sums, self.pairs = dict.fromkeys(self.chosen, 0.0), 0


def example(stereotype: tuple[int, ...], anti_stereotype: tuple[int, ...]) -> Example:
    """The two texts of a pair; where a side has nothing of its own, the token before the place is taken."""
    _, end = difference(stereotype, anti_stereotype)
    places = (max(len(tokens) - end - 1, 0) for tokens in (stereotype, anti_stereotype))
    return Example(stereotype, anti_stereotype, tuple(places))


def layers_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers of a model, the first one first; one that is run several times stands there as often."""
    if model.config.model_type not in WRITERS:
        raise ConfigError(
            f"debias=steering is made for {', '.join(WRITERS)} models, found a {model.config.model_type} one; choose another "
            "debias or model"
        )
    found = list(model.get_submodule(WRITERS[model.config.model_type][0]))
    count = model.config.num_hidden_layers
    return [found[layer * len(found) // count] for layer in range(count)]


def writers_of(model: torch.nn.Module, block: torch.nn.Module) -> list[torch.nn.Module]:
    """The matrices by which a layer writes into the residual stream; of a group of layers (ALBERT) those of all."""
    parts = getattr(block, "albert_layers", [block])
    return [part.get_submodule(name) for part in parts for name in WRITERS[model.config.model_type][1]]


def fold(module: torch.nn.Module, v_D: Tensor, strength: float) -> None:
    """W <- W - s v v^T W, and its bias alike; v_D a unit vector in float64. GPT-2 stores W transposed."""
    weight = module.weight.T if isinstance(module, Conv1D) else module.weight
    for tensor in (weight, module.bias):
        if tensor is not None:
            wide = tensor.double()
            tensor.copy_(wide - strength * torch.tensordot(v_D, v_D @ wide, dims=0))


@contextmanager
def outputs_of(layers: Sequence[torch.nn.Module]) -> Iterator[list[Tensor]]:
    """What the layers give while the context lasts, in the order in which they are run: [B, L, D] each.

    output_hidden_states would have the last one after the model's final normalisation.
    """
    outputs: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(
            lambda _module, _inputs, output: outputs.append(output[0] if isinstance(output, tuple) else output)
        )
        for layer in dict.fromkeys(layers)
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
