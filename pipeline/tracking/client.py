"""How MLflow is spoken to: quietly, and so that nothing but TrackingError comes out."""

import functools
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import TrackingError
from pipeline.tracking.words import sentence, shown


def speaks(task: Callable) -> Callable:
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
                f"tracking.uri: expected MLflow at {shown(uri)} to carry out "
                f"{task.__name__.replace('_', ' ')}, but it says: {sentence(cause)}"
            ) from cause

    return guarded


def client_of(uri: str):
    """MlflowClient, quiet; unlike MLflow's global functions it heeds no MLFLOW_RUN_ID and asks git nothing."""
    database = uri.removeprefix("sqlite:///")
    if database != uri and not Path(database).exists():
        # MLflow would create it, and many processes at once would crash: only `prepare` may.
        raise TrackingError(f"tracking.uri: expected the MLflow store that was prepared at {database}, but it is gone")
    quiet()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def quiet() -> None:
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


def experiment_id(client, name: str) -> str:
    known = client.get_experiment_by_name(name)
    if known is None:
        raise TrackingError(
            f"tracking.experiment: expected {name!r} in the store, but it is not there; "
            "was it deleted since the sweep began?"
        )
    return known.experiment_id


def search(client, experiment: str, sweep: str, kind: str) -> list:
    only, found, token = f"tags.sweep = '{sweep}' and tags.kind = '{kind}'", [], ""
    while token is not None:
        page = client.search_runs([experiment_id(client, experiment)], only, page_token=token or None)
        found, token = found + list(page), page.token or None
    return found
