"""Probabilities of a text classifier's labels."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from pipeline import progress
from pipeline.errors import SourceError

BATCH = 32


def labels_of(folder: Path) -> list[str]:
    """The labels of the text classifier in a folder, by its config alone. Raises SourceError if it is none."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise _none(folder, f"transformers says: {str(error).splitlines()[0]}") from error
    if not any(name.endswith("ForSequenceClassification") for name in config.architectures or []):
        raise _none(folder, f"it is a {', '.join(config.architectures or ['model without a name'])}")
    return [config.id2label[place] for place in range(config.num_labels)]


@torch.inference_mode()
def probabilities(
    folder: Path, texts: list[str], *, device: str = "cpu", threads: int | None = None
) -> dict[str, list[float]]:
    """label -> its probability for each text.

        softmax of the logits, or their sigmoid where the model's config says multi_label_classification

    Texts are read in batches of like length, cut at the model's limit; an empty text has no probabilities (nan).
    Safetensors only, no remote code. Raises SourceError if the folder holds no text classifier.
    """
    labels = labels_of(folder)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # RuntimeError: shapes that do not fit
        raise _none(folder, f"transformers says: {str(error).splitlines()[0]}") from error
    if info["missing_keys"]:  # transformers would fill a missing head at random
        raise _none(folder, f"its weights lack {sorted(info['missing_keys'])[0]}")
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):  # every text would be read alike
        raise _none(folder, "none of its tokenizer's files is there")
    model = model.to(device).eval()
    several = model.config.problem_type == "multi_label_classification"
    batch_size = BATCH if model.config.pad_token_id is not None and tokenizer.pad_token_id is not None else 1
    order = sorted((place for place, text in enumerate(texts) if text.strip()), key=lambda place: len(texts[place]))
    found = torch.full((len(texts), len(labels)), float("nan"), dtype=torch.float64)
    with progress.bar(len(order), "classifying", unit="text") as bar:
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = tokenizer(
                [texts[place] for place in places],
                padding=batch_size > 1,
                truncation=True,
                max_length=_limit(model, tokenizer),
                return_tensors="pt",
            )
            logits = model(**batch.to(device)).logits.double().cpu()
            found[places] = logits.sigmoid() if several else logits.softmax(-1)
            bar.update(len(places))
    return {label: found[:, place].tolist() for place, label in enumerate(labels)}


def _limit(model, tokenizer) -> int:
    limit = min(int(tokenizer.model_max_length), getattr(model.config, "max_position_embeddings", 512))
    for name, module in model.named_modules():
        # RoBERTa counts its positions from after the padding token's place: 514 of them are 512 tokens.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limit = min(limit, module.num_embeddings - module.padding_idx - 1)
    return limit


def _none(folder: Path, why: str) -> SourceError:
    return SourceError(
        f"{folder} should hold a text classifier as safetensors with its tokenizer, but {why}; "
        "choose another source in bias.judging"
    )
