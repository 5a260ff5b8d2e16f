"""The typed shape of conf/, and the checks that need no model: refuse bad input before anything is spent."""

import contextlib
import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from pipeline.errors import ConfigError
from pipeline.halves import HALVES

CONF = Path(__file__).resolve().parents[1] / "conf"
STAGES = ("fetch", "donor", "merge", "debias", "evaluate", "aggregate")


@dataclasses.dataclass
class Model:
    name: str = MISSING
    base: str = MISSING  # a source: hub:org/name@revision, path:DIR or wheel:dist@version/file
    sha256: str | None = None  # of the file inside a wheel
    prefix_token: str | None = None  # what stands before a text without context; null = lm-eval's rule
    chat_template: bool = False  # questions (accuracy tasks, BBQ, lm-eval's tasks) are put as the user's turn of a chat


@dataclasses.dataclass
class Machine:
    name: str = MISSING
    device: str = "auto"
    dtype: str = "float32"
    threads: int | None = None
    tokens_per_pack: int = 8192


@dataclasses.dataclass
class Tracking:
    name: str = MISSING
    uri: str | None = None
    experiment: str = MISSING


@dataclasses.dataclass
class Config:
    """Unknown keys and wrong types fail at composition. A method's own settings are checked by the method."""

    model: Model = dataclasses.field(default_factory=Model)
    donor: Any = MISSING
    merge: Any = MISSING
    debias: Any = MISSING
    bias: Any = MISSING
    accuracy: Any = MISSING
    machine: Machine = dataclasses.field(default_factory=Machine)
    tracking: Tracking = dataclasses.field(default_factory=Tracking)
    weight: float = 0.3
    seed: int = 0
    limit: int | None = None
    half: str | None = None
    vocab: str = "strict"
    shard_size: int = 5_000_000_000
    keep: str = "all"
    pairs: int = 12
    stages: list[str] = dataclasses.field(default_factory=lambda: list(STAGES))
    store: str = "runs/store"
    data: str | None = None
    sweep: str | None = None
    export: str | None = None
    plan: bool = False
    allow_pickle: bool = False
    allow_leak: bool = False
    push_to: str | None = None
    exclude: list[Any] = dataclasses.field(default_factory=list)


ConfigStore.instance().store(name="schema", node=Config)


