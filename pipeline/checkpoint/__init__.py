"""Safetensors in and out, lazily: headers and comparisons without torch, tensors one at a time.

headers(folder)            every tensor's dtype, shape and place, from the headers alone
align(base, donors)        models that do not quite fit, under the base's names and with the base's rows
compare(base, donors)      refuse models that do not fit as they are stored, before anything is loaded
Reader(folder)             one tensor or part at a time, in memory of its own
Writer(folder, tensors)    one tensor or part at a time, to one file or to shards with an index
copy_companions(a, b)      config, tokenizer, chat template, licence
"""

from pipeline.checkpoint.align import Alignment, align
from pipeline.checkpoint.companions import copy_companions
from pipeline.checkpoint.compare import compare
from pipeline.checkpoint.header import FLOATS, TensorInfo, headers
from pipeline.checkpoint.read import Reader
from pipeline.checkpoint.write import Writer

__all__ = ["FLOATS", "Alignment", "Reader", "TensorInfo", "Writer", "align", "compare", "copy_companions", "headers"]
