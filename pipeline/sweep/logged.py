"""What a sweep tells MLflow; a failure to log never costs a result."""

import contextlib
from pathlib import Path

from pipeline.errors import TrackingError
from pipeline.sweep.record import Sweep
from pipeline.sweep.words import choices, complain


@contextlib.contextmanager
def tracked(sweep: Sweep, what: str):
    """The tracking module, or None where tracking is off; a failure to log never costs a result."""
    if not sweep.record["tracking"]:
        yield None
        return
    from pipeline import tracking

    try:
        yield tracking
    except TrackingError as error:
        again = f"stages=[aggregate] sweep={sweep.folder} logs them again"
        complain(f"MLflow did not take {what}", f"{error} (the results are kept; {again})", "yellow")


def start_run(tracking, sweep: Sweep, config: dict, record: dict) -> str | None:
    if tracking is None:
        return None
    told = choices(config)
    swept = {
        key: value for key, value in record["overrides"].items() if key not in ("merge", "weight", "model", "bias")
    }
    name = tracking.run_name(
        told["merge"],
        told["weight"],
        told["model"],
        told["bias"],
        {key: value for key, value in swept.items() if sweep.varies(key)},
    )
    return tracking.start_cell(
        sweep.record["tracking"],
        sweep.record["experiment"],
        sweep.record["id"],
        name,
        _params(config),
        {"code": sweep.record["code"]},
    )


def finish_run(tracking, sweep: Sweep, record: dict, cost: dict) -> None:
    if tracking is None or record["run_id"] is None:
        return
    result = record["result"]
    metrics = (
        _metrics(result["row"]) | cost if result else {}
    )  # a failed run with a cost alone would rule the Compare view
    tags = {key.split("-")[0]: key for key in result["artifacts"]} if result else {}
    tracking.finish_cell(
        sweep.record["tracking"],
        record["run_id"],
        record["status"],
        metrics,
        weight=record["choices"]["weight"],
        tags=tags,
        artifacts=[Path(record["folder"]) / "cell.json", *_of_tuning(result)],
        epochs=_epochs(result),
        error=record["error"],
        datasets=result["datasets"] if result else [],
    )


def _of_tuning(result: dict | None) -> list[Path]:
    """What the tunings of a cell wrote for people to look at."""
    folders = [Path(folder) for folder in (result or {}).get("tuned", {}).values()]
    return [path for folder in folders for kind in ("*.parquet", "units.*g") for path in sorted(folder.glob(kind))]


def _epochs(result: dict | None) -> list[dict[str, float]]:
    """What was measured after each epoch of the tunings, under the names of their groups, epoch by epoch."""
    import pandas

    records: dict[int, dict] = {}
    for group, folder in (result or {}).get("tuned", {}).items():
        for row in pandas.read_parquet(Path(folder) / "epochs.parquet").to_dict("records"):
            told = {f"{group}.epoch.{key}": value for key, value in row.items() if key != "epoch"}
            records.setdefault(int(row["epoch"]), {}).update(told)
    return [records[epoch] for epoch in sorted(records)]


def log_cells_again(tracking, sweep: Sweep, records: list[dict]) -> None:
    """Log what was not logged when a cell ended: the server was away, or the cell's own process is gone."""
    if tracking is None:
        return
    known = tracking.known_runs(sweep.record["tracking"], sweep.record["experiment"], sweep.record["id"])
    for record, asked in zip(records, sweep.record["cells"], strict=True):
        if not record.get("result") or known.get(record["run_id"], {}).get("status") in ("FINISHED", "FAILED"):
            continue
        if record["run_id"] not in known:
            record["run_id"] = start_run(tracking, sweep, asked["config"], record)
        finish_run(tracking, sweep, record, record.get("cost", {}))


def log_bases(tracking, sweep: Sweep, frame) -> None:
    """A run for every unmerged base, so that it stands beside the cells in the Compare view; once a sweep."""
    if tracking is None:
        return
    uri, experiment, name = sweep.record["tracking"], sweep.record["experiment"], sweep.record["id"]
    known = tracking.known_runs(uri, experiment, name)
    logged = {told["base_id"]: run for run, told in known.items() if told["kind"] == "base"}
    for index, row in frame[frame["merge"].eq("keep") & frame["run_id"].isna() & frame["base_id"].notna()].iterrows():
        if row["base_id"] not in logged:
            told = row.dropna().to_dict()
            params = {key: told.get(key) for key in ("merge", "weight", "model", "bias", "accuracy_set", "seed")}
            tags = {"kind": "base", "code": sweep.record["code"], "base_id": row["base_id"]}
            title = tracking.run_name("base", None, row["model"], row["bias"])
            logged[row["base_id"]] = tracking.start_cell(uri, experiment, name, title, params, tags)
            key = {"merge": row["merge_key"]}
            tracking.finish_cell(uri, logged[row["base_id"]], row["status"], _metrics(told), tags=key)
        frame.loc[index, "run_id"] = logged[row["base_id"]]


def log_summary(tracking, sweep: Sweep, frame, axes: tuple[str, ...], results: Path, failed: int) -> None:
    if tracking is None:
        return
    from pipeline.report.table import arrange

    uri, experiment, name = sweep.record["tracking"], sweep.record["experiment"], sweep.record["id"]
    tags = {"code": sweep.record["code"]}
    tracking.close_open(uri, experiment, name, "the process that ran this cell is gone")
    tracking.log_curves(uri, experiment, name, arrange(frame, axes), tags)
    run = tracking.start_summary(uri, experiment, name, f"sweep {name}", {"command": sweep.record["command"]}, tags)
    tracking.finish_summary(
        uri,
        run,
        results,
        {"sweep.cells": len(sweep.record["cells"]), "sweep.cells_failed": failed},
        {},
        (results / "table.md").read_text(),
        "failed" if failed else "done",
    )


def _metrics(row: dict) -> dict[str, float]:
    names = {"effective_weight": "merge.effective_weight", "off_axis": "merge.off_axis"}
    return {
        names.get(key, key): float(value)
        for key, value in row.items()
        if key not in ("weight", "seed") and isinstance(value, (int, float)) and not isinstance(value, str)
    }


def _params(config: dict) -> dict:
    """The resolved choice of every group, what a sweep varies most first."""
    flat = choices(config) | {"limit": config["limit"]}
    for group in ("model", "donor", "merge", "debias", "machine"):
        flat |= {
            f"{group}.{key}": value for key, value in config[group].items() if key not in ("name", "version", "files")
        }
    return flat
