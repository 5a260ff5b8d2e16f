"""Merging: one method a file, on tensors alone.

>>> import torch
>>> from pipeline.merging import merge
>>> base, donor = {"w": torch.tensor([0.0, 1.0])}, {"w": torch.tensor([2.0, 1.0])}
>>> merge(base, [donor], "linear", 0.25)
{'w': tensor([0.5000, 1.0000])}
>>> merge(base, [donor], "ties", 0.5, density=1.0, scale=1.5)
{'w': tensor([1.5000, 1.0000])}

A method `name` is the function `name` in pipeline/merging/name.py, and its defaults stand in conf/merge/name.yaml.
"""

from pipeline.merging.dicts import merge
from pipeline.merging.method import Method, bind, defaults, methods

__all__ = ["Method", "bind", "defaults", "merge", "methods"]
