"""One of our merges as a mergekit YAML, where mergekit 0.1.5 has exactly that merge.

None where it has not: masks that are drawn at random (mergekit's are unseeded), equal magnitudes or even votes that are
decided otherwise (ties and breadcrumbs with compat: none), ratios that are floored otherwise (model_stock, sce),
methods and sources that mergekit does not know.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from pipeline.merging.mergekit.parameters import METHODS
from pipeline.merging.mixup import mixed

COLINEAR = 0.9995  # mergekit's, of slerp
CLOSEST = 1e-6  # radians: mergekit iterates in float32 and would not notice having come closer
FLOOR = 1e-6  # of differences in nearswap


def write(
    method: dict[str, Any],
    weight: float | None,
    shares: Sequence[float] | None,
    base: str,
    donors: Sequence[str],
    out_dtype: str | None = None,
) -> str | None:
    """The YAML with which `mergekit-yaml` makes the same merge, up to the rounding of float32; None if there is none.

    method        a YAML of conf/merge: name and every setting
    base, donors  sources
    out_dtype     of the base, in which the result is stored ("bfloat16"); None leaves mergekit's, float32
    """
    names = [_name(source) for source in (base, *donors)]
    writer = _WRITERS.get(method["name"])
    if writer is None or None in names or len(set(names)) < len(names):
        return None
    found = writer(method, weight, mixed(shares, method.get("mixup"), method.get("draw", 0), len(donors)), names)
    if found is None:
        return None
    found["dtype"] = "float64" if out_dtype == "float64" else "float32"
    if out_dtype is not None:
        found["out_dtype"] = out_dtype
    return yaml.safe_dump(found, sort_keys=False, width=120)


def _name(source: str) -> str | None:
    kind, _, rest = source.partition(":")
    if kind == "path":
        return None if set("@+") & set(rest) else rest if rest[0] in "./~" else f"./{rest}"
    return None if kind == "wheel" else rest if kind == "hub" else source


def _recipe(merge_method: str, names: Sequence[str], each: Sequence[dict], base: str | None, **parameters) -> dict:
    """A recipe; `each` are the parameters of the models in `names`."""
    models = [{"model": name} | ({"parameters": own} if own else {}) for name, own in zip(names, each, strict=True)]
    recipe = {"merge_method": merge_method} | ({"base_model": base} if base else {}) | {"models": models}
    return recipe | ({"parameters": parameters} if parameters else {})


def _split(weight: float, shares: Sequence[float] | None, names: Sequence[str]) -> list[dict]:
    """1 - a for the base, a for the donors by their shares."""
    shares = shares or [1.0] * (len(names) - 1)
    return [{"weight": each} for each in (1 - weight, *(weight * share / sum(shares) for share in shares))]


def _linear(method: dict, weight: float, shares, names) -> dict:
    return _recipe("linear", names, _split(weight, shares, names), names[0])


def _slerp(method: dict, weight: float, shares, names) -> dict | None:
    if method["compat"] != "mergekit" and method["colinear"] != COLINEAR:
        return None
    return _recipe("slerp", names, [{}, {}], names[0], t=weight)


def _nuslerp(method: dict, weight: float, shares, names) -> dict | None:
    if not method["flatten"] and method["compat"] != "mergekit":
        return None  # which way a row lies depends on the architecture
    flags = {"nuslerp_flatten": method["flatten"], "nuslerp_row_wise": method["row_wise"]}
    if len(names) == 2:
        return _recipe("nuslerp", names, _split(weight, None, names), None, **flags)
    if weight != 1:
        return None
    each = [{"weight": float(share)} for share in shares or [1.0, 1.0]]
    return _recipe("nuslerp", names[1:], each, names[0], **flags)


def _karcher(method: dict, weight: float, shares, names) -> dict | None:
    if method["compat"] == "mergekit":
        return _recipe("karcher", names, [{}] * len(names), names[0])
    split = [each["weight"] for each in _split(weight, shares, names)]
    if any(abs(each * len(names) - 1) > 1e-12 for each in split):
        return None
    limits = {"max_iter": method["iterations"], "tol": max(CLOSEST, method["tolerance"])}
    return _recipe("karcher", names, [{}] * len(names), names[0], **limits)


def _multislerp(method: dict, weight: float, shares, names) -> dict:
    return _recipe("multislerp", names, _split(weight, shares, names), None)


def _nearswap(method: dict, weight: float, shares, names) -> dict | None:
    literal = method["mode"] == "absolute" and (weight == 0 or weight >= FLOOR)
    if method["compat"] != "mergekit" and not literal:
        return None
    return _recipe("nearswap", names, [{}, {}], names[0], t=weight)


def _task_vectors(method: dict, weight: float, shares, names) -> dict | None:
    """Those with mergekit's own rules, and the sums of whole task vectors by whichever name."""
    shares = [1.0] * (len(names) - 1) if shares is None else shares
    factor = weight * method["scale"]
    if method["compat"] == "mergekit" and method["name"] != "task_arithmetic":
        return _compatible(method, factor, shares, names)
    vote, combine = method.get("vote", "none"), method.get("combine", "sum")
    if method.get("density", 1) != 1 or (len(shares) > 1 and (vote != "none" or combine == "max")):
        return None
    whole = {"sum": 1.0, "max": 1.0, "mean": len(shares), "weighted_mean": sum(shares)}[combine]
    if whole <= 0:
        return None
    each = [{"weight": share / whole} for share in shares]
    return _recipe("task_arithmetic", names[1:], each, names[0], **{"lambda": factor})


def _compatible(method: dict, factor: float, shares, names) -> dict | None:
    name, density, voted = method["name"], method["density"], method.get("vote") != "none"
    if name in ("dare", "della") and 0 < density < 1:
        return None
    merge_method = {
        "ties": "ties",
        "dare": "dare_ties" if voted else "dare_linear",
        "breadcrumbs": "breadcrumbs_ties" if voted else "breadcrumbs",
        "della": "della" if voted else "della_linear",
    }[name]
    more = {"gamma": method["gamma"]} if name == "breadcrumbs" else {}
    normalize = {"normalize": True} if name == "della" else {}
    each = [{"weight": float(share), "density": density} | more for share in shares]
    return _recipe(merge_method, names[1:], each, names[0], **normalize, **{"lambda": factor})


def _of_recipe(method: dict, weight, shares, names) -> dict | None:
    """The recipe that was read, with the sources that were merged."""
    setting = json.loads(method["recipe"])
    known = METHODS[setting["method"]]
    if known.random:
        return None
    each = [{key: _plain(value) for key, value in own.items()} for own in setting["models"]]
    shared = {key: _plain(value) for key, value in setting["parameters"].items()}
    base = names[0] if setting["base"] or known.base == "ignored" else None
    return _recipe(setting["method"], names, each, base, **shared)


def _plain(setting: Any) -> Any:
    if isinstance(setting, list) and setting and isinstance(setting[0], dict):
        return [{key: part for key, part in case.items() if part is not None} for case in setting]
    return setting


_WRITERS: dict[str, Callable[..., dict | None]] = {
    "linear": _linear,
    "slerp": _slerp,
    "nuslerp": _nuslerp,
    "karcher": _karcher,
    "multislerp": _multislerp,
    "nearswap": _nearswap,
    "recipe": _of_recipe,
    **dict.fromkeys(("task_arithmetic", "ties", "dare", "della", "breadcrumbs"), _task_vectors),
}
