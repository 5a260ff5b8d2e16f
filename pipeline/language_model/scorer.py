"""What every model of this room can do, causal or masked: answer requests of any kind, in their order."""

import copy
import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path

import torch
import transformers

from pipeline.errors import ConfigError
from pipeline.requests import Answer, Generate, LogLikelihood, Request, Rolling

# What a failed allocation says of itself where it comes as a plain RuntimeError: on a CPU, by CUDA, by its libraries.
NO_MEMORY = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")

# What a config says of where it comes from.
NOT_THE_MODEL = {"_name_or_path", "transformers_version"}

# Rows that `few_rows` multiplies the other way round; of more it saves nothing, and of one neither.
FEW = range(2, 9)


class Scorer:
    """A model that answers. A family has `log_likelihoods`, `rolling` and `generate`."""

    family: str  # causal or masked

    @property
    def cut(self) -> int:
        """How many requests so far lost their beginning to the model's limit."""
        raise NotImplementedError

    model: torch.nn.Module
    tokens_per_pack: int

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def answer(self, requests: Sequence[Request], label: str = "", scratch: Path | None = None) -> list[Answer]:
        """The answers to requests, in their order.

        label    of the progress bar
        scratch  a folder that keeps partial answers, for a later call with the same requests; null keeps none
        """
        self.refuse(requests)
        answers: list[Answer | None] = [None] * len(requests)
        for kind, ask in (
            (LogLikelihood, self.log_likelihoods),
            (Rolling, self.rolling),
            (Generate, self.generate),
        ):
            places = [place for place, asked in enumerate(requests) if isinstance(asked, kind)]
            if places:
                kept = None if scratch is None else Path(scratch) / kind.__name__
                for place, said in zip(places, ask([requests[place] for place in places], label, kept), strict=True):
                    answers[place] = said
        return answers

    def refuse(self, requests: Sequence[Request]) -> None:
        """Raises for requests that can never be answered, before the first of them is."""

    def score(self, requests: list[tuple[str, str]], label: str = "", scratch: Path | None = None) -> list[Answer]:
        """The answers to (context, continuation) requests, in their order."""
        return self.log_likelihoods([LogLikelihood(*asked) for asked in requests], label, scratch)

    def log_likelihoods(self, requests: list[LogLikelihood], label: str, scratch: Path | None) -> list[Answer]:
        raise NotImplementedError

    def rolling(self, requests: list[Rolling], label: str, scratch: Path | None) -> list[Answer]:
        raise NotImplementedError

    def generate(self, requests: list[Generate], label: str, scratch: Path | None) -> list[Answer]:
        raise NotImplementedError

    @contextmanager
    def within_memory(self, tokens: int | None = None):
        """Raises ConfigError, which names the setting, where what is read does not fit into the memory.

        tokens  in a batch, at most; tokens_per_pack without
        """
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(
                sign in str(error) for sign in NO_MEMORY
            ):
                raise
            raise ConfigError(
                f"a pack of up to {tokens or self.tokens_per_pack} tokens should fit into the memory of {self.device}, and does not: "
                "set machine.tokens_per_pack to less"
            ) from error

    def fingerprint(self, settings: tuple, asked: Iterable[tuple]) -> str:
        """Of all that answers depend on: what is asked, the settings that shape it, the model, the machine."""
        attention = self.model.config._attn_implementation
        versions = (torch.__version__, transformers.__version__)
        known = (versions, self.device.type, str(self.model.dtype), attention, torch.get_num_threads(), self._digest)
        digest = hashlib.sha256(repr((*settings, *known)).encode())
        for each in asked:
            digest.update(repr(tuple(each)).encode())
        return digest.hexdigest()

    @cached_property
    def _digest(self) -> str:
        """Of config and weights, which count by sums, not by bytes: a check, not an identity."""
        parts = [
            (
                name,
                tuple(tensor.shape),
                *(torch.linalg.vector_norm(tensor, order, dtype=torch.float64).item() for order in (1, 2)),
                tensor.sum(dtype=torch.float64).item(),
            )
            for name, tensor in self.model.named_parameters()
        ]
        config = {key: value for key, value in self.model.config.to_dict().items() if key not in NOT_THE_MODEL}
        # sorted: some configs fill a dict from a set, in another order in each process
        words = json.dumps(config, sort_keys=True, default=str)
        return hashlib.sha256(repr((type(self.model).__name__, words, parts)).encode()).hexdigest()


@contextmanager
def head_of(model, body, outputs, room: torch.Tensor | None = None, **given):
    """The model's own head, for some hidden states: what it does after the body, soft caps and scales included.

    The whole model is called with a body that answers at once; calling the output matrix alone would leave out
    what some architectures do to the logits, and whole logits would not fit into memory.

    room  memory in which the model's output matrix, a plain one, leaves its products, each time anew: to take and give
          back tens of megabytes would cost as much as a tenth of them
    """
    known, matrix = copy.copy(outputs), model.get_output_embeddings()
    nothing = torch.zeros((1, 1), dtype=torch.long, device=model.device)

    def head(hidden_PH: torch.Tensor) -> torch.Tensor:
        known.last_hidden_state = hidden_PH[None]
        return model(input_ids=nothing, **given).logits[0]

    def product(hidden: torch.Tensor) -> torch.Tensor:
        rows, weight_VH = hidden.flatten(0, -2), matrix.weight
        products_PV = room[: len(rows) * len(weight_VH)].view(len(rows), -1)
        if matrix.bias is None:
            torch.mm(rows, weight_VH.t(), out=products_PV)
        else:
            torch.addmm(matrix.bias, rows, weight_VH.t(), out=products_PV)
        return products_PV.view(*hidden.shape[:-1], -1)

    with _forward(body, lambda *_, **__: known):
        if room is None:
            yield head
        else:
            with _forward(matrix, product):
                yield head


@contextmanager
def few_rows(model):
    """Within it, on a CPU, the model's plain matrices multiply few rows the other way round: (W x')' for x W'.

    The libraries lay a whole matrix out anew for two rows as for hundreds, but not the left one of a product: of 2 to 4 rows that
    takes a quarter to three quarters of the time. What comes out differs by rounding.
    """
    with ExitStack() as stack:
        for module in model.modules() if model.device.type == "cpu" else ():
            if type(module) is torch.nn.Linear and "forward" not in vars(module):
                stack.enter_context(_forward(module, partial(_product, module)))
        yield


def _product(module: torch.nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    rows = hidden.numel() // hidden.shape[-1]
    if rows not in FEW or hidden.dtype != torch.float32:
        return torch.nn.functional.linear(hidden, module.weight, module.bias)
    product_OR = torch.mm(module.weight, hidden.reshape(rows, -1).t())
    product_RO = product_OR.t().contiguous()
    if module.bias is not None:
        product_RO += module.bias
    return product_RO.view(*hidden.shape[:-1], -1)


@contextmanager
def _forward(module: torch.nn.Module, forward):
    """A module with another forward, for a while."""
    usual = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if usual is not None:  # accelerate puts its own there
            module.forward = usual
