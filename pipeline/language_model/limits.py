"""How long a text a model can read, and up to where its tokens mean the same whatever stands beside them."""

import math


def length_limit(config, tokenizer) -> int:
    """The longest input in tokens, as lm-eval's HFLM finds it: by the config, the tokenizer, or 2048."""
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    # A tokenizer without a limit reports 10^30.
    return int(tokenizer.model_max_length) if tokenizer.model_max_length < 10**9 else 2048


def window(config: dict) -> float:
    """The shortest reach of a layer in tokens, by any setting whose name says so; infinity where there is none.

    A trie may hold requests up to this length: within it, a layer with a window sees as much as one without.
    """
    if config.get("use_sliding_window") is False:
        return math.inf
    reach = [
        value
        for name, value in config.items()
        if name.endswith(("window", "window_size", "chunk_size")) and type(value) is int and value > 0
    ]
    return min(reach, default=math.inf)


def even_positions(config: dict, of: tuple[str, ...] = ("longrope", "dynamic")) -> float:
    """The length up to which a token's position means the same whatever stands behind it, or beside it in a batch.

    Some rotary embeddings (dynamic NTK, LongRoPE) turn faster or slower once a sequence is longer than those of the
    pretraining, and transformers takes the longest of a batch to decide. Infinity for all others.
    """
    declared = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kinds = [kind for kind in declared.values() if isinstance(kind, dict)] or [declared]  # one for each kind of layer
    usual = config.get("original_max_position_embeddings") or config.get("max_position_embeddings") or math.inf
    return min(
        (
            kind.get("original_max_position_embeddings") or usual
            for kind in kinds
            if any(name in str(kind.get("rope_type", kind.get("type"))) for name in of)
        ),
        default=math.inf,
    )


def masked_limit(model, tokenizer) -> int:
    """The longest text in tokens of a masked model, special ones included."""
    config = model.config.get_text_config()
    limit = min(length_limit(config, tokenizer), int(min(tokenizer.model_max_length, 10**9)))
    for name, module in model.named_modules():
        # RoBERTa counts its positions from after the padding token's place: 514 of them are 512 tokens.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limit = min(limit, len(module.weight) - module.padding_idx - 1)
    return limit
