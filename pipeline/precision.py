"""Training with matrix products in bfloat16, while weights, gradients and updates stay in float32.

A step of a learning rate that is used for debiasing changes a weight by less than bfloat16 can hold beside it (2^-8 of
its size), so that a model whose weights were bfloat16 would stay as it was. Here such steps add up; the passes see them
when they have added up to that. It is the mixed precision of Micikevicius et al. (2018), Mixed Precision Training, ICLR; bfloat16
has the exponents of float32, so that no loss has to be scaled. The head is left in float32, because a margin is a small
difference of large logits. It saves time where a machine multiplies faster in bfloat16, and the memory of activations,
not of weights. Machines round differently: a result in bfloat16 is that of its kind of machine.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator

import torch

PRECISIONS = ("float32", "bfloat16")


@contextlib.contextmanager
def computing(models: Iterable[torch.nn.Module], precision: str) -> Iterator[None]:
    """Within, the bodies of these models (all but their heads; of one without a body of its own, all) compute in one of PRECISIONS, forwards and backwards.

    What they give out is cast to float32. Afterwards they are as they were, whatever happened.
    """
    bodies = [] if precision == "float32" else [getattr(model, "base_model", model) for model in models]
    usual = [vars(body).get("forward") for body in bodies]
    try:
        for body in bodies:
            body.forward = _in(getattr(torch, precision), body)
        yield
    finally:
        for body, forward in zip(bodies, usual, strict=True):
            vars(body).pop("forward", None)
            if forward is not None:  # accelerate puts its own there
                body.forward = forward


def _in(dtype: torch.dtype, body: torch.nn.Module) -> Callable:
    """The forward of a body in that dtype; weights that it casts are kept for one call alone, for they change."""
    device = next(body.parameters()).device.type
    cast = torch.autocast(device, dtype)(body.forward)

    @functools.wraps(body.forward)
    def forward(*args, **given):
        outputs = cast(*args, **given)
        for name in ("last_hidden_state", "logits"):
            if getattr(outputs, name, None) is not None:
                setattr(outputs, name, getattr(outputs, name).float())
        return outputs

    return forward
