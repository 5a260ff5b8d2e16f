"""What is logged to MLflow; the only file that knows it.

A parent process calls `prepare` once, before any cell starts: processes that open a fresh store together crash.
Then a cell, in whatever process, is a flat run: `start_cell`, later `finish_cell`. When all are through, the sweep
has one run of kind `curve` for each curve (`log_curves`) and one of kind `summary` (`start_summary`,
`finish_summary`). Only `TrackingError` leaves this file, so that a tracking failure never costs a computed result.
Importing it does not import MLflow, which takes two seconds.
"""

import functools
import json
import logging
import math
import os
import re
import shlex
import socket
import sqlite3
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import TrackingError

SECONDS = 5  # how long a server, or another process that writes, may keep us waiting in `prepare`
STATUSES = {"done": "FINISHED", "found": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
TAG_LENGTH, PARAM_LENGTH, NAME_LENGTH = 8000, 6000, 250  # MLflow's own limits
SHORT_DIGEST = 12  # MLflow takes 36 characters, its list shows few; the whole sha256 goes into the source
BATCH = {"metrics": 800, "params": 100, "tags": 100}
CURVE_STEPS = 1000  # steps on MLflow's axis are integers: step = round(1000 * weight)
BASE_COLUMNS = ("model", "bias", "accuracy_set", "seed")  # the base of a curve is the row `keep` with the same
NOTE, LOGGED = "mlflow.note.content", "mlflow.loggedArtifacts"

COLOUR = "mlflow.runColor"
# Okabe and Ito's palette, told apart with any colour vision; black is the unmerged base.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#b3a100")
BASE_COLOUR = "#000000"

# The UI's list shows no parameter and no metric until columns are chosen, and its charts mix all kinds of runs: so the
# experiment comes with saved views (menu Views), each a filter and columns.
CELL_COLUMNS = [
    "params.merge",
    "params.weight",
    "params.donor",
    "params.model",
    "params.bias",
    "metrics.bias_score",
    "metrics.accuracy",
    "metrics.merge.effective_weight",
    "metrics.merge.off_axis",
    "tags.status",
    "tags.sweep",
]
VIEWS = {
    "curves": ("Curves, latest sweep", "tags.kind = 'curve'", CELL_COLUMNS[:1] + CELL_COLUMNS[2:5]),
    "cells": ("Cells, latest sweep", "tags.kind != 'curve' and tags.kind != 'summary'", CELL_COLUMNS),
    "all": ("Cells, all sweeps", "tags.kind != 'curve' and tags.kind != 'summary'", CELL_COLUMNS),
    "sweeps": ("Sweeps", "tags.kind = 'summary'", ["tags.status", "tags.sweep", "tags.code"]),
}
DESCRIPTION = """Menu **Views**: curves (charts; step = 1000 · weight, the unmerged base at 0), cells, sweeps.

One run a cell (`tags.kind = 'cell'`, the unmerged model `'base'`), one a curve (`'curve'`), and one a sweep
(`'summary'`) with the table, the figures and the page. One sweep alone: `tags.sweep = '...'`.
"""


def _speaks(task: Callable) -> Callable:
    """Let nothing but TrackingError out of a function whose first argument is the store's address."""

    @functools.wraps(task)
    def guarded(uri: str | None, *arguments, **settings):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # MLflow's and SQLAlchemy's talk about each other
                return task(uri, *arguments, **settings)
        except TrackingError:
            raise
        except Exception as cause:
            raise TrackingError(
                f"tracking.uri: expected MLflow at {_shown(uri)} to carry out "
                f"{task.__name__.replace('_', ' ')}, but it says: {_sentence(cause)}"
            ) from cause

    return guarded


@_speaks
def prepare(uri: str | None, experiment: str, runs: Path) -> str:
    """Make the store ready for many processes: created, migrated, writable, the experiment in it. Returns its address.

    uri         sqlite:///PATH (made absolute), http(s)://..., postgresql://..., mysql://..., mssql://...;
                None is sqlite:///<runs>/mlflow.db
    experiment  name of the experiment; made if absent
    runs        folder of the default store. Files go to `mlartifacts` beside the SQLite file, for other databases
                to <runs>/mlartifacts, for servers to where the server keeps them.
    Raises TrackingError: cannot be written or reached within seconds, or is of another version of MLflow.
    """
    runs = Path(runs).absolute()
    uri = uri or f"sqlite:///{runs / 'mlflow.db'}"
    scheme = urlsplit(uri).scheme.split("+")[0]
    files: Path | None = runs / "mlartifacts"
    if scheme == "sqlite":
        database = _database(uri)
        uri, files = f"sqlite:///{database}", database.parent / "mlartifacts"
        _check_folder(files)
        _create(database, files)
    elif scheme in DATABASE_PORTS:
        _check_folder(files)
        _check_database(uri, DATABASE_PORTS[scheme])
    elif scheme in ("http", "https"):
        files = None
        _check_server(uri)
    else:
        raise TrackingError(
            f"tracking.uri: expected sqlite:///FILE, http(s)://SERVER or the address of a database, "
            f"came {_shown(uri)!r}; MLflow no longer keeps runs in a plain folder"
        )
    _open_experiment(uri, experiment, files)
    return uri


@_speaks
def how_to_open(uri: str, experiment: str) -> str:
    """The command that serves the store (none for a server), and the addresses of the curves, cells and sweeps."""
    server = _shown(uri).rstrip("/") if urlsplit(uri).scheme in ("http", "https") else "http://127.0.0.1:5000"
    page = (
        f"{server}/#/experiments/{_experiment(_client(uri), experiment)}/runs"
        "?workflowType=machine_learning&viewStateShareKey="
    )
    links = [
        f"{page}curves&compareRunsMode=CHART",
        f"{page}cells&compareRunsMode=CHART",
        f"{page}cells",
        f"{page}sweeps",
    ]
    if server == _shown(uri).rstrip("/"):
        return "\n".join(links)
    mlflow = Path(sys.executable).with_name("mlflow")
    command = str(mlflow.relative_to(Path.cwd())) if mlflow.is_relative_to(Path.cwd()) else str(mlflow)
    # One worker and no job runner: it answers after about 10 seconds instead of 17 to 57.
    serve = (
        f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true {shlex.quote(command)} server "
        f"--workers 1 --port 5000 --backend-store-uri {shlex.quote(_shown(uri))}"
    )
    return "\n".join([serve, *links])


def run_name(merge: str, weight: float | None, model: str, bias: str, swept: Mapping[str, Any] | None = None) -> str:
    """`slerp 0.3 · smollm2 · pocket_bbq`, what differs first; `swept` holds other overrides that vary in the sweep."""
    head = merge if weight is None or math.isnan(weight) else f"{merge} {weight:g}"
    return " · ".join([head, model, bias, *(f"{key}={_text(value)}" for key, value in (swept or {}).items())])


@_speaks
def start_cell(
    uri: str, experiment: str, sweep: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> str:
    """Open a run, shown as running so that a long sweep can be watched. Returns its id.

    params  the resolved choice of every group
    tags    `kind` is `cell` unless given (`base` for the unmerged model); `code` is the code revision; artefact keys
    """
    return _start(uri, experiment, sweep, name, params, {"kind": "cell", **tags})


@_speaks
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
    client, notes = _client(uri), {"status": status}
    if error:
        notes |= {"error": error, NOTE: f"{status}\n```\n{_cut(error, TAG_LENGTH - 100)}\n```"}
        if len(error) > TAG_LENGTH - 100:
            client.log_text(run_id, error, "error.txt")
    _log_inputs(client, run_id, datasets)
    _log(
        client,
        run_id,
        [
            *_metrics(metrics or {}, _step(weight)),
            *(each for epoch, told in enumerate(epochs) for each in _metrics(told, epoch)),
        ],
        {},
        {**(tags or {}), **notes, **_undefined(metrics or {})},
    )
    for path in artifacts:
        _log_path(client, run_id, Path(path))
    client.set_terminated(run_id, STATUSES[status])


@_speaks
def log_curves(uri: str, experiment: str, sweep: str, table, tags: Mapping[str, str]) -> list[str]:
    """One run for every curve of the sweep's table: bias_score and accuracy at step = round(1000 * weight).

    table  pandas frame with the columns of table.csv. The columns before `bias_score`, without weight and items,
           tell the curves apart; the first row `keep` of the same model, bias set, accuracy set and seed is step 0.
    The cells' runs (column `run_id`) take the colour of their curve.
    Curves that an earlier aggregation of the same sweep has logged are deleted first. Returns the run ids.
    """
    client = _client(uri)
    for old in _search(client, experiment, sweep, "curve"):
        client.delete_run(old.info.run_id)
    cells = {run.info.run_id for kind in ("cell", "base") for run in _search(client, experiment, sweep, kind)}
    identity = [c for c in table.columns[: list(table.columns).index("bias_score")] if c not in ("weight", "items")]
    kept = table[table["merge"] == "keep"]
    merged = table[(table["merge"] != "keep") & table["weight"].notna()]
    # A name says merge, model and bias set, and whatever else tells these curves apart.
    varying = [c for c in identity if c not in ("merge", "model", "bias") and merged[c].nunique(dropna=False) > 1]
    run_ids = []
    for choice, rows in merged.groupby(identity, dropna=False, sort=False):
        params = dict(zip(identity, choice, strict=True))
        columns = ["base_id"] if "base_id" in kept else [c for c in BASE_COLUMNS if c in kept]
        same = kept[columns].eq({c: rows[c].iloc[0] for c in columns})
        base = kept[same.all(axis=1)].head(1)
        points = [
            point
            for row in [*base.to_dict("records"), *rows.sort_values("weight").to_dict("records")]
            for point in _metrics({name: row[name] for name in ("bias_score", "accuracy")}, _step(row["weight"]))
        ]
        name = " · ".join(
            [*(str(params[c]) for c in ("merge", "model", "bias")), *(f"{c}={_text(params[c])}" for c in varying)]
        )
        colour = COLOURS[len(run_ids) % len(COLOURS)]
        own = {
            "kind": "curve",
            "status": "done",
            COLOUR: colour,
            NOTE: "step = 1000 · weight; step 0 is the unmerged base",
        }
        ruined = rows.loc[rows["ruined"].eq(True), "weight"]
        if len(ruined):
            own["ruined"] = ", ".join(f"{weight:g}" for weight in ruined)
            own[NOTE] += f"; ruined models, however unbiased they look, at weight {own['ruined']}"
        run_ids.append(_start(uri, experiment, sweep, name, params, {**tags, **own}))
        _log(client, run_ids[-1], points, {}, {})
        client.set_terminated(run_ids[-1], "FINISHED")
        for cell in cells.intersection(rows["run_id"]):
            client.set_tag(cell, COLOUR, colour)
    for cell in cells.intersection(kept["run_id"]):
        client.set_tag(cell, COLOUR, BASE_COLOUR)
    return run_ids


@_speaks
def start_summary(
    uri: str, experiment: str, sweep: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> str:
    """Open the summary run of a sweep, or open it again when the sweep is aggregated a second time. Returns its id."""
    client = _client(uri)
    for key, value in _views(sweep).items():
        client.set_experiment_tag(_experiment(client, experiment), key, value)
    for run in _search(client, experiment, sweep, "summary"):
        client.update_run(run.info.run_id, status="RUNNING")
        _log(client, run.info.run_id, [], {}, tags)
        return run.info.run_id
    return _start(uri, experiment, sweep, name, params, {"kind": "summary", **tags})


@_speaks
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

    client, results = _client(uri), Path(results)
    for path in sorted(results.iterdir()):
        _log_path(client, run_id, path)
    own = {"status": status, NOTE: _cut_lines(description, TAG_LENGTH), **_undefined(metrics or {})}
    if (results / "table.csv").exists():
        # Not `log_table`: it appends to what an earlier aggregation has logged.
        client.log_text(run_id, pd.read_csv(results / "table.csv").to_json(orient="split", index=False), "table.json")
        own[LOGGED] = json.dumps([{"path": "table.json", "type": "table"}])
    _log(client, run_id, _metrics(metrics or {}), {}, {**(tags or {}), **own})
    client.set_terminated(run_id, STATUSES[status])


@_speaks
def close_open(uri: str, experiment: str, sweep: str, error: str) -> int:
    """Close the cells of a sweep whose process is gone and that would be shown as running for ever. Returns how many.

    To be called when no cell of the sweep lives any more.
    """
    client = _client(uri)
    open_runs = [
        run
        for kind in ("cell", "base")
        for run in _search(client, experiment, sweep, kind)
        if run.info.status == "RUNNING"
    ]
    for run in open_runs:
        finish_cell(uri, run.info.run_id, "killed", error=error)
    return len(open_runs)


@_speaks
def known_runs(uri: str, experiment: str, sweep: str) -> dict[str, dict[str, str]]:
    """Runs of a sweep's cells and bases: run id -> {kind, status (MLflow's), base_id}."""
    client = _client(uri)
    return {
        run.info.run_id: {"kind": kind, "status": run.info.status, "base_id": run.data.tags.get("base_id", "")}
        for kind in ("cell", "base")
        for run in _search(client, experiment, sweep, kind)
    }


# --- the store ---


def _database(uri: str) -> Path:
    """The absolute file of a SQLite address."""
    path = uri.removeprefix("sqlite:///")
    if path == uri or not path or path.startswith(":memory:") or "?" in path:
        raise TrackingError(
            f"tracking.uri: expected sqlite:///FILE, came {_shown(uri)!r}; "
            "cells run in processes of their own and can share only a file"
        )
    return Path(path).absolute()


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(bytes(1 << 16))
    except OSError as cause:
        raise TrackingError(
            f"tracking.uri: expected a folder that can be written for MLflow's files, but {folder} "
            f"cannot ({cause.strerror}); free or choose another place"
        ) from cause


def _create(database: Path, files: Path) -> None:
    """A migrated SQLite store at `database`. Made aside and linked into place whole, the first of many wins."""
    # MLflow retries a database that it cannot open for almost an hour: ask SQLite itself first.
    if database.exists():
        try:
            connection = sqlite3.connect(database, timeout=SECONDS)
            try:
                connection.execute("PRAGMA schema_version")
                connection.execute("BEGIN IMMEDIATE")
                connection.rollback()
            finally:
                connection.close()
        except sqlite3.Error as cause:
            raise TrackingError(
                f"tracking.uri: expected an MLflow store that can be written, but {database} "
                f"cannot ({cause}); mend or move that file, or choose another"
            ) from cause
        return
    _quiet()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    try:
        with tempfile.TemporaryDirectory(dir=database.parent, prefix=f".{database.name}.") as aside:
            SqlAlchemyStore(f"sqlite:///{aside}/{database.name}", str(files))
            try:
                os.link(Path(aside, database.name), database)
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links
                if not database.exists():
                    os.replace(Path(aside, database.name), database)
    except Exception as cause:
        raise TrackingError(
            f"tracking.uri: expected to make an MLflow store at {database}, but: "
            f"{_sentence(cause)}; free or choose another place"
        ) from cause


def _check_database(uri: str, port: int) -> None:
    address = urlsplit(uri)
    if address.hostname:
        try:
            socket.create_connection((address.hostname, address.port or port), timeout=SECONDS).close()
        except OSError as cause:
            raise TrackingError(
                f"tracking.uri: expected a database at {_shown(uri)}, but it does not answer ({cause})"
            ) from cause
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
    engine.connect().close()


def _check_server(uri: str) -> None:
    try:
        urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=SECONDS).close()
    except urllib.error.HTTPError as answer:
        # A server behind a login may refuse this page and yet take our runs: the next call tells.
        if answer.code >= 500:
            raise TrackingError(
                f"tracking.uri: expected an MLflow server at {_shown(uri)}, "
                f"but it answers {answer.code} {answer.reason}"
            ) from answer
    except (OSError, ValueError) as cause:
        raise TrackingError(
            f"tracking.uri: expected an MLflow server at {_shown(uri)}, but nothing answers there "
            f"within {SECONDS} seconds ({getattr(cause, 'reason', cause)}); start it or change "
            "the address"
        ) from cause


def _open_experiment(uri: str, name: str, files: Path | None) -> None:
    location = str(files / re.sub(r"[^\w.-]", "_", name)) if files else None
    client = _client(uri)
    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            client.create_experiment(name, artifact_location=location)
        except Exception:
            if client.get_experiment_by_name(name) is None:  # else another sweep made it a moment ago
                raise
        known = client.get_experiment_by_name(name)
    if known.lifecycle_stage == "deleted":
        raise TrackingError(
            f"tracking.experiment: expected a live experiment, but {name!r} was deleted; restore it by "
            f"`mlflow experiments restore -x {known.experiment_id}`, or choose another name"
        )
    if (
        files
        and known.artifact_location != location
        and os.path.isabs(known.artifact_location)
        and not Path(known.artifact_location).exists()
    ):
        # MLflow stores the absolute folder: after a move it would write to the old place without a word.
        raise TrackingError(
            f"tracking.experiment: expected the files of {name!r} in {known.artifact_location}, but "
            "that folder is gone (was the store moved?); move it back, or choose another name"
        )
    # Without the kind the UI takes the runs for those of a chat application.
    described = {"mlflow.experimentKind": "custom_model_development", NOTE: DESCRIPTION}
    for key, value in (described | _views()).items():
        if key not in known.tags:
            try:
                client.set_experiment_tag(known.experiment_id, key, value)
            except Exception:
                if key not in client.get_experiment(known.experiment_id).tags:  # else another sweep set it a moment ago
                    raise


def _views(sweep: str | None = None) -> dict[str, str]:
    """The saved views as the UI keeps them, tags of the experiment; those of the latest sweep once there is one."""
    tags = {}
    for key, (title, only, columns) in VIEWS.items():
        if sweep and "latest" in title:
            only += f" and tags.sweep = '{sweep}'"
        state = {
            "searchFilter": only,
            "orderByKey": "attributes.start_time",
            "orderByAsc": False,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "runsHiddenMode": "SHOW_ALL",
            "selectedColumns": [f"{kind}.`{name}`" for kind, name in (column.split(".", 1) for column in columns)],
        }
        if columns is CELL_COLUMNS:
            state |= _cell_charts()
        tags[f"mlflow.sharedViewState.{key}"] = json.dumps(
            {"name": title, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)}
        )
    return tags


def _cell_charts() -> dict[str, Any]:
    """The trade-off and the settings as parallel axes, above the charts that the UI makes."""
    common = {"metricSectionId": "tradeoff", "runsCountToCompare": 100, "deleted": False, "isGenerated": False}
    scatter = {
        "uuid": "scatter",
        "type": "SCATTER",
        "xaxis": {"key": "accuracy", "type": "METRIC"},
        "yaxis": {"key": "bias_score", "type": "METRIC"},
    }
    parallel = {
        "uuid": "parallel",
        "type": "PARALLEL",
        "selectedParams": ["merge", "weight"],
        "selectedMetrics": ["accuracy", "bias_score"],
        "showAllRuns": True,
    }
    sections = {"tradeoff": "Trade-off", "model": "Model metrics", "system": "System metrics"}
    return {
        "compareRunCharts": [scatter | common, parallel | common],
        "isAccordionReordered": True,
        "compareRunSections": [
            {"uuid": key, "name": name, "display": True, "isReordered": False, "deleted": False, "isGenerated": False}
            for key, name in sections.items()
        ],
    }


def _client(uri: str):
    """MlflowClient, quiet; unlike MLflow's global functions it heeds no MLFLOW_RUN_ID and asks git nothing."""
    database = uri.removeprefix("sqlite:///")
    if database != uri and not Path(database).exists():
        # MLflow would create it, and many processes at once would crash: only `prepare` may.
        raise TrackingError(f"tracking.uri: expected the MLflow store that was prepared at {database}, but it is gone")
    _quiet()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _quiet() -> None:
    """MLflow imported, without telemetry and long waits, and silent."""
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # by default a dead server holds a cell for minutes
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",  # no open connection that a forked process would share
    }
    for key, value in settings.items():
        os.environ.setdefault(key, value)
    import mlflow  # noqa: F401  (sets its own log levels when imported)

    # Its errors reach us as exceptions; logged too, they would be a traceback on the user's screen.
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.ERROR)


