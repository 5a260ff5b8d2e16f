"""The store is prepared once, cells log from many processes, and nothing but TrackingError comes out."""

import json
import math
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pandas as pd
import pytest

from pipeline import tracking
from pipeline.errors import TrackingError
from pipeline.tracking import place
from pipeline.tracking.client import client_of, experiment_id, search
from pipeline.tracking.curves import BASE_COLOUR, COLOUR, COLOURS
from pipeline.tracking.runs import LOGGED
from pipeline.tracking.views import VIEWS
from pipeline.tracking.words import NOTE

EXPERIMENT, SWEEP = "pipeline", "2026-11-22/0"


@pytest.fixture(scope="session")
def migrated(tmp_path_factory) -> Path:
    """A store without our experiment: making one takes seconds."""
    runs = tmp_path_factory.mktemp("migrated")
    tracking.prepare(None, "another", runs)
    return runs / "mlflow.db"


@pytest.fixture
def uri(migrated, tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copy(migrated, tmp_path / "runs" / "mlflow.db")
    return tracking.prepare(None, EXPERIMENT, Path("runs"))


def read(uri: str, run_id: str):
    return client_of(uri).get_run(run_id)


def history(uri: str, run_id: str, metric: str) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in client_of(uri).get_metric_history(run_id, metric))


def python(script: str, *arguments: str, **settings) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        capture_output=True,
        text=True,
        cwd=Path(tracking.__file__).parents[2],
        **settings,
    )


def cell(uri: str, name: str = "slerp 0.3 · smollm2 · pocket_bbq", **settings) -> str:
    params = {"merge": "slerp", "weight": 0.3, "limit": None}
    return tracking.start_cell(
        uri, EXPERIMENT, SWEEP, name, params, {"code": "3f2a9c1", "key.merge": "ab12", **settings}
    )


def table(**columns) -> pd.DataFrame:
    """One base and two curves, with the columns of table.csv that matter here."""
    rows = [
        ("keep", math.nan, 0.3, 0.6),
        ("slerp", 0.5, 0.1, 0.5),
        ("slerp", 0.3, 0.2, 0.55),
        ("ties", 0.3, 0.25, 0.58),
        ("ties", 0.5, math.nan, math.nan),
    ]
    frame = pd.DataFrame(
        [
            {
                "model": "smollm2",
                "donor": None if merge == "keep" else "bias_inverted",
                "merge": merge,
                "weight": weight,
                "bias": "pocket_bbq",
                "accuracy_set": "pocket",
                "seed": 0,
                "items": 9,
                "bias_score": bias,
                "accuracy": accuracy,
                "ruined": False,
                "run_id": None,
            }
            for merge, weight, bias, accuracy in rows
        ]
    )
    return frame.assign(**columns)


# --- the store ---


def test_importing_is_cheap():
    loaded = python(
        "import sys, pipeline.tracking; print([m for m in ('mlflow', 'pandas', 'sqlalchemy') if m in sys.modules])"
    )
    assert loaded.stdout.strip() == "[]", loaded.stderr


def test_default_store_is_absolute_and_beside_the_runs(uri, tmp_path):
    assert uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert tracking.prepare("sqlite:///runs/mlflow.db", EXPERIMENT, Path("elsewhere")) == uri
    run_id = cell(uri)
    assert read(uri, run_id).info.artifact_uri == f"{tmp_path}/runs/mlartifacts/{EXPERIMENT}/{run_id}/artifacts"
    assert sorted(os.listdir(tmp_path)) == ["runs"]


def test_parents_that_prepare_at_once_and_cells_that_start_at_once(tmp_path):
    """On a fresh store MLflow itself crashes here; and nothing of it is to be read on the screen."""
    script = """
import multiprocessing, sys
from pathlib import Path
from pipeline import tracking
many = multiprocessing.get_context("forkserver")
many.set_forkserver_preload(["mlflow", "pipeline.tracking"])
with many.Pool(8) as pool:
    uris = pool.starmap(tracking.prepare, [(None, "pipeline", Path(sys.argv[1]))] * 2, chunksize=1)
    ids = pool.starmap(tracking.start_cell, [(uris[0], "pipeline", "s", f"cell {i}", {"weight": i}, {}) for i in range(16)],
                       chunksize=1)
    pool.starmap(tracking.finish_cell, [(uris[0], i, "done", {"bias_score": 0.5}) for i in ids], chunksize=1)
print(len(set(ids)), uris[0] == uris[1])
"""
    done = python(script, str(tmp_path / "runs"), env={**os.environ, "MLFLOW_RUN_ID": "f" * 32})
    assert (done.stdout.strip(), done.stderr) == ("16 True", "")
    assert sorted(os.listdir(tmp_path / "runs")) == ["mlartifacts", "mlflow.db"]
    with sqlite3.connect(tmp_path / "runs" / "mlflow.db") as database:
        assert database.execute(
            "select count(*), count(distinct name) from runs where status='FINISHED'"
        ).fetchone() == (16, 16)


