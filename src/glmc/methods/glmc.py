"""GLMC: global and local mixture consistency cumulative learning. Du et al., CVPR 2023, arXiv:2305.08661."""

from typing import Literal

import torch
from torch import Tensor, nn

from glmc.losses.base import Loss
from glmc.losses.cross_entropy import CrossEntropy
from glmc.losses.negative_cosine import negative_cosine
from glmc.methods.base import Method
from glmc.mixtures.base import Mixture
from glmc.models import Backbone
from glmc.models.heads import classifier, linear
from glmc.step import Step


class GLMC(Method):
    """Two mixtures of the same images must agree, while the loss moves from the head classes to the tail.

    Each image of the instance stream is paired with one of a re-sampled stream. Their first views are mixed globally,
    their second views locally (the mixture `mixup_cutmix`; any other is applied to both views). Both mixtures pass the
    encoder; a conventional classifier learns the mixed labels, a rebalanced one learns them with the loss of the recipe
    (class weights in the paper), and a predictor on top of a projection must predict each mixture's projection from
    the other's. Where the published text and code disagree, a setting chooses.

    Args:
        contrast_weight: gamma, the factor of the consistency term.
        view_reduction: both classification losses as the mean over the two views ("mean", the documents' 1 / 2N) or as
            their sum ("sum", published code: twice the formula, beside an unchanged gamma).
        embedding: length of projections and predictions. None is the published code's choice: 128 behind features of at
            most 256 (ResNet-20 to 56 of either width), 256 behind longer ones (ResNet-18, 34, 50, ResNeXt-50).
        conventional: loss of the conventional classifier; null: cross entropy.
        rebalance: false keeps alpha at 1 and lets the conventional classifier answer, for ablations.
    """

    views = ("train", "train")  # two augmentations of each image

    def __init__(
        self,
        backbone: Backbone,
        counts: Tensor,
        loss: Loss,
        mixture: Mixture,
        *,
        contrast_weight: float = 4.0,
        view_reduction: Literal["mean", "sum"] = "sum",
        embedding: int | None = None,
        conventional: Loss | None = None,
        rebalance: bool = True,
    ) -> None:
        super().__init__(backbone, counts, loss, mixture)
        if mixture.stream is not None:
            self.streams = {"instance": None, "rebalanced": mixture.stream}
        if embedding is None:
            embedding = 128 if backbone.out_dim <= 256 else 256
        if embedding < 1:
            raise ValueError(f"embedding must be at least 1, not {embedding}")
        self.contrast_weight, self.rebalance = contrast_weight, rebalance
        self.view_scale = {"mean": 1.0, "sum": 2.0}[view_reduction]
        self.conventional_loss = conventional or CrossEntropy(counts)
        self.refuse_mixed(self.conventional_loss)
        self.prior = loss.prior if rebalance else self.conventional_loss.prior
        self.classifier = classifier(self.conventional_loss.classifier, backbone.out_dim, self.classes)
        self.rebalanced = classifier(loss.classifier, backbone.out_dim, self.classes)  # answers at test time
        self.projector = linear(backbone.out_dim, embedding)
        self.predictor = linear(embedding, embedding)

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        first, second = step.streams["instance"], step.streams.get("rebalanced")  # views [B, ch, H, W], labels [B]
        mixed, mixed_targets = self.mixture(first, second, step.draws, view=0)  # [B, ch, H, W], [B, C]
        cut, cut_targets = self.mixture(first, second, step.draws, view=1)
        targets = torch.cat([mixed_targets, cut_targets])  # [2B, C], rows sum to 1

        features = self.backbone(torch.cat([mixed, cut]), groups=2)  # [2B, D], one pass, BatchNorm for each view
        z = self.projector(features)  # [2B, E]
        z_mixed, z_cut = z.chunk(2)
        p_mixed, p_cut = self.predictor(z).chunk(2)

        tailwards = step.progress**2 * self.rebalance  # 0 -> 1; alpha of the paper is 1 - tailwards
        conventional = self.view_scale * self.conventional_loss(self.classifier(features), targets, step.progress)
        rebalanced = self.view_scale * self.loss(self.rebalanced(features), targets, step.progress)
        disagreement = negative_cosine(p_mixed, z_cut) + negative_cosine(p_cut, z_mixed)
        return {
            "conventional": (1 - tailwards) * conventional,
            "rebalanced": tailwards * rebalanced,
            "consistency": self.contrast_weight * disagreement,
        }

    def predict(self, images: Tensor) -> Tensor:  # noqa: D102
        return self.answering(self.backbone(images))

    @property
    def answering(self) -> nn.Module:
        """The classifier that answers at test time."""
        return self.rebalanced if self.rebalance else self.classifier

    def head(self) -> nn.Linear | None:  # noqa: D102
        return self.answering if isinstance(self.answering, nn.Linear) else None
