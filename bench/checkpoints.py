"""Checkpoints to measure merges on: the shapes of Qwen2-0.5B (494 M parameters), random numbers, made on the spot."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

WIDTH, INNER, KEYS, VOCABULARY, LAYERS = 896, 4864, 128, 151936, 24


def shapes(layers: int = LAYERS) -> dict[str, tuple[int, ...]]:
    """Name -> shape, as transformers stores the model, embeddings tied."""
    found = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "model.norm.weight": (WIDTH,)}
    for i in range(layers):
        found |= {
            f"model.layers.{i}.{name}": shape
            for name, shape in {
                "input_layernorm.weight": (WIDTH,),
                "post_attention_layernorm.weight": (WIDTH,),
                "self_attn.q_proj.weight": (WIDTH, WIDTH),
                "self_attn.q_proj.bias": (WIDTH,),
                "self_attn.k_proj.weight": (KEYS, WIDTH),
                "self_attn.k_proj.bias": (KEYS,),
                "self_attn.v_proj.weight": (KEYS, WIDTH),
                "self_attn.v_proj.bias": (KEYS,),
                "self_attn.o_proj.weight": (WIDTH, WIDTH),
                "mlp.gate_proj.weight": (INNER, WIDTH),
                "mlp.up_proj.weight": (INNER, WIDTH),
                "mlp.down_proj.weight": (WIDTH, INNER),
            }.items()
        }
    return found


def make(folder: Path, seed: int, base: Path | None = None, layers: int = LAYERS, spread: float = 0.1) -> Path:
    """A bf16 checkpoint; with a base, that base moved by `spread` times its own size in random directions."""
    if (folder / "config.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    if base is not None:
        from safetensors import safe_open

        file = safe_open(base / "model.safetensors", "pt")
    for name, shape in shapes(layers).items():
        noise = torch.randn(shape, generator=generator) * (0.02 if len(shape) > 1 else 0.1)
        if base is not None:
            noise = file.get_tensor(name).float() + spread * noise
        elif "norm" in name:
            noise += 1
        tensors[name] = noise.bfloat16()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "num_hidden_layers": layers,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
