"""MaxNorm: the classifier fine-tuned inside a ball. Alshammari et al., CVPR 2022, arXiv:2203.14197."""

from typing import Literal

import torch
from torch import Tensor

from glmc.losses import class_weights
from glmc.losses.weighted_bce import softmax_bce
from glmc.methods.base import Method
from glmc.methods.second_stage import SecondStage
from glmc.models import Backbone
from glmc.posthoc import max_norm, norm_limit
from glmc.step import Step


class MaxNorm(SecondStage):
    """Fine-tunes the classifier under a bound on the norm of its rows and strong weight decay (the optimizer's).

    Rows of frequent classes grow long and win too often; after every epoch, each row beyond the bound is cut down to
    it. The GLMC documents report GLMC + MaxNorm without releasing its second stage; loss and class weights here are
    what the history of the published code shows.

    Args:
        label_weighting: k of the class weights, ~ n_c ** -k with mean 1.
        threshold: how far the bound lies from the shortest to the longest row of the stage-1 classifier, in [0, 1].
        statistics: see `SecondStage`.
    """

    def __init__(
        self,
        backbone: Backbone,
        counts: Tensor,
        *,
        label_weighting: float = 1.2,
        threshold: float = 0.1,
        statistics: Literal["frozen", "drifting"] = "frozen",
    ) -> None:
        super().__init__(backbone, counts, statistics=statistics)
        self.threshold = threshold
        self.class_weights: Tensor
        self.limit: Tensor
        self.register_buffer("class_weights", class_weights(counts, label_weighting))  # [C]
        self.register_buffer("limit", norm_limit(self.classifier.weight, threshold))  # [], fixed when adopting

    def adopt(self, trained: Method) -> None:  # noqa: D102
        super().adopt(trained)
        self.limit.copy_(norm_limit(self.classifier.weight, self.threshold))

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        batch = step.streams["instance"]
        return {"softmax_bce": softmax_bce(self.predict(batch.views[0]), batch.labels, self.class_weights)}

    @torch.no_grad()
    def after_epoch(self) -> None:  # noqa: D102
        self.classifier.weight.copy_(max_norm(self.classifier.weight, self.limit))
