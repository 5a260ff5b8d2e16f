"""The loss of a masked language model: some tokens, from the rest of the text."""

import hashlib
import logging

import numpy
import torch

from pipeline.training.pretraining import Loss

log = logging.getLogger(__name__)

CHOSEN, MASKED, RANDOM = 0.15, 0.8, 0.1  # of the tokens; of those chosen, the rest stays as it is


def loss_of(mask: int, padding: int, special: set[int], vocabulary: int, seed: int) -> Loss:
    """- sum log p(x_t | the text with chosen tokens hidden) over the chosen tokens, in nats, and how many they are.

    15 % of a sentence's tokens, rounded, and one at least, are chosen; of these 80 % are masked, 10 % replaced by a
    random token, and 10 % left. The choice is another one in every epoch, keyed by (seed, epoch, sentence): it does not
    depend on the batch. Epoch None is one fixed choice.

    mask, padding  tokens of those names
    special        tokens that are never chosen
    vocabulary     random tokens are below this
    Reference: Devlin, Chang, Lee, Toutanova (2019), BERT, NAACL; a new choice in every epoch as in Liu et al. (2019), RoBERTa.
    """

    def loss(model, sentences: list[list[int]], epoch: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (len(sentences), max(map(len, sentences)))
        ids_BL, seen_BL = torch.full(shape, padding), torch.zeros(shape, dtype=torch.long)
        targets_BL = torch.full(shape, -100)
        for row, sentence in enumerate(sentences):
            shown, places = hide(sentence, epoch)
            ids_BL[row, : len(sentence)], seen_BL[row, : len(sentence)] = torch.tensor(shown), 1
            targets_BL[row, places] = torch.tensor(sentence)[places]
        chosen_BL = targets_BL != -100
        logits_BLV = model(input_ids=ids_BL.to(model.device), attention_mask=seen_BL.to(model.device)).logits
        total = torch.nn.functional.cross_entropy(
            logits_BLV[chosen_BL.to(model.device)].float(), targets_BL[chosen_BL].to(model.device), reduction="sum"
        )
        return total, chosen_BL.sum()

    def hide(sentence: list[int], epoch: int | None) -> tuple[list[int], list[int]]:
        """The sentence as it is shown, and the places that are to be predicted."""
        key = hashlib.sha256(repr((seed, epoch, sentence)).encode()).digest()
        random = numpy.random.default_rng(int.from_bytes(key, "little"))
        candidates = [place for place, token in enumerate(sentence) if token not in special]
        places = random.permutation(candidates)[: max(1, round(CHOSEN * len(candidates)))].astype(int).tolist()
        shown = list(sentence)
        for place in places:
            draw, other = random.random(), int(random.integers(vocabulary))
            if draw < MASKED:
                shown[place] = mask
            elif draw < MASKED + RANDOM:
                shown[place] = other
        return shown, places

    loss.hide = hide
    return loss
