"""Refused before anything is spent: data, settings, room on the disk, leaks."""

import functools
import re
import shutil
from pathlib import Path

from pipeline import checkpoint, datafiles
from pipeline import config as configuration
from pipeline.errors import ConfigError, DataError, StoreError
from pipeline.recipe.cell import Cell
from pipeline.recipe.identity import (
    files_of,
    place_of,
    selection_of,
    selection_sets,
    sentences_of,
    training_sets,
    units_on_data,
)
from pipeline.stages import exams


def refuse_early(cell: Cell) -> None:
    """Refuse what cannot work before anything is spent: settings, data, room on the disk, models that do not fit, leaks."""
    from pipeline import merging

    config = cell.config
    unit = config["merge"]
    shares = config["donor"]["shares"]
    merging.bind(unit["name"], configuration.settings(unit)).check(
        config["weight"] if unit["uses_weight"] else None, shares, len(cell.donors)
    )
    if "evaluate" in config["stages"]:
        apart = [declared for declared, _ in (*training_sets(config).values(), *selection_sets(config).values())]
        for declared in (config["bias"], config["accuracy"], *apart):
            datafiles.obtain(**place_of(config, files_of(config, declared)))
    if unit.get("statistics"):
        datafiles.obtain(**place_of(config, configuration.calibration(unit["calibration"])["files"]))
    _refuse_full_disk(cell)
    direct = {
        artifact.key for artifact in cell.donors
    }  # merged as they are; of the others a task vector is taken first
    checkpoint.align(cell.base.path, [each.path for each in cell.fetched if each.key in direct], config["vocab"])
    checkpoint.compare(cell.base.path, [each.path for each in cell.fetched if each.key not in direct])
    _refuse_family(cell)
    refuse_tuning(cell)
    _refuse_pairs(cell)
    if "evaluate" in config["stages"]:
        _refuse_exams(cell)
    for (_, judged), artifact in cell.leaks.items():
        # between what is tuned on and what chooses the epoch it counts without an evaluation too
        if "evaluate" in config["stages"] or (judged.endswith("select_on") and _made(cell, judged)):
            cell.store.build(artifact)
    refuse_leaks(cell)


def _made(cell: Cell, key: str) -> bool:
    """Whether the stages of the cell make what a key of the donor or the debiasing belongs to."""
    makes = {"debias": {"debias", "evaluate"}, "donor": {"donor", "merge", "debias", "evaluate"}}
    return bool(makes[key.partition(".")[0]] & set(cell.config["stages"]))


def _refuse_family(cell: Cell) -> None:
    """A model that is to be trained, measured or asked must be a language model, of a family that its settings suit."""
    from pipeline.language_model.load import family_of

    config, statistics = cell.config, cell.config["merge"].get("statistics")
    if "evaluate" not in config["stages"] and cell.trained is None and not statistics:
        return
    if family_of(cell.base.path) == "masked":
        if config["model"]["prefix_token"] is not None:
            raise ConfigError(
                "model.prefix_token should be null for a masked model, which has its own beginning, found "
                f"{config['model']['prefix_token']!r}; set model.prefix_token=null"
            )
        if config["model"]["chat_template"]:
            raise ConfigError(
                "model.chat_template should be false for a masked model, which has no turns, found true; set model.chat_template=false"
            )
        if statistics == "fisher":
            raise ConfigError(
                "merge=fisher needs the gradients of a causal model's likelihood, found a masked model; choose another merge"
            )
    elif config["model"]["chat_template"] and "evaluate" in config["stages"]:
        _refuse_lack_of_template(cell.base.path)


def _refuse_lack_of_template(model: Path) -> None:
    from transformers import AutoTokenizer

    if not AutoTokenizer.from_pretrained(model, trust_remote_code=False, local_files_only=True).chat_template:
        raise ConfigError(
            f"model.chat_template=true needs a tokenizer with a chat template, found none in {model}; "
            "set model.chat_template=false, or choose an instruct model"
        )


def refuse_tuning(cell: Cell) -> None:
    """What a tuning on pairs cannot do with this base, which lies in the store.

    A method that is made for the other family, and settings that a model of this shape has no room for. Reads no data.
    """
    from pipeline import debiasing
    from pipeline.language_model.load import family_of

    config = cell.config
    for group, unit in units_on_data(config).items():
        if "select_on" not in unit or not _made(cell, group):
            continue
        family, module = family_of(cell.base.path), debiasing.load(unit["name"])
        with configuration.told_of(group):
            debiasing.refuse(module, family)
            made = debiasing.settings(configuration.debias_method(unit))
            # a merge may have more tokens than its base
            if hasattr(module, "fits") and not (group == "debias" and config["vocab"] == "union"):
                module.fits(_skeleton(cell.base.path), made)


