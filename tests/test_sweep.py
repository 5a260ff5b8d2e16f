"""Whole sweeps on a tiny random model, offline: rows and columns, the second time, faults, kills."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest

from pipeline import sweep
from pipeline.report.table import COLUMNS
from pipeline.stages.aggregate import axes
from pipeline.store import MANIFEST
from pipeline.sweep import isolation, parent, words
from pipeline.sweep.record import INTERRUPTED
from tests import sweep_faults
from tests.tiny_language_model import tiny_language_model

GRID = ["merge=slerp,ties", "weight=0.3,0.5"]
COSTS = ["run_id", "status"]


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return tiny_language_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def settings(model) -> list[str]:
    return [f"model.base=path:{model}", "limit=12", "donor.epochs=1", "machine.threads=1"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", *arguments]


def run(where: Path, *arguments: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments),
        cwd=where,
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        **more,
    )


def results(where: Path) -> list[Path]:
    return sorted(where.glob("runs/sweeps/*/*/results"))


def table(where: Path, which: int = -1) -> pandas.DataFrame:
    return pandas.read_parquet(results(where)[which] / "table.parquet")


@pytest.fixture(scope="session")
def first(tmp_path_factory, settings) -> Path:
    """The user's own command, with its MLflow store."""
    where = tmp_path_factory.mktemp("first")
    told = run(where, "-m", *GRID, *settings)
    assert told.returncode == 0, told.stderr
    (where / "told.txt").write_text(told.stdout)
    return where


def test_four_cells_print_five_rows(first):
    frame = table(first)
    assert list(frame["merge"]) == ["keep", "slerp", "slerp", "ties", "ties"]
    assert frame.weight.isna().tolist() == [True, False, False, False, False]
    assert set(COLUMNS) <= set(frame.columns)
    assert frame.status.isin(["done", "found"]).all() and frame.error.fillna("").eq("").all()
    assert frame.run_id.notna().all() and frame.run_id.nunique() == 5
    assert (
        frame.bias_score.between(0, 1).all()
        and (frame.bias_low <= frame.bias_score).all()
        and (frame.bias_score <= frame.bias_high).all()
    )
    assert frame.accuracy.between(0, 1).all()
    slerp = frame[frame["merge"] == "slerp"]
    assert slerp.effective_weight.tolist() == pytest.approx([0.3, 0.5], abs=0.02)


def test_every_result_is_there_and_the_terminal_says_where(first):
    folder = results(first)[0]
    assert sorted(path.name for path in folder.iterdir()) == [
        "controls.csv",
        "pairs.csv",
        "report.md",
        "table.csv",
        "table.md",
        "table.parquet",
        "tradeoff.html",
        "tradeoff.png",
        "tradeoff.svg",
    ]
    told = (first / "told.txt").read_text()
    for word in ("tradeoff.html", "tradeoff.png", "table.csv", "mlflow", "slerp", "ties", "base"):
        assert word in told
    page = (folder / "tradeoff.html").read_text()
    assert "merge=slerp,ties weight=0.3,0.5" in page.replace("&#39;", "'"), "the page must show the exact command"


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning", "ignore::DeprecationWarning")
def test_mlflow_has_a_run_for_every_row_a_summary_and_curves(first):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{first / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("merging-and-bias")
    runs = client.search_runs([experiment.experiment_id])
    kinds = [each.data.tags["kind"] for each in runs]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"cell": 4, "base": 1, "summary": 1, "curve": 2}
    frame = table(first).set_index("run_id")
    for each in runs:
        if each.data.tags["kind"] in ("cell", "base"):
            assert each.data.metrics["bias_score"] == pytest.approx(frame.bias_score[each.info.run_id])
            assert each.data.metrics["accuracy"] == pytest.approx(frame.accuracy[each.info.run_id])
            assert each.info.status == "FINISHED"
    summary = next(each for each in runs if each.data.tags["kind"] == "summary")
    assert {"table.csv", "tradeoff.html", "tradeoff.png"} <= {
        file.path for file in client.list_artifacts(summary.info.run_id)
    }


def test_the_merged_folder_is_a_hugging_face_model(first):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged = sorted(path.parent for path in (first / "runs/store/merge").glob(f"*/{MANIFEST}"))
    assert len(merged) == 4
    loaded = AutoModelForCausalLM.from_pretrained(merged[0])
    assert loaded.config.vocab_size == 260
    assert AutoTokenizer.from_pretrained(merged[0])("a")["input_ids"]
    assert "merge" in (merged[0] / "README.md").read_text()


