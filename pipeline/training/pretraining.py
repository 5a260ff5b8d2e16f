"""Continued pre-training of a language model, causal or masked: the loop behind donors, negation and experts."""

from collections.abc import Callable
from pathlib import Path

import numpy
import torch

from pipeline import progress
from pipeline.checkpoint.training_state import keep, kept
from pipeline.low_rank import LowRank
from pipeline.precision import computing

# (model, sentences in tokens, epoch or None) -> sum over the predicted tokens of -log p, and how many they are.
# What is random in a loss is keyed by the epoch; None is the one draw by which models are compared.
Loss = Callable[[torch.nn.Module, list[list[int]], int | None], tuple[torch.Tensor, torch.Tensor]]


def continue_pretraining(
    model,
    tokens: list[list[int]],
    loss: Loss,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    warmup: float,
    weight_decay: float,
    seed: int,
    lora_rank: int = 0,
    lora_alpha: float = 1.0,
    precision: str = "float32",
    scratch: Path | None = None,
) -> list[dict]:
    """Minimise the mean negative log-likelihood of `tokens` by AdamW; the model is changed in place.

        loss(batch) = - sum log p(x_t | what is seen) / number of predicted tokens        (nats a token)

    tokens         one list of token ids a sentence
    loss           of causal.py or masked.py: which tokens are predicted, and from what
    epochs         passes over all sentences; each in an order of its own, keyed by (seed, epoch)
    learning_rate  its highest value: reached after `warmup` (a share of all steps), then falls linearly to 0
    batch_size     sentences a step, padded on the right; gradients are clipped to norm 1
    weight_decay   on parameters with two or more dimensions, not on norms and biases
    lora_rank      r > 0: thin matrices of low_rank.py are trained, and folded in at the end; 0: all parameters are trained
    lora_alpha     alpha of low_rank.py; without a meaning at rank 0
    precision      of the forward and backward passes, see precision.py
    scratch        folder in which the state is kept after every epoch, to go on after a kill with the same bits

    Dropout is off, so the only randomness is the order, and the masks of a masked model. Returns one record a step: step, epoch,
    learning_rate, loss. Raises FloatingPointError if the loss is not finite.
    """
    model.eval()
    adapters = LowRank(model, lora_rank, lora_alpha, seed) if lora_rank else None
    trained = adapters or model
    named = [(name, p) for name, p in trained.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for _, p in named if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for _, p in named if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=learning_rate,
    )
    per_epoch = -(-len(tokens) // batch_size)
    steps = epochs * per_epoch
    rising = max(1, round(warmup * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rising, (steps - step) / max(1, steps - rising))
    )

    losses, first = [], 0
    if (state := kept(scratch)) is not None:
        trained.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        losses, first = state["losses"], state["epoch"]
    if adapters:
        adapters.unfold()
    label = "training" if first == 0 else f"training, resumed after epoch {first}"
    with progress.bar(steps, label, unit="step", done=first * per_epoch) as bar:
        for epoch in range(first, epochs):
            order = numpy.random.default_rng([seed, epoch]).permutation(len(tokens))
            for start in range(0, len(tokens), batch_size):
                with computing([model], precision):
                    total, count = loss(model, [tokens[i] for i in order[start : start + batch_size]], epoch)
                mean = total / count
                if not torch.isfinite(mean):
                    raise FloatingPointError(
                        f"the training loss became {mean.item()} at step {len(losses)}; lower learning_rate"
                    )
                optimizer.zero_grad(set_to_none=True)
                mean.backward()
                torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
                losses.append(
                    {
                        "step": len(losses),
                        "epoch": epoch,
                        "learning_rate": schedule.get_last_lr()[0],
                        "loss": mean.item(),
                    }
                )
                optimizer.step()
                schedule.step()
                bar.set_postfix(loss=f"{mean.item():.3f}", refresh=False)
                bar.update(1)
            state = {"model": trained, "optimizer": optimizer, "schedule": schedule}
            keep(
                scratch,
                {key: part.state_dict() for key, part in state.items()} | {"losses": losses, "epoch": epoch + 1},
            )
    if adapters:
        adapters.fold()
    return losses


@torch.no_grad()
def mean_loss(model, tokens: list[list[int]], loss: Loss, batch_size: int = 16, label: str = "loss") -> float:
    """Mean negative log-likelihood a predicted token, in nats, over all sentences together."""
    total, count = 0.0, 0
    shortest_first = sorted(tokens, key=len)  # little padding; the sum does not depend on the order beyond rounding
    with progress.bar(len(tokens), label, unit="sentence") as bar:
        for start in range(0, len(tokens), batch_size):
            batch = shortest_first[start : start + batch_size]
            part, predicted = loss(model, batch, None)
            total += part.double().item()
            count += int(predicted)
            bar.update(len(batch))
    return total / count if count else float("nan")
