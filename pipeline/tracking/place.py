"""The store of the runs: made, checked, opened."""

import os
import re
import shlex
import socket
import sqlite3
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import TrackingError
from pipeline.tracking.client import client_of, experiment_id, quiet, speaks
from pipeline.tracking.views import DESCRIPTION, views
from pipeline.tracking.words import NOTE, sentence, shown

SECONDS = 5  # how long a server, or another process that writes, may keep us waiting in `prepare`
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


@speaks
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
            f"came {shown(uri)!r}; MLflow no longer keeps runs in a plain folder"
        )
    _open_experiment(uri, experiment, files)
    return uri


@speaks
def how_to_open(uri: str, experiment: str) -> str:
    """The command that serves the store (none for a server), and the addresses of the curves, cells and sweeps."""
    server = shown(uri).rstrip("/") if urlsplit(uri).scheme in ("http", "https") else "http://127.0.0.1:5000"
    page = (
        f"{server}/#/experiments/{experiment_id(client_of(uri), experiment)}/runs"
        "?workflowType=machine_learning&viewStateShareKey="
    )
    links = [
        f"{page}curves&compareRunsMode=CHART",
        f"{page}cells&compareRunsMode=CHART",
        f"{page}cells",
        f"{page}sweeps",
    ]
    if server == shown(uri).rstrip("/"):
        return "\n".join(links)
    mlflow = Path(sys.executable).with_name("mlflow")
    command = str(mlflow.relative_to(Path.cwd())) if mlflow.is_relative_to(Path.cwd()) else str(mlflow)
    # One worker and no job runner: it answers after about 10 seconds instead of 17 to 57.
    serve = (
        f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true {shlex.quote(command)} server "
        f"--workers 1 --port 5000 --backend-store-uri {shlex.quote(shown(uri))}"
    )
    return "\n".join([serve, *links])


def _database(uri: str) -> Path:
    """The absolute file of a SQLite address."""
    path = uri.removeprefix("sqlite:///")
    if path == uri or not path or path.startswith(":memory:") or "?" in path:
        raise TrackingError(
            f"tracking.uri: expected sqlite:///FILE, came {shown(uri)!r}; "
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
    quiet()
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
            f"{sentence(cause)}; free or choose another place"
        ) from cause


def _check_database(uri: str, port: int) -> None:
    address = urlsplit(uri)
    if address.hostname:
        try:
            socket.create_connection((address.hostname, address.port or port), timeout=SECONDS).close()
        except OSError as cause:
            raise TrackingError(
                f"tracking.uri: expected a database at {shown(uri)}, but it does not answer ({cause})"
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
                f"tracking.uri: expected an MLflow server at {shown(uri)}, but it answers {answer.code} {answer.reason}"
            ) from answer
    except (OSError, ValueError) as cause:
        raise TrackingError(
            f"tracking.uri: expected an MLflow server at {shown(uri)}, but nothing answers there "
            f"within {SECONDS} seconds ({getattr(cause, 'reason', cause)}); start it or change "
            "the address"
        ) from cause


def _open_experiment(uri: str, name: str, files: Path | None) -> None:
    location = str(files / re.sub(r"[^\w.-]", "_", name)) if files else None
    client = client_of(uri)
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
    for key, value in (described | views()).items():
        if key not in known.tags:
            try:
                client.set_experiment_tag(known.experiment_id, key, value)
            except Exception:
                if key not in client.get_experiment(known.experiment_id).tags:  # else another sweep set it a moment ago
                    raise
