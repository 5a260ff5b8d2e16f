"""The record of a sweep: what was asked for, what became of it, by which code."""

import importlib.metadata
import json
import shlex
import subprocess
import sys
from pathlib import Path

from pipeline.errors import ConfigError

INTERRUPTED = "interrupted from the keyboard; run the same command again to go on"


class Sweep:
    """The record of one sweep, readable from every process that shares its folder."""

    def __init__(self, folder: Path, record: dict):
        self.folder, self.record = folder, record

    @classmethod
    def read(cls, folder: Path) -> "Sweep":
        try:
            return cls(folder, json.loads((folder / "sweep.json").read_text()))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"sweep should be the folder of a sweep, with its sweep.json, found {folder} ({error}); change sweep="
            ) from error

    def cells(self) -> list[dict]:
        """What became of every cell that was asked for, in the grid's order; a lost one says so."""
        found = {}
        for path in sorted(self.folder.glob("*/cell.json")):
            record = json.loads(path.read_text())
            found[json.dumps(record["overrides"], sort_keys=True)] = record
        stopped = any(record["error"] == INTERRUPTED for record in found.values())
        lost = (
            "the sweep was interrupted before its turn; run the same command again to go on"
            if stopped
            else "the cell left no record: its worker was lost, or the sweep was stopped before its turn; run the same command again"
        )
        return [
            found.get(json.dumps(asked["overrides"], sort_keys=True))
            or asked
            | {
                "status": "missing",
                "error": lost,
                "result": None,
                "run_id": None,
            }
            for asked in self.record["cells"]
        ]

    def varies(self, key: str) -> bool:
        """Whether an override has more than one value in this sweep."""
        return len({json.dumps(asked["overrides"].get(key)) for asked in self.record["cells"]}) > 1


def provenance(sweep: Sweep, records: list[dict]) -> dict:
    models: dict[str, dict] = {}
    data: dict[str, dict] = {}
    for record in records:
        if record.get("result"):
            models |= {each["artefact"]: each for each in record["result"]["models"]}
            data |= {each["name"]: each for each in record["result"]["datasets"]}
    packages = ("torch", "transformers", "lm_eval", "hydra-core", "mlflow", "pandas", "numpy", "scipy")
    return {
        "models": list(models.values()),
        "data": list(data.values()),
        "versions": {"code": sweep.record["code"]} | {name: importlib.metadata.version(name) for name in packages},
    }


def command() -> str:
    return "python -m pipeline " + " ".join(shlex.quote(word) for word in sys.argv[1:])


def code_revision() -> str:
    """The commit that this code is at, with + where files were changed since; unknown outside a clone."""
    place = Path(__file__).parents[1]
    try:
        commit = subprocess.run(
            ["git", "-C", place, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", place, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed else "")
