"""A mergekit YAML, read: a plain description, or one sentence about what is not supported.

{"method": "ties",                 one of METHODS
 "base": source or None,           base_model
 "models": [{"source": source, "parameters": {...}}, ...]   in the YAML's order, base_model last if not among them
 "parameters": {...},              of all models
 "dtype": "bfloat16" or None,      of the result: out_dtype, or dtype
 "tokenizer": "base" or None,      tokenizer_source
 "notes": [sentences]}             what was accepted and changes nothing
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from pipeline.errors import ConfigError
from pipeline.merging.mergekit.parameters import METHODS, value

_KNOWN = (
    "merge_method",
    "base_model",
    "models",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "name",
)
_DTYPES = ("float32", "float16", "bfloat16", "float64")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[0-9a-f]{40})?")
_CHANGE = "change merge.file"


def read(text: str, is_folder: Callable[[str], bool] = lambda _: False) -> dict[str, Any]:
    """The description of a mergekit YAML. ConfigError, in one sentence, for what is not supported.

    is_folder  of a name that looks like one on the hub (models/mine): whether it is a folder, which goes before
    """
    recipe = _mapping(text)
    for key in recipe:
        if key in ("slices", "modules"):
            raise ConfigError(
                f"a recipe should merge whole `models:`, found `{key}:`, which is not supported: {_CHANGE}"
            )
        if key not in _KNOWN:
            raise ConfigError(f"a recipe may have {', '.join(_KNOWN)}, found {key}, which is not supported: {_CHANGE}")
    method = recipe.get("merge_method")
    if method not in METHODS:
        raise ConfigError(f"merge_method should be one of {', '.join(METHODS)}, found {method!r}: {_CHANGE}")
    notes: list[str] = []
    base = None if recipe.get("base_model") is None else source(recipe["base_model"], is_folder)
    models = [_model(entry, method, is_folder, notes) for entry in _models(recipe)]
    if base is not None and base not in [model["source"] for model in models]:
        models.append({"source": base, "parameters": {}})
    found = {
        "method": method,
        "base": base,
        "models": models,
        "parameters": _parameters(recipe.get("parameters"), method, "all", notes),
        "dtype": _dtype(recipe),
        "tokenizer": _tokenizer(recipe),
    }
    _check(found)
    return found | {"notes": sorted(set(notes))}


def unit(description: dict[str, Any]) -> dict[str, Any]:
    """What a cell is made of: {"base": source, "donors": [sources], "recipe": the setting of merge=recipe}.

    The setting names no source, so that equal merges of equal models are one, wherever these lie.
    """
    has_base = description["base"] is not None and METHODS[description["method"]].base != "ignored"
    sources = [model["source"] for model in description["models"]]
    first = sources.index(description["base"]) if description["base"] is not None else 0
    order = [first, *(place for place in range(len(sources)) if place != first)]
    setting = {
        "method": description["method"],
        "base": has_base,
        "parameters": description["parameters"],
        "models": [description["models"][place]["parameters"] for place in order],
    }
    base, *donors = (sources[place] for place in order)
    return {"base": base, "donors": donors, "recipe": json.dumps(setting, sort_keys=True)}


def source(name: Any, is_folder: Callable[[str], bool] = lambda _: False) -> str:
    """mergekit's name of a model as one of our sources; our own (hub:, path:, wheel:) are taken as they are."""
    if not isinstance(name, str) or ("+" in name and not name.startswith("wheel:")):
        raise ConfigError(f"a model should be one name without an adapter (+), found {name!r}: {_CHANGE}")
    if re.match("(hub|path|wheel):.", name):
        return name
    if re.match(r"[./~]", name) or is_folder(name):
        return f"path:{name}"
    if _HUB.fullmatch(name):
        return f"hub:{name}"
    raise ConfigError(
        f"a model should be org/name, org/name@<40 hex digits>, or a folder (/..., ./...), found {name!r}: {_CHANGE}"
    )


def _mapping(text: str) -> dict:
    try:
        recipe = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise ConfigError(
            f"merge.file should be a mergekit YAML, found that it does not parse ({where}): {_CHANGE}"
        ) from None
    if not isinstance(recipe, dict):
        raise ConfigError(f"merge.file should be a mergekit YAML, found {type(recipe).__name__}: {_CHANGE}")
    return recipe


def _models(recipe: Mapping) -> list:
    entries = recipe.get("models")
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"`models:` should be a list of the models to merge, found {entries!r}: {_CHANGE}")
    return entries


