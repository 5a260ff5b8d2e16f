"""Intervals, paired differences and fronts, from marks. Knows no model and no benchmark by name."""

from pipeline.statistics.accuracy_summary import accuracy_change, accuracy_summary
from pipeline.statistics.bias_summary import bias_change, bias_summary
from pipeline.statistics.generator import generator
from pipeline.statistics.holm import holm
from pipeline.statistics.needed_items import needed_items
from pipeline.statistics.pareto_front import pareto_front
from pipeline.statistics.undefined import accuracy_undefined, bias_undefined

__all__ = [
    "accuracy_change",
    "accuracy_summary",
    "accuracy_undefined",
    "bias_change",
    "bias_summary",
    "bias_undefined",
    "generator",
    "holm",
    "needed_items",
    "pareto_front",
]