def plain(config: DictConfig) -> dict:
    """The composed configuration as plain Python values, interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def check(config: dict) -> None:
    """Refuse what cannot work, one sentence a mistake; touches no file but folders that the user named."""
    weight = config["weight"]
    if not (math.isfinite(weight) and 0 <= weight <= 1):
        raise ConfigError(f"weight should lie between 0 (the base) and 1 (the donor), found {weight}; change weight=")
    if config["limit"] is not None and config["limit"] < 1:
        raise ConfigError(f"limit should be null (all items) or at least 1, found {config['limit']}; change limit=")
    if config["half"] not in (None, *HALVES):
        raise ConfigError(
            f"half should be null (all items) or one of {', '.join(HALVES)}, found {config['half']!r}; change half="
        )
    if config["half"] and config["bias"].get("benchmark") == "lm_eval":
        raise ConfigError("half= needs a bias set whose templates are known, found bias=lm_eval; set half=null")
    if config["keep"] not in ("all", "front", "none"):
        raise ConfigError(f"keep should be all, front or none, found {config['keep']!r}; change keep=")
    if config["pairs"] < 0:
        raise ConfigError(f"pairs should be 0 (none) or more, found {config['pairs']}; change pairs=")
    if config["vocab"] not in ("strict", "base", "union"):
        raise ConfigError(f"vocab should be strict, base or union, found {config['vocab']!r}; change vocab=")
    if config["shard_size"] < 1:
        raise ConfigError(f"shard_size should be at least 1 byte, found {config['shard_size']}; change shard_size=")
    unknown = [name for name in config["stages"] if name not in STAGES]
    if unknown or not config["stages"]:
        raise ConfigError(f"stages should name some of {', '.join(STAGES)}, found {config['stages']}; change stages=")
    if config["stages"] == ["aggregate"] and not config["sweep"]:
        raise ConfigError("stages=[aggregate] needs the folder of a finished sweep, found none; add sweep=DIR")
    if config["sweep"] and config["stages"] != ["aggregate"]:
        raise ConfigError("sweep= names a finished sweep and needs stages=[aggregate]; add it, or leave sweep= out")
    if config["sweep"] and not Path(config["sweep"]).is_dir():
        raise ConfigError(f"sweep should be the folder of a sweep, found no folder {config['sweep']}; change sweep=")
    if config["data"] and not Path(config["data"]).is_dir():
        raise ConfigError(
            f"data should be a folder of data sets, found no folder {config['data']}; change data=, or leave it out to download"
        )
    if config["export"] or config["push_to"]:
        last = "merge" if config["debias"]["name"] == "none" else "debias"
        if not {last, "evaluate"} & set(config["stages"]):
            raise ConfigError(
                f"export= and push_to= hand out what the {last} stage makes, found stages={config['stages']}; use stages=[fetch,{last}]"
            )
    if config["export"] and Path(config["export"]).exists() and any(Path(config["export"]).iterdir()):
        raise ConfigError(f"export should be a new or empty folder, found files in {config['export']}; change export=")
    if config["machine"]["dtype"] not in ("float32", "bfloat16", "float16"):
        raise ConfigError(
            f"machine.dtype should be float32, bfloat16 or float16, found {config['machine']['dtype']!r}; change machine.dtype="
        )
    if config["machine"]["threads"] is not None and config["machine"]["threads"] < 1:
        raise ConfigError(
            f"machine.threads should be null or at least 1, found {config['machine']['threads']}; change machine.threads="
        )
    for group in ("donor", "merge", "debias", "bias", "accuracy"):
        part = config[group]
        if not isinstance(part, dict) or "name" not in part or "version" not in part:
            raise ConfigError(
                f"{group} should be one of {', '.join(choices(group))} (a YAML in conf/{group} with name and version), found {part!r}"
            )
        _check_settings(group, part)
        if group in ("donor", "debias") and "data" in part:
            stereotypes(part["data"], f"{group}.data")
        if group == "donor" and part["name"] == "debiased":
            debiasing(part["by"], part["settings"] or {})
        if group == "merge" and part.get("calibration"):
            calibration(part["calibration"])
        for name, spec in part.get("files", {}).items():
            if not re.fullmatch("[0-9a-f]{64}", str(spec.get("sha256"))):
                raise ConfigError(
                    f"conf/{group}/{part['name']}.yaml: files.{name} needs sha256, 64 hex digits, found {spec.get('sha256')!r}"
                )
    for key in ("models", "shares"):
        if not isinstance(config["donor"].get(key) or [], list):
            raise ConfigError(
                f"donor.{key} should be a list in brackets, found {config['donor'][key]!r}; say donor.{key}=[...]"
            )
    device = config["machine"]["device"]
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps|xpu", device):
        raise ConfigError(
            f"machine.device should be auto, cpu, cuda, mps or xpu, found {device!r}; change machine.device="
        )


# key -> (lowest, highest) of settings of donors and debiasing; merges and benchmarks state their own
RANGES = {
    "epochs": (1, math.inf),
    "batch_size": (1, math.inf),
    "max_length": (2, math.inf),
    "learning_rate": (0, 1e30),  # weights are float32
    "weight_decay": (0, math.inf),
    "warmup": (0, 1),
    "lora_rank": (0, math.inf),
    "lora_alpha": (0, math.inf),
    "warmup_steps": (0, math.inf),
    "decay_steps": (1, math.inf),
    "draw": (0, math.inf),
    "examples": (1, math.inf),
    "perplexity_rise": (0, math.inf),
    "meaningful_fall": (0, 1),
}

# Settings that are a word in their YAML and may be null.
NULLABLE = ("select_on",)


def _check_settings(group: str, unit: dict) -> None:
    """Every setting has the type that it has in its YAML, and lies in its range."""
    declared = plain_file(CONF / group / f"{unit['name']}.yaml")
    for key, value in unit.items():
        default, where = declared.get(key), f"{group}.{key}"
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if isinstance(default, bool) and not isinstance(value, bool):
            raise ConfigError(f"{where} should be true or false, found {value!r}; change {where}")
        if isinstance(default, int) and not isinstance(default, bool) and (not number or value != int(value)):
            raise ConfigError(f"{where} should be a whole number, found {value!r}; change {where}")
        if isinstance(default, float) and (not number or not math.isfinite(value)):
            raise ConfigError(f"{where} should be a number, found {value!r}; change {where}")
        if isinstance(default, str) and not isinstance(value, str) and not (value is None and key in NULLABLE):
            raise ConfigError(f"{where} should be a word, found {value!r}; change {where}")
        low, high = RANGES.get(key, (-math.inf, math.inf))
        if number and not low <= value <= high:
            reach = f"be at least {low:g}" if high == math.inf else f"lie between {low:g} and {high:g}"
            raise ConfigError(f"{where} should {reach}, found {value:g}; change {where}")
    for key in ("half", "select_half"):
        if unit.get(key) not in (None, *HALVES):
            raise ConfigError(
                f"{group}.{key} should be null (all) or one of {', '.join(HALVES)}, found {unit[key]!r}; change {group}.{key}"
            )
    if unit.get("precision") not in (None, "float32", "bfloat16"):
        raise ConfigError(
            f"{group}.precision should be float32 or bfloat16, found {unit['precision']!r}; change {group}.precision"
        )
    if group == "debias":
        _check_debias(unit)


def _check_debias(unit: dict) -> None:
    if unit.get("coefficient", 0) < 0:
        raise ConfigError(
            f"debias.coefficient should be 0 or more, found {unit['coefficient']:g}; change debias.coefficient"
        )
    if unit.get("scope") not in (None, "suffix", "span", "sentence"):
        raise ConfigError(
            f"debias.scope should be suffix, span or sentence, found {unit['scope']!r}; change debias.scope"
        )
    if not isinstance(unit.get("bias_types") or [], list):
        raise ConfigError(
            f"debias.bias_types should be null or a list in brackets, found {unit['bias_types']!r}; change debias.bias_types"
        )
    if unit.get("select_on") is not None:
        bias_set(unit["select_on"])


def plain_file(path: Path) -> dict:
    """A YAML of conf/ as plain values; a mandatory key that is to be given (???) is None."""
    loaded = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    return {key: None if value == "???" else value for key, value in loaded.items()}


def excluded(config: dict) -> bool:
    """Whether some entry of `exclude` matches this cell in every key that it names."""
    return any(all(_same(_look_up(config, key), value) for key, value in entry.items()) for entry in config["exclude"])


def choices(group: str) -> list[str]:
    """The names that a group offers: one YAML each."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def calibration(name: str) -> dict:
    """The declaration of a text that merges may look at: conf/calibration/<name>.yaml."""
    path = CONF / "calibration" / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"the calibration text should be one of {', '.join(choices('calibration'))}, found {name!r}; change merge.calibration="
        )
    return plain(OmegaConf.load(path))


