"""BCL: balanced contrastive learning. Zhu et al., CVPR 2022, arXiv:2207.09052."""

import torch
from torch import Tensor, nn

from glmc.losses.base import Loss
from glmc.losses.contrastive import balanced_contrastive
from glmc.methods.base import Method
from glmc.mixtures.base import Mixture
from glmc.models import Backbone
from glmc.models.heads import Projection, classifier
from glmc.step import Step


class BCL(Method):
    """A classifier with the recipe's loss on one view, and a class-balanced contrastive loss on two others.

    The classifier's rows, sent through a projection of their own, are the centres of the classes among the embeddings,
    so that each class has a positive in every batch. The recipe describes the classifier's view as `views.train` and
    the other two as `views.contrast`. The authors' loss is logit adjustment with tau = 1.

    Args:
        classification_weight: factor of the classification loss.
        contrast_weight: factor of the contrastive loss; the released code takes 0.35.
        temperature: of the similarities.
        hidden: width inside both projections; null: that of the features.
        embedding: length of the embeddings; the released code takes 1024 on ImageNet-LT.
    """

    views = ("train", "contrast", "contrast")

    def __init__(
        self,
        backbone: Backbone,
        counts: Tensor,
        loss: Loss,
        mixture: Mixture,
        *,
        classification_weight: float = 1.0,
        contrast_weight: float = 0.35,
        temperature: float = 0.07,
        hidden: int | None = None,
        embedding: int = 128,
    ) -> None:
        super().__init__(backbone, counts, loss, mixture)
        if mixture.views > 1:
            raise ValueError(f"BCL classifies a single view: {type(mixture).__name__} wants {mixture.views}")
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        if min(hidden or 1, embedding) < 1:
            raise ValueError(f"embedding and hidden must be at least 1, not {embedding} and {hidden}")
        if mixture.stream is not None:
            self.streams = {"instance": None, "rebalanced": mixture.stream}
        self.prior = loss.prior
        self.classification_weight, self.contrast_weight = classification_weight, contrast_weight
        self.temperature = temperature
        sizes = (backbone.out_dim, hidden or backbone.out_dim, embedding)
        self.classifier = classifier(loss.classifier, backbone.out_dim, self.classes)
        self.projector = Projection(*sizes, batch_norm=True)
        self.centres = Projection(*sizes, batch_norm=True)

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        first, second = step.streams["instance"], step.streams.get("rebalanced")
        images, targets = self.mixture(first, second, step.draws)  # [B, ch, H, W], int64 [B] or float [B, C]
        features = self.backbone(torch.cat([images, *first.views[1:]]), groups=3)  # [3B, D], one pass
        batch = len(first.labels)

        logits = self.classifier(features[:batch])  # [B, C]
        z = self.projector(features[batch:])  # [2B, E], of length 1
        centres = self.centres(self.classifier.weight)  # [C, E]
        contrast = balanced_contrastive(z, first.labels.repeat(2), centres, self.temperature)
        return {
            "classification": self.classification_weight * self.loss(logits, targets, step.progress),
            "contrast": self.contrast_weight * contrast,
        }

    def predict(self, images: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.classifier(self.backbone(images))
        return logits

    def head(self) -> nn.Linear | None:  # noqa: D102
        return self.classifier if isinstance(self.classifier, nn.Linear) else None
