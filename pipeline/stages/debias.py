"""What is done to a model after it was merged: tuning on pairs, and task vectors laid onto it."""

import json
import logging
import math
from pathlib import Path

import pipeline
from pipeline import datafiles
from pipeline.errors import DataError
from pipeline.stages.exams import open_exam
from pipeline.store import stage

log = logging.getLogger(__name__)


@stage(version=2, unkeyed=("where", "machine"), resumable=True)
def tune(
    folder: Path,
    *,
    model: Path,
    pairs: dict,
    method: dict,
    training: dict,
    selection: dict | None,
    seed: int,
    prefix_token: str | None,
    where: dict,
    machine: dict,
    scratch: Path,
) -> dict:
    """Tune a model on pairs: model.safetensors (float32), epochs.parquet; of chosen units units.parquet, .png and .svg;
    what else the method found, a .parquet each.

    pairs      the set and what of it is used, see pairs.py
    method     name, version and the settings of one file of pipeline/debiasing
    training   epochs, batch_size, max_length, scope; precision, where it is not float32
    selection  exam, perplexity_rise, meaningful_fall: which epoch is taken, see tuning.py; null takes the last one
    where      pairs, exam: where their files lie

    The result minus `model` is the method's task vector. The summary says what the development set said before and
    after, which epoch was taken, and ||tau|| / ||theta||.
    """
    import pandas

    from pipeline import debiasing
    from pipeline.debiasing import tuning
    from pipeline.language_model.load import load
    from pipeline.report.units import draw
    from pipeline.stages.donor import device_of, save_under_base_names
    from pipeline.stages.pairs import read

    scorer = load(
        model,
        device=device_of(machine["device"]),
        threads=machine["threads"] or None,
        tokens_per_pack=machine["tokens_per_pack"],
        prefix_token=prefix_token,
    )
    told = read(pairs, datafiles.obtain(**where["pairs"]))
    usable = _tokens(scorer, told, training)
    if not usable:
        raise DataError(
            f"data={pairs['name']} should have pairs of at most {training['max_length']} tokens that this model can be asked, "
            f"found none among {len(told)} (a masked model needs as many tokens on either side); choose other data of the "
            "debiasing, or raise its max_length"
        )
    reads_pairs = getattr(debiasing.load(method["name"]), "READS_PAIRS", True)
    if len(usable) < len(told) and reads_pairs:
        log.warning("%d of %d pairs cannot be asked of this model and are left out", len(told) - len(usable), len(told))
    able = debiasing.bind(method, scorer, scratch, seed)
    examples = able.prepare(scorer, usable) if hasattr(able, "prepare") else usable
    exam = selection and open_exam(selection["exam"], where["exam"])
    records, chosen = tuning.tune(
        scorer.model,
        examples,
        able,
        epochs=training["epochs"],
        batch_size=training["batch_size"],
        seed=seed,
        measure=lambda _: _measured(scorer, exam),
        choose=tuning.nearest(selection["perplexity_rise"], selection["meaningful_fall"]) if selection else tuning.last,
        precision=training.get("precision", "float32"),
        scratch=scratch,
    )
    pandas.DataFrame(records).to_parquet(folder / "epochs.parquet")
    if hasattr(able, "report"):
        units = pandas.DataFrame(able.report())
        units.to_parquet(folder / "units.parquet")
        draw(units, folder)
    for name, rows in (able.tables() if hasattr(able, "tables") else {}).items():
        pandas.DataFrame(rows).to_parquet(folder / f"{name}.parquet")
    moved, norm = save_under_base_names(scorer.model, model, folder)
    return {
        "pairs": len(usable) if reads_pairs else 0,
        "pairs_left_out": len(told) - len(usable) if reads_pairs else 0,
        "epoch": chosen,
        **{f"dev_{key}_before": records[0][key] for key in ("bias", "meaningful", "perplexity")},
        **{f"dev_{key}_after": records[chosen][key] for key in ("bias", "meaningful", "perplexity")},
        "relative_norm": moved / norm,
    }


