"""The experiment, as plain calls, top to bottom: every artefact of one cell, named and not made."""

import dataclasses

from pipeline import config as configuration
from pipeline.recipe.identity import (
    exam_of,
    files_of,
    place_of,
    selection_of,
    selection_sets,
    sentences_of,
    training_sets,
)
from pipeline.recipe.models import debiased, donors_of, fetched, merged_of
from pipeline.stages import evaluate, exams
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
    base = fetched(config, store, model["base"], model["sha256"])
    # donor
    trained, donors = donors_of(config, store, base, machine)
    # merge
    unit = config["merge"]
    merged = base if unit["name"] == "keep" else merged_of(config, store, base, donors, reads)
    # debias
    final = debiased(config, store, merged, machine)

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


def _examined(
    config: dict, store: Store, exam: dict, model: Artifact, reads: dict, against: dict | None
) -> dict[str, Artifact]:
    where = place_of(config, files_of(config, config[exam["room"]]))
    spoken = {"chat_template": 1} if config["model"]["chat_template"] and exams.in_turns(exam) else {}
    answers = store.want(evaluate.answer, model=model, exam=exam, where=where, **reads, **spoken)
    judging = config[exam["room"]].get("judging", {})
    classified = {
        name: store.want(
            evaluate.classify,
            answers=answers,
            model=fetched(config, store, judging[name]),
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
