"""The models that a base is merged with: trained on stereotypes, turned round, or laid on from elsewhere."""

import dataclasses
import math
from pathlib import Path

from pipeline.errors import CheckpointError, ConfigError
from pipeline.store import stage

NORM_WORDS = ("norm", "ln_", "layernorm")  # the ways in which architectures name their normalisation parameters


@stage(version=1, unkeyed=("where", "machine"), resumable=True)
def train(
    folder: Path,
    *,
    base: Path,
    sentences: dict,
    settings: dict,
    seed: int,
    prefix_token: str | None,
    where: dict,
    machine: dict,
    scratch: Path,
) -> dict:
    """Continue the base's pre-training on stereotypical sentences: model.safetensors (float32), loss.parquet.

    A causal model predicts each token from those before it, a masked one 15 % of them at masks. The masked losses of the
    report are on one fixed choice of tokens, the same before and after.

    The summary is the strength report: the loss on the stereotypes and on their anti-stereotypes, before
    and after, and ||tau|| / ||theta|| over all parameters.
    """
    import pandas

    from pipeline import datafiles
    from pipeline.language_model.load import load
    from pipeline.stages.pairs import read
    from pipeline.training import pretraining

    pairs = read(sentences, datafiles.obtain(**where))
    # in float32 whatever machine.dtype says: a step is too small for less
    scorer = load(
        base, device=device_of(machine["device"]), threads=machine["threads"] or None, prefix_token=prefix_token
    )
    model, loss = scorer.model, _loss(scorer, seed)
    stereotypes, opposites = (
        scorer.sentences(texts, settings["max_length"])
        for texts in ([pair.stereotype for pair in pairs], [pair.anti_stereotype for pair in pairs])
    )
    before = _losses(model, stereotypes, opposites, loss, "before the training")
    options = {key: value for key, value in settings.items() if key != "max_length"}
    losses = pretraining.continue_pretraining(model, stereotypes, loss, seed=seed, scratch=scratch, **options)
    after = _losses(model, stereotypes, opposites, loss, "after the training")
    pandas.DataFrame(losses).to_parquet(folder / "loss.parquet")
    moved, norm = save_under_base_names(model, base, folder)
    return {
        "sentences": len(pairs),
        "steps": len(losses),
        "stereotype_loss_before": before[0],
        "stereotype_loss_after": after[0],
        "anti_stereotype_loss_before": before[1],
        "anti_stereotype_loss_after": after[1],
        "relative_norm": moved / norm,
    }


def _loss(scorer, seed: int):
    """What the training minimises: a causal model's tokens in their order, a masked model's at masks."""
    from pipeline.training import causal, masked

    if scorer.family == "causal":
        return causal.loss
    tokenizer = scorer.tokenizer
    return masked.loss_of(scorer.mask, scorer.padding, set(tokenizer.all_special_ids), len(tokenizer), seed)


def _losses(model, stereotypes: list, opposites: list, loss, when: str) -> tuple[float, float]:
    from pipeline.training.pretraining import mean_loss

    return (
        mean_loss(model, stereotypes, loss, label=f"loss of the stereotypes {when}"),
        mean_loss(model, opposites, loss, label=f"loss of their opposites {when}"),
    )


@stage(version=1)
def invert(folder: Path, *, base: Path, trained: Path, renormalise: bool, exclude_norms: bool) -> dict:
    """donor = base - tau, tau = trained - base; optionally every tensor rescaled to the base's norm."""

    def turned(name, theta, other):
        result = 2 * theta - other
        if renormalise and _norm(result) > 0:
            result = result * (_norm(theta) / _norm(result))
        return result

    return _tensor_by_tensor(folder, base, trained, turned, exclude_norms)


