"""LWS: one learned scale a class. Kang et al., ICLR 2020, arXiv:1910.09217."""

import copy

import torch
from torch import Tensor, nn

from glmc.losses.base import Loss
from glmc.methods.supervised import Supervised
from glmc.mixtures.base import Mixture
from glmc.models import Backbone


class LWS(Supervised):
    """Keeps the classifier of a trained run and learns a factor for each of its outputs.

    The second stage of MiSLAS (Zhong et al., CVPR 2021, arXiv:2104.00466) lets the classifier learn, too, more slowly.

    Args:
        sampling: see `Supervised`; both papers balance the classes.
        classifier_rate: factor of the learning rate of the classifier itself; 0 leaves it as it is. MiSLAS 0.05 to 0.5.
    """

    second_stage = True

    def __init__(
        self,
        backbone: Backbone,
        counts: Tensor,
        loss: Loss,
        mixture: Mixture,
        *,
        sampling: float = 1.0,
        classifier_rate: float = 0.0,
    ) -> None:
        super().__init__(backbone, counts, loss, mixture, sampling=sampling)
        if classifier_rate < 0:
            raise ValueError(f"classifier_rate must be at least 0, not {classifier_rate}")
        self.classifier_rate = classifier_rate
        self.classifier.requires_grad_(classifier_rate > 0)
        self.scale = nn.Parameter(torch.ones(self.classes))  # [C]

    def rates(self, progress: float) -> dict[str, float]:  # noqa: D102
        return {"classifier": self.classifier_rate} if self.classifier_rate else {}

    def logits(self, features: Tensor) -> Tensor:
        """Float [B, D] -> [B, C]; the bias is scaled, too."""
        return self.scale * super().logits(features)

    def head(self) -> nn.Linear | None:
        """The classifier with its scales multiplied in: the same logits."""
        head = copy.deepcopy(super().head())
        if head is not None:
            with torch.no_grad():
                head.weight.mul_(self.scale[:, None])
                head.bias.mul_(self.scale)
        return head
