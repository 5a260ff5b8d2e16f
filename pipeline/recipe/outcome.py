"""What the stages of a cell wrote, as one row for the cell, one for the base, and the donor's strength."""

import hashlib
import os

from pipeline import config as configuration
from pipeline.recipe.cell import Cell, Examined
from pipeline.recipe.early import leaked
from pipeline.recipe.identity import files_of
from pipeline.recipe.models import origin
from pipeline.stages.merge import source_of
from pipeline.store import Artifact

RUINED_PERPLEXITY = (
    3.0  # a model whose perplexity on plain English has tripled no longer speaks well enough to be judged
)


def collect(cell: Cell) -> dict:
    """What the stages wrote, as one row for the cell, one for the base, and the donor's strength."""
    config, evaluated = cell.config, "evaluate" in cell.config["stages"]
    row, base_row = _place_of_cell(cell), _place_of_base(cell)
    notes = []
    if config["merge"]["name"] != "keep" and cell.merged.told is not None:
        notes = [*_of_source(cell), *cell.merged.summary.get("notes", [])]
    for group, tuned in cell.tuned.items():
        if tuned.told is not None:
            row |= _tuned(config, group, tuned)
            notes += _of_tuning(config, group, tuned)
    if evaluated:
        row["base_id"] = base_row["base_id"] = _base_id(cell)
        base_row |= _scores(cell.of_base, cell.of_base, config)
        row |= _scores(cell.of_cell, cell.of_base, config)
        notes += _of_exams(cell)
    return {
        "row": row,
        "base_row": base_row,
        "notes": notes,
        "donor": _strength(cell) if evaluated else None,
        "artifacts": {
            artifact.key: str(artifact.folder)
            for artifact in [cell.base, *cell.donors, *cell.line_end, cell.merged, cell.final]
        },
        "marks": _marks(cell) if evaluated else {},
        "exams": {room: getattr(cell.of_cell, room)["compare"].inputs["exam"] for room in ("bias", "accuracy")}
        if evaluated
        else {},
        "models": _models(cell),
        "tuned": {group: str(artifact.folder) for group, artifact in cell.tuned.items() if artifact.told is not None},
        "datasets": _datasets(cell) if evaluated else [],
    }


def _shared(config: dict) -> dict:
    """What a cell's row and its base's have in common."""
    return {
        "model": config["model"]["name"],
        "bias": config["bias"]["name"],
        "accuracy_set": config["accuracy"]["name"],
        "seed": config["seed"],
    }


def _place_of_cell(cell: Cell) -> dict:
    """Where the cell stands in the grid, and how far its merge went."""
    config, unit = cell.config, cell.config["merge"]
    row = {
        **_shared(config),
        "donor": None if unit["name"] == "keep" else config["donor"]["name"],
        "merge": unit["name"],
        "weight": config["weight"] if unit["uses_weight"] else None,
        "debias": configuration.debias_name(config["debias"]),
        "merge_key": cell.final.key,
        "uses_weight": unit["uses_weight"],
        "family": unit.get("family"),
        "base_key": cell.base.key,
    }
    if unit["name"] == "keep":  # what a debiasing moved lies on no line to a donor
        return row | ({"effective_weight": 0.0, "off_axis": 0.0} if cell.final.key == cell.base.key else {})
    if cell.merged.told is None:
        return row
    summary = cell.merged.summary
    return row | {
        "effective_weight": summary.get("effective_weight"),
        "off_axis": summary.get("off_axis"),
        "weights_sha256": _weights(cell.final),
        **({"lambda": summary["lambda"]} if "lambda" in summary else {}),
    }


def _place_of_base(cell: Cell) -> dict:
    """The same of the unmerged base."""
    return {
        **_shared(cell.config),
        "donor": None,
        "merge": "keep",
        "weight": None,
        "debias": "none",
        "merge_key": cell.base.key,
        "base_key": cell.base.key,
        "effective_weight": 0.0,
        "off_axis": 0.0,
    }


