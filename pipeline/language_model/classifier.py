"""Probabilities of a text classifier's labels."""

from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline import progress
from pipeline.errors import SourceError

BATCH = 32


@torch.inference_mode()
def probabilities(
    folder: Path, texts: list[str], *, device: str = "cpu", threads: int | None = None
) -> dict[str, list[float]]:
    """label -> its probability for each text.

        softmax of the logits, or their sigmoid where the model's config says multi_label_classification

    Texts are read in batches of like length, cut at the model's limit; an empty text has no probabilities (nan).
    Safetensors only, no remote code. Raises SourceError if the folder holds no text classifier.
    """
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
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{folder} should hold a text classifier as safetensors with its tokenizer, but transformers says: "
            f"{str(error).splitlines()[0]}; choose another source in bias.judging"
        ) from error
    if info["missing_keys"]:  # transformers would fill a missing head at random
        raise SourceError(
            f"{folder} should hold a text classifier and lacks {sorted(info['missing_keys'])[0]}: choose another source "
            "in bias.judging"
        )
    model = model.to(device).eval()
    labels = [model.config.id2label[place] for place in range(model.config.num_labels)]
    several = model.config.problem_type == "multi_label_classification"
    limit = min(int(tokenizer.model_max_length), getattr(model.config, "max_position_embeddings", 512))
    order = sorted((place for place, text in enumerate(texts) if text.strip()), key=lambda place: len(texts[place]))
    found = torch.full((len(texts), len(labels)), float("nan"), dtype=torch.float64)
    with progress.bar(len(order), "classifying", unit="text") as bar:
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            batch = tokenizer(
                [texts[place] for place in places], padding=True, truncation=True, max_length=limit, return_tensors="pt"
            )
            logits = model(**batch.to(device)).logits.double().cpu()
            found[places] = logits.sigmoid() if several else logits.softmax(-1)
            bar.update(len(places))
    return {label: found[:, place].tolist() for place, label in enumerate(labels)}
