"""What is logged to MLflow; the only room that knows it.

A parent process calls `prepare` once, before any cell starts: processes that open a fresh store together crash.
Then a cell, in whatever process, is a flat run: `start_cell`, later `finish_cell`. When all are through, the sweep
has one run of kind `curve` for each curve (`log_curves`) and one of kind `summary` (`start_summary`,
`finish_summary`). Only `TrackingError` leaves this room, so that a tracking failure never costs a computed result.
Importing it does not import MLflow, which takes two seconds.
"""

from pipeline.tracking.curves import log_curves
from pipeline.tracking.place import how_to_open, prepare
from pipeline.tracking.runs import (
    close_open,
    finish_cell,
    finish_summary,
    known_runs,
    run_name,
    start_cell,
    start_summary,
)

__all__ = [
    "close_open",
    "finish_cell",
    "finish_summary",
    "how_to_open",
    "known_runs",
    "log_curves",
    "prepare",
    "run_name",
    "start_cell",
    "start_summary",
]
