"""The loss of a causal language model: every token but the first, from those before it."""

import torch


def loss(model, sentences: list[list[int]], epoch: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """- sum log p(x_t | x_<t) in nats, and how many tokens were predicted. Nothing is random."""
    ids_BL, targets_BL = _batch(sentences, model.device)
    # Padding stands on the right, where a causal model never looks: no attention mask is needed.
    logits_BLV = model(input_ids=ids_BL).logits[:, :-1].float()
    total = torch.nn.functional.cross_entropy(
        logits_BLV.flatten(0, 1), targets_BL[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
    return total, (targets_BL != -100).sum()


def _batch(sentences: list[list[int]], device) -> tuple[torch.Tensor, torch.Tensor]:
    """ids_BL padded on the right, and targets_BL with -100 where nothing is predicted (first token, padding)."""
    length = max(map(len, sentences))
    ids = torch.zeros((len(sentences), length), dtype=torch.long)
    targets = torch.full((len(sentences), length), -100, dtype=torch.long)
    for row, sentence in enumerate(sentences):
        ids[row, : len(sentence)] = torch.tensor(sentence)
        targets[row, 1 : len(sentence)] = ids[row, 1 : len(sentence)]
    return ids.to(device), targets.to(device)
