"""Which matrices are stored the other way round."""

# Conv1D of transformers computes x W + b with W of shape [in, out]; everything else in these models is [out, in].
CONV1D = {
    "gpt2": ("attn.c_attn.weight", "attn.c_proj.weight", "attn.q_attn.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"),
}
CONV1D |= dict.fromkeys(("openai-gpt", "imagegpt", "decision_transformer", "clvp_decoder"), CONV1D["gpt2"])


def is_transposed(model_type: str | None, name: str) -> bool:
    """Whether a matrix is stored as [in, out], by the `model_type` of its config.json and its name."""
    return name.endswith(CONV1D.get(model_type, ()))