def _tuned(config: dict, group: str, tuned: Artifact) -> dict:
    """What a tuning on pairs came to, as columns; of one that was not laid on as it is only what was before, and its epoch."""
    whole = _as_tuned(config, group)  # else what was measured after the tuning is another model's
    return {
        f"{group}.{key}": value
        for key, value in tuned.summary.items()
        if whole or key.endswith("before") or key in ("pairs", "epoch")
    }


def _of_source(cell: Cell) -> list[str]:
    """Whether a merge, or what it shares with its other weights, was made by a file that has changed since."""
    name, version = (cell.config["merge"][key] for key in ("name", "version"))
    made_by = [each.summary.get("source") for each in (cell.merged, *cell.line_end) if each.told is not None]
    if all(source in (None, source_of(name)) for source in made_by):
        return []
    return [
        f"pipeline/merging/{name}.py is no longer the file that made this merge, and its version is still {version}: if what it "
        f"computes has changed, raise version in conf/merge/{name}.yaml"
    ]


def _of_exams(cell: Cell) -> list[str]:
    """What is to be known of the examination: requests that were cut, tasks left out, texts that were trained on."""
    from pipeline import accuracy

    config, notes = cell.config, []
    for room in ("bias", "accuracy"):
        answered = getattr(cell.of_cell, room)["answer"]
        told = answered.summary if answered.exists else {}
        if told.get("cut"):
            notes.append(
                f"{room}={config[room]['name']}: {told['cut']} of {told['requests']} requests were longer than the model's "
                "limit and lost their beginning"
            )
    if left_out := accuracy.left_out(config["accuracy"]):
        notes.append(
            f"accuracy={config['accuracy']['name']}: {', '.join(left_out)} left out, because they run programs that "
            "the model writes; accuracy.allow_code_execution=true asks them too"
        )
    return notes + [
        f"trained and judged on the same text ({key} and {room}, allow_leak=true): {text!r}"
        for (key, room), text in leaked(cell).items()
    ]


def _as_tuned(config: dict, group: str) -> bool:
    """Whether the model of the cell, or its donor, is the one that the tuning left: laid on once, and no control."""
    unit = config[group]
    return not unit.get("control") and unit.get("scale", unit.get("coefficient", 1.0)) == 1


def _of_tuning(config: dict, group: str, tuned: Artifact) -> list[str]:
    """What a tuning on pairs came to, in words, where it is not what one would expect."""
    name, summary, selection = tuned.inputs["method"]["name"], tuned.summary, tuned.inputs["selection"]
    notes, chose, group = [], *(("donor.by", "donor.settings") if group == "donor" else (group, group))
    if selection and summary["dev_bias_before"] != summary["dev_bias_before"]:
        notes.append(
            f"{chose}={name}: the bias on {selection['exam']['name']} is undefined for the model as it came in, so the epoch was "
            f"not chosen against it; change {group}.select_on"
        )
    elif selection and summary["epoch"] == 0:
        notes.append(
            f"{chose}={name}: no epoch was taken, for none of {tuned.inputs['training']['epochs']} came nearer to even on "
            f"{selection['exam']['name']} without losing more perplexity or sense than allowed; the model is as it came in "
            f"(epochs.parquet tells what each came to; {group}.learning_rate, {group}.epochs, {group}.perplexity_rise and the "
            "method's own settings decide it)"
        )
    if summary["pairs_left_out"]:
        notes.append(
            f"{chose}={name}: {summary['pairs_left_out']} of {summary['pairs'] + summary['pairs_left_out']} pairs cannot be asked "
            "of this model and were left out"
        )
    return notes


def _marks(cell: Cell) -> dict[str, list[str]]:
    """Where the verdicts on every item lie: of the base, then of the cell."""
    return {
        room: [str(getattr(examined, room)["mark"].folder) for examined in (cell.of_base, cell.of_cell)]
        for room in ("bias", "accuracy")
    }


