"""A cell in a process of its own."""

import json
import multiprocessing
import os
import resource
import signal
import threading
import traceback
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.store import Store, drop, write_atomically


def isolated(config: dict, folder: Path) -> dict:
    """Run the cell in a child of a fork server that has imported everything and computed nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    outcome = folder / "outcome.json"
    outcome.unlink(missing_ok=True)
    multiprocessing.set_start_method("forkserver", force=True)  # joblib's workers know no other way to ask for it
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.preload"])
    process = context.Process(target=work, args=(config, str(outcome)))
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:
        process.terminate()
        process.join()
        raise
    if outcome.is_file():
        return json.loads(outcome.read_text())
    if process.exitcode < 0:
        name = signal.Signals(-process.exitcode).name
        hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
        return {
            "status": "killed",
            "error": f"the cell's process was killed by {name}{hint}; what it had finished is in the store, run the same command again to go on",
        }
    return {
        "status": "failed",
        "error": f"the cell's process left with exit code {process.exitcode} before it had a result",
    }


def work(config: dict, outcome: str) -> None:
    """The child: make what is missing, say how it went."""
    from pipeline import recipe

    threading.Thread(target=_leave_with_parent, daemon=True).start()
    store = Store(Path(config["store"]))
    try:
        described = recipe.describe(config, store)
        recipe.run(described)
        told = {"status": "done", "error": None, "result": recipe.collect(described)}
        if config["keep"] == "none":
            for artifact in (described.merged, described.final):
                if artifact.key in store.built and artifact.key != described.base.key:
                    drop(artifact.folder)
    # FloatingPointError: a training that left the finite numbers, and says which setting to lower
    except (PipelineError, FloatingPointError) as error:
        told = {"status": "failed", "error": str(error)}
    except Exception as error:  # noqa: BLE001 - our own mistake: kept with its traceback, the other cells go on
        traceback.print_exc()
        told = {"status": "failed", "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    costs: dict[str, float] = {}
    for key, seconds in store.built.items():
        costs[f"cost.{key.split('-')[0]}_seconds"] = costs.get(f"cost.{key.split('-')[0]}_seconds", 0.0) + seconds
    told["built"] = list(store.built)
    told["cost"] = costs | {"cost.peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    write_atomically(Path(outcome), json.dumps(told))


def _leave_with_parent() -> None:
    """A cell whose sweep was killed must not go on in the dark. (The fork server lives on as long as its children do.)"""
    multiprocessing.parent_process().join()
    os._exit(1)
