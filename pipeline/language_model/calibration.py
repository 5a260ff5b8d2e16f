"""What a model does with calibration text: the inputs of its matrices, and the gradients of its likelihood.

grams        of each matrix: sum over tokens of x x^T / tokens, x its input          [in, in]
activations  of each matrix: mean over tokens of x^2; a row, or a column where the matrix is stored as [in, out]
fisher       of each parameter: mean over texts of (d log p(text) / d theta)^2       the parameter's shape

A matrix is the weight of a linear layer. A head that is tied to the embedding has none of its own: what the embedding
looks up are no inputs. Texts are read one at a time, so there is no padding, and the mean over texts is over gradients
of single texts: the square of a batch's gradient is something else.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pipeline.errors import ConfigError, DataError
from pipeline.language_model.encoding import Encoder
from pipeline.language_model.scorer import Scorer
from pipeline.language_model.trie import Encoded
from pipeline.progress import bar

KINDS = ("grams", "activations", "fisher")
# Bytes of sums in memory; where the Gram matrices need more, the texts are read again for the next ones.
AT_ONCE = 2**31


def texts(form: str, files: dict[str, Path], examples: int) -> list[str]:
    """`examples` texts, spread evenly over a set; `form` is the `format` of its YAML: jsonl or wikitext."""
    readers = {"jsonl": _jsonl, "wikitext": _wikitext}
    if form not in readers:
        raise ConfigError(
            f"format should be one of {', '.join(readers)}, found {form!r}: change it in conf/calibration"
        )
    (path,) = files.values()
    found = readers[form](path)
    if not 1 <= examples <= len(found):
        raise ConfigError(
            f"merge.examples should lie between 1 and the {len(found)} texts of {path.name}, found {examples}: change "
            "merge.examples or merge.calibration"
        )
    return [found[place * len(found) // examples] for place in range(examples)]


def encode(scorer: Scorer, chosen: list[str], max_length: int) -> list[Encoded]:
    """The first `max_length` tokens of each text, after the prefix token, so that the first word is predicted too.

    A masked model reads them between its special tokens, with nothing masked, and predicts none.
    """
    if not 1 <= max_length <= scorer.limit:
        raise ConfigError(
            f"merge.max_length should lie between 1 and the model's {scorer.limit} tokens, found {max_length}: change "
            "merge.max_length"
        )
    if scorer.family == "masked":
        found = [Encoded(ids, ()) for ids in scorer.encoder.beginnings(chosen, max_length)]
    else:
        encoder = Encoder(scorer.tokenizer, max_length, scorer.prefix_token)
        windows = [encoder.rolling(text, special=False) for text in chosen]
        found = [each[0] for each in windows if each]
    if not found:
        raise DataError("calibration text should have tokens, found none: change merge.calibration")
    return found


def shapes(kind: str, model: nn.Module) -> dict[str, tuple[int, ...]]:
    """What `measure` gives: the names, which are those of the model's parameters, in order, with their shapes."""
    if kind == "fisher":
        return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if kind not in KINDS:
        raise ConfigError(f"merge.statistics should be one of {', '.join(KINDS)}, found {kind!r}: change conf/merge")
    result = {}
    for name, (layer, *_) in _matrices(model).items():
        inputs, stored_upright = _inputs(layer), not isinstance(layer, Conv1D)
        of_vector = (1, inputs) if stored_upright else (inputs, 1)
        result[name] = (inputs, inputs) if kind == "grams" else of_vector
    return result


def measure(kind: str, model: nn.Module, tokens: list[Encoded], label: str = "") -> Iterator[tuple[str, Tensor]]:
    """The statistics, in float32, each summed in float64; see the top of the file."""
    wanted = shapes(kind, model)
    found = _fisher(model, tokens, label) if kind == "fisher" else _of_inputs(kind, model, wanted, tokens, label)
    for name, statistic in found:
        yield name, statistic.reshape(wanted[name]).to("cpu", torch.float32)


