"""The recipe of a cell: `describe` names every artefact without making any; `run` makes what is missing;
`collect` reads what the stages wrote into one row of the table. Nothing here loads torch before `run`.
"""

import shutil
import sys

from pipeline import sources
from pipeline.recipe.cell import Cell, Examined, describe
from pipeline.recipe.early import refuse_early, refuse_leaks, refuse_tuning
from pipeline.recipe.outcome import collect
from pipeline.store import MANIFEST

__all__ = ["Cell", "Examined", "collect", "describe", "refuse_early", "refuse_leaks", "refuse_tuning", "run"]


def run(cell: Cell) -> None:
    """Make what is missing, after everything that can be refused early was; hand the model out if asked to."""
    refuse_early(cell)
    for artifact in cell.wanted():
        cell.store.build(artifact)
    config = cell.config
    if config["export"]:
        shutil.copytree(
            cell.product.path, config["export"], dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST)
        )
        print(f"the merged model lies in {config['export']}", file=sys.stderr)
    if config["push_to"]:
        sources.push(cell.product.path, config["push_to"])
