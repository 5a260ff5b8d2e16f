"""Training with half the bytes: matrix products in bfloat16, while weights, gradients and updates stay in float32.

A step of a learning rate that is used for debiasing changes a weight by less than bfloat16 can hold beside it (2^-8 of
its size), so that a model whose weights were bfloat16 would stay as it was. This is the mixed precision of Micikevicius et al.
(2018), Mixed Precision Training, ICLR; bfloat16 has the exponents of float32, so that no loss has to be scaled.
"""

import contextlib
from collections.abc import Iterator

import torch

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@contextlib.contextmanager
def computing(model: torch.nn.Module, precision: str) -> Iterator[None]:
    """Within, what a model's own forward pass computes, and the backward pass through it, is in a precision of PRECISIONS.

    Its parameters and their gradients keep their dtype. What is done with its outputs is not touched.
    """
    if PRECISIONS[precision] == torch.float32:
        yield
        return
    # weights that were cast are kept for one forward pass alone: after an update they are cast again
    model.forward = torch.autocast(model.device.type, PRECISIONS[precision])(model.forward)
    try:
        yield
    finally:
        del model.forward  # the class has the one that was hidden
