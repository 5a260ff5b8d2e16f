"""merge: base and donors in, a Hugging Face folder out."""

import ast
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

from pipeline import progress
from pipeline.checkpoint import Reader, Writer
from pipeline.stages.merge_diagnosis import Merged, Reasons
from pipeline.stages.models_to_merge import Models
from pipeline.store import stage

MERGEKIT = "mergekit.yml"
DERIVED = {"key", "adapter"}  # of a model in `recipe`: it was made here, and mergekit could not find it


@stage(version=2, unkeyed=("recipe", "machine"))
def merge(
    folder: Path,
    *,
    base: Path,
    donors: list[Path],
    method: dict,
    weight: float | None,
    shares: list[float] | None,
    recipe: dict,
    end: Path | None = None,
    statistics: list[Path] | None = None,
    vocab: str = "strict",
    shard_size: int = 5_000_000_000,
    machine: dict | None = None,
) -> dict:
    """Merge tensor by tensor and block by block; no model is held in memory.

    method      a YAML of conf/merge: name, version and every setting
    weight      what the donors count, 0 (the base) to 1; None for a method that uses none
    recipe      for the model card: {"base": {"source": ..., hashes}, "donors": [{"source": ..., hashes}]}
    end         what `line_end` made of the same models and method; None works it out on the way
    statistics  of the calibrated methods: what `calibrate` made of the base and of each donor
    vocab       strict, base or union: what is done about tokens that not all models have
    shard_size  bytes from which the weights are split into several files
    machine     {"device": ..., "threads": ...}

    Writes model.safetensors (or shards and an index), config and tokenizer, README.md and diagnosis.json (undefined
    numbers are null there), and mergekit.yml where mergekit has an equivalent. Returns the numbers of the diagnosis,
    its notes in words, and what `source_of` says of the method. Raises ConfigError for a method, settings or shares
    that cannot be, CheckpointError for models that do not fit or are not finite: all that headers and configs can tell
    before a tensor is read.
    """
    from pipeline.merging.streaming import streamed

    models = Models(base, donors, method, weight, shares, statistics, vocab)
    merged = Merged(models, weight, None if end is None else Reader(end))
    writer = Writer(folder, models.infos, shard_size=shard_size)
    label = f"merge {models.method.name}"
    with writer, progress.bar(sum(info.bytes for info in models.infos.values()), label, unit="B", scale=True) as bar:
        jobs = merged.jobs(writer.order)
        for name, blocks in streamed(jobs, *_machine(machine)):
            for part, sums in blocks or [(models.empty(name), None)]:
                merged.add(name, sums)
                writer.append(part)
                bar.update(part.numel() * part.element_size())
    summary = merged.summary()
    models.aligned.write_companions(folder)
    _write_words(folder, method, weight, shares, recipe, summary | {"layers": merged.by_layer()})
    if models.as_stored and not any(model.keys() & DERIVED for model in (recipe["base"], *recipe["donors"])):
        dtypes = {info.dtype for info in models.infos.values() if info.is_float}
        _write_for_mergekit(folder, method, weight, shares, recipe, dtypes)
    return summary | {"source": source_of(method["name"])}


@stage(version=1, unkeyed=("machine",))
def line_end(
    folder: Path,
    *,
    base: Path,
    donors: list[Path],
    method: dict,
    shares: list[float] | None,
    statistics: list[Path] | None = None,
    vocab: str = "strict",
    machine: dict | None = None,
) -> dict:
    """What a merge would be at weight * scale = 1, in float32 at least: each weight is then one pass along the line.

    The arguments are those of `merge`; `method` is without its scale. Writes model.safetensors, floating-point tensors only. Returns how often, by
    reason in words, the method's definition degenerated.
    """
    from pipeline.checkpoint.read import dtypes
    from pipeline.merging.blocks import working_dtype
    from pipeline.merging.streaming import streamed

    models = Models(base, donors, method | {"scale": 1.0}, 0.0, shares, statistics, vocab)
    infos = {
        name: dataclasses.replace(info, dtype="F64" if info.dtype == "F64" else "F32")
        for name, info in models.infos.items()
        if name in models.floats and models.original[name] == name
    }
    reasons = Reasons()
    writer = Writer(folder, infos)

    def jobs() -> Iterator[tuple]:
        for name in writer.order:
            tensors = models.tensors(name)
            result = models.method.end(*tensors[:2], notes=reasons.of(name), **models.given(name))
            dtype = working_dtype(tensors[0])
            yield name, result, lambda start, stop, result=result, dtype=dtype: result.read(start, stop, dtype).cpu()

    label = f"{models.method.name}: what all weights share"
    with writer, progress.bar(sum(info.bytes for info in infos.values()), label, unit="B", scale=True) as bar:
        for name, blocks in streamed(jobs(), *_machine(machine)):
            for part in blocks or [models.empty(name)]:
                part = part.to(dtypes()[infos[name].dtype])
                writer.append(part)
                bar.update(part.numel() * part.element_size())
    return {"reasons": reasons.write(folder), "source": source_of(method["name"])}


def source_of(name: str) -> str:
    """sha256 of a method's file, but for its comments and docstrings: a merge is found again by the version alone."""
    file = Path(__file__).parents[1] / "merging" / f"{name}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def _machine(machine: dict | None) -> tuple[int, str]:
    from pipeline.stages.donor import device_of

    machine = machine or {}
    return machine.get("threads") or 1, device_of(machine.get("device") or "cpu")


def _write_words(folder: Path, method: dict, weight, shares, recipe: dict, summary: dict) -> None:
    """The model card, the diagnosis, and mergekit's recipe where it has one."""
    from pipeline.merging.card import card

    text = json.dumps(_nulls(summary), indent=1, allow_nan=False)
    (Path(folder) / "diagnosis.json").write_text(text + "\n")
    (Path(folder) / "README.md").write_text(card(method, weight, shares, recipe, summary))


def _write_for_mergekit(folder: Path, method: dict, weight, shares, recipe: dict, dtypes: set[str]) -> None:
    """The recipe with which mergekit makes the same merge; nothing where there is none."""
    from pipeline.merging.mergekit.writing import write

    known = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
    if len(dtypes) != 1 or not dtypes <= known.keys():
        return
    donors = [str(donor.get("source")) for donor in recipe["donors"]]
    text = write(method, weight, shares, str(recipe["base"].get("source")), donors, known[dtypes.pop()])
    if text is not None:
        (Path(folder) / MERGEKIT).write_text(text)


def _nulls(value):
    """JSON has no nan."""
    if isinstance(value, dict):
        return {key: _nulls(part) for key, part in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
