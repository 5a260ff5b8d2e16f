"""Imported once by the fork server, so that no cell pays for it again. Nothing here computes."""

import datasets  # noqa: F401
import lm_eval.evaluator  # noqa: F401
import pandas  # noqa: F401
import torch  # noqa: F401
import transformers.models.llama.modeling_llama

import pipeline.language_model.load
import pipeline.recipe  # noqa: F401

transformers.utils.logging.disable_progress_bar()  # a bar for every model that is loaded says nothing
