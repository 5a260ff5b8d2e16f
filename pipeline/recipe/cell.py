"""The experiment, as plain calls, top to bottom: every artefact of one cell, named and not made."""

import dataclasses

from pipeline import config as configuration
from pipeline import sources
from pipeline.errors import ConfigError
from pipeline.recipe.identity import (
    cache_of,
    exam_of,
    files_of,
    place_of,
    selection_of,
    selection_sets,
    sentences_of,
    training_sets,
)
from pipeline.stages import calibrate, debias, donor, evaluate, fetch, merge
from pipeline.store import Artifact, Store

CLASSIFIERS = ("toxicity", "regard")  # settings of a benchmark's judging that name the source of a text classifier


@dataclasses.dataclass(frozen=True)
class Examined:
    """One model and what it scored."""

    model: Artifact
    health: Artifact
    bias: dict[str, Artifact]  # answer, mark, compare
    accuracy: dict[str, Artifact]


@dataclasses.dataclass(frozen=True)
class Cell:
    """Every artefact of one cell of the grid."""

    config: dict
    store: Store
    base: Artifact
    trained: Artifact | None
    donors: list[Artifact]
    merged: Artifact
    final: Artifact
    of_base: Examined
    of_cell: Examined
    of_trained: dict[str, Artifact] | None  # what the stereotype training did to the bias set: the donor's strength
    # (key of what is trained or chosen on, room or key of what chooses) -> does a text of it stand there?
    leaks: dict[tuple[str, str], Artifact]

    def wanted(self) -> list[Artifact]:
        """What `run` must make, in the order that keeps one model loaded as long as it is needed."""
        stages = self.config["stages"]
        if "evaluate" not in stages:
            last = [
                (name, part)
                for name, part in (
                    ("fetch", [self.base]),
                    ("donor", self.donors),
                    ("merge", [self.merged]),
                    ("debias", [self.final]),
                )
                if name in stages
            ]
            return [artifact for _, part in last for artifact in part]
        parts = [
            *self.leaks.values(),
            *_parts(self.of_base),
            *([] if self.of_trained is None else self.of_trained.values()),
            *_parts(self.of_cell),
        ]
        return list({artifact.key: artifact for artifact in parts}.values())

    @property
    def product(self) -> Artifact:
        """The model that export= and push_to= hand out: as far as `stages` goes."""
        return self.final if {"debias", "evaluate"} & set(self.config["stages"]) else self.merged

    @property
    def line_end(self) -> list[Artifact]:
        """What the merge shares with its other weights, where its method keeps that."""
        end = self.merged.inputs.get("end")
        return [] if end is None else [end]

    @property
    def tuned(self) -> dict[str, Artifact]:
        """The tunings on pairs of this cell, by the group that asked for each: donor, debias."""
        laid = {
            "donor": [each.inputs.get("trained") for each in self.donors if self.merged is not self.base],
            "debias": [self.final.inputs.get("tuned")],
        }
        # of a control it stands behind the random direction
        found = {group: [each and each.inputs.get("trained", each) for each in moved] for group, moved in laid.items()}
        return {
            group: each
            for group, all_ in found.items()
            for each in all_
            if each is not None and each.stage.name == "tune"
        }

    @property
    def fetched(self) -> list[Artifact]:
        """Every model that comes from outside, besides the base: all can be compared before anything is computed."""
        found: dict[str, Artifact] = {}

        def visit(artifact: Artifact) -> None:
            if artifact.stage.name == "fetch" and artifact.key != self.base.key:
                found[artifact.key] = artifact
            for source in artifact.sources:
                visit(source)

        for donor_ in self.donors:
            visit(donor_)
        return list(found.values())

    @property
    def found(self) -> bool:
        """Whether everything that the cell's row needs is already in the store."""
        return (
            all(artifact.exists for artifact in self.wanted())
            and not self.config["export"]
            and not self.config["push_to"]
        )

    def missing(self) -> list[Artifact]:
        """What would have to be made, inputs first, every artefact once."""
        order: dict[str, Artifact] = {}

        def visit(artifact: Artifact) -> None:
            if artifact.key not in order and not artifact.exists:
                for source in artifact.sources:
                    visit(source)
                order[artifact.key] = artifact

        for artifact in self.wanted():
            visit(artifact)
        return list(order.values())