@stage(version=1)
def randomise(
    folder: Path, *, base: Path, trained: Path, draw: int, exclude_norms: bool, where_moved: bool = False
) -> dict:
    """donor = base + ||tau|| g/||g|| in every tensor, g standard normal, keyed by (draw, tensor name).

    where_moved  g is 0 where tau is: of a method that changes few weights, a length that is spread over all of a tensor's
                 would be too thin to show anything
    """
    import hashlib

    import torch

    from pipeline import checkpoint

    copies = checkpoint.align(base, [trained]).copies  # a head that is its embedding stays so

    def turned(name, theta, other):
        digest = hashlib.sha256(f"random_direction/{draw}/{copies.get(name, name)}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        direction = torch.randn(theta.shape, generator=generator, dtype=torch.float64)
        if where_moved:
            direction = direction * (other != theta)
        return theta + direction * (_norm(other - theta) / (_norm(direction) or 1.0))

    return _tensor_by_tensor(folder, base, trained, turned, exclude_norms)


@stage(version=1)
def transfer(folder: Path, *, base: Path, trained: Path, origin: Path, coefficient: float) -> dict:
    """donor = base + coefficient * (trained - origin): a task vector made on another checkpoint."""
    from pipeline import checkpoint

    checkpoint.compare(base, [trained, origin])
    start = checkpoint.Reader(origin)
    return _tensor_by_tensor(
        folder,
        base,
        trained,
        lambda name, theta, other: theta + coefficient * (other - start.read(name).double()),
        False,
    )


def _tensor_by_tensor(folder: Path, base: Path, trained: Path, turn, exclude_norms: bool) -> dict:
    """Write float32 tensors `turn(name, theta, trained)` (float64) under the base's names; sums for the report."""
    import torch

    from pipeline import checkpoint

    checkpoint.compare(base, [trained])
    moved = norm = 0.0
    thetas, others = checkpoint.Reader(base), checkpoint.Reader(trained)
    with checkpoint.Writer(folder, in_float32(thetas.infos)) as out:
        for name in out.order:
            theta = thetas.read(name, finite=True)
            if theta.is_floating_point() and not (exclude_norms and is_norm(name)):
                wide = theta.double()
                result = turn(name, wide, others.read(name).double())
                moved, norm = moved + _norm(result - wide) ** 2, norm + _norm(wide) ** 2
                theta = result
            out.write(name, theta.to(torch.float32) if theta.is_floating_point() else theta)
    checkpoint.copy_companions(base, folder)
    return {"relative_norm": math.sqrt(moved / norm) if norm else math.nan}


def _norm(tensor) -> float:
    """Euclidean norm of a float64 tensor. numpy adds in a fixed order; torch's sum depends on the number of threads."""
    import numpy

    return float(numpy.sqrt(numpy.add.reduce(numpy.square(tensor.numpy().ravel()))))


def in_float32(infos: dict) -> dict:
    """Donors are kept in float32: in a half-precision base's own dtype most of a small tau would round away."""
    return {name: dataclasses.replace(info, dtype="F32") if info.is_float else info for name, info in infos.items()}


def is_norm(name: str) -> bool:
    """Whether a tensor belongs to a normalisation layer, by the words that architectures use for it."""
    return any(word in name.lower() for word in NORM_WORDS)


def device_of(name: str) -> str:
    """auto -> cuda where there is one; asking for what is not there is refused."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"machine.device should be a device of this machine, found {name!r} but no CUDA device; use machine=local"
        )
    return name


def save_under_base_names(model, base: Path, folder: Path) -> tuple[float, float]:
    """Write a trained model under the tensor names of the base's own files; returns ||tau|| and ||theta||.

    transformers may name a tensor otherwise than the file does (GPT-2's `wte.weight` becomes
    `transformer.wte.weight`); a donor under other names could not be merged.
    """
    from pipeline import checkpoint
    from pipeline.checkpoint.names import spellings

    state, prefix = model.state_dict(), f"{model.base_model_prefix}."
    trainable = {parameter.data_ptr() for parameter in model.parameters()}
    moved = norm = 0.0
    reader = checkpoint.Reader(base)
    with checkpoint.Writer(folder, in_float32(reader.infos)) as out:
        for name in out.order:
            theta = reader.read(name)
            found = next((state[n] for n in spellings(name, prefix) if n in state), None)
            if found is not None:
                trainable.discard(found.data_ptr())
                result = found.detach().to("cpu")
                if result.shape != theta.shape:
                    raise CheckpointError(
                        f"{name} should have shape {tuple(theta.shape)} after training, found {tuple(result.shape)}; the model class changes it"
                    )
                if theta.is_floating_point():
                    wide = theta.double()
                    moved, norm = moved + _norm(result.double() - wide) ** 2, norm + _norm(wide) ** 2
                theta = result
            out.write(name, theta.float() if theta.is_floating_point() else theta)
    if trainable:
        raise CheckpointError(
            f"every trained parameter should have a tensor in {base}, found {len(trainable)} without one: "
            f"the files name their tensors in a way that {type(model).__name__} does not"
        )
    checkpoint.copy_companions(base, folder)
    return math.sqrt(moved), math.sqrt(norm)