def test_the_same_command_again_is_found_without_torch(first, settings):
    program = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('HEAVY', sorted({'torch', 'lm_eval', 'transformers'} & set(sys.modules))))\n"
        f"sys.argv = ['pipeline', '-m', *{[*GRID, *settings]!r}]\n"
        "from pipeline.__main__ import main\nsys.exit(main())"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        cwd=first,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert told.returncode == 0, told.stderr
    assert "HEAVY []" in told.stdout
    again = table(first)
    assert again.status.eq("found").all()
    pandas.testing.assert_frame_equal(table(first, 0).drop(columns=COSTS), again.drop(columns=COSTS), check_exact=True)


def test_aggregate_again_gives_the_same_table(first):
    folder = results(first)[0].parent
    before = (folder / "results" / "table.csv").read_text()
    told = run(first, "stages=[aggregate]", f"sweep={folder}")
    assert told.returncode == 0, told.stderr
    drop = lambda text: pandas.read_csv(text).drop(columns=["run_id"])  # noqa: E731
    (first / "before.csv").write_text(before)
    pandas.testing.assert_frame_equal(
        drop(first / "before.csv"), drop(folder / "results" / "table.csv"), check_exact=True
    )


def test_just_the_merged_model(first, settings):
    told = run(first, "stages=[fetch,merge]", "export=out", "merge=slerp", "weight=0.3", *settings)
    assert told.returncode == 0, told.stderr
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(first / "out")
    assert (first / "out" / "README.md").is_file() and not (first / "out" / MANIFEST).exists()


def test_keep_none_drops_the_merged_models_and_rebuilds_them(first, settings, tmp_path):
    shutil.copytree(first / "runs" / "store", tmp_path / "runs" / "store")
    merges = tmp_path / "runs/store/merge"
    before = set(merges.glob(f"*/{MANIFEST}"))
    wanted = ["merge=ties", "weight=0.4", "tracking=none", *settings]
    assert run(tmp_path, *wanted, "keep=none").returncode == 0
    assert set(merges.glob(f"*/{MANIFEST}")) == before, "what another sweep keeps stays, what this one made goes"
    (dropped,) = merges.glob("*.dropped.json")
    assert run(tmp_path, *wanted, "keep=none").returncode == 0
    pandas.testing.assert_frame_equal(table(tmp_path, 0).drop(columns=COSTS), table(tmp_path).drop(columns=COSTS))
    assert table(tmp_path).effective_weight.notna().all() and table(tmp_path).status.iloc[-1] == "found"
    told = run(tmp_path, "stages=[fetch,merge]", *wanted)
    assert told.returncode == 0, told.stderr
    (again,) = set(merges.glob(f"*/{MANIFEST}")) - before
    assert json.loads(again.read_text())["files"] == json.loads(dropped.read_text())["files"]


def test_keep_front_keeps_the_front(first, settings, tmp_path):
    shutil.copytree(first / "runs" / "store", tmp_path / "runs" / "store")
    shutil.rmtree(tmp_path / "runs/store/merge")
    shutil.rmtree(tmp_path / "runs/store/answer")
    assert run(tmp_path, "-m", *GRID, *settings, "tracking=none", "keep=front").returncode == 0
    frame = table(tmp_path)
    front = set(frame.merge_key[frame.on_front & frame["merge"].ne("keep")])
    assert {f"merge-{path.parent.name}" for path in (tmp_path / "runs/store/merge").glob(f"*/{MANIFEST}")} == front


def test_aggregating_again_adds_no_runs(first):
    from pipeline import tracking

    folder = results(first)[0].parent
    record = json.loads((folder / "sweep.json").read_text())
    known = tracking.known_runs(record["tracking"], record["experiment"], record["id"])
    assert run(first, "stages=[aggregate]", f"sweep={folder}").returncode == 0
    assert tracking.known_runs(record["tracking"], record["experiment"], record["id"]) == known


