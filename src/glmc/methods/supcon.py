"""SupCon: supervised contrastive learning of an encoder. Khosla et al., NeurIPS 2020, arXiv:2004.11362."""

import torch
from torch import Tensor, nn

from glmc.losses.base import Loss
from glmc.losses.contrastive import supervised_contrastive
from glmc.methods.base import Method
from glmc.mixtures.base import Mixture
from glmc.models import Backbone
from glmc.models.heads import Projection, classifier
from glmc.step import Step


class SupCon(Method):
    """Embeddings of the same class attract each other, all others repel. The encoder of a two-stage system.

    The classifier is not part of the system: it learns along by the recipe's loss, on features that it does not shape,
    so that the encoder can be watched. The second stage, `glmc finetune RUN --stage2 linear`, trains one on the
    finished encoder. Both views are described by `views.train`; the factor T / T_base of the paper is 1.

    Args:
        temperature: of the similarities.
        embedding: length of the embeddings, behind a hidden layer as wide as the features.
    """

    views = ("train", "train")
    takes_mixtures = False

    def __init__(
        self,
        backbone: Backbone,
        counts: Tensor,
        loss: Loss,
        mixture: Mixture,
        *,
        temperature: float = 0.07,
        embedding: int = 128,
    ) -> None:
        super().__init__(backbone, counts, loss, mixture)
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        if embedding < 1:
            raise ValueError(f"embedding must be at least 1, not {embedding}")
        self.prior = loss.prior
        self.temperature = temperature
        self.classifier = classifier(loss.classifier, backbone.out_dim, self.classes)
        self.projector = Projection(backbone.out_dim, backbone.out_dim, embedding)

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        batch = step.streams["instance"]
        labels = batch.labels.repeat(2)  # [2B]
        features = self.backbone(torch.cat(batch.views), groups=2)  # [2B, D]
        z = self.projector(features)  # [2B, E], of length 1
        logits = self.classifier(features.detach())  # [2B, C]
        return {**self.contrasts(z, labels, step), "probe": self.loss(logits, labels, step.progress)}

    def contrasts(self, z: Tensor, labels: Tensor, step: Step) -> dict[str, Tensor]:
        """The contrastive terms of both views, one after the other: float [2B, E] of length 1, int64 [2B]."""
        places = torch.arange(len(z), device=z.device)
        return {"contrast": supervised_contrastive(z, labels, z, labels, places, self.temperature)}

    def predict(self, images: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.classifier(self.backbone(images))
        return logits

    def head(self) -> nn.Linear | None:  # noqa: D102
        return self.classifier if isinstance(self.classifier, nn.Linear) else None