def stereotypes(name: str, key: str = "donor.data or debias.data") -> dict:
    """The declaration of a set of stereotypical sentences: conf/stereotypes/<name>.yaml."""
    path = CONF / "stereotypes" / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"{key} should be one of {', '.join(choices('stereotypes'))}, found {name!r}; change {key}")
    return plain(OmegaConf.load(path))


def bias_set(name: str) -> dict:
    """A bias set by its name, with its own settings: conf/bias/<name>.yaml, to choose an epoch by."""
    path = CONF / "bias" / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"debias.select_on should be null or one of {', '.join(choices('bias'))}, found {name!r}; change debias.select_on="
        )
    declared = plain(OmegaConf.load(path))
    if declared["benchmark"] in ("bold", "lm_eval"):
        raise ConfigError(
            f"debias.select_on should be a bias set that is judged by its own answers, found {name!r}; change debias.select_on="
        )
    return declared


def debias_method(unit: dict) -> dict:
    """The method of a debiasing that tunes on pairs: name, version, and its own settings."""
    return {"name": unit["name"], "version": unit["version"], **settings(unit, *OF_TUNING)}


def debias_name(unit: dict) -> str:
    """What the table calls a debiasing: its title where its YAML is another one's with other settings, or its name.

    Of a control with the word behind it.
    """
    name = unit.get("title", unit["name"])
    return f"{name} control" if unit.get("control") else name


