"""Logit-adjusted cross entropy. Menon et al., ICLR 2021, arXiv:2007.07314, equation 10."""

from torch import Tensor

from glmc.losses.balanced_softmax import balanced_softmax, log_counts
from glmc.methods.cross_entropy import CrossEntropy
from glmc.models import Backbone
from glmc.step import Step


class LogitAdjusted(CrossEntropy):
    """Cross entropy whose logits carry the training prior, so that the bare ones suit classes of equal frequency.

    One view, one linear classifier, natural batches: the least that helps the tail, and what suits a pretrained
    backbone (Shi et al., ICML 2024, arXiv:2309.10019, find the same).

    Args:
        tau: how much of the prior; 0 is plain cross entropy, 1 the consistent choice (then also known as Balanced
            Softmax).
    """

    answers_prior = "uniform"

    def __init__(self, backbone: Backbone, counts: Tensor, *, tau: float = 1.0) -> None:
        super().__init__(backbone, counts)
        self.shift: Tensor
        self.register_buffer("shift", tau * log_counts(counts))  # [C]

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        batch = step.streams["instance"]
        return {"logit_adjusted": balanced_softmax(self.predict(batch.views[0]), batch.labels, self.shift)}