def _matrices(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The linear layers by the name of their weight; several where they share it."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    found: dict[str, list[nn.Module]] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D) and id(module.weight) not in embeddings:
            found.setdefault(names[id(module.weight)], []).append(module)
    return found


def _inputs(layer: nn.Module) -> int:
    return layer.weight.shape[0 if isinstance(layer, Conv1D) else 1]


def _of_inputs(kind: str, model: nn.Module, wanted: dict, tokens: list[Encoded], label: str):
    product = _gram if kind == "grams" else _squares
    matrices = _matrices(model)
    groups = _groups({name: 8 * torch.Size(shape).numel() for name, shape in wanted.items()}, AT_ONCE)
    with bar(len(groups) * len(tokens), label, unit="text") as progress:
        for group in groups:
            yield from _read(model, {name: matrices[name] for name in group}, tokens, product, progress)


@torch.no_grad()
def _read(model, matrices: dict, tokens: list[Encoded], product: Callable, progress) -> list[tuple[str, Tensor]]:
    """product(inputs) summed over all texts, divided by the number of rows that the matrix read."""
    # an expert that no text is sent to reads nothing: its sum stays 0, and all its inputs count as unused
    sums = {name: product(_no_rows(layers[0])) for name, layers in matrices.items()}
    rows = dict.fromkeys(matrices, 0)

    def watch(name: str) -> Callable:
        def hook(_layer, arguments: tuple) -> None:
            x = _wide(arguments[0]).flatten(0, -2)
            sums[name] += product(x)
            rows[name] += len(x)

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layers in matrices.items() for layer in layers]
    try:
        for each in tokens:
            model(input_ids=torch.tensor([each.inputs], device=model.device))
            progress.update(1)
    finally:
        for handle in handles:
            handle.remove()
    return [(name, total / max(1, rows[name])) for name, total in sums.items()]


def _no_rows(layer: nn.Module) -> Tensor:
    return torch.zeros(0, _inputs(layer), dtype=torch.float64, device=layer.weight.device)


def _gram(x: Tensor) -> Tensor:
    return x.T @ x


def _squares(x: Tensor) -> Tensor:
    return x.square().sum(0)


def _groups(sizes: dict[str, int], most: int) -> list[list[str]]:
    """Names in order, in groups that take `most` bytes together; a larger one stands alone."""
    groups, room = [], 0
    for name, size in sizes.items():
        if not groups or size > room:
            groups.append([])
            room = most
        groups[-1].append(name)
        room -= size
    return groups


def _fisher(model: nn.Module, tokens: list[Encoded], label: str) -> Iterator[tuple[str, Tensor]]:
    sums = {name: torch.zeros_like(parameter, dtype=torch.float64) for name, parameter in model.named_parameters()}
    with bar(len(tokens), label, unit="text") as progress:
        for each in tokens:
            model.zero_grad(set_to_none=True)
            log_likelihood(model, each).backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:  # an expert that this text was not sent to
                    sums[name] += _wide(parameter.grad).square()
            progress.update(1)
    model.zero_grad(set_to_none=True)
    for name, total in sums.items():
        yield name, total / len(tokens)


def log_likelihood(model: nn.Module, text: Encoded) -> Tensor:
    """sum_t log p(x_t | x_<t) over the tokens of a text, in nats."""
    logits_LV = model(input_ids=torch.tensor([text.inputs], device=model.device)).logits[0, -len(text.targets) :]
    targets = torch.tensor(text.targets, device=model.device)
    return -nn.functional.cross_entropy(logits_LV.float(), targets, reduction="sum")


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().double()


def _jsonl(path: Path) -> list[str]:
    """One JSON object a line, with a text."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            text = json.loads(line)["text"]
            if not isinstance(text, str) or not text.strip():
                raise ValueError("an empty text")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path.name}, line {number}: expected a JSON object with a text, found {error!r}; change merge.calibration"
            ) from error
        found.append(text)
    return found


def _wikitext(path: Path) -> list[str]:
    """The paragraphs of WikiText's raw file; headings stand between equals signs."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not (line.startswith("= ") and line.endswith(" ="))]
