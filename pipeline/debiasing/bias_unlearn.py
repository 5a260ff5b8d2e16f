"""BiasUnlearn: forget the stereotypes, keep the anti-stereotypes, stay near the model that came in.

    L = a1 L_forget + a2 L_retain + a3 L_near

    L_forget = - (2 / beta) mean over forgotten texts of log sigmoid(-beta log(pi(x) / pi0(x)))
    L_retain = - mean over retained texts of (log pi(x)) / (scored tokens of x)                    nats a token
    L_near   = mean over places of KL(p0 || p), p the distribution over the vocabulary there       nats a token

pi, p      the model; pi0, p0 the one that came in. log pi is the score of pairs.py, in nats
forgotten  the stereotypes, and a share `adversarial` of the anti-stereotypes, so that the bias is not turned round
retained   the anti-stereotypes
swap       where the mean margin of all pairs, log pi(stereotype) - log pi(anti-stereotype), is negative, the two change
           roles: forgotten are the anti-stereotypes and that share of the stereotypes. Looked at before the first epoch
           and after each

Known of the paper is the loss with its three parts and weights; L_forget and L_retain are its equations. From the authors'
code come L_near's direction and mean, L_retain's mean over tokens, the default weights, beta, rank, alpha and the share.
Here it is otherwise, by our choice:
  L_near is on all tokens of the pairs' own texts; theirs is on StereoSet's unrelated sentences, which other pairs lack
  L_forget has a text's log-probability, as the paper's equation; the code has the mean of the batch's means over tokens
  the adversarial texts are spread evenly over the pairs; theirs are the first quarter of a list ordered by bias type
  the swap is by the mean margin of all pairs, once an epoch; theirs by StereoSet's score of the bias type that is furthest
  from even, on which alone they go on, with a new optimiser
  LoRA is on all linear maps but the head, without dropout, and the learning rate may fall as a cosine; theirs falls linearly

Reference: Liu, Liu, Jin, Mao (2025), Mitigating Biases in Language Models via Bias Unlearning, EMNLP, arXiv 2509.25673;
code: a101269/BiasUnlearn. L_forget is of Zhang, Lin, Bai, Mei (2024), Negative Preference Optimization, COLM.
"""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import kl_div, logsigmoid

from pipeline.debiasing.descent import Descent, DescentSettings
from pipeline.debiasing.pairs import Side, TokenPair, both, margins_of_all, outputs, scores_in
from pipeline.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Settings(DescentSettings):
    """What conf/debias/bias_unlearn.yaml may say of the method; what is not here is in descent.py.

    beta           above 0, in 1 / nat: how soon a text counts as forgotten
    forget_weight  a1 >= 0, as retain_weight a2 and near_weight a3
    adversarial    share of the retained texts that are forgotten too, from 0 to 1
    """

    learning_rate: float = 4e-5
    weight_decay: float = 0.01
    lora_rank: int = 8
    beta: float = 0.1
    forget_weight: float = 0.5
    retain_weight: float = 0.3
    near_weight: float = 0.2
    adversarial: float = 0.25

    def check(self) -> None:
        super().check()
        self._above_zero("beta")
        for name in ("forget_weight", "retain_weight", "near_weight"):
            if not getattr(self, name) >= 0:
                raise ConfigError(
                    f"debias.{name} should be 0 or more, found {getattr(self, name):g}; change debias.{name}"
                )
        if not 0 <= self.adversarial <= 1:
            raise ConfigError(
                f"debias.adversarial should lie between 0 and 1, found {self.adversarial:g}; change debias.adversarial"
            )


class Method(Descent):
    """The method on one model, which it changes in place.

    The incoming model is asked of every batch again: with low rank it is the model without its thin matrices, in full
    training a copy of it.
    """

    settings: Settings

    def __init__(self, model: torch.nn.Module, settings: Settings, scratch: Path | None = None, seed: int = 0):
        super().__init__(model, settings, scratch, seed)
        self.incoming = None if self.adapters else copy.deepcopy(model).requires_grad_(False)
        self.references = () if self.incoming is None else (self.incoming,)

    def begin(self, pairs: Sequence[TokenPair]) -> None:
        """Which pairs have an adversarial text, and which way the bias is."""
        share = self.settings.adversarial
        self.pairs = pairs
        self.adversarial = {pair for place, pair in enumerate(pairs) if int((place + 1) * share) > int(place * share)}
        self._look()

    def end_epoch(self) -> None:
        super().end_epoch()
        self._look()

    def loss(self, pairs: Sequence[TokenPair]) -> tuple[Tensor, dict[str, float]]:
        """forget, retain, near  the three parts; margin  mean margin of the batch; swapped  1 where the roles are"""
        settings, sides = self.settings, both(pairs)
        logits_BLV, seen_BL = outputs(self.model, sides)
        before_BLV = self._before(sides)
        score_B = scores_in(logits_BLV, sides)
        ratio_B = score_B - scores_in(before_BLV, sides)
        mean_B = score_B / score_B.new_tensor([len(side.places) for side in sides])
        forgotten, retained = slice(0, len(pairs)), slice(len(pairs), None)
        if self.swapped:
            forgotten, retained = retained, forgotten
        extra = [place for place, pair in enumerate(pairs) if pair in self.adversarial]
        forget = (
            -2
            / settings.beta
            * logsigmoid(-settings.beta * torch.cat([ratio_B[forgotten], ratio_B[retained][extra]])).mean()
        )
        retain = -mean_B[retained].mean()
        near = divergence(before_BLV[seen_BL.bool()], logits_BLV[seen_BL.bool()])
        loss = settings.forget_weight * forget + settings.retain_weight * retain + settings.near_weight * near
        stereotype_B, anti_B = score_B.detach().chunk(2)
        told = {"forget": forget, "retain": retain, "near": near, "margin": (stereotype_B - anti_B).mean()}
        return loss, {name: part.item() for name, part in told.items()} | {"swapped": float(self.swapped)}

    def state(self) -> dict:
        return super().state() | {"swapped": self.swapped}

    def load_state(self, state: dict) -> None:
        super().load_state(state)
        self.swapped = state["swapped"]

    def _look(self) -> None:
        """Swap the roles where the bias is turned round."""
        self.swapped = margins_of_all(self.model, self.pairs).mean().item() < 0

    @torch.no_grad()
    def _before(self, sides: Sequence[Side]) -> Tensor:
        """logits_BLV of the model that came in."""
        if self.incoming is not None:
            return outputs(self.incoming, sides)[0]
        with self.adapters.without():
            return outputs(self.model, sides)[0]


def divergence(before_AV: Tensor, after_AV: Tensor) -> Tensor:
    """mean over A places of KL(p0 || p) in nats, p0 and p the softmax of the logits before and after."""
    before_AV, after_AV = (logits_AV.float().log_softmax(1) for logits_AV in (before_AV, after_AV))
    return kl_div(after_AV, before_AV, reduction="batchmean", log_target=True)
