"""The model card of a merge."""

import json
from collections.abc import Sequence
from typing import Any


def card(
    method: dict[str, Any],
    weight: float | None,
    shares: Sequence[float] | None,
    recipe: dict[str, Any],
    diagnosis: dict[str, Any],
) -> str:
    """README.md: front matter for the hub, the recipe in words, the sources with their hashes, what came of it.

    `recipe` has `base`, a mapping of words to print with at least `source`, and `donors`, a list of such mappings;
    perhaps `measured`: by what text the statistics of a calibrated method were made.
    """
    donors, measured = recipe.get("donors", []), recipe.get("measured")
    hub = [
        model["source"].removeprefix("hub:").partition("@")[0]
        for model in (recipe["base"], *donors)
        if str(model.get("source", "")).startswith("hub:")
    ]
    settings = [f"{key} = {value}" for key, value in method.items() if key not in ("name", "version")]
    split = (
        ""
        if shares is None or len(donors) < 2
        else f", split by the shares {', '.join(f'{share:g}' for share in shares)}"
    )
    lines = [
        "---",
        *(["base_model:", *(f"- {json.dumps(name)}" for name in hub)] if hub else []),
        "library_name: transformers",
        "tags:",
        "- merge",
        "---",
        "",
        f"# {method['name']} merge",
        "",
        f"Every tensor is the `{method['name']}` merge (version {method.get('version', 'not stated')}) of the base and "
        f"{len(donors)} donor{'s' if len(donors) != 1 else ''}"
        + (
            f" at weight {weight:g}, where 0 is the base and 1 the donor{'s' if len(donors) != 1 else ''}{split}."
            if weight is not None
            else "; the method has no weight."
        ),
        f"Settings: {', '.join(settings)}." if settings else "The method has no settings.",
        *([f"Measured on: {', '.join(f'{key} = {value}' for key, value in measured.items())}."] if measured else []),
        "Arithmetic in float32 at least, rounded once to the base's dtype. Config and tokenizer are the base's, with the tokens that vocab=union added.",
        "",
        "## Sources",
        "",
        *_model("Base", recipe["base"]),
        *(line for i, donor in enumerate(donors, 1) for line in _model(f"Donor {i}", donor)),
        "",
        "## What came of it",
        "",
        f"- effective weight {diagnosis['effective_weight']:.6g}: how far the merge went along donor - base",
        f"- off-axis {diagnosis['off_axis']:.6g}: what it did besides, relative to the norm of donor - base",
        f"- norm of all tensors, relative to the base: {diagnosis['norm_ratio']:.6g}",
        *(f"- {note}" for note in diagnosis["notes"]),
        "",
        "Numbers by layer: `diagnosis.json`. Merging says nothing about quality or bias: measure before use.",
        "",
    ]
    return "\n".join(lines)


def _model(title: str, model: dict[str, Any]) -> list[str]:
    return [f"- {title}: " + ", ".join(f"{key} `{value}`" for key, value in model.items() if value is not None)]
