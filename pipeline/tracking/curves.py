"""One run for every curve of a sweep."""

from collections.abc import Mapping

from pipeline.tracking.client import client_of, search, speaks
from pipeline.tracking.entities import log_values, metrics_at, open_run, step_of
from pipeline.tracking.words import NOTE, text_of

BASE_COLUMNS = ("model", "bias", "accuracy_set", "seed")  # the base of a curve is the row `keep` with the same
COLOUR = "mlflow.runColor"
# Okabe and Ito's palette, told apart with any colour vision; black is the unmerged base.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#b3a100")
BASE_COLOUR = "#000000"


@speaks
def log_curves(uri: str, experiment: str, sweep: str, table, tags: Mapping[str, str]) -> list[str]:
    """One run for every curve of the sweep's table: bias_score and accuracy at step = round(1000 * weight).

    table  pandas frame with the columns of table.csv. The columns before `bias_score`, without weight and items,
           tell the curves apart; the first row `keep` of the same model, bias set, accuracy set and seed is step 0.
    The cells' runs (column `run_id`) take the colour of their curve.
    Curves that an earlier aggregation of the same sweep has logged are deleted first. Returns the run ids.
    """
    client = client_of(uri)
    for old in search(client, experiment, sweep, "curve"):
        client.delete_run(old.info.run_id)
    cells = {run.info.run_id for kind in ("cell", "base") for run in search(client, experiment, sweep, kind)}
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
            for point in metrics_at({name: row[name] for name in ("bias_score", "accuracy")}, step_of(row["weight"]))
        ]
        name = " · ".join(
            [*(str(params[c]) for c in ("merge", "model", "bias")), *(f"{c}={text_of(params[c])}" for c in varying)]
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
        run_ids.append(open_run(uri, experiment, sweep, name, params, {**tags, **own}))
        log_values(client, run_ids[-1], points, {}, {})
        client.set_terminated(run_ids[-1], "FINISHED")
        for cell in cells.intersection(rows["run_id"]):
            client.set_tag(cell, COLOUR, colour)
    for cell in cells.intersection(kept["run_id"]):
        client.set_tag(cell, COLOUR, BASE_COLOUR)
    return run_ids
