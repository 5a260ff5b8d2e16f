"""The parent of a sweep: opens it before the first cell, closes it whatever happened."""

import json
import os
import shutil
import sys
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape

from pipeline.errors import PipelineError, StoreError
from pipeline.store import Store, drop, write_atomically
from pipeline.sweep.logged import log_bases, log_cells_again, log_summary, tracked
from pipeline.sweep.record import Sweep, code_revision, command, provenance
from pipeline.sweep.words import choices, complain, console

WARNINGS = 8  # as many as a screen can bear; all are in report.md and on the page
_opened: Sweep | None = None  # of this parent process
_asked: list[dict] = []  # the composed cells, before Hydra runs the first


def announce(cells: list[dict]) -> None:
    """Say which cells are about to run; Hydra's callbacks are not told."""
    global _asked
    _asked = cells


class Opening(Callback):
    """Hydra's word to the parent that the cells are about to start."""

    def on_multirun_start(self, config: DictConfig, **_) -> None:
        open_sweep(Path(config.hydra.sweep.dir))

    def on_run_start(self, config: DictConfig, **_) -> None:
        open_sweep(Path(config.hydra.run.dir))


def open_sweep(folder: Path) -> None:
    """Make the sweep's folder and the MLflow store ready before any cell starts; stop here if that fails."""
    global _opened
    try:
        first = _asked[0]
        Store(Path(first["store"]))
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "id": "/".join(folder.absolute().parts[-2:]),
            "command": command(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "code": code_revision(),
            "tracking": None,
            "experiment": first["tracking"]["experiment"],
            "cells": [{"overrides": cell["overrides"], "choices": choices(cell), "config": cell} for cell in _asked],
        }
        with _claimed(folder):
            if first["tracking"]["uri"]:
                from pipeline import tracking

                with console.status("opening the MLflow store (the first time takes about 20 seconds)"):
                    record["tracking"] = tracking.prepare(
                        first["tracking"]["uri"], record["experiment"], Path("runs").absolute()
                    )
            write_atomically(folder / "sweep.json", json.dumps(record, indent=1))
        _opened = Sweep(folder, record)
        console.print(f"[bold]{len(_asked)} {'cell' if len(_asked) == 1 else 'cells'}[/bold] -> {folder}")
    except PipelineError as error:  # Hydra turns exceptions of callbacks into warnings, but lets SystemExit through
        complain(type(error).__name__, str(error))
        raise SystemExit(2) from error
    except Exception as error:
        traceback.print_exc()
        raise SystemExit(1) from error


@contextmanager
def _claimed(folder: Path):
    """Holds the place of sweep.json, so that of two sweeps that start in one second one is refused.

    A sweep that cannot begin leaves its folder to the next.
    """
    try:
        (folder / "sweep.json").touch(exist_ok=False)
    except FileExistsError as error:
        raise StoreError(
            f"the folder of a sweep should be new, found another sweep in {folder}; start again in a second"
        ) from error
    try:
        yield
    except BaseException:
        (folder / "sweep.json").unlink(missing_ok=True)
        raise


def close() -> int:
    """Aggregate what is there. Returns the exit code: 0 only if every cell that was asked for has its result."""
    if _opened is None:
        return 1
    return aggregate(_opened, _asked[0]["pairs"])


def aggregate(sweep: Sweep, pairs: int) -> int:
    """Table, figures and page from a sweep's cells; then the same into MLflow. pairs: as in conf/config.yaml."""
    from pipeline import report
    from pipeline.report.words import FAILURE
    from pipeline.stages import aggregate as stage

    records = sweep.cells()
    failed = [record for record in records if record["status"] not in ("done", "found")]
    if not any("evaluate" in asked["config"]["stages"] for asked in sweep.record["cells"]):
        return _say_where(records, failed)
    with tracked(sweep, "some cells") as tracking:
        log_cells_again(tracking, sweep, records)
    frame = stage.table(records)
    with tracked(sweep, "the base runs") as tracking:
        log_bases(tracking, sweep, frame)
    results, temporary = sweep.folder / "results", sweep.folder / f".results-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    findings = stage.findings(records, frame, sweep.record["command"], provenance(sweep, records), pairs)
    report.write(findings, temporary)
    shutil.rmtree(results, ignore_errors=True)
    temporary.rename(results)
    with tracked(sweep, "the summary") as tracking:
        log_summary(tracking, sweep, frame, stage.axes(records), results, len(failed))
    _drop_models(records, frame)
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    out.print(report.rich_table(frame, stage.axes(records), width=out.width))
    warnings = [one for one in findings.warnings if not one.startswith(FAILURE)]  # those stand below the table already
    for sentence in warnings[:WARNINGS]:
        out.print(f"- {escape(sentence)}", style="yellow")
    if len(warnings) > WARNINGS:
        out.print(f"- and {len(warnings) - WARNINGS} more in report.md and on the page", style="yellow")
    out.print(f"page:   {results / 'tradeoff.html'}   (open it in a browser; it works offline)", soft_wrap=True)
    out.print(f"figure: {results / 'tradeoff.png'} (and .svg)", soft_wrap=True)
    out.print(
        f"table:  {results / 'table.csv'} (and .parquet, .md), pairs.csv, controls.csv, report.md", soft_wrap=True
    )
    if sweep.record["tracking"]:
        from pipeline import tracking

        command, *links = tracking.how_to_open(sweep.record["tracking"], sweep.record["experiment"]).splitlines()
        out.print(f"MLflow: make ui, or {command.split('   then')[0]}; then open", soft_wrap=True)
        for name, link in zip(("curves", "cells as charts", "cells as a list", "sweeps"), links[-4:], strict=False):
            out.print(f"        {name + ':':<16} {link}", soft_wrap=True)
    _say_failures(failed)
    return 1 if failed else 0


def _say_where(records: list[dict], failed: list[dict]) -> int:
    """Without evaluation there is nothing to tabulate: say where the models lie, and what is to be known of them."""
    for record in records:
        if record.get("result"):
            for key, folder in record["result"]["artifacts"].items():
                if Path(folder).exists():  # a merge that keeps the base asks for no donor
                    console.print(f"  {key}: {folder}", soft_wrap=True)
            for note in record["result"]["notes"]:
                console.print(f"  note: {note}", soft_wrap=True, markup=False)
    _say_failures(failed)
    return 1 if failed else 0


def _say_failures(failed: list[dict]) -> None:
    for record in failed:
        told = " ".join(f"{key}={value}" for key, value in record["overrides"].items())
        complain(record["status"], f"{told}: {record['error']}")


def _drop_models(records: list[dict], frame) -> None:
    """Honour keep: of the merged models that this sweep made those on the front stay; others are rebuilt on demand.

    What the weights of a merge share goes too, now that all of them are done. (With keep=none a cell drops its own.)
    """
    front = set(frame.loc[frame["on_front"].eq(True), "merge_key"])
    stays = front | {key for record in records if record.get("keep") == "all" for key in record.get("built", [])}
    for record in records:
        for key, folder in ((record.get("result") or {}).get("artifacts") or {}).items():
            kind, made = key.split("-")[0], key in record.get("built", [])
            done = kind == "line_end" if record.get("keep") == "none" else kind in ("line_end", "merge", "negate")
            if record.get("keep") in ("front", "none") and made and done and key not in stays:
                drop(Path(folder))