# --- one run ---


def _start(uri: str, experiment: str, sweep: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    client = _client(uri)
    source = {"mlflow.source.name": "pipeline", "mlflow.source.type": "LOCAL"}
    if tags.get("code"):
        source["mlflow.source.git.commit"] = tags["code"]
    run = client.create_run(
        _experiment(client, experiment),
        run_name=name[:NAME_LENGTH],
        tags={key: _cut(_text(value), TAG_LENGTH) for key, value in ({"sweep": sweep} | source | dict(tags)).items()},
    )
    _log(client, run.info.run_id, [], params, {})
    return run.info.run_id


def _log(client, run_id: str, metrics: list, params: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
    """log_batch, which is 14 to 50 times as fast as one call a value, within its limits."""
    from mlflow.entities import Param, RunTag

    entities = {
        "metrics": metrics,
        "params": [Param(k, _cut(_text(v), PARAM_LENGTH)) for k, v in _mended(params).items()],
        "tags": [RunTag(k, _cut(_text(v), TAG_LENGTH)) for k, v in _mended(tags).items()],
    }
    while any(entities.values()):
        client.log_batch(run_id, **{kind: rows[: BATCH[kind]] for kind, rows in entities.items()})
        entities = {kind: rows[BATCH[kind] :] for kind, rows in entities.items()}


def _metrics(values: Mapping[str, float], step: int = 0) -> list:
    """Finite metrics only: MLflow keeps nan as a 0 with a flag and inf as 1.8e308, and its charts draw both."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value in _mended(values).items() if math.isfinite(value)]


def _step(weight: float | None) -> int:
    return 0 if weight is None or math.isnan(weight) else round(CURVE_STEPS * weight)


def _undefined(values: Mapping[str, float]) -> dict[str, str]:
    names = [name for name, value in values.items() if not math.isfinite(value)]
    return {"undefined": ", ".join(names)} if names else {}


def _log_inputs(client, run_id: str, datasets: Iterable[Mapping[str, Any]]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for data in datasets:
        source = {"uri": str(data["source"]), "sha256": str(data["digest"])}
        kind = "http" if urlsplit(source["uri"]).scheme in ("http", "https") else "local"
        if kind == "http":
            source["url"] = source.pop("uri")
        dataset = Dataset(
            data["name"],
            str(data["digest"])[:SHORT_DIGEST],
            kind,
            json.dumps(source),
            profile=json.dumps({"num_rows": int(data["rows"])}),
        )
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", data.get("context", "evaluation"))]))
    if inputs:
        client.log_inputs(run_id, inputs)


def _log_path(client, run_id: str, path: Path) -> None:
    # MLflow takes a folder that is not there for an empty one.
    if not path.exists():
        raise TrackingError(f"expected {path} to log it, but it is not there")
    if path.is_dir():
        client.log_artifacts(run_id, str(path), artifact_path=path.name)
    else:
        client.log_artifact(run_id, str(path))


def _experiment(client, name: str) -> str:
    known = client.get_experiment_by_name(name)
    if known is None:
        raise TrackingError(
            f"tracking.experiment: expected {name!r} in the store, but it is not there; "
            "was it deleted since the sweep began?"
        )
    return known.experiment_id


def _search(client, experiment: str, sweep: str, kind: str) -> list:
    only, found, token = f"tags.sweep = '{sweep}' and tags.kind = '{kind}'", [], ""
    while token is not None:
        page = client.search_runs([_experiment(client, experiment)], only, page_token=token or None)
        found, token = found + list(page), page.token or None
    return found


# --- words ---


def _mended(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under names that MLflow takes: words, and . - / : and spaces, and no path that means another one."""
    mended: dict[str, Any] = {}
    for name, value in values.items():
        plain = re.sub(r"[^\w.\-/: ]", "_", str(name))
        plain = "/".join(part for part in plain.split("/") if part.strip(". "))[: NAME_LENGTH - 4] or "_"
        same = sum(other == plain or re.fullmatch(re.escape(plain) + r"_\d+", other) is not None for other in mended)
        mended[plain if plain not in mended else f"{plain}_{same + 1}"] = value
    return mended


def _text(value: Any) -> str:
    """A value as it stands in YAML; null is `none`, an empty text would leave a hole in the table."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    return json.dumps(value, default=str) if isinstance(value, (dict, list, tuple)) else str(value)


def _cut(text: str, length: int) -> str:
    """Both ends of a text that is too long: of a traceback the last line says most."""
    if len(text) <= length:
        return text
    head = (length - 3) // 3
    return text[:head] + "\n…\n" + text[len(text) - (length - 3 - head) :]


def _cut_lines(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    more = "\n\n… the whole table is in the artifact table.md"
    return text[: length - len(more)].rpartition("\n")[0] + more


def _sentence(cause: Exception) -> str:
    lines = str(cause).strip().splitlines()
    return (lines[0][:300] if lines else "") or type(cause).__name__


def _shown(uri: str | None) -> str:
    """The address without a password."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", str(uri))
