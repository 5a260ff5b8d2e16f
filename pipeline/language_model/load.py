"""A model folder to its scorer: causal or masked, as the checkpoint's own architecture says."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from pipeline.errors import CheckpointError, ConfigError, SourceError
from pipeline.language_model.causal import CausalScorer
from pipeline.language_model.masked import MaskedScorer
from pipeline.language_model.scorer import Scorer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FAMILIES = {
    "causal": (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, AutoModelForCausalLM, CausalScorer),
    "masked": (MODEL_FOR_MASKED_LM_MAPPING_NAMES, AutoModelForMaskedLM, MaskedScorer),
}


def load(
    folder: Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
    tokens_per_pack: int = 2048,
    prefix_token: str | None = None,
) -> Scorer:
    """A scorer for the model in a Hugging Face folder. Safetensors only, no remote code.

    device           cpu, cuda, cuda:1, ...
    dtype            float32, bfloat16 or float16: what the model computes in
    threads          of torch, for the whole process; null leaves them as they are
    tokens_per_pack  most tokens in one forward pass, padding included; a request must fit. It bounds the memory: of
                     prompts and completions up to eight times as many are kept, if the weights take as much
    prefix_token     text of the token that stands for an empty context; null takes BOS, or EOS where there is none.
                     A masked model has its own beginning and takes null only
    Raises SourceError if the folder holds no such model, CheckpointError if its weights do not fit its config,
    ConfigError if it is neither causal nor masked or a setting is out of range.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"machine.dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    place = find_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    family = family_of(folder)
    _, model_class, scorer_class = FAMILIES[family]
    try:
        model, info = model_class.from_pretrained(
            folder,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise SourceError(
            f"{folder} must hold a {family} language model as safetensors with its tokenizer, but "
            f"transformers says: {str(error).splitlines()[0]}; choose another model.base"
        ) from error
    for kind in ("missing_keys", "mismatched_keys"):
        # transformers fills such a weight at random and goes on.
        if info[kind]:
            names = sorted(str(name) for name in info[kind])
            raise CheckpointError(
                f"{folder} has {len(names)} {kind.replace('_', ' ')} against its config.json, such "
                f"as {names[0]}: choose a complete checkpoint in model.base"
            )
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        # transformers makes an empty one where the files are missing: every word would be unknown, and all alike.
        raise SourceError(
            f"{folder} must hold its tokenizer, but none of its files is there: choose another model.base"
        )
    return scorer_class(model.to(place), tokenizer, tokens_per_pack, prefix_token)


def skeleton(folder: Path) -> torch.nn.Module:
    """The model of a folder without its weights: names, shapes and ties, on torch's meta device; reads config.json alone."""
    _, model_class, _ = FAMILIES[family_of(folder)]
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    try:
        with torch.device("meta"):
            model = model_class.from_config(config, trust_remote_code=False)
        model.tie_weights()
    except (ImportError, KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"{folder / 'config.json'} must describe a model that transformers can make: {str(error).partition(chr(10))[0]}; "
            "choose another model.base"
        ) from error
    return model


def find_device(device: str) -> torch.device:
    """The device of that name, if it is here."""
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
        return place
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"machine.device must be a device of this machine, which {device!r} is not "
            f"({str(error).splitlines()[0]}): cpu always is"
        ) from error


def family_of(folder: Path) -> str:
    """causal or masked, by the architecture that config.json names; raises unless it is one of the two."""
    if not (folder / "config.json").is_file():
        raise SourceError(
            f"a Hugging Face model folder with a config.json was expected, but {folder} has none: check model.base"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(
            f"{folder / 'config.json'} must describe a model that transformers knows: "
            f"{str(error).splitlines()[0]}; choose another model.base"
        ) from error
    # BERT and its kin are registered as causal too: the checkpoint's own architecture decides. Without one, what has
    # a masked head is masked.
    kind = config.model_type
    usual = MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(kind) or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind, kind)
    names = config.architectures or [usual]
    if not config.is_encoder_decoder:
        families = [family for family, (mapping, *_) in FAMILIES.items() if set(names) & set(mapping.values())]
        if len(families) == 2:  # XLM and its kin say by a setting which they are
            return "causal" if getattr(config, "causal", False) or getattr(config, "is_decoder", False) else "masked"
        if families:
            return families[0]
    raise ConfigError(
        f"model.base must be a causal or a masked language model (others cannot be scored), but {folder} is a {names[0]}"
    )