def test_two_limits_are_two_fronts(first, settings):
    told = run(
        first, "-m", "merge=slerp", "limit=12,24", "tracking=none", *[s for s in settings if not s.startswith("limit")]
    )
    assert told.returncode == 0, told.stderr
    frame = table(first)
    assert frame.limit.astype(str).tolist() == ["12", "24", "12", "24"] and frame.base_id.nunique() == 2
    for _, panel in frame.groupby("base_id"):
        assert panel.on_front.any() and panel["merge"].tolist() == ["keep", "slerp"]


def test_joblib_workers(first, settings, tmp_path):
    shutil.copytree(first / "runs" / "store", tmp_path / "runs" / "store")
    told = run(
        tmp_path, "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "merge=slerp,ties", "weight=0.35", *settings
    )
    assert told.returncode == 0, told.stderr
    assert table(tmp_path).status.isin(["done", "found"]).all() and len(table(tmp_path)) == 3


# --- a cell that does not come back ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        (sweep_faults.raises_on_ties, "failed", "ZeroDivisionError: planted"),
        (sweep_faults.refuses_on_ties, "failed", "a tensor should fit"),
        (sweep_faults.exits_on_ties, "failed", "exit code 3"),
        (sweep_faults.is_killed_on_ties, "killed", "SIGKILL"),
    ],
)
def test_what_happens_in_one_cell_stays_there(first, settings, tmp_path, monkeypatch, fault, status, words):
    shutil.copytree(first / "runs" / "store", tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    cells, _ = sweep.expand([*GRID, *settings, f"store={tmp_path / 'store'}", "tracking=none", "seed=7"], True)
    monkeypatch.setattr(isolation, "work", fault)
    sweep.announce(cells)
    parent.open_sweep(tmp_path / "sweep")
    for number, cell in enumerate(cells):
        overrides = cell["overrides"]
        sweep.cell(cell, tmp_path / "sweep" / str(number), tmp_path / "sweep", overrides)
    assert sweep.close() == 1
    frame = pandas.read_parquet(tmp_path / "sweep" / "results" / "table.parquet")
    assert list(frame["merge"]) == ["keep", "slerp", "slerp", "ties", "ties"]
    assert frame.status.tolist() == ["done", "done", "done", status, status]
    assert frame.error.iloc[3:].str.contains(words).all()
    assert frame.bias_score.notna().tolist() == [True, True, True, False, False]
    assert not frame.on_front.iloc[3:].any()


def test_two_sweeps_of_one_second_do_not_share_a_folder(tmp_path, monkeypatch, capsys):
    cells, _ = sweep.expand(["tracking=none", f"store={tmp_path / 'store'}"], False)
    monkeypatch.setattr(parent, "_opened", None)
    sweep.announce(cells)
    parent.open_sweep(tmp_path / "sweep")
    written = (tmp_path / "sweep" / "sweep.json").read_bytes()
    with pytest.raises(SystemExit) as refused:
        parent.open_sweep(tmp_path / "sweep")
    assert refused.value.code == 2 and "another sweep" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "sweep" / "sweep.json").read_bytes() == written


def test_a_sweep_that_cannot_be_tracked_leaves_its_folder_free(tmp_path, monkeypatch):
    cells, _ = sweep.expand(
        [f"tracking.uri=sqlite:///{tmp_path / 'none' / 'x.db'}", f"store={tmp_path / 'store'}"], False
    )
    monkeypatch.setattr(parent, "_opened", None)
    monkeypatch.setattr("pipeline.tracking.prepare", lambda *_: 1 / 0)
    sweep.announce(cells)
    with pytest.raises(SystemExit):
        parent.open_sweep(tmp_path / "sweep")
    assert not (tmp_path / "sweep" / "sweep.json").exists()


def test_a_cell_is_called_by_the_settings_that_are_swept(tmp_path):
    cells, _ = sweep.expand(
        ["merge=keep", "debias=pcgu", "debias.units=1,2", "debias.control=false,true", f"store={tmp_path}", "seed=3"],
        True,
    )
    told = [words.cell_name(cell, axes(cells)) for cell in cells]
    assert told[0].endswith(" · pcgu · pocket_bbq · pocket · debias.units=1")
    assert told[-1].endswith(" · pcgu control · pocket_bbq · pocket · debias.units=2") and len(set(told)) == 4


