"""The saved views of an experiment.

The UI's list shows no parameter and no metric until columns are chosen, and its charts mix all kinds of runs: so the
experiment comes with views (menu Views), each a filter and columns.
"""

import json
from typing import Any

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


def views(sweep: str | None = None) -> dict[str, str]:
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
