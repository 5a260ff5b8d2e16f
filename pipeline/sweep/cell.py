"""One cell, in the launcher's process: isolated, recorded, logged."""

import json
import time
import traceback
from pathlib import Path

from rich.markup import escape

from pipeline.errors import PipelineError
from pipeline.stages.aggregate import axes
from pipeline.store import Store, write_atomically
from pipeline.sweep.grid import settle
from pipeline.sweep.isolation import isolated
from pipeline.sweep.logged import finish_run, start_run, tracked
from pipeline.sweep.record import INTERRUPTED, Sweep
from pipeline.sweep.words import cell_name, choices, console, say


def cell(config: dict, folder: Path, sweep_folder: Path, overrides: dict) -> None:
    """Run one cell in a process of its own and leave cell.json, whatever happens to it. Raises only KeyboardInterrupt."""
    sweep = Sweep.read(sweep_folder)
    # what was checked before the sweep began is what runs, even if a YAML was edited meanwhile
    config = next(
        (asked["config"] for asked in sweep.record["cells"] if asked["overrides"] == overrides), None
    ) or settle(config, overrides, 1)
    record = {
        "overrides": overrides,
        "choices": choices(config),
        "status": "failed",
        "error": None,
        "result": None,
        "run_id": None,
        "folder": str(folder),
        "keep": config["keep"],
    }
    number = 1 + next((i for i, asked in enumerate(sweep.record["cells"]) if asked["overrides"] == overrides), 0)
    started, cost = time.time(), {}
    asked = sweep.record["cells"]
    console.rule(f"[bold]{number}/{len(asked)}  {escape(cell_name(config, axes(asked)))}", align="left")
    with tracked(sweep, "the cell") as tracking:
        record["run_id"] = start_run(tracking, sweep, config, record)
    try:
        found = _found(config)
        if found is not None:
            record |= {"status": "found", "result": found}
        else:
            record |= isolated(config, folder)
            cost = record.get("cost", {})
    except KeyboardInterrupt:
        record |= {"status": "killed", "error": INTERRUPTED}
        raise
    except PipelineError as error:
        record["error"] = str(error)
    except Exception as error:  # noqa: BLE001 - our own mistake: kept with its traceback, the other cells go on
        traceback.print_exc()
        record |= {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    finally:
        record["seconds"] = round(time.time() - started, 1)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "cell.json", json.dumps(record, indent=1))
        with tracked(sweep, "the cell") as tracking:
            finish_run(tracking, sweep, record, cost)
        say(record)


def _found(config: dict) -> dict | None:
    """The cell's result if all of it is in the store: read, without loading torch."""
    from pipeline import recipe

    described = recipe.describe(config, Store(Path(config["store"])))
    if not described.found:
        return None
    recipe.refuse_leaks(described)
    return recipe.collect(described)
