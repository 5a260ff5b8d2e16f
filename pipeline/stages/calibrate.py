"""What a model does with calibration text, kept for the merges that weigh parameters by it."""

import dataclasses
from pathlib import Path

from pipeline.errors import CheckpointError, ConfigError
from pipeline.stages.donor import device_of
from pipeline.store import stage


@stage(version=1, unkeyed=("where", "machine"))
def calibrate(
    folder: Path,
    *,
    model: Path,
    text: dict,
    kind: str,
    settings: dict,
    prefix_token: str | None,
    dtype: str,
    where: dict,
    machine: dict,
) -> dict:
    """Statistics of one model (grams, activations or fisher) under the tensor names of its own files, in float32.

    text      the calibration text by its content; its `format` says how it is read
    settings  examples: how many texts; max_length: how many tokens of each
    dtype     what the model computes in; sums are in float64
    """
    from pipeline import checkpoint, datafiles
    from pipeline.language_model import calibration
    from pipeline.language_model.load import load

    chosen = calibration.texts(text["format"], datafiles.obtain(**where), settings["examples"])
    scorer = load(
        model,
        device=device_of(machine["device"]),
        dtype=dtype,
        threads=machine["threads"],
        tokens_per_pack=machine["tokens_per_pack"],
        prefix_token=prefix_token,
    )
    if kind == "fisher" and scorer.family == "masked":
        raise ConfigError(
            "merge=fisher needs the gradients of a causal model's likelihood, found a masked model: choose another merge"
        )
    tokens = calibration.encode(scorer, chosen, settings["max_length"])
    shapes = calibration.shapes(kind, scorer.model)
    names = _own_names(scorer.model, model, shapes)
    infos = checkpoint.headers(model)
    announced = {
        name: dataclasses.replace(infos[name], dtype="F32", shape=shape)
        for parameter, shape in shapes.items()
        for name in names[parameter]
    }
    with checkpoint.Writer(folder, announced) as out:
        for parameter, statistic in calibration.measure(kind, scorer.model, tokens, f"{kind} on {text['name']}"):
            for name in names[parameter]:
                out.write(name, statistic)
    return {"texts": len(tokens), "tokens": sum(len(each.inputs) for each in tokens), "tensors": len(announced)}


def _own_names(model, folder: Path, wanted: dict) -> dict[str, list[str]]:
    """The names in the files of a model, by the names that transformers gives its parameters.

    GPT-2's `wte.weight` becomes `transformer.wte.weight`; tied parameters have one name there, and may have several here.
    Where a name says nothing (GPT-NeoX's `embed_out.weight` becomes `lm_head.weight`), it is the one tensor of the same
    shape and the same entries.
    """
    import torch

    from pipeline import checkpoint
    from pipeline.checkpoint.names import spellings

    reader = checkpoint.Reader(folder)
    every = dict(model.named_parameters(remove_duplicate=False))
    first = {id(parameter): name for name, parameter in reversed(every.items())}
    prefix = f"{model.base_model_prefix}."
    found = {name: [] for name in wanted}
    for name, info in reader.infos.items():
        here = next((n for n in spellings(name, prefix) if n in every), None)
        if here is None or first[id(every[here])] not in found:
            continue
        if info.shape != tuple(every[here].shape):
            raise CheckpointError(
                f"{name} should have shape {list(info.shape)} when it is loaded, found {list(every[here].shape)}: "
                f"{type(model).__name__} changes it; use another merge"
            )
        found[first[id(every[here])]].append(name)
    taken = {name for names in found.values() for name in names}
    for name in [name for name, names in found.items() if not names]:
        parameter = every[name].detach().cpu()
        like = [own for own, info in reader.infos.items() if own not in taken and info.shape == tuple(parameter.shape)]
        same = [own for own in like if torch.equal(reader.read(own).to(parameter.dtype), parameter)]
        found[name] = same if len(same) == 1 else []
    if absent := [name for name, names in found.items() if not names]:
        raise CheckpointError(
            f"every parameter of {type(model).__name__} should have a tensor in {folder}, found {len(absent)} without "
            f"one, such as {absent[0]}: the files name their tensors in another way; use another merge"
        )
    return found
