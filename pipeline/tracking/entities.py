"""What one run holds: parameters, metrics, tags, inputs, files."""

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import TrackingError
from pipeline.tracking.client import client_of, experiment_id
from pipeline.tracking.words import NAME_LENGTH, PARAM_LENGTH, TAG_LENGTH, cut, mended, text_of

SHORT_DIGEST = 12  # MLflow takes 36 characters, its list shows few; the whole sha256 goes into the source
BATCH = {"metrics": 800, "params": 100, "tags": 100}
CURVE_STEPS = 1000  # steps on MLflow's axis are integers: step = round(1000 * weight)


def open_run(
    uri: str, experiment: str, sweep: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> str:
    client = client_of(uri)
    source = {"mlflow.source.name": "pipeline", "mlflow.source.type": "LOCAL"}
    if tags.get("code"):
        source["mlflow.source.git.commit"] = tags["code"]
    run = client.create_run(
        experiment_id(client, experiment),
        run_name=name[:NAME_LENGTH],
        tags={key: cut(text_of(value), TAG_LENGTH) for key, value in ({"sweep": sweep} | source | dict(tags)).items()},
    )
    log_values(client, run.info.run_id, [], params, {})
    return run.info.run_id


def log_values(client, run_id: str, metrics: list, params: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
    """log_batch, which is 14 to 50 times as fast as one call a value, within its limits."""
    from mlflow.entities import Param, RunTag

    entities = {
        "metrics": metrics,
        "params": [Param(k, cut(text_of(v), PARAM_LENGTH)) for k, v in mended(params).items()],
        "tags": [RunTag(k, cut(text_of(v), TAG_LENGTH)) for k, v in mended(tags).items()],
    }
    while any(entities.values()):
        client.log_batch(run_id, **{kind: rows[: BATCH[kind]] for kind, rows in entities.items()})
        entities = {kind: rows[BATCH[kind] :] for kind, rows in entities.items()}


def metrics_at(values: Mapping[str, float], step: int = 0) -> list:
    """Finite metrics only: MLflow keeps nan as a 0 with a flag and inf as 1.8e308, and its charts draw both."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value in mended(values).items() if math.isfinite(value)]


def step_of(weight: float | None) -> int:
    return 0 if weight is None or math.isnan(weight) else round(CURVE_STEPS * weight)


def undefined(values: Mapping[str, float]) -> dict[str, str]:
    names = [name for name, value in values.items() if not math.isfinite(value)]
    return {"undefined": ", ".join(names)} if names else {}


def log_inputs(client, run_id: str, datasets: Iterable[Mapping[str, Any]]) -> None:
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


def log_path(client, run_id: str, path: Path) -> None:
    # MLflow takes a folder that is not there for an empty one.
    if not path.exists():
        raise TrackingError(f"expected {path} to log it, but it is not there")
    if path.is_dir():
        client.log_artifacts(run_id, str(path), artifact_path=path.name)
    else:
        client.log_artifact(run_id, str(path))
