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

    Args:
        sampling: see `Supervised`; the paper balances the classes.
    """

    second_stage = True

    def __init__(
        self, backbone: Backbone, counts: Tensor, loss: Loss, mixture: Mixture, *, sampling: float = 1.0
    ) -> None:
        super().__init__(backbone, counts, loss, mixture, sampling=sampling)
        self.classifier.requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(self.classes))  # [C]

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
