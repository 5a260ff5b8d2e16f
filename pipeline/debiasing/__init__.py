"""Methods that make a model less biased: one a file, none of which knows files, configuration or tracking.

negation.py works on tensors. The others tune a model on pairs of texts. A file `<name>.py` has

    Settings   a frozen dataclass: what conf/debias/<name>.yaml may say of the method; `check()` raises ConfigError
    Method     of tuning.py: Method(model, settings, scratch) changes its model in place, batch by batch

and may have `FAMILIES`, the families of models it is made for. A Method that is not stepped on pairs in tokens, but on
what it makes of them or finds itself, has `prepare(scorer, pairs)`, which returns that. What it found besides the weights
it gives by `report()`, one row a chosen unit, or `tables()`, rows by the name of a table. To add a method: this file's
neighbour and its YAML.
"""

import dataclasses
import importlib
import pkgutil
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
            f"debias={method['name']} should have settings out of {', '.join(sorted(known))}, found {', '.join(unknown)}"
        )
    made = module.Settings(**own)
    made.check()
    return made


def bind(method: dict, scorer, scratch: Path | None):
    """The method on the model of a scorer, in evaluation mode."""
    module, made = load(method["name"]), settings(method)
    families = getattr(module, "FAMILIES", ("causal", "masked"))
    if scorer.family not in families:
        raise ConfigError(
            f"debias={method['name']} is made for {' and '.join(families)} models, found a {scorer.family} one; choose another debias"
        )
    return module.Method(scorer.model, made, scratch)
