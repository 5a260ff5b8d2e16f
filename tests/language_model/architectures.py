"""Tiny random models of many architectures, and a byte-level tokenizer, made on the spot."""

from functools import cache

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from pipeline.language_model.plain_text import TEXT

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 96,
    "initializer_range": 0.25,
}
# transformers class -> settings of its config. Large random weights, or the context would hardly matter.
PACKED = {
    "Llama": SIZES,
    "Qwen2": SIZES,
    "Qwen3": SIZES,
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96, "initializer_range": 0.25},
    "GPTNeoX": SIZES,
    "OPT": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": 96,
        "init_std": 0.25,
    },
    "Phi": SIZES,
    "Cohere": SIZES | {"logit_scale": 0.3},
    "Granite": SIZES | {"logits_scaling": 3.0},
    "Olmo2": SIZES,
    "Mixtral": SIZES | {"num_local_experts": 4},
}
# Packed up to the reach of their windows, padded beyond.
WINDOWED = {
    "Gemma2": SIZES | {"sliding_window": 24, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
    "Gemma3": SIZES | {"sliding_window": 24},
    "Mistral": SIZES | {"sliding_window": 24},
    # not a window: from 25 tokens on all positions turn in another way
    "Phi3": SIZES
    | {
        "original_max_position_embeddings": 24,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0, 1.2, 1.4, 1.6],
            "long_factor": [2.0, 3.0, 4.0, 5.0],
        },
        "sliding_window": None,
    },
    # their bodies are not where transformers looks for them
    "ModernBertDecoder": {key: value for key, value in SIZES.items() if key not in ("num_key_value_heads", "head_dim")}
    | {"local_attention": 48, "global_attn_every_n_layers": 2},
    "Llama4": SIZES
    | {"intermediate_size_mlp": 48, "num_local_experts": 2, "attention_chunk_size": 24, "no_rope_layers": [1, 0]},
    "GPTNeo": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 24,
        "max_position_embeddings": 96,
        "initializer_range": 0.25,
    },
}
# Positions come from somewhere else, or the past is a state: never packed. MPT takes mask and positions without a word.
PADDED = {
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.25},
    "Mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 96, "initializer_range": 0.25},
    "Mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.25},
    # counts positions anew from every token that it is given, unless it is told them
    "Bamba": SIZES
    | {
        "attn_layer_indices": [1],
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 16,
    },
}
ALL = PACKED | WINDOWED | PADDED
# A decoder whose positions begin after the padding token's: transformers' own generate() tells it others, and is wrong.
ROBERTA = {key: value for key, value in SIZES.items() if key not in ("num_key_value_heads", "head_dim")} | {
    "is_decoder": True,
    "max_position_embeddings": 98,
}
# What they have read they keep in no cache of transformers', or half of it elsewhere.
UNKEPT = {
    "MiniMax": SIZES
    | {"num_local_experts": 2, "block_size": 16, "layer_types": ["linear_attention", "full_attention"]},
    "OpenAIGPT": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96, "initializer_range": 0.25},
    "Rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 96},
    "RecurrentGemma": SIZES | {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 24},
}
# They take `use_cache`, but do not name it.
UNNAMED = {"GraniteMoe": SIZES | {"num_local_experts": 2, "num_experts_per_tok": 1}}


@cache
def tokenizer(bos: bool = False) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE with 320 tokens; `bos` puts a BOS before every text, as Llama's tokenizer does."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        [TEXT],
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<s>", "</s>"],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    if bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


@cache
def model(name: str) -> transformers.PreTrainedModel:
    """A random model of one architecture, always the same one."""
    settings = {"Roberta": ROBERTA, **UNKEPT, **UNNAMED}.get(name) or ALL[name]
    if name in ("Gemma3", "Llama4"):
        config, head = (getattr(transformers, f"{name}{kind}") for kind in ("TextConfig", "ForCausalLM"))
    else:
        config = getattr(transformers, f"{name}Config")
        head = getattr(transformers, f"{name}LMHeadModel" if name in ("GPT2", "OpenAIGPT") else f"{name}ForCausalLM")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return head(config(vocab_size=320, bos_token_id=0, eos_token_id=1, pad_token_id=1, **settings)).eval()


def alone(scorer, context: str, continuation: str) -> tuple[float, bool]:
    """Log-likelihood and greedy flag by one forward pass of the whole model for one request."""
    [(inputs, targets)] = scorer.encoder.pairs([(context, continuation)])
    with torch.inference_mode():
        logs = scorer.model(torch.tensor([inputs])).logits[0, -len(targets) :].double().log_softmax(-1)
    wanted = torch.tensor(targets)
    return logs.gather(1, wanted[:, None]).sum().item(), bool((logs.argmax(-1) == wanted).all())
