"""GPaCo: generalised parametric contrastive learning. Cui et al., TPAMI 2023, arXiv:2209.12400."""

import torch
from torch import Tensor, nn

from glmc.losses.base import Loss
from glmc.losses.contrastive import parametric_contrastive, similarities
from glmc.methods.base import Method
from glmc.methods.memory import Queue, queue_size
from glmc.methods.paco import check_scale, log_prior
from glmc.mixtures.base import Mixture
from glmc.models import Backbone
from glmc.models.heads import Projection, linear
from glmc.step import Step


class GPaCo(Method):
    """`PaCo` without the second encoder: both views pass through the network that is trained, and both are anchors.

    The queue holds embeddings of the second views (`views.contrast`), without gradients. The projection has two hidden
    layers and no BatchNorm. The loss is as for `PaCo`.

    Args:
        alpha, temperature, embedding, queue: see `PaCo`.
        hidden: width inside the projection; null: that of the features.
        smoothing: share of the centres' weight that is spread evenly over all of them, in [0, 1).
    """

    views = ("train", "contrast")
    takes_mixtures = False

    def __init__(
        self,
        backbone: Backbone,
        counts: Tensor,
        loss: Loss,
        mixture: Mixture,
        *,
        alpha: float = 0.01,
        temperature: float = 0.05,
        hidden: int | None = None,
        embedding: int = 32,
        queue: int | None = None,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__(backbone, counts, loss, mixture)
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must lie in [0, 1), not {smoothing}")
        self.log_prior: Tensor
        self.register_buffer("log_prior", log_prior(loss, "GPaCo"), persistent=False)  # [C]
        check_scale(alpha, temperature)
        self.alpha, self.temperature, self.smoothing, self.prior = alpha, temperature, smoothing, loss.prior
        width = hidden or backbone.out_dim
        self.classifier = linear(backbone.out_dim, self.classes)
        self.projector = Projection(backbone.out_dim, width, width, embedding)
        self.queue = Queue(queue_size(queue, 1024, int(counts.sum())), embedding)
        self._seconds: tuple[Tensor, Tensor]  # embeddings of this step's second views and their labels, until it ends

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        batch = step.streams["instance"]
        labels = batch.labels.repeat(2)  # [2B]
        features = self.backbone(torch.cat(batch.views), groups=2)  # [2B, D]
        z = self.projector(features)  # [2B, E], of length 1
        self._seconds = z[len(batch.labels) :].detach(), batch.labels

        loss = parametric_contrastive(
            self.classifier(features) + self.log_prior,  # [2B, C]
            similarities(z, torch.cat([z, self.queue.entries]), self.temperature),  # [2B, 2B + K]
            labels,
            torch.cat([labels, self.queue.labels]),
            alpha=self.alpha,
            smoothing=self.smoothing,
        )
        return {"loss": loss}

    def after_step(self) -> None:  # noqa: D102
        self.queue.put(*self._seconds)

    def predict(self, images: Tensor) -> Tensor:  # noqa: D102
        return self.classifier(self.backbone(images))

    def head(self) -> nn.Linear | None:  # noqa: D102
        return self.classifier