def test_a_closed_port_is_one_sentence(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://user:secret@127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(TrackingError, match=r"tracking\.uri.*127\.0\.0\.1") as failure:
        tracking.prepare(address, EXPERIMENT, tmp_path)
    assert "secret" not in str(failure.value) and "\n" not in str(failure.value)


def test_a_server_in_trouble_is_one_sentence(tmp_path):
    class Trouble(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(503)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Trouble)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(TrackingError, match=r"tracking\.uri.*answers 503"):
            tracking.prepare(f"http://127.0.0.1:{server.server_port}", EXPERIMENT, tmp_path)
    finally:
        server.shutdown()
        server.server_close()


def test_a_database_that_does_not_answer_is_one_sentence(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"postgresql://me:secret@127.0.0.1:{free.getsockname()[1]}/db"
    with pytest.raises(TrackingError, match=r"tracking\.uri.*does not answer") as failure:
        tracking.prepare(address, EXPERIMENT, tmp_path)
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize(
    "address", ["runs/mlruns", "file:///tmp/mlruns", "sqlite://", "sqlite:///:memory:", "sqlite:///a?b=c"]
)
def test_addresses_that_cannot_be_shared_are_refused(address, tmp_path):
    with pytest.raises(TrackingError, match=r"tracking\.uri: expected sqlite:///FILE"):
        tracking.prepare(address, EXPERIMENT, tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match=r"tracking\.uri.*cannot \(Not a directory\)"):
        tracking.prepare(None, EXPERIMENT, tmp_path / "file" / "runs")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(TrackingError, match=r"tracking\.uri.*Permission denied"):
        tracking.prepare(None, EXPERIMENT, tmp_path / "runs")


def test_a_full_disk_is_refused_and_leaves_no_half_store(tmp_path):
    """A limit on the size of files stands for the disk: the store (about 1 MB) does not fit."""
    script = """
import resource, sys
from pathlib import Path
from pipeline import errors, tracking
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    tracking.prepare(None, "pipeline", Path(sys.argv[1]))
except errors.TrackingError as error:
    print(error)
"""
    done = python(script, str(tmp_path))
    assert done.stdout.startswith("tracking.uri: expected to make an MLflow store at") and done.stdout.count("\n") == 1
    assert done.stderr == "" and os.listdir(tmp_path) == ["mlartifacts"]


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database, and long enough to be taken for the header of one" * 9)
    with pytest.raises(TrackingError, match="not a database"):
        tracking.prepare(None, EXPERIMENT, tmp_path)


def test_a_store_that_another_process_keeps_locked_is_refused(uri, tmp_path, monkeypatch):
    monkeypatch.setattr(place, "SECONDS", 0.01)
    other = sqlite3.connect(tmp_path / "runs" / "mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(TrackingError, match="locked"):
        tracking.prepare(uri, EXPERIMENT, tmp_path)
    other.close()


def test_a_store_of_another_version_is_refused(migrated, tmp_path):
    with sqlite3.connect(shutil.copy(migrated, tmp_path)) as database:
        database.execute("update alembic_version set version_num = '451aebb31d03'")
    database.close()
    with pytest.raises(TrackingError, match=r"tracking\.uri.*out-of-date"):
        tracking.prepare(None, EXPERIMENT, tmp_path)


def test_a_store_that_is_gone_is_not_made_anew_by_a_cell(uri, tmp_path):
    (tmp_path / "runs" / "mlflow.db").unlink()
    with pytest.raises(TrackingError, match="prepared"):
        cell(uri)
    assert not (tmp_path / "runs" / "mlflow.db").exists()


def test_a_moved_store_would_write_to_the_old_place(uri, tmp_path):
    (tmp_path / "runs").rename(tmp_path / "moved")
    with pytest.raises(TrackingError, match=r"tracking\.experiment.*moved"):
        tracking.prepare(None, EXPERIMENT, tmp_path / "moved")


def test_a_deleted_experiment_is_not_revived(uri, tmp_path):
    client = client_of(uri)
    client.delete_experiment(client.get_experiment_by_name(EXPERIMENT).experiment_id)
    with pytest.raises(TrackingError, match="restore"):
        tracking.prepare(uri, EXPERIMENT, tmp_path)


def test_preparing_again_keeps_what_people_wrote(uri, tmp_path):
    client = client_of(uri)
    number = client.get_experiment_by_name(EXPERIMENT).experiment_id
    client.set_experiment_tag(number, NOTE, "ours")
    tracking.prepare(uri, EXPERIMENT, tmp_path)
    assert client.get_experiment(number).tags[NOTE] == "ours"


def test_how_to_open(uri):
    command, *links = tracking.how_to_open(uri, EXPERIMENT).splitlines()
    assert command.endswith(f" server --workers 1 --port 5000 --backend-store-uri {uri}")
    assert links[0].startswith("http://127.0.0.1:5000/#/experiments/") and len(links) == 4


def test_views_show_the_latest_sweep(uri):
    tracking.start_summary(uri, EXPERIMENT, SWEEP, "summary", {}, {})
    tags = client_of(uri).get_experiment_by_name(EXPERIMENT).tags
    states = {key: json.loads(json.loads(tags[f"mlflow.sharedViewState.{key}"])["state"]) for key in VIEWS}
    assert states["curves"]["searchFilter"] == f"tags.kind = 'curve' and tags.sweep = '{SWEEP}'"
    assert SWEEP not in states["all"]["searchFilter"]
    assert "params.`weight`" in states["cells"]["selectedColumns"]


# --- cells ---


def test_a_cell_runs_and_is_done(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "77")
    run_id = cell(uri)
    started = read(uri, run_id)
    assert started.info.status == "RUNNING" and started.info.run_name == "slerp 0.3 · smollm2 · pocket_bbq"
    assert started.data.params == {"merge": "slerp", "weight": "0.3", "limit": "none"}
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside.txt").write_text("x")
    (tmp_path / "cell.json").write_text("{}")
    data = {"name": "pocket_bbq", "source": "pipeline/pocket/bbq.jsonl", "digest": "d" * 64, "rows": 480}
    tracking.finish_cell(
        uri,
        run_id,
        "done",
        {"bias_score": 0.2, "cost.merge_seconds": 3},
        weight=0.3,
        artifacts=[tmp_path / "folder", tmp_path / "cell.json"],
        tags={"key.answers": "cd34"},
        datasets=[data, {**data, "name": "web", "source": "https://example.org/x", "context": "training"}],
    )
    done = read(uri, run_id)
    assert done.info.status == "FINISHED" and done.data.metrics == {"bias_score": 0.2, "cost.merge_seconds": 3}
    assert (
        done.data.tags.items()
        >= {
            "kind": "cell",
            "sweep": SWEEP,
            "status": "done",
            "code": "3f2a9c1",
            "key.merge": "ab12",
            "key.answers": "cd34",
            "mlflow.source.git.commit": "3f2a9c1",
        }.items()
    )
    assert history(uri, run_id, "bias_score") == [(300, 0.2)]
    assert sorted(f.path for f in client_of(uri).list_artifacts(run_id)) == ["cell.json", "folder"]
    inputs = {i.dataset.name: i for i in done.inputs.dataset_inputs}
    assert json.loads(inputs["pocket_bbq"].dataset.source) == {"uri": data["source"], "sha256": data["digest"]}
    assert json.loads(inputs["pocket_bbq"].dataset.profile) == {"num_rows": 480}
    assert inputs["web"].dataset.source_type == "http" and inputs["web"].tags[0].value == "training"


@pytest.mark.parametrize(("status", "shown"), [("found", "FINISHED"), ("failed", "FAILED"), ("killed", "KILLED")])
def test_every_status_shows(uri, status, shown):
    run_id = cell(uri, kind="base")
    tracking.finish_cell(uri, run_id, status)
    run = read(uri, run_id)
    assert (run.info.status, run.data.tags["status"], run.data.tags["kind"]) == (shown, status, "base")


def test_an_unknown_status_is_refused(uri):
    with pytest.raises(TrackingError, match="done, found, failed, killed"):
        tracking.finish_cell(uri, cell(uri), "perhaps")


def test_undefined_metrics_are_named_not_logged(uri):
    run_id = cell(uri)
    tracking.finish_cell(uri, run_id, "done", {"bias_score": math.nan, "bbq.s_amb": math.inf, "accuracy": 0.5})
    run = read(uri, run_id)
    assert run.data.metrics == {"accuracy": 0.5} and run.data.tags["undefined"] == "bias_score, bbq.s_amb"


def test_names_that_mlflow_refuses_are_mended(uri):
    names = ["a,b%", "../up", "/root", "x//y", "bbq.s_amb.Race/x/Gender", "winogender (she+he)", "", ".", "é" * 300]
    run_id = tracking.start_cell(uri, EXPERIMENT, SWEEP, "n" * 600, dict.fromkeys(names, "v"), {})
    tracking.finish_cell(uri, run_id, "done", dict.fromkeys(names, 1.0), tags=dict.fromkeys(names, "v"))
    assert {"a_b_", "up", "root", "x/y", "bbq.s_amb.Race/x/Gender", "winogender _she_he_", "_", "__2"} < set(
        read(uri, run_id).data.metrics
    )


def test_a_long_error_keeps_both_ends_and_is_whole_in_a_file(uri, capfd):
    run_id, error = cell(uri), "Traceback\n" + "middle\n" * 5000 + "CheckpointError: the reason"
    tracking.finish_cell(uri, run_id, "failed", error=error)
    tag = read(uri, run_id).data.tags["error"]
    assert len(tag) <= 8000 and tag.startswith("Traceback") and tag.endswith("CheckpointError: the reason")
    folder = Path(read(uri, run_id).info.artifact_uri)
    assert (folder / "error.txt").read_text() == error
    assert capfd.readouterr() == ("", "")


def test_more_than_one_batch(uri):
    many = {f"m{i}": float(i) for i in range(1700)}
    params = {f"p{i}": {"a": [i, None]} for i in range(230)}
    run_id = tracking.start_cell(uri, EXPERIMENT, SWEEP, "many", params, {})
    tracking.finish_cell(uri, run_id, "done", many, tags={f"t{i}": "x" * 9000 for i in range(130)})
    run = read(uri, run_id)
    assert run.data.metrics == many and len(run.data.params) == 230 and run.data.params["p0"] == '{"a": [0, null]}'
    assert sum(key.startswith("t") for key in run.data.tags) == 130


def test_only_tracking_errors_come_out(uri, tmp_path):
    for task in (
        lambda: tracking.finish_cell(uri, "f" * 32, "done"),
        lambda: tracking.finish_cell(uri, cell(uri), "done", artifacts=[tmp_path / "absent"]),
        lambda: tracking.finish_cell(uri, cell(uri), "done", {"bias_score": "text"}),
        lambda: tracking.start_cell(uri, "absent", SWEEP, "x", {}, {}),
        lambda: tracking.finish_summary(uri, cell(uri), tmp_path / "absent"),
        lambda: tracking.log_curves(uri, EXPERIMENT, SWEEP, pd.DataFrame(), {}),
    ):
        with pytest.raises(TrackingError) as failure:
            task()
        assert "\n" not in str(failure.value)


def test_cells_whose_process_is_gone_are_closed(uri):
    lost, done = cell(uri), cell(uri)
    tracking.finish_cell(uri, done, "done")
    assert tracking.close_open(uri, EXPERIMENT, SWEEP, "the machine went down") == 1
    assert (read(uri, lost).info.status, read(uri, done).info.status) == ("KILLED", "FINISHED")
    assert read(uri, lost).data.tags["error"] == "the machine went down"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("slerp", 0.3, "smollm2", "pocket_bbq"), "slerp 0.3 · smollm2 · pocket_bbq"),
        (("keep", None, "smollm2", "pocket_bbq"), "keep · smollm2 · pocket_bbq"),
        (("keep", math.nan, "m", "b"), "keep · m · b"),
        (("ties", 1.0, "m", "b", {"merge.density": 0.2, "seed": 1}), "ties 1 · m · b · merge.density=0.2 · seed=1"),
    ],
)
def test_names_say_what_differs_first(arguments, name):
    assert tracking.run_name(*arguments) == name


