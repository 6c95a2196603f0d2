"""Supervised learning: sampling x mixture x network x loss. Most systems of the field are a choice of these four."""

from typing import Literal

import torch
from torch import Tensor, nn

from glmc.losses.base import Loss
from glmc.methods.base import Method
from glmc.mixtures.base import Mixture
from glmc.models import Backbone
from glmc.models.heads import Cosine, classifier
from glmc.step import Step


class Supervised(Method):
    """One classifier, trained by one loss on what a mixture makes of the batches.

    Args:
        sampling: r of the images, P(class c) ~ n_c ** (1 - r), drawn with replacement; 1 balances the classes. 0 takes
            every image once an epoch.
        head: what gives the logits: a linear layer, the cosine between features and a vector of each class, or what the
            loss was published with.
        scale: what cosines are multiplied by, above 0; a softmax over bare cosines is nearly flat. 1 for losses that
            scale them themselves.
    """

    def __init__(
        self,
        backbone: Backbone,
        counts: Tensor,
        loss: Loss,
        mixture: Mixture,
        *,
        sampling: float = 0.0,
        head: Literal["loss", "linear", "cosine"] = "loss",
        scale: float = 1.0,
    ) -> None:
        super().__init__(backbone, counts, loss, mixture)
        if abs(sampling) > 10:
            raise ValueError(f"sampling must lie in [-10, 10], not {sampling}")
        kind = loss.classifier if head == "loss" else head
        if not 0 < scale <= 1000 or (kind == "linear" and scale != 1):
            raise ValueError(f"scale must lie in (0, 1000], and be 1 for a linear classifier, not {scale}")
        self.views = ("train",) * mixture.views
        self.streams = {"instance": sampling or None}
        if mixture.stream is not None:
            self.streams["rebalanced"] = mixture.stream
        self.prior = "uniform" if sampling == 1 else loss.prior
        self.classifier = classifier(kind, backbone.out_dim, self.classes, scale)

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        first, second = step.streams["instance"], step.streams.get("rebalanced")
        mixed = [self.mixture(first, second, step.draws, view) for view in range(len(self.views))]
        images, targets = (torch.cat(parts) for parts in zip(*mixed, strict=True))  # [V * B, ch, H, W], [V * B, C]
        logits = self.logits(self.backbone(images, groups=len(self.views)))  # [V * B, C]
        return {"loss": self.loss(logits, targets, step.progress)}

    def predict(self, images: Tensor) -> Tensor:  # noqa: D102
        return self.logits(self.backbone(images))

    def logits(self, features: Tensor) -> Tensor:
        """Float [B, D] -> [B, C]."""
        logits: Tensor = self.classifier(features)
        return logits

    def head(self) -> nn.Linear | None:  # noqa: D102
        return self.classifier if isinstance(self.classifier, nn.Linear) else None

    def adopt_head(self, head: nn.Linear | Cosine) -> None:  # noqa: D102
        if isinstance(self.classifier, nn.Linear) != isinstance(head, nn.Linear):
            raise ValueError(
                f"{type(self.loss).__name__} has a classifier of another kind than the run: take the run's loss, or "
                "starts_from=backbone"
            )
        self.classifier.load_state_dict(head.state_dict())
