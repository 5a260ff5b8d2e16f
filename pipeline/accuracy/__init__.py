"""Accuracy: lm-eval's tasks as a benchmark, asked of our own model and judged by lm-eval's own functions.

    exam = load(settings, files, limit)      which items, from which rows
    exam.requests()                          what the model is asked
    exam.judge(answers)                      one mark an item
    metrics(settings, marks)                 per task, and the mean

lm-eval is imported when an exam is loaded, not before; none of its caches is used, because none has the model in
its key. What it does depends on its version, so that is part of an exam's identity: `identity`.
"""

from pipeline.accuracy.chosen import expanded
from pipeline.accuracy.exam import Exam, load
from pipeline.accuracy.find import definition
from pipeline.accuracy.settings import identity, left_out, version
from pipeline.accuracy.tally import chance, drops, metrics, perplexities, skills

__all__ = [
    "Exam",
    "chance",
    "definition",
    "drops",
    "expanded",
    "identity",
    "left_out",
    "load",
    "metrics",
    "perplexities",
    "skills",
    "version",
]
