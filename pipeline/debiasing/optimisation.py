"""How the methods that have a loss go down it: AdamW, a learning rate that rises and falls, clipped gradients.

    rate(t) = eta * t / w                                         while t <= w, the warm-up
              eta                                                 after it, without `decay_steps`
              eta * (1 + cos(pi (t - w) / (T - w))) / 2           after it, until T = `decay_steps`; then 0

t = 1, 2, ... counts the updates. Reference: Loshchilov, Hutter (2019), Decoupled Weight Decay Regularization, ICLR, and
(2017), SGDR, ICLR, for the cosine.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from pipeline.errors import ConfigError


class ByLoss:
    """Updates of a model, or of `parameters` in the place of its own, which are changed in place.

    learning_rate  eta; 0 leaves the bits as they are
    weight_decay   on parameters with two or more dimensions, not on norms and biases; decoupled, times the rate
    warmup_steps   w, in updates; 0: none
    decay_steps    T, in updates, above w; null: no fall
    clip           Euclidean norm of all gradients together above which they are scaled down to it
    Raises ConfigError where T is not above w.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        decay_steps: int | None = None,
        clip: float = 1.0,
        parameters: Iterable[torch.nn.Parameter] | None = None,
    ):
        check_schedule(warmup_steps, decay_steps)
        self.learning_rate, self.warmup_steps, self.decay_steps = learning_rate, warmup_steps, decay_steps
        self.clip, self.updates = clip, 0
        asked = model.parameters() if parameters is None else parameters
        self.parameters = [parameter for parameter in asked if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [each for each in self.parameters if each.dim() >= 2], "weight_decay": weight_decay},
                {"params": [each for each in self.parameters if each.dim() < 2], "weight_decay": 0.0},
            ],
            lr=learning_rate,
        )

    def descend(self, loss: Tensor) -> float:
        """One update along the gradient of a scalar, which is returned."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.updates += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.updates)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def rate(self, update: int) -> float:
        """The learning rate of an update, from 1 on."""
        warmup, last = self.warmup_steps, self.decay_steps
        if update <= warmup:
            return self.learning_rate * update / warmup
        if last is None:
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * min(1.0, (update - warmup) / (last - warmup)))) / 2

    def state(self) -> dict:
        """Both moments, and how many updates there were."""
        return {"optimizer": self.optimizer.state_dict(), "updates": self.updates}

    def load_state(self, state: dict) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]


def check_schedule(warmup_steps: int, decay_steps: int | None) -> None:
    """Refuse a warm-up below 0, and a fall that would end before the rise; for a method's own `check`."""
    if warmup_steps < 0:
        raise ConfigError(f"debias.warmup_steps should be 0 or more, found {warmup_steps}; change debias.warmup_steps")
    if decay_steps is not None and not (isinstance(decay_steps, int) and decay_steps > warmup_steps):
        raise ConfigError(
            f"debias.decay_steps should be null or above the {warmup_steps} warmup_steps, found {decay_steps}; "
            "change debias.decay_steps"
        )