def _model(entry: Any, method: str, is_folder: Callable[[str], bool], notes: list[str]) -> dict:
    if not isinstance(entry, dict) or not {"model"} <= entry.keys() <= {"model", "parameters"}:
        raise ConfigError(f"an entry of `models:` should have model and perhaps parameters, found {entry!r}: {_CHANGE}")
    return {
        "source": source(entry["model"], is_folder),
        "parameters": _parameters(entry.get("parameters"), method, "model", notes),
    }


def _parameters(given: Any, method: str, place: str, notes: list[str]) -> dict[str, Any]:
    known, found = METHODS[method].parameters, {}
    if not isinstance(given, dict | None):
        raise ConfigError(f"`parameters:` should be a mapping of names to values, found {given!r}: {_CHANGE}")
    for key, setting in (given or {}).items():
        if key == "int8_mask":
            notes.append("int8_mask only saves mergekit memory and is ignored")
        elif key not in known:
            raise ConfigError(f"the parameters of {method} are {', '.join(known) or 'none'}, found {key}: {_CHANGE}")
        elif place == "model" and known[key].scope == "shared":
            raise ConfigError(
                f"parameters.{key} of {method} is one for all models, found it under a model: move it to the "
                "recipe's own `parameters:` in merge.file"
            )
        else:
            found[key] = _setting(key, setting, known[key].kind)
    return found


def _setting(key: str, setting: Any, kind: type) -> Any:
    """A number, a gradient, or a list of cases, each value checked."""
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, list):
        return value(key, setting, kind)
    if not any(isinstance(each, dict) for each in setting):
        return [value(key, each, kind) for each in setting]
    for case in setting:
        good = isinstance(case, dict) and {"value"} <= case.keys() <= {"value", "filter"}
        if not good or not isinstance(case.get("filter"), str | None) or isinstance(case["value"], dict):
            raise ConfigError(f"parameters.{key} should be a list of filter and value, found {case!r}: {_CHANGE}")
    return [{"filter": case.get("filter"), "value": _gradient(key, case["value"], kind)} for case in setting]


def _gradient(key: str, given: Any, kind: type) -> Any:
    return [value(key, each, kind) for each in given] if isinstance(given, list) else value(key, given, kind)


def _dtype(recipe: Mapping) -> str | None:
    for key in ("dtype", "out_dtype"):
        if recipe.get(key) not in (None, *_DTYPES):
            raise ConfigError(f"{key} should be one of {', '.join(_DTYPES)}, found {recipe[key]!r}: {_CHANGE}")
    return recipe.get("out_dtype") or recipe.get("dtype")


def _tokenizer(recipe: Mapping) -> str | None:
    given = recipe.get("tokenizer_source")
    if (longer := recipe.get("tokenizer")) is not None:
        given = longer.get("source") if isinstance(longer, dict) and longer.keys() <= {"source"} else longer
    if given in (None, "base"):
        return given
    raise ConfigError(f"the tokenizer should be left out or come from the base, found {given!r}: {_CHANGE}")


def _check(found: Mapping) -> None:
    """Whether the method can take these models, and has what it requires of each."""
    method, (least, most) = METHODS[found["method"]], METHODS[found["method"]].models
    sources, name = [model["source"] for model in found["models"]], found["method"]
    if twice := sorted({each for each in sources if sources.count(each) > 1}):
        raise ConfigError(f"every model should be named once, found {twice[0]} twice: {_CHANGE}")
    if method.base == "required" and found["base"] is None:
        raise ConfigError(f"{name} needs a base_model, found none: add base_model to merge.file")
    has_base = found["base"] is not None and method.base != "ignored"
    count = len(sources) - has_base
    if count < least or (most is not None and count > most) or len(sources) < 2:
        wanted = f"exactly {least}" if least == most else f"at least {least if has_base else max(2, least)}"
        beside = " beside base_model" if has_base else ""
        raise ConfigError(f"{name} merges {wanted} models{beside}, found {count}: {_CHANGE}")
    for model in found["models"]:
        for key, parameter in method.parameters.items():
            asked = parameter.scope != "donor" or not has_base or model["source"] != found["base"]
            if parameter.required and asked and key not in model["parameters"] and key not in found["parameters"]:
                whose = "" if parameter.scope == "shared" else f" for {model['source']}"
                raise ConfigError(f"{name} needs parameters.{key}{whose}, found none: add it to merge.file")