def _scores(examined: Examined, base: Examined, config: dict) -> dict:
    row: dict = {}
    for room in ("bias", "accuracy"):
        exam = getattr(examined, room)
        summary, name = dict(exam["compare"].summary), config[room]["name"]
        tasks = summary.pop("tasks", {})
        row |= summary if room == "bias" else {key: value for key, value in summary.items() if key != "items"}
        row |= {f"{name}.{task}": value for task, value in tasks.items()}
        if room == "bias":
            row |= {f"{name}.{metric}": value for metric, value in exam["mark"].summary["metrics"].items()}
    perplexity, before = examined.health.summary["perplexity"], base.health.summary["perplexity"]
    ratio = perplexity / before
    at_chance = row["accuracy_low"] <= row["chance"]
    of_base = base.accuracy["compare"].summary
    base_speaks = of_base["accuracy_low"] > of_base["chance"]
    worse = row.get("accuracy_change_high", 0.0) < 0  # at chance by more than the luck of the draw
    ruined = not ratio < RUINED_PERPLEXITY or (at_chance and base_speaks and worse)  # `not <`: nan is ruined too
    return row | {"perplexity": perplexity, "perplexity_ratio": ratio, "ruined": ruined}


def _models(cell: Cell) -> list[dict]:
    """The base and the donors, with what pins each."""
    told = [("base", cell.base), *(("donor", artifact) for artifact in cell.donors)]
    return [{"role": role, **origin(cell.config, artifact), "artefact": artifact.key} for role, artifact in told]


def _datasets(cell: Cell) -> list[dict]:
    """What the cell was judged by, and its donor trained on: name, files, one hash over them, rows, role."""
    found = []
    for room, exam in (("bias", cell.of_cell.bias), ("accuracy", cell.of_cell.accuracy)):
        rows, unit = exam["mark"].summary["items"], cell.config[room]
        found.append(_dataset(unit, files_of(cell.config, unit), rows, "evaluation"))
    for artifact in cell.tuned.values():
        if artifact.told is not None and artifact.summary["pairs"]:
            declared = configuration.stereotypes(artifact.inputs["pairs"]["name"])
            found.append(_dataset(declared, declared["files"], artifact.summary["pairs"], "training"))
    if cell.trained is not None and cell.trained.exists:
        declared = configuration.stereotypes(cell.config["donor"]["data"])
        found.append(_dataset(declared, declared["files"], cell.trained.summary["sentences"], "training"))
    return found


def _dataset(declared: dict, files: dict, rows: int, role: str) -> dict:
    hub = declared.get("hub") or {}
    told = "".join(spec["sha256"] for _, spec in sorted(files.items())) or str(sorted(hub.items()))
    places = [spec.get("url") or spec.get("package") or spec["path"] for spec in files.values()]
    shared = places[0] if len(places) == 1 else os.path.commonprefix(places).rpartition("/")[0]  # noqa: RUF071 - letter by letter, of urls
    # of one file its own sha256; of several the sha256 over theirs, in the order of their names
    one = next(iter(files.values()))["sha256"] if len(files) == 1 else hashlib.sha256(told.encode()).hexdigest()
    return {
        "name": declared["name"],
        "source": f"{shared} ({len(places)} files)"
        if len(places) > 1
        else shared
        if places
        else hub.get("repository") or declared["name"],
        "digest": one,
        "rows": rows,
        "context": role,
    }


def _strength(cell: Cell) -> dict | None:
    """What the training of the donor did to its own loss and to the bias set; None where it was not measured."""
    if not cell.of_trained or not cell.of_trained["compare"].exists:
        return None
    moved = cell.of_trained["compare"].summary
    return {
        "donor": cell.config["donor"]["name"],
        "data": cell.config["donor"]["data"],
        **cell.trained.summary,
        **{key: moved[key] for key in ("items", "bias_change", "bias_change_low", "bias_change_high", "bias_change_p")},
    }


def _base_id(cell: Cell) -> str:
    """Rows of the same id were examined in the same way and compared with the same base."""
    compared = [exam["compare"].key for exam in (cell.of_base.bias, cell.of_base.accuracy)]
    return hashlib.sha256("".join([cell.of_base.health.key, *compared]).encode()).hexdigest()[:12]


def _weights(model: Artifact) -> str | None:
    """One hash of all its weight files: two cells with the same one are the same model."""
    manifest = model.told
    if manifest is None:
        return None
    return hashlib.sha256(
        "".join(
            file["sha256"] for name, file in sorted(manifest["files"].items()) if name.endswith(".safetensors")
        ).encode()
    ).hexdigest()
