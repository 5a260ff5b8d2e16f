"""Direct preference optimisation: of a pair the anti-stereotype is preferred, the stereotype rejected.

    L = - mean log sigmoid(beta ((log pi(a) - log pi0(a)) - (log pi(s) - log pi0(s))))

a, s    the anti-stereotype and the stereotype of a pair; log pi is the score of pairs.py, in nats. With the margin
        m = log pi(s) - log pi(a) it is L = - mean log sigmoid(beta (m0 - m)): what both sides share cancels
pi0     the model that came in. m0 is read once, before the training, so that no second model is in the memory
At the start L = log 2 and its gradient is beta / 2 times that of the mean margin; it fades as the margin falls beneath m0 by
more than 1 / beta. There is no target at even: which epoch is nearest to it, tuning.py finds.

Reference: Rafailov, Sharma, Mitchell, Ermon, Manning, Finn (2023), Direct Preference Optimization, NeurIPS, equation 7; on
such pairs: Dige, Arneja, Yau, Zhang, Bolandraftar, Zhu, Khattak (2024), Can Machine Unlearning Reduce Social Bias in
Language Models?, EMNLP Industry, whose LoRA has dropout, which this one does not.
"""

import dataclasses
from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import logsigmoid

from pipeline.debiasing.descent import Descent, DescentSettings
from pipeline.debiasing.pairs import TokenPair, margins, margins_of_all


@dataclasses.dataclass(frozen=True)
class Settings(DescentSettings):
    """What conf/debias/dpo.yaml may say of the method; what is not here is in descent.py.

    beta  above 0, in 1 / nat: how soon a margin that has fallen is enough; small is far from the incoming model
    """

    lora_rank: int = 16
    beta: float = 0.1

    def check(self) -> None:
        super().check()
        self._above_zero("beta")


class Method(Descent):
    """The method on one model, which it changes in place."""

    settings: Settings

    def begin(self, pairs: Sequence[TokenPair]) -> None:
        """Read m0 of all pairs; the model is the one that came in."""
        self.reference = dict(zip(pairs, margins_of_all(self.model, pairs).tolist(), strict=True))

    def loss(self, pairs: Sequence[TokenPair]) -> tuple[Tensor, dict[str, float]]:
        """margin  mean m of the batch"""
        margin_B = margins(self.model, pairs)
        reference_B = margin_B.new_tensor([self.reference[pair] for pair in pairs])
        loss = -logsigmoid(self.settings.beta * (reference_B - margin_B)).mean()
        return loss, {"margin": margin_B.mean().item()}