def _refuse_pairs(cell: Cell) -> None:
    """Bias types that the pairs of a tuning do not have, and a set to choose by that this family cannot be asked."""
    from pipeline.language_model.load import family_of
    from pipeline.stages import pairs

    config = cell.config
    for group, unit in units_on_data(config).items():
        if "select_on" not in unit or not _made(cell, group):
            continue
        if unit["bias_types"]:
            declared = configuration.stereotypes(unit["data"])
            files = datafiles.obtain(**place_of(config, files_of(config, declared)))
            with configuration.told_of(group):
                pairs.read(sentences_of(declared, unit), files)
        if unit["select_on"] is not None:
            declared = configuration.bias_set(unit["select_on"])
            where = place_of(config, files_of(config, declared))
            judging = {"version": declared["judging"]["version"]}
            exams.refuse(selection_of(config, unit), judging, where, family_of(cell.base.path))


@functools.lru_cache(maxsize=2)
def _skeleton(folder: Path):
    from pipeline.language_model.load import skeleton

    return skeleton(folder)


def _refuse_exams(cell: Cell) -> None:
    """What can only go wrong when the models have answered: how they are judged, and by which classifiers."""
    from pipeline.language_model.classifier import labels_of
    from pipeline.language_model.load import family_of

    for room in ("bias", "accuracy"):
        mark = getattr(cell.of_cell, room)["mark"]
        if mark.exists:
            continue
        given = mark.inputs
        exams.refuse(given["exam"], given["judging"], given["where"], family_of(cell.base.path))
        for classified in given.get("classified", {}).values():
            cell.store.build(classified.inputs["model"])
            labels_of(classified.inputs["model"].path)


def refuse_leaks(cell: Cell) -> None:
    """No sentence of the training may stand in a text that the models are judged by, unless allow_leak=true."""
    for (key, room), text in leaked(cell).items():
        if not cell.config["allow_leak"]:
            set_ = f"{room}={cell.config[room]['name']}" if room in cell.config else room
            does = "chooses by" if key.endswith("select_on") else "trains on"
            halves = ""
            if room != "accuracy":
                halves = f", or use two halves ({_two_halves(key, room)})"
            words = (
                f"{set_} should share no text with what {key} {does}, found {text!r} in both; "
                f"choose another {key}{halves}, or say allow_leak=true"
            )
            if cell.config["donor"]["name"] == "debiased":  # its settings are those of a debiasing
                words = re.sub(r"\bdonor\.(data|half|select_on|select_half)\b", r"donor.settings.\1", words)
            raise DataError(words)


def _two_halves(key: str, room: str) -> str:
    """What to say so that `key` reads one part of a set and `room` another."""
    group = key.partition(".")[0]
    if room == "bias":
        return f"{group}.{'select_half' if key.endswith('select_on') else 'half'}=tuning, half=reporting"
    return f"{group}.half=fitting, {room.partition('.')[0]}.select_half=choosing"


def leaked(cell: Cell) -> dict[tuple[str, str], str]:
    """(key of the training sentences, room) -> a text that stands in both."""
    found = {place: artifact.summary["shared"] for place, artifact in cell.leaks.items() if artifact.told}
    return {place: text for place, text in found.items() if text is not None}


def _refuse_full_disk(cell: Cell) -> None:
    """A model that does not fit is refused before the first tensor is computed."""
    if not cell.base.exists:
        return
    size = cell.base.summary["bytes"]
    wide = 4 * cell.base.summary["parameters"]  # donors are kept in float32
    # a training keeps its state too: weights and two moments
    taken = {
        "train": 4 * wide,
        "invert": wide,
        "randomise": wide,
        "transfer": wide,
        "line_end": wide,
        "merge": size,
        "negate": wide,
        "tune": 5 * wide,  # weights, the best so far, the result, and up to two moments
        "lay_on": wide,
    }
    needed = sum(taken.get(artifact.stage.name, 0) for artifact in cell.missing())
    free = shutil.disk_usage(cell.store.root).free
    if needed > free:
        raise StoreError(
            f"the store {cell.store.root} should have {needed / 1e9:.1f} GB free for the models of this cell, found {free / 1e9:.1f} GB; "
            "free some space, or put it elsewhere with store=DIR"
        )
