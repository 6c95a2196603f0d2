"""BBN: a branch for the images as they come, a branch for a sampler turned upside down. Zhou et al., CVPR 2020.

arXiv:1912.02413. The two branches are the experts of the network: `model.experts=2`, held apart from its last block on
(`model.experts_from=last`). Training slides from the first to the second.
"""

import torch
from torch import Tensor

from glmc.losses.base import Loss
from glmc.methods.base import Method
from glmc.mixtures.base import Mixture
from glmc.models import Backbone
from glmc.models.heads import linear
from glmc.step import Step


class BBN(Method):
    """One linear classifier on the features of both branches, side by side.

    Args:
        reversal: r of the second branch's images, P(class c) ~ n_c ** (1 - r); 2 is the paper's: the rarest class is
            as frequent as the most frequent one is among all images.

    Raises:
        ValueError: not two experts, or reversal not in [0, 10].
    """

    takes_experts = True
    takes_mixtures = False  # it mixes the features of two batches
    prior = "uniform"

    def __init__(
        self, backbone: Backbone, counts: Tensor, loss: Loss, mixture: Mixture, *, reversal: float = 2.0
    ) -> None:
        super().__init__(backbone, counts, loss, mixture)
        if backbone.experts != 2:
            raise ValueError("BBN has two branches: set model.experts=2, and model.experts_from to the last block")
        if not 0 <= reversal <= 10:
            raise ValueError(f"reversal must lie in [0, 10], not {reversal}")
        self.streams = {"instance": None, "rebalanced": reversal}
        self.classifier = linear(2 * backbone.out_dim, self.classes)

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        first, second = step.streams["instance"], step.streams["rebalanced"]
        images = torch.cat([first.views[0], second.views[0]])  # [2 * B, ch, H, W]
        conventional, reversed_ = self.backbone(images, groups=2, apart=True)  # [B, D] each
        share = 1 - step.progress**2  # of the conventional branch; equation 3
        logits = self.classifier(2 * torch.cat([share * conventional, (1 - share) * reversed_], 1))  # [B, C]
        return {
            "conventional": share * self.loss(logits, first.labels, step.progress),
            "reversed": (1 - share) * self.loss(logits, second.labels, step.progress),
        }

    def predict(self, images: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.classifier(torch.cat([*self.backbone(images)], 1))  # both branches alike
        return logits