def _tokens(scorer, pairs: list, training: dict) -> list:
    """The pairs in tokens, without those that this model cannot be asked, or that are longer than max_length.

    They are compared whole: two texts that each lost their beginning would differ in more than they do.
    """
    from pipeline.debiasing.pairs import causal, masked

    sides = [
        scorer.sentences([getattr(pair, side) for pair in pairs], scorer.limit)
        for side in ("stereotype", "anti_stereotype")
    ]
    made = [
        causal(one, other, training["scope"]) if scorer.family == "causal" else masked(one, other, scorer.mask)
        for one, other in zip(*sides, strict=True)
        if max(len(one), len(other)) <= min(training["max_length"], scorer.limit - 1)
    ]
    return [pair for pair in made if pair is not None]


def _measured(scorer, exam) -> dict[str, float]:
    """What the development set says of the model as it is now: bias, LMS / 100, and the perplexity of a text.

    bias is the score with the sign of the signed bias. The text is the first of the pocket calibration set: not the one
    whose perplexity is reported.
    """
    import torch

    found = {"bias": math.nan, "meaningful": math.nan}
    with torch.no_grad():
        if exam is not None:
            answers = scorer.answer(exam.requests(scorer.family), label="development set")
            marks = exam.judge(answers, {}, scorer.family, {})
            found["bias"] = exam.score(marks)
            if "meaningful" in marks:
                found["meaningful"] = float(marks["meaningful"].mean(skipna=False))
        return found | {"perplexity": scorer.perplexity(_development_text())}


def _development_text() -> str:
    lines = (Path(pipeline.__file__).parent / "pocket" / "calibration.jsonl").read_text(encoding="utf-8").splitlines()
    return "\n\n".join(json.loads(line)["text"] for line in lines[:4])


@stage(version=2)
def lay_on(folder: Path, *, model: Path, tuned: Path, scale: float) -> dict:
    """model + scale (tuned - model), tensor by tensor, in float32: the method's task vector laid on."""
    return _moved(folder, model, tuned, -scale, False, f"model + {scale:g} (model after tuning on pairs - model)")


@stage(version=2)
def negate(folder: Path, *, model: Path, trained: Path, coefficient: float, exclude_norms: bool) -> dict:
    """Subtract what the model learned from stereotypes, tensor by tensor."""
    norms = ", normalisation parameters left as they were" if exclude_norms else ""
    done = f"Negation: model - {coefficient:g} (model after training on stereotypes - model){norms}"
    return _moved(folder, model, trained, coefficient, exclude_norms, done)


def _moved(folder: Path, model: Path, trained: Path, coefficient: float, exclude_norms: bool, done: str) -> dict:
    """model - coefficient (trained - model), with a line for the model card.

    The result is in float32, as donors are: in a half-precision model's own dtype most of a small step would round away,
    and what was chosen on the development set would not be what is reported.
    """
    from pipeline import checkpoint
    from pipeline.debiasing.negation import negation
    from pipeline.stages.donor import in_float32, is_norm

    checkpoint.compare(model, [trained])
    changed = 0
    before, after = checkpoint.Reader(model), checkpoint.Reader(trained)
    with checkpoint.Writer(folder, in_float32(before.infos)) as out:
        for name in out.order:
            tensor = before.read(name, finite=True)
            if tensor.is_floating_point():
                start = tensor.float()
                tensor = start
                if not (exclude_norms and is_norm(name)):
                    tensor = negation(start, after.read(name), coefficient=coefficient).float()
                changed += not tensor.equal(start)
            out.write(name, tensor)
    checkpoint.copy_companions(model, folder)
    card = (model / "README.md").read_text() if (model / "README.md").is_file() else ""
    (folder / "README.md").write_text(f"{card}\n## Debiasing\n\n{done}.\n")
    return {"tensors_changed": changed}
