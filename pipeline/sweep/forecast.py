"""What a grid would cost: nothing is run."""

import json
import re
import statistics
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline import recipe
from pipeline.stages.aggregate import axes
from pipeline.store import Artifact, Store
from pipeline.sweep.words import cell_name


def plan(cells: list[dict]) -> None:
    """Print what would run, what is found, disk, and time where the store knows it from before. Runs nothing."""
    shown = Table("cell", "to do", "found", title="plan", title_justify="left")
    known, missing, swept = None, {}, axes(cells)
    for cell in cells:
        described = recipe.describe(cell, Store(Path(cell["store"])))
        known = known or _Durations(described.store)
        lacking = described.missing()
        missing |= {artifact.key: artifact for artifact in lacking}
        done = [artifact for artifact in described.wanted() if artifact.exists]
        names = {}
        for artifact in lacking:
            names[artifact.stage.name] = names.get(artifact.stage.name, 0) + 1
        shown.add_row(
            escape(cell_name(cell, swept)),
            ", ".join(f"{count} {name}" if count > 1 else name for name, count in names.items()) or "nothing",
            f"{len(done)} of {len(described.wanted())}",
        )
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    out.print(shown)
    took = {key: known.of(artifact) for key, artifact in missing.items()}
    unknown = sorted({missing[key].stage.name for key, seconds in took.items() if seconds is None})
    seconds = sum(each for each in took.values() if each is not None)
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
    elif len(unknown) < len({artifact.stage.name for artifact in missing.values()}):
        out.print(
            f"time: about {max(1, round(seconds / 60))} min, by what the most similar ones took here before"
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


class _Durations:
    """What finished artefacts of a store took: of those most like a given one, the median.

    Most alike are those of the same stage with the same settings and data that go back to the same models; then those
    that differ in settings; then in models; then any of the stage.
    """

    def __init__(self, store: Store):
        manifests = [*store.root.glob("*/*/manifest.json"), *store.root.glob("*/*.dropped.json")]
        self.told = {told["key"]: told for told in map(_read, manifests)}
        self.roots: dict[str, set[str]] = {}
        self.seconds: dict[tuple, list[float]] = {}
        for told in self.told.values():
            for likeness in self._likenesses(told):
                self.seconds.setdefault(likeness, []).append(told["seconds"])

    def of(self, artifact: Artifact) -> float | None:
        """Seconds, or None where no artefact of its stage is known."""
        self._note(artifact)
        found = next((each for each in self._likenesses(artifact.identity()) if each in self.seconds), None)
        return None if found is None else statistics.median(self.seconds[found])

    def _note(self, artifact: Artifact) -> None:
        if artifact.key not in self.told:
            self.told[artifact.key] = artifact.identity()
            for source in artifact.sources:
                self._note(source)

    def _likenesses(self, identity: dict) -> list[tuple]:
        stage, roots = identity["stage"], "".join(sorted(self._roots(identity)))
        values = json.dumps(identity["inputs"], sort_keys=True, default=str)
        values = re.sub(r'\{"artifact": "[^"]*"\}', "null", values)
        return [(stage, roots, values), (stage, roots), (stage, None, values), (stage,)]

    def _roots(self, identity: dict) -> set[str]:
        """The keys of the fetched models, or of what is not known any more, that something was made from."""
        found = set()
        for key in re.findall(r'"artifact": "([^"]*)"', json.dumps(identity["inputs"], default=str)):
            if key not in self.roots:
                known = self.told.get(key)
                self.roots[key] = {key} if known is None or known["stage"] == "fetch" else self._roots(known)
            found |= self.roots[key]
        return found


def _read(manifest: Path) -> dict:
    return json.loads(manifest.read_text())