def debiasing(name: str, changed: dict) -> dict:
    """A debiasing by its name, with some of its settings changed: conf/debias/<name>.yaml, for a donor made by it."""
    declared = plain_file(CONF / "debias" / f"{name}.yaml")
    if "select_on" not in declared or "defaults" in declared:
        every = {each: plain_file(CONF / "debias" / f"{each}.yaml") for each in choices("debias")}
        able = [each for each, unit in every.items() if "select_on" in unit and "defaults" not in unit]
        raise ConfigError(f"donor.by should be one of {', '.join(able)}, found {name!r}; change donor.by")
    # how far it is laid on is donor.coefficient
    known = declared.keys() - {"name", "version", "scale", "control", "draw"}
    if unknown := sorted(changed.keys() - known):
        raise ConfigError(
            f"donor.settings should have some of {', '.join(sorted(known))}, found {', '.join(unknown)}; change donor.settings"
        )
    unit = declared | changed
    with told_of("donor"):
        _check_settings("debias", unit)
        stereotypes(unit["data"], "debias.data")
    return unit


@contextlib.contextmanager
def told_of(group: str):
    """What is refused inside names the keys of the group that asked: a donor has a debiasing's settings in donor.settings."""
    try:
        yield
    except ConfigError as error:
        if group != "donor":
            raise
        words = str(error).replace("debias.", "donor.settings.").replace("debias=", "donor.by=")
        raise ConfigError(words.replace("another debias", "another donor.by")) from error


def settings(unit: dict, *without: str) -> dict:
    """The settings of a unit: its YAML less the keys that describe it."""
    described = {"name", "version", "benchmark", "files", "title", *without}
    if "uses_weight" in unit:
        described |= set(OF_MERGES)
    return {key: value for key, value in unit.items() if key not in described}


# What a YAML of conf/debias says besides the settings of its method, where the method tunes on pairs.
OF_TUNING = (
    "data",
    "half",
    "bias_types",
    "epochs",
    "batch_size",
    "max_length",
    "precision",
    "scope",
    "select_on",
    "select_half",
    "perplexity_rise",
    "meaningful_fall",
    "scale",
    "control",
    "draw",
)

# What a YAML of conf/merge says besides the settings of the method: what the engine is to know and to measure.
OF_MERGES = (
    "family",
    "uses_weight",
    "interpolates",
    "keeps_end",
    "calibration",
    "statistics",
    "examples",
    "max_length",
    "file",
)


def _look_up(config: dict, key: str):
    part = config
    for step in key.split("."):
        if not isinstance(part, dict) or step not in part:
            raise ConfigError(f"exclude should name keys of the configuration, found {key!r}; change exclude=")
        part = part[step]
    return part.get("title", part["name"]) if isinstance(part, dict) and "name" in part else part


def _same(came, wanted) -> bool:
    return any(came == each for each in wanted) if isinstance(wanted, list) else came == wanted
