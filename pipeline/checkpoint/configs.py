"""The config.json of a checkpoint: read, and compared for what changes the meaning of the same tensors."""

import json
from pathlib import Path

from pipeline.errors import CheckpointError

CHANGE = "change donor.models or model.base"
# What may differ without changing what a model computes from its weights.
IRRELEVANT = {
    "_name_or_path",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
    "architectures",
    "vocab_size",  # the rows and tokens themselves are compared
    "tie_word_embeddings",  # so are the heads
}
# What changes what the same tensors mean: models that differ here share no space to merge in. How far positions reach
# (rope_theta, rope_scaling, sliding_window, layer_types) is not among them: fine-tunes for long contexts change it on
# purpose, and start from the same weights. It is a note.
GEOMETRY = {
    "model_type",
    "num_attention_heads",
    "num_key_value_heads",
    "num_heads",
    "n_head",
    "n_heads",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "feed_forward_proj",
    "partial_rotary_factor",
    "rotary_pct",
    "rotary_dim",
    "position_embedding_type",
    "alibi",
    "parallel_attn",
    "use_parallel_residual",
    "is_decoder",
    "is_encoder_decoder",
    "query_pre_attn_scalar",
    "attention_multiplier",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_scaling",
    "scale_emb",
    "scale_depth",
    "dim_model_base",
}


def read_config(folder: Path) -> dict:
    """config.json, with the settings of the text model and of its rotary positions at the top level."""
    file = Path(folder) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        config = {**config, **(config.get("text_config") or {})}
        # transformers 5 writes here what stood at the top level before
        rope = config.get("rope_parameters") or {}
        return {key: value for key, value in rope.items() if key in ("rope_theta", "partial_rotary_factor")} | config
    except FileNotFoundError:
        raise CheckpointError(f"a model should have a config.json, found none in {folder}: {CHANGE}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} should be a JSON mapping, found {error!r}: fetch the model again") from error


def compare_configs(base: Path, donor: Path, mine: dict, theirs: dict) -> list[str]:
    """What differs, as a note; CheckpointError where it changes the meaning of the tensors.

    Only keys that both have are compared: what is left out has a default that depends on the version of a library.
    """
    differ = sorted(key for key in (mine.keys() & theirs.keys()) - IRRELEVANT if mine[key] != theirs[key])
    for key in differ:
        if key in GEOMETRY:
            raise CheckpointError(
                f"{key} should be the same, found {mine[key]} in the base {base} and {theirs[key]} in the donor {donor}: {CHANGE}"
            )
    return [f"the configs differ in {', '.join(differ)}: the result has the base's"] if differ else []
