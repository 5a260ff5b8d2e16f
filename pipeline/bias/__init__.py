"""Bias benchmarks: one a file, none of which knows a model.

A benchmark is a module of this package that has

    items(files, **settings) -> DataFrame    one row an item: id, group, cluster, and what its questions need
    ask(item) -> list of requests or (context, continuation)    what the model is asked, in a fixed order
    ask_masked(item)                                            the same for masked models; may be absent
    judge(items, answers, **settings) -> DataFrame              marks: id, group, cluster, numeric columns; with
                arguments `files`, `family` ("causal" or "masked") and `scores` it is given the data files, who answered,
                and what text classifiers made of the answers
                a column `counts` says which marks are part of the statistic, where not all are
    said(items, marks) -> DataFrame                             prompt, answer, biased: in words, for the page
    COUNTS      the columns of the marks that `components` wants summed
    MIRROR      which column takes which one's place when stereotype and contrary change places; empty where a bias has
                no contrary, so that there is no noise floor and no p-value either
    INDEPENDENT True where each cluster is on one side of MIRROR only, as people of two groups are; may be absent
    QUESTIONS   True where the context is a question that the continuation answers, so that a chat may be had; may be absent
    ONE_SIDED   True where no component can be negative, so that intervals lie in [0, 1]; may be absent
    components(sums) -> array (..., m)       signed components in [-1, 1], nan where undefined
    metrics(marks) -> dict of the benchmark's own published metrics, over all items and per group with n

Signed bias is the mean of the components, bias_score the mean of their absolute values.
To add one: this file's neighbour `<name>.py` and `conf/bias/<name>.yaml`.
"""

import importlib
import pkgutil
from types import ModuleType

from pipeline.bias.sample import records, sample
from pipeline.errors import ConfigError

__all__ = ["INTERFACE", "benchmarks", "load", "records", "sample"]

INTERFACE = ("items", "ask", "judge", "said", "COUNTS", "MIRROR", "components", "metrics")
HELPERS = {
    "__main__",
    "bbq_prompts",
    "bbq_rows",
    "datafile",
    "generation",
    "hurtlex",
    "predictions",
    "sample",
    "settings",
    "tally",
}


BORROWED = {"lm_eval"}  # asked and judged by others; has the last four parts only


def benchmarks() -> list[str]:
    """Names of the benchmarks in this package."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if name not in HELPERS | BORROWED and not name.endswith("_predictions"))


def load(name: str) -> ModuleType:
    """The benchmark's module, checked to have the whole interface.

    Raises ConfigError for a name without a module, TypeError for a module that lacks a part.
    """
    if name not in BORROWED and name not in benchmarks():
        raise ConfigError(f"bias.benchmark should be one of {', '.join(benchmarks())} and is '{name}': set it")
    module = importlib.import_module(f"pipeline.bias.{name}")
    parts = INTERFACE[4:] if name in BORROWED else INTERFACE
    missing = [part for part in parts if not hasattr(module, part)]
    if missing:
        raise TypeError(
            f"pipeline/bias/{name}.py lacks {', '.join(missing)}: pipeline/bias/__init__.py says what it is"
        )
    return module
