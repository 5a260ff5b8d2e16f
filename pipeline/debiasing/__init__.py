"""Methods that make a model less biased: one a file, none of which knows files, configuration or tracking.

negation.py works on tensors. The others tune a model on pairs of texts. A file `<name>.py` has

    Settings   a frozen dataclass: what conf/debias/<name>.yaml may say of the method; `check()` raises ConfigError
    Method     of tuning.py: Method(model, settings, scratch, seed) changes its model in place, batch by batch

and may have

    FAMILIES     the families of models it is made for; both without
    READS_PAIRS  False where it finds all its examples itself
    fits         fits(model, settings) refuses settings that a model of this shape, on torch's meta device, has no room for

A Method that is not stepped on pairs in tokens, but on what it makes of them or finds itself, has `prepare(scorer, pairs)`,
which returns that. What it found besides the weights it gives by `report()`, one row a chosen unit, or `tables()`, rows by
the name of a table. To add a method: this file's neighbour and its YAML.
"""

import dataclasses
import importlib
import pkgutil
import typing
from pathlib import Path
from types import ModuleType

from pipeline.errors import ConfigError

HELPERS = {"descent", "negation", "optimisation", "pairs", "tuning", "words"}


def methods() -> list[str]:
    """Names of the methods that tune on pairs."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in HELPERS)


def load(name: str) -> ModuleType:
    """The module of a method; raises ConfigError for a name without one."""
    if name not in methods():
        raise ConfigError(f"debias should be one of {', '.join(methods())}, found {name!r}; change debias=")
    return importlib.import_module(f"pipeline.debiasing.{name}")


def settings(method: dict):
    """The settings of a method, checked: {name, version, and its own}."""
    module = load(method["name"])
    own = {key: value for key, value in method.items() if key not in ("name", "version")}
    known = {field.name for field in dataclasses.fields(module.Settings)}
    if unknown := sorted(own.keys() - known):
        raise ConfigError(
            f"debias={method['name']} should have settings out of {', '.join(sorted(known))}, found {', '.join(unknown)}; "
            "leave these out"
        )
    for field in dataclasses.fields(module.Settings):
        kinds = typing.get_args(field.type) or (field.type,)
        value = own.get(field.name)
        if value is not None and not set(kinds) & {str, bool} and {int, float} & set(kinds):
            whole = float not in kinds
            if isinstance(value, bool) or not isinstance(value, (int, float)) or (whole and value != int(value)):
                kind = "a whole number" if whole else "a number"
                raise ConfigError(f"debias.{field.name} should be {kind}, found {value!r}; change debias.{field.name}")
    made = module.Settings(**own)
    made.check()
    return made


def bind(method: dict, scorer, scratch: Path | None, seed: int = 0):
    """The method on the model of a scorer, in evaluation mode."""
    module, made = load(method["name"]), settings(method)
    refuse(module, scorer.family)
    return module.Method(scorer.model, made, scratch, seed)


def refuse(module: ModuleType, family: str) -> None:
    """Raises ConfigError for a family of models that a method is not made for."""
    families = getattr(module, "FAMILIES", ("causal", "masked"))
    if family not in families:
        name = module.__name__.rpartition(".")[2]
        raise ConfigError(
            f"debias={name} is made for {' and '.join(families)} models, found a {family} one; choose another debias"
        )
