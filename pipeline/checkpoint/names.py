"""What tensors are, told by their names: the vocabulary's rows, copies of other tensors, and what is no parameter."""

from collections.abc import Collection, Mapping

from pipeline.checkpoint.header import TensorInfo

EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "word_embedding.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
    "shared.weight",
    "transformer.embeddings.weight",
    "backbone.embeddings.weight",
)
HEADS = (
    "lm_head.weight",
    "embed_out.weight",
    "predictions.decoder.weight",
    "lm_head.decoder.weight",
    "vocab_projector.weight",
    "generator_lm_head.weight",
    "pred_layer.proj.weight",
)
HEAD_BIASES = (
    "lm_head.bias",
    "predictions.bias",
    "predictions.decoder.bias",
    "lm_head.decoder.bias",
    "vocab_projector.bias",
    "generator_lm_head.bias",
    "pred_layer.proj.bias",
)
# Whole names, of ModernBERT: as the end of a name they would say too little.
BARE_HEAD, BARE_HEAD_BIAS = "decoder.weight", "decoder.bias"
# One parameter that some versions of a library store twice: the copy's name ends so, the original's so.
TWINS = {
    "predictions.decoder.bias": "predictions.bias",
    "lm_head.decoder.bias": "lm_head.bias",
    "encoder.embed_tokens.weight": "shared.weight",
    "decoder.embed_tokens.weight": "shared.weight",
}
# Worked out from the config when a model is made; old versions of libraries stored them all the same.
BUFFERS = (
    "rotary_emb.inv_freq",
    "rotary_emb.original_inv_freq",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
    "rope.freqs",
    "position_ids",
    "token_type_ids",
    "final_logits_bias",
)


def ends(name: str, tails: Collection[str]) -> bool:
    """Whether whole words at the end of a name are one of `tails`."""
    return any(name == tail or name.endswith("." + tail) for tail in tails)


def is_embedding(name: str, info: TensorInfo) -> bool:
    return len(info.shape) == 2 and ends(name, EMBEDDINGS)


def is_head(name: str, info: TensorInfo) -> bool:
    return len(info.shape) == 2 and (name == BARE_HEAD or ends(name, HEADS))


def is_head_bias(name: str, info: TensorInfo) -> bool:
    return len(info.shape) == 1 and (name == BARE_HEAD_BIAS or ends(name, HEAD_BIASES))


def is_buffer(name: str, info: TensorInfo) -> bool:
    """Whether a tensor holds no parameters.

    `attn.bias` is the causal mask of old GPT-2 and GPT-NeoX files where its shape is [1, 1, n, n], in floats or not; as
    a vector of floats it is the bias of a layer.
    """
    *ones, rows, columns = (1, 1, *info.shape)
    if ends(name, ("attn.bias", "attention.bias")):
        return len(info.shape) >= 2 and rows == columns and set(ones) == {1}
    if ends(name, ("attn.masked_bias", "attention.masked_bias")):
        return set(info.shape) <= {1}
    return ends(name, BUFFERS)


def twin(name: str, names: Collection[str]) -> str | None:
    """The original that a stored or missing copy repeats."""
    for copy, original in TWINS.items():
        if ends(name, (copy,)) and (found := name.removesuffix(copy) + original) in names:
            return found
    return None


def spellings(name: str, prefix: str) -> list[str]:
    """What transformers may call a tensor of a file when it is loaded.

    With or without the body's prefix (GPT-2's `wte.weight` becomes `transformer.wte.weight`); BERT's first files call
    the weight of a LayerNorm gamma and its bias beta.
    """
    today = name
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        if ends(name, (old,)):
            today = name.removesuffix(old) + new
    return [spelling for one in (name, today) for spelling in (one, prefix + one, one.removeprefix(prefix))]


def renamed(mine: Mapping[str, TensorInfo], theirs: Mapping[str, TensorInfo]) -> tuple[dict[str, str], str]:
    """The donor's names under the base's, and which prefix was added or left out, in words ("" where none was).

    Saved from the class with the head, a body has a prefix (`transformer.`, `model.`, `bert.`); saved from the body
    alone it has none. One prefix must serve all tensors; the head stands outside of it.
    """
    best, said = {name: name for name in theirs}, ""
    common = len(mine.keys() & theirs.keys())
    for prefix in _prefixes(mine, theirs):  # the base has it
        under = {name: name if name in mine or prefix + name not in mine else prefix + name for name in theirs}
        if (count := _matches(under, mine)) > common:
            best, said, common = under, f"without the prefix {prefix!r}", count
    for prefix in _prefixes(theirs, mine):  # the donor has it
        under = {name: name if name in mine else _without(prefix, name, mine) for name in theirs}
        if (count := _matches(under, mine)) > common:
            best, said, common = under, f"with the prefix {prefix!r}", count
    return best, said


def _prefixes(long: Mapping, short: Mapping) -> list[str]:
    """Beginnings of lone names of `long` whose rest is a lone name of `short`."""
    lone = short.keys() - long.keys()
    found = {}
    for name in sorted(long.keys() - short.keys()):
        words = name.split(".")
        for place in range(1, len(words)):
            if ".".join(words[place:]) in lone:
                found[".".join(words[:place]) + "."] = None
    return list(found)


def _without(prefix: str, name: str, mine: Mapping) -> str:
    short = name.removeprefix(prefix)
    return short if short in mine else name


def _matches(under: dict[str, str], mine: Mapping) -> int:
    """How many names fit; none where two of the donor's tensors would be one of the base's."""
    return len(mine.keys() & under.values()) if len(set(under.values())) == len(under) else 0
