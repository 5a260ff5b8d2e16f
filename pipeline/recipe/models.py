"""Every model of a cell as an artefact: fetched, trained, merged, debiased; and where it came from."""

from pipeline import config as configuration
from pipeline import sources
from pipeline.errors import ConfigError
from pipeline.recipe.identity import cache_of, files_of, place_of, selection_of, sentences_of
from pipeline.stages import calibrate, debias, donor, fetch, merge
from pipeline.store import Artifact, Store

UNTOLD = {"lora_rank": 0, "precision": "float32"}  # settings of a donor that are told where they are not these


def fetched(config: dict, store: Store, source: str, sha256: str | None = None) -> Artifact:
    pinned = sources.pin(source, sha256=sha256, cache=cache_of(config))
    return store.want(
        fetch.fetch, pinned=pinned, source=source, cache=str(cache_of(config)), allow_pickle=config["allow_pickle"]
    )


def donors_of(config: dict, store: Store, base: Artifact, machine: dict) -> tuple[Artifact | None, list[Artifact]]:
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
            return None, [fetched(config, store, source) for source in unit["models"]]
        case "task_vector":
            origin = fetched(config, store, unit["origin"]) if unit["origin"] else base
            return None, [
                store.want(
                    donor.transfer,
                    base=base,
                    trained=fetched(config, store, unit["trained"]),
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


def merged_of(config: dict, store: Store, base: Artifact, donors: list[Artifact], reads: dict) -> Artifact:
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


def debiased(config: dict, store: Store, merged: Artifact, machine: dict) -> Artifact:
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


def _model_card(config: dict, base: Artifact, donors: list[Artifact]) -> dict:
    """What the model card says of where a merge came from."""
    unit = config["merge"]
    measured = ("calibration", "statistics", "examples", "max_length") if unit.get("statistics") else ()
    return {
        "base": origin(config, base),
        "donors": [origin(config, artifact) for artifact in donors],
        "measured": {key: unit[key] for key in measured},
    }


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
