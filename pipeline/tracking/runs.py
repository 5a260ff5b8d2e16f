"""The runs of cells and of whole sweeps."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import TrackingError
from pipeline.tracking.client import client_of, experiment_id, search, speaks
from pipeline.tracking.entities import log_inputs, log_path, log_values, metrics_at, open_run, step_of, undefined
from pipeline.tracking.views import views
from pipeline.tracking.words import NOTE, TAG_LENGTH, cut, cut_lines, text_of

STATUSES = {"done": "FINISHED", "found": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
LOGGED = "mlflow.loggedArtifacts"


def run_name(merge: str, weight: float | None, model: str, bias: str, swept: Mapping[str, Any] | None = None) -> str:
    """`slerp 0.3 · smollm2 · pocket_bbq`, what differs first; `swept` holds other overrides that vary in the sweep."""
    head = merge if weight is None or math.isnan(weight) else f"{merge} {weight:g}"
    return " · ".join([head, model, bias, *(f"{key}={text_of(value)}" for key, value in (swept or {}).items())])


@speaks
def start_cell(
    uri: str, experiment: str, sweep: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> str:
    """Open a run, shown as running so that a long sweep can be watched. Returns its id.

    params  the resolved choice of every group
    tags    `kind` is `cell` unless given (`base` for the unmerged model); `code` is the code revision; artefact keys
    """
    return open_run(uri, experiment, sweep, name, params, {"kind": "cell", **tags})


@speaks
def finish_cell(
    uri: str,
    run_id: str,
    status: str,
    metrics: Mapping[str, float] | None = None,
    *,
    weight: float | None = None,
    tags: Mapping[str, str] | None = None,
    artifacts: Iterable[Path] = (),
    epochs: Iterable[Mapping[str, float]] = (),
    error: str | None = None,
    datasets: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Log what a cell found and close its run.

    status     done | found | failed | killed
    metrics    nan and inf are left out, and named in the tag `undefined`
    weight     its place on the charts' axis, where the cells then lie on their curves; None (the base) is 0
    artifacts  files and folders
    epochs     metrics of a training, epoch by epoch from 0 on: curves of their own
    error      a tag and the run's description; a long one whole in error.txt
    datasets   {name, source, digest, rows, and context (default `evaluation`)}: shown as the run's inputs
    """
    if status not in STATUSES:
        raise TrackingError(f"status: expected one of {', '.join(STATUSES)}, came {status!r}")
    client, notes = client_of(uri), {"status": status}
    if error:
        notes |= {"error": error, NOTE: f"{status}\n```\n{cut(error, TAG_LENGTH - 100)}\n```"}
        if len(error) > TAG_LENGTH - 100:
            client.log_text(run_id, error, "error.txt")
    log_inputs(client, run_id, datasets)
    log_values(
        client,
        run_id,
        [
            *metrics_at(metrics or {}, step_of(weight)),
            *(each for epoch, told in enumerate(epochs) for each in metrics_at(told, epoch)),
        ],
        {},
        {**(tags or {}), **notes, **undefined(metrics or {})},
    )
    for path in artifacts:
        log_path(client, run_id, Path(path))
    client.set_terminated(run_id, STATUSES[status])


@speaks
def close_open(uri: str, experiment: str, sweep: str, error: str) -> int:
    """Close the cells of a sweep whose process is gone and that would be shown as running for ever. Returns how many.

    To be called when no cell of the sweep lives any more.
    """
    client = client_of(uri)
    open_runs = [
        run
        for kind in ("cell", "base")
        for run in search(client, experiment, sweep, kind)
        if run.info.status == "RUNNING"
    ]
    for run in open_runs:
        finish_cell(uri, run.info.run_id, "killed", error=error)
    return len(open_runs)


@speaks
def known_runs(uri: str, experiment: str, sweep: str) -> dict[str, dict[str, str]]:
    """Runs of a sweep's cells and bases: run id -> {kind, status (MLflow's), base_id}."""
    client = client_of(uri)
    return {
        run.info.run_id: {"kind": kind, "status": run.info.status, "base_id": run.data.tags.get("base_id", "")}
        for kind in ("cell", "base")
        for run in search(client, experiment, sweep, kind)
    }


@speaks
def start_summary(
    uri: str, experiment: str, sweep: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> str:
    """Open the summary run of a sweep, or open it again when the sweep is aggregated a second time. Returns its id."""
    client = client_of(uri)
    for key, value in views(sweep).items():
        client.set_experiment_tag(experiment_id(client, experiment), key, value)
    for run in search(client, experiment, sweep, "summary"):
        client.update_run(run.info.run_id, status="RUNNING")
        log_values(client, run.info.run_id, [], {}, tags)
        return run.info.run_id
    return open_run(uri, experiment, sweep, name, params, {"kind": "summary", **tags})


@speaks
def finish_summary(
    uri: str,
    run_id: str,
    results: Path,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    description: str = "",
    status: str = "done",
) -> None:
    """Log a sweep's results folder, its table once more as one that the UI shows, and the description; close the run.

    description  Markdown (the table); cut between lines where MLflow's limit is passed
    """
    import pandas as pd

    client, results = client_of(uri), Path(results)
    for path in sorted(results.iterdir()):
        log_path(client, run_id, path)
    own = {"status": status, NOTE: cut_lines(description, TAG_LENGTH), **undefined(metrics or {})}
    if (results / "table.csv").exists():
        # Not `log_table`: it appends to what an earlier aggregation has logged.
        client.log_text(run_id, pd.read_csv(results / "table.csv").to_json(orient="split", index=False), "table.json")
        own[LOGGED] = json.dumps([{"path": "table.json", "type": "table"}])
    log_values(client, run_id, metrics_at(metrics or {}), {}, {**(tags or {}), **own})
    client.set_terminated(run_id, STATUSES[status])