def describe(config: dict, store: Store) -> Cell:
    """Name the artefacts of a cell. Reads headers and hashes at most; loads no tensor."""
    machine = {key: config["machine"][key] for key in ("device", "threads", "tokens_per_pack")}
    model = config["model"]
    reads = {"prefix_token": model["prefix_token"], "dtype": config["machine"]["dtype"], "machine": machine}

    # fetch
    base = _fetched(config, store, model["base"], model["sha256"])
    # donor
    trained, donors = _donors(config, store, base, machine)
    # merge
    unit = config["merge"]
    merged = base if unit["name"] == "keep" else _merged(config, store, base, donors, reads)
    # debias
    final = _debiased(config, store, merged, machine)

    # evaluate
    bias, accuracy = exam_of(config, "bias"), exam_of(config, "accuracy")

    def examine(model: Artifact, against: Examined | None) -> Examined:
        return Examined(
            model,
            store.want(evaluate.health, model=model, **reads),
            _examined(config, store, bias, model, reads, against.bias if against else None),
            _examined(config, store, accuracy, model, reads, against.accuracy if against else None),
        )

    of_base = examine(base, None)
    of_cell = of_base if final.key == base.key else examine(final, of_base)
    of_trained = (
        _examined(config, store, bias, trained, reads, of_base.bias)
        if config["donor"]["name"] == "bias_inverted" and merged is not base
        else None
    )
    leaks = {
        (key, exam["room"]): _leak(config, store, declared, unit, exam)
        for key, (declared, unit) in training_sets(config).items()
        for exam in (bias, accuracy)
    }
    for key, (declared, unit) in selection_sets(config).items():
        chooser, place = selection_of(config, unit), place_of(config, files_of(config, declared))
        data = configuration.stereotypes(unit["data"])
        leaks[key.replace("select_on", "data"), key] = _leak(config, store, data, unit, chooser, place)
        leaks[key, "bias"] = store.want(
            evaluate.overlap,
            exam=bias,
            where=place_of(config, files_of(config, config["bias"])),
            other=chooser,
            other_where=place,
        )
    return Cell(config, store, base, trained, donors, merged, final, of_base, of_cell, of_trained, leaks)


def _fetched(config: dict, store: Store, source: str, sha256: str | None = None) -> Artifact:
    pinned = sources.pin(source, sha256=sha256, cache=cache_of(config))
    return store.want(
        fetch.fetch, pinned=pinned, source=source, cache=str(cache_of(config)), allow_pickle=config["allow_pickle"]
    )


def _donors(config: dict, store: Store, base: Artifact, machine: dict) -> tuple[Artifact | None, list[Artifact]]:
    unit = config["donor"]
    match unit["name"]:
        case "bias_inverted":
            trained = _trained(config, store, base, unit, machine)
            return trained, [
                store.want(
                    donor.invert,
                    base=base,
                    trained=trained,
                    renormalise=unit["renormalise"],
                    exclude_norms=unit["exclude_norms"],
                )
            ]
        case "random_direction":
            trained = _trained(config, store, base, unit, machine)
            return trained, [
                store.want(
                    donor.randomise, base=base, trained=trained, draw=unit["draw"], exclude_norms=unit["exclude_norms"]
                )
            ]
        case "debiased":
            tuned = _tuned(config, store, base, configuration.debiasing(unit["by"], unit["settings"] or {}), machine)
            return None, [
                store.want(donor.transfer, base=base, trained=tuned, origin=base, coefficient=unit["coefficient"])
            ]
        case "checkpoints":
            return None, [_fetched(config, store, source) for source in unit["models"]]
        case "task_vector":
            origin = _fetched(config, store, unit["origin"]) if unit["origin"] else base
            return None, [
                store.want(
                    donor.transfer,
                    base=base,
                    trained=_fetched(config, store, unit["trained"]),
                    origin=origin,
                    coefficient=unit["coefficient"],
                )
            ]
    raise ConfigError(f"donor should be one of {', '.join(configuration.choices('donor'))}, found {unit['name']!r}")