# --- the sweep ---


def test_curves_start_at_the_base(uri):
    cells = [cell(uri) for _ in range(5)]
    curves = tracking.log_curves(uri, EXPERIMENT, SWEEP, table(run_id=cells), {"code": "3f2a9c1"})
    slerp, ties = (read(uri, run_id) for run_id in curves)
    assert [run.info.run_name for run in (slerp, ties)] == [
        "slerp · smollm2 · pocket_bbq",
        "ties · smollm2 · pocket_bbq",
    ]
    assert history(uri, curves[0], "bias_score") == [(0, 0.3), (300, 0.2), (500, 0.1)]
    assert history(uri, curves[0], "accuracy") == [(0, 0.6), (300, 0.55), (500, 0.5)]
    assert history(uri, curves[1], "bias_score") == [(0, 0.3), (300, 0.25)]  # the failed cell leaves a gap
    assert slerp.data.tags["kind"] == "curve" and slerp.info.status == "FINISHED"
    colours = [read(uri, run_id).data.tags[COLOUR] for run_id in cells]
    assert colours == [BASE_COLOUR] + [COLOURS[0]] * 2 + [COLOURS[1]] * 2


def test_curves_that_differ_in_a_setting_say_so(uri):
    frame = table(ruined=[False, True, False, False, False])
    frame.insert(7, "merge.density", [None, None, None, 0.2, 0.5])
    names = [read(uri, i).info.run_name for i in tracking.log_curves(uri, EXPERIMENT, SWEEP, frame, {})]
    assert names == [
        "slerp · smollm2 · pocket_bbq · merge.density=none",
        "ties · smollm2 · pocket_bbq · merge.density=0.2",
        "ties · smollm2 · pocket_bbq · merge.density=0.5",
    ]
    assert (
        "ruined"
        in client_of(uri)
        .search_runs([experiment_id(client_of(uri), EXPERIMENT)], "tags.ruined = '0.5'")[0]
        .data.tags[NOTE]
    )


