"""What a grid would cost: nothing is run."""

import json
import statistics
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline import recipe
from pipeline.store import Store
from pipeline.sweep.words import cell_name


def plan(cells: list[dict]) -> None:
    """Print what would run, what is found, disk, and time where the store knows it from before. Runs nothing."""
    shown = Table("cell", "to do", "found", title="plan", title_justify="left")
    known, missing = {}, {}
    for cell in cells:
        described = recipe.describe(cell, Store(Path(cell["store"])))
        known = known or _seconds_by_stage(described.store)
        lacking = described.missing()
        missing |= {artifact.key: artifact for artifact in lacking}
        done = [artifact for artifact in described.wanted() if artifact.exists]
        names = {}
        for artifact in lacking:
            names[artifact.stage.name] = names.get(artifact.stage.name, 0) + 1
        shown.add_row(
            cell_name(cell),
            ", ".join(f"{count} {name}" if count > 1 else name for name, count in names.items()) or "nothing",
            f"{len(done)} of {len(described.wanted())}",
        )
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    out.print(shown)
    unknown = sorted({artifact.stage.name for artifact in missing.values() if artifact.stage.name not in known})
    seconds = sum(known.get(artifact.stage.name, 0) for artifact in missing.values())
    models = sum(
        artifact.stage.name
        in ("fetch", "train", "invert", "randomise", "transfer", "line_end", "merge", "negate", "tune", "lay_on")
        for artifact in missing.values()
    )
    size = max(
        (
            sum(f["bytes"] for f in a.store.manifest(a)["files"].values())
            for c in cells
            for a in [recipe.describe(c, Store(Path(c["store"]))).base]
            if a.exists
        ),
        default=None,
    )
    out.print(f"{len(missing)} artefacts to make, each once however many cells share it.")
    if not missing:
        out.print("time: nothing to compute.")
    elif known:
        out.print(
            f"time: about {seconds / 60:.0f} min, by what such stages took here before"
            + (f"; not known yet for {', '.join(unknown)}." if unknown else ".")
        )
    else:
        out.print("time: not known before a first run.")
    if models:
        out.print(
            f"disk: {models} models"
            + (
                f" of {size / 1e9:.2f} GB, {models * size / 1e9:.1f} GB in all."
                if size
                else "; their size is known once the base is fetched."
            )
        )


def _seconds_by_stage(store: Store) -> dict[str, float]:
    """Median seconds of the finished artefacts of each stage."""
    found: dict[str, list[float]] = {}
    for manifest in store.root.glob("*/*/manifest.json"):
        told = json.loads(manifest.read_text())
        found.setdefault(told["stage"], []).append(told["seconds"])
    return {name: statistics.median(values) for name, values in found.items()}