def _trained(config: dict, store: Store, base: Artifact, unit: dict, machine: dict) -> Artifact:
    declared = configuration.stereotypes(unit["data"])
    names = ("epochs", "learning_rate", "batch_size", "warmup", "weight_decay", "max_length")
    if unit["lora_rank"]:
        names += ("lora_rank", "lora_alpha")
    if unit.get("precision", "float32") != "float32":
        names += ("precision",)
    return store.want(
        donor.train,
        base=base,
        sentences=sentences_of(declared, unit),
        settings={name: unit[name] for name in names},
        seed=config["seed"],
        prefix_token=config["model"]["prefix_token"],
        where=place_of(config, declared["files"]),
        machine=machine,
    )


def _merged(config: dict, store: Store, base: Artifact, donors: list[Artifact], reads: dict) -> Artifact:
    """The merge; what it rests on that does not depend on the weight is an artefact of its own."""
    unit, settings = config["merge"], configuration.settings(config["merge"])
    shared = {
        "base": base,
        "donors": donors,
        "shares": _shares(config["donor"], donors),
        "vocab": config["vocab"],
        "machine": {key: config["machine"][key] for key in ("device", "threads")},
    }
    if unit.get("statistics"):
        text = configuration.calibration(unit["calibration"])
        shared["statistics"] = [
            store.want(
                calibrate.calibrate,
                model=model,
                text=sentences_of(text),
                kind=unit["statistics"],
                settings={"examples": unit["examples"], "max_length": unit["max_length"]},
                where=place_of(config, text["files"]),
                **reads,
            )
            for model in (base, *donors)
        ]
    method = {"name": unit["name"], "version": unit["version"], **settings}
    if unit.get("keeps_end"):
        along = {key: value for key, value in method.items() if key != "scale"}
        shared["end"] = store.want(merge.line_end, method=along, **shared)
    return store.want(
        merge.merge,
        method=method,
        weight=config["weight"] if unit["uses_weight"] else None,
        recipe=_model_card(config, base, donors),
        shard_size=config["shard_size"],
        **shared,
    )


def _shares(unit: dict, donors: list[Artifact]) -> list[float] | None:
    shares = unit["shares"]
    if shares is not None and len(shares) != len(donors):
        raise ConfigError(
            f"donor.shares should have one number for each of the {len(donors)} donors, found {len(shares)}; change donor.shares"
        )
    return shares


def _debiased(config: dict, store: Store, merged: Artifact, machine: dict) -> Artifact:
    unit = config["debias"]
    match unit["name"]:
        case "none":
            return merged
        case "negation":
            trained = _controlled(store, unit, merged, _trained(config, store, merged, unit, machine))
            return store.want(
                debias.negate,
                model=merged,
                trained=trained,
                coefficient=unit["coefficient"],
                exclude_norms=unit["exclude_norms"],
            )
    if "epochs" not in unit:
        raise ConfigError(
            f"debias should be one of {', '.join(configuration.choices('debias'))}, found {unit['name']!r}"
        )
    tuned = _controlled(store, unit, merged, _tuned(config, store, merged, unit, machine), where_moved=True)
    return store.want(debias.lay_on, model=merged, tuned=tuned, scale=unit["scale"])


def _controlled(store: Store, unit: dict, model: Artifact, trained: Artifact, **where: bool) -> Artifact:
    """What was trained; for the control, the model moved as far in every tensor, but in a random direction."""
    if not unit["control"]:
        return trained
    return store.want(donor.randomise, base=model, trained=trained, draw=unit["draw"], exclude_norms=False, **where)


def _tuned(config: dict, store: Store, model: Artifact, unit: dict, machine: dict) -> Artifact:
    """A model after a method was run on it, with the epoch chosen on a set that is not reported."""
    declared, exam = configuration.stereotypes(unit["data"]), selection_of(config, unit)
    where = {"pairs": place_of(config, declared["files"])}
    names = ("epochs", "batch_size", "max_length", "scope")
    if unit.get("precision", "float32") != "float32":
        names += ("precision",)
    if exam is not None:
        where["exam"] = place_of(config, files_of(config, configuration.bias_set(unit["select_on"])))
    return store.want(
        debias.tune,
        model=model,
        pairs=sentences_of(declared, unit),
        method=configuration.debias_method(unit),
        training={name: unit[name] for name in names},
        selection=exam and {"exam": exam} | {name: unit[name] for name in ("perplexity_rise", "meaningful_fall")},
        seed=config["seed"],
        prefix_token=config["model"]["prefix_token"],
        where=where,
        machine=machine,
    )


