"""Balanced Softmax as a second stage. Ren et al., NeurIPS 2020, arXiv:2007.10740 (their decoupled variant)."""

from typing import Literal

from torch import Tensor

from glmc.losses.balanced_softmax import balanced_softmax, log_counts
from glmc.methods.second_stage import SecondStage
from glmc.models import Backbone
from glmc.step import Step


class BalancedSoftmax(SecondStage):
    """Fine-tunes the classifier on natural batches with the training prior inside the loss and outside the prediction.

    On a run of GLMC this is one reading of "GLMC + BS"; the other one is `rebalanced_loss: balanced_softmax` of GLMC.

    Args:
        statistics: see `SecondStage`.
    """

    def __init__(
        self, backbone: Backbone, counts: Tensor, *, statistics: Literal["frozen", "drifting"] = "frozen"
    ) -> None:
        super().__init__(backbone, counts, statistics=statistics)
        self.log_counts: Tensor
        self.register_buffer("log_counts", log_counts(counts))  # [C]

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        batch = step.streams["instance"]
        return {"balanced_softmax": balanced_softmax(self.predict(batch.views[0]), batch.labels, self.log_counts)}
