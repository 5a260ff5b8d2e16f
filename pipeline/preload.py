"""Imported once by the fork server, so that no cell pays for it again. No model is loaded or asked here."""

import gc

gc.disable()  # thousands of modules, and nothing of them is garbage

import datasets  # noqa: E402, F401
import lm_eval.evaluator  # noqa: E402, F401
import pandas  # noqa: E402, F401
import torch  # noqa: E402, F401
import transformers.models.llama.modeling_llama  # noqa: E402

import pipeline.language_model.load  # noqa: E402
import pipeline.merging.compiled  # noqa: E402
import pipeline.recipe  # noqa: E402

pipeline.merging.compiled.load()

transformers.utils.logging.disable_progress_bar()  # a bar for every model that is loaded says nothing
gc.freeze()  # no collection of a cell looks at them again
gc.enable()