def test_aggregating_again_replaces(uri, tmp_path):
    frame = table()
    frame.to_csv(tmp_path / "table.csv", index=False)
    (tmp_path / "tradeoff.png").write_bytes(b"png")
    first = tracking.start_summary(uri, EXPERIMENT, SWEEP, "summary", {"merge": "slerp,ties"}, {})
    before = tracking.log_curves(uri, EXPERIMENT, SWEEP, frame, {})
    results = tmp_path / "results"
    results.mkdir()
    for name in ("table.csv", "tradeoff.png"):
        (tmp_path / name).rename(results / name)
    for _ in range(2):
        assert tracking.start_summary(uri, EXPERIMENT, SWEEP, "summary", {"merge": "slerp,ties"}, {}) == first
        tracking.finish_summary(
            uri,
            first,
            results,
            {"sweep.cells": 4, "sweep.failed": math.nan},
            description="| merge |\n|---|\n" + "| ties |\n" * 2000,
        )
    after = tracking.log_curves(uri, EXPERIMENT, SWEEP, frame, {})
    client = client_of(uri)
    live = search(client, EXPERIMENT, SWEEP, "curve")
    assert {run.info.run_id for run in live} == set(after) and not set(after) & set(before)
    run = read(uri, first)
    assert (
        run.info.status == "FINISHED"
        and run.data.metrics == {"sweep.cells": 4}
        and run.data.tags["undefined"] == "sweep.failed"
    )
    assert len(run.data.tags[NOTE]) <= 8000 and run.data.tags[NOTE].endswith("in the artifact table.md")
    assert sorted(f.path for f in client.list_artifacts(first)) == ["table.csv", "table.json", "tradeoff.png"]
    logged = json.loads(Path(run.info.artifact_uri, "table.json").read_text())
    assert logged["columns"] == list(frame.columns) and len(logged["data"]) == 5
    assert json.loads(run.data.tags[LOGGED]) == [{"path": "table.json", "type": "table"}]
