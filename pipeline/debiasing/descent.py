"""What methods that go down a loss have in common: their settings, and all of `Method` but the loss."""

import abc
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline import low_rank
from pipeline.debiasing.optimisation import ByLoss, check_schedule
from pipeline.debiasing.pairs import TokenPair
from pipeline.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class DescentSettings:
    """Settings that every such method has.

    learning_rate  its highest value, see optimisation.py; so for weight_decay, warmup_steps, decay_steps
    lora_rank      r > 0: thin matrices of low_rank.py are trained; 0: all parameters are
    lora_alpha     alpha of low_rank.py; without a meaning at rank 0
    """

    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    warmup_steps: int = 0
    decay_steps: int | None = None
    lora_rank: int = 0
    lora_alpha: float = 16.0

    def check(self) -> None:
        check_schedule(self.warmup_steps, self.decay_steps)
        low_rank.check(self.lora_rank, self.lora_alpha)

    def _above_zero(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"debias.{name} should be above 0, found {getattr(self, name):g}; change debias.{name}"
                )


class Descent(abc.ABC):
    """A method but for its `loss`, which a subclass gives.

    model  causal or masked, float32, in evaluation mode: without dropout, so that a step has one value
    seed   of where low-rank matrices start
    After an epoch the weights are those that one would save; within one, with low rank, they are those that came in.
    """

    def __init__(self, model: torch.nn.Module, settings: DescentSettings, scratch: Path | None = None, seed: int = 0):
        settings.check()
        self.model, self.settings = model, settings
        rank, alpha = settings.lora_rank, settings.lora_alpha
        self.adapters = low_rank.LowRank(model, rank, alpha, seed) if rank else None
        self.optimiser = ByLoss(
            model,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            warmup_steps=settings.warmup_steps,
            decay_steps=settings.decay_steps,
            parameters=self.adapters and self.adapters.parameters(),
        )

    @abc.abstractmethod
    def loss(self, pairs: Sequence[TokenPair]) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, and what else is to be told of it."""

    def step(self, pairs: Sequence[TokenPair]) -> dict[str, float]:
        """One update; told are the loss and what the method adds, both before it."""
        if self.adapters:
            self.adapters.unfold()
        loss, told = self.loss(pairs)
        return {"loss": self.optimiser.descend(loss), **told}

    def end_epoch(self) -> None:
        if self.adapters:
            self.adapters.fold()

    def state(self) -> dict:
        """What a resumed run must know besides the weights."""
        return {"optimiser": self.optimiser.state()} | (
            {"adapters": self.adapters.state_dict()} if self.adapters else {}
        )

    def load_state(self, state: dict) -> None:
        self.optimiser.load_state(state["optimiser"])
        if self.adapters:
            self.adapters.load_state_dict(state["adapters"])