def test_what_an_interrupt_left_undone_says_so(tmp_path):
    asked = [{"overrides": {"weight": weight}} for weight in ("0.1", "0.2")]
    (tmp_path / "sweep.json").write_text(json.dumps({"cells": asked}))
    assert "its worker was lost" in sweep.Sweep.read(tmp_path).cells()[1]["error"]
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "cell.json").write_text(json.dumps(asked[0] | {"status": "killed", "error": INTERRUPTED}))
    first, second = sweep.Sweep.read(tmp_path).cells()
    assert first["status"] == "killed" and second["status"] == "missing"
    assert "interrupted before its turn" in second["error"]


def test_a_lost_cell_is_named(first, tmp_path):
    folder = tmp_path / "sweep"
    shutil.copytree(results(first)[0].parent, folder)
    shutil.rmtree(folder / "2")
    record = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps(record | {"tracking": None}))
    assert sweep.aggregate(sweep.Sweep.read(folder), pairs=12) == 1
    frame = pandas.read_parquet(folder / "results" / "table.parquet")
    assert frame.status.tolist().count("missing") == 1 and "left no record" in frame.error.dropna().max()


def test_killed_in_every_stage_and_run_again_gives_the_same_table(first, settings, tmp_path):
    chance = random.Random(1)
    for _ in range(3):
        process = subprocess.Popen(
            command("-m", *GRID, *settings, "tracking=none"),
            cwd=tmp_path,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        )
        seen, until = len(list(tmp_path.glob(f"runs/store/*/*/{MANIFEST}"))), time.monotonic() + 120
        wanted = seen + chance.randint(1, 6)  # die somewhere after so many more artefacts
        while (
            time.monotonic() < until
            and process.poll() is None
            and len(list(tmp_path.glob(f"runs/store/*/*/{MANIFEST}"))) < wanted
        ):
            try:
                process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    told = run(tmp_path, "-m", *GRID, *settings, "tracking=none")
    assert told.returncode == 0, told.stderr
    pandas.testing.assert_frame_equal(
        table(first, 0).drop(columns=COSTS), table(tmp_path).drop(columns=COSTS), check_exact=True
    )


def test_a_cell_does_not_outlive_its_sweep(settings, tmp_path):
    import psutil

    process = subprocess.Popen(
        command("merge=slerp", *settings, "tracking=none", "donor.epochs=500"),
        cwd=tmp_path,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    try:
        until = time.monotonic() + 120
        while not list(tmp_path.glob("runs/store/train/.tmp-*")) and time.monotonic() < until:
            assert process.poll() is None
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        assert family
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


# --- refused before anything is spent -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.base=path:/nowhere"], "/nowhere"),
        (["model.base=nonsense"], "is not a source"),
        (["donor=checkpoints", "donor.models=[path:OTHER]"], "vocab"),
        (
            ["donor=checkpoints", "donor.models=[path:BASE]", "donor.shares=[1,2]"],
            "donor.shares should be null or one number",
        ),
        (["tracking.uri=http://127.0.0.1:9"], "127.0.0.1:9"),
        (["store=/proc/nowhere"], "store=DIR"),
        (["bias=crows_pairs", "data=EMPTY"], "crows_pairs"),
        (["merge=ties", "merge.density=2"], "density"),
    ],
)
def test_bad_input_ends_in_one_sentence(model, settings, tmp_path, arguments, words):
    import re

    tokenizer = tiny_language_model(tmp_path / "other") / "tokenizer.json"
    other = json.loads(tokenizer.read_text())
    other["model"]["vocab"]["another"] = other["model"]["vocab"].pop(
        max(other["model"]["vocab"], key=other["model"]["vocab"].get)
    )
    tokenizer.write_text(json.dumps(other))
    (tmp_path / "empty").mkdir()
    given = [
        a.replace("OTHER", str(tmp_path / "other"))
        .replace("BASE", str(model))
        .replace("EMPTY", str(tmp_path / "empty"))
        for a in arguments
    ]
    keys = {a.split("=")[0] for a in given}
    told = run(
        tmp_path,
        *[
            s
            for s in settings
            if s.split("=")[0] not in keys and not (s.startswith("donor.epochs") and "donor=checkpoints" in given)
        ],
        *given,
        *([] if "tracking.uri" in keys else ["tracking=none"]),
    )
    assert told.returncode in (1, 2)
    assert "Traceback" not in told.stderr, told.stderr
    assert re.search(words, told.stderr), told.stderr
    assert not list(tmp_path.glob("runs/store/train/*/manifest.json")), "it was refused only after the training"
