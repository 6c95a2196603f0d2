"""MaxNorm: the classifier fine-tuned inside a ball. Alshammari et al., CVPR 2022, arXiv:2203.14197."""

import torch
from torch import Tensor, nn

from glmc.losses.base import Loss
from glmc.methods.supervised import Supervised
from glmc.mixtures.base import Mixture
from glmc.models import Backbone
from glmc.models.heads import Cosine
from glmc.posthoc import max_norm, norm_limit


class MaxNorm(Supervised):
    """Fine-tunes the classifier of a trained run under a bound on the norm of its rows and strong weight decay.

    Rows of frequent classes grow long and win too often; after every epoch, each row beyond the bound is cut down to
    it. The GLMC documents report GLMC + MaxNorm without releasing its second stage; the loss that goes with it, softmax
    BCE with class weights, is what the history of the published code shows.

    Args:
        threshold: how far the bound lies from the shortest to the longest row of the stage-1 classifier, in [0, 1].
        sampling: see `Supervised`.
    """

    second_stage = True

    def __init__(
        self,
        backbone: Backbone,
        counts: Tensor,
        loss: Loss,
        mixture: Mixture,
        *,
        threshold: float = 0.1,
        sampling: float = 0.0,
    ) -> None:
        super().__init__(backbone, counts, loss, mixture, sampling=sampling)
        head = self.head()
        if head is None:
            raise ValueError(f"MaxNorm needs a linear classifier, and {type(loss).__name__} has another")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], not {threshold}")
        self.threshold = threshold
        self.limit: Tensor
        self.register_buffer("limit", norm_limit(head.weight, threshold))  # [], fixed when adopting

    def adopt_head(self, head: nn.Linear | Cosine) -> None:  # noqa: D102
        super().adopt_head(head)
        self.limit.copy_(norm_limit(head.weight, self.threshold))

    @torch.no_grad()
    def after_epoch(self) -> None:  # noqa: D102
        head = self.head()
        if head is not None:
            head.weight.copy_(max_norm(head.weight, self.limit))