def _examined(
    config: dict, store: Store, exam: dict, model: Artifact, reads: dict, against: dict | None
) -> dict[str, Artifact]:
    where = place_of(config, files_of(config, config[exam["room"]]))
    spoken = {"chat_template": 1} if config["model"]["chat_template"] and evaluate.in_turns(exam) else {}
    answers = store.want(evaluate.answer, model=model, exam=exam, where=where, **reads, **spoken)
    judging = config[exam["room"]].get("judging", {})
    classified = {
        name: store.want(
            evaluate.classify,
            answers=answers,
            model=_fetched(config, store, judging[name]),
            machine={key: config["machine"][key] for key in ("device", "threads")},
        )
        for name in CLASSIFIERS
        if judging.get(name)
    }
    marks = store.want(
        evaluate.mark,
        answers=answers,
        exam=exam,
        judging={key: bool(value) if key in CLASSIFIERS else value for key, value in judging.items()},
        where=where,
        **({"classified": classified} if classified else {}),
    )
    compared = store.want(
        evaluate.compare, marks=marks, base_marks=against["mark"] if against else None, exam=exam, seed=config["seed"]
    )
    return {"answer": answers, "mark": marks, "compare": compared}


def _leak(config: dict, store: Store, declared: dict, unit: dict, exam: dict, where: dict | None = None) -> Artifact:
    return store.want(
        evaluate.leak,
        exam=exam,
        where=where or place_of(config, files_of(config, config[exam["room"]])),
        sentences=sentences_of(declared, unit),
        source=place_of(config, declared["files"]),
    )


def _parts(examined: Examined) -> list[Artifact]:
    exams = (examined.bias, examined.accuracy)
    return [
        examined.health,
        *(exam["answer"] for exam in exams),
        *(exam["mark"] for exam in exams),
        *(exam["compare"] for exam in exams),
    ]


def _model_card(config: dict, base: Artifact, donors: list[Artifact]) -> dict:
    """What the model card says of where a merge came from."""
    unit = config["merge"]
    measured = ("calibration", "statistics", "examples", "max_length") if unit.get("statistics") else ()
    return {
        "base": origin(config, base),
        "donors": [origin(config, artifact) for artifact in donors],
        "measured": {key: unit[key] for key in measured},
    }


UNTOLD = {"lora_rank": 0, "precision": "float32"}  # settings of a donor that are told where they are not these


def origin(config: dict, artifact: Artifact) -> dict:
    """Where a model came from: its source and what pins it, or what was done to make it."""
    if artifact.stage.name != "fetch":
        unit = config["donor"]
        if "by" in unit:
            data = f", tuned by {unit['by']} on {configuration.debiasing(unit['by'], unit['settings'] or {})['data']}"
        else:
            data = f", trained on {unit['data']}" if "data" in unit else ""
        words = ("trained", "origin", "settings", "half", "draw", "coefficient")
        parts = {word: unit[word] for word in words if unit.get(word) is not None}
        parts |= {word: unit[word] for word, usual in UNTOLD.items() if unit.get(word, usual) != usual}
        return {"source": f"{unit['name']} of {config['model']['base']}{data}", **parts, "key": artifact.key}
    pinned = artifact.inputs["pinned"]
    told = {key: value for key, value in pinned.items() if isinstance(value, str) and key in ("revision", "sha256")}
    weights = {
        name: value for name, value in pinned.get("files", {}).items() if name.endswith((".safetensors", ".gguf"))
    }
    return {
        "source": artifact.inputs["source"],
        **({"adapter": "applied to its base"} if "base" in pinned else {}),
        **told,
        **{f"sha256 of {name}": value for name, value in weights.items()},
    }
