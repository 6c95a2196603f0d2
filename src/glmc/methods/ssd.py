"""SSD, its first stage: a classifier beside self-supervision. Li et al., ICCV 2021, arXiv:2109.04075."""

from torch import Tensor, nn

from glmc.losses.base import Loss
from glmc.losses.contrastive import instance_contrastive
from glmc.methods.base import Look, Method
from glmc.methods.memory import MomentumEncoder, Queue, queue_size
from glmc.mixtures.base import Mixture
from glmc.models import Backbone
from glmc.models.heads import Projection, classifier
from glmc.step import Step


class SSD(Method):
    """A classifier trained on the labels, and beside it a contrast of every image with those of other classes.

    What follows is `then: [lws, distillation, lws]`: scales for the classifier, a new network that learns from labels
    and from the scaled one, and scales for that. Queries are the first views (`views.train`), which the classifier
    sees, too; keys the second ones (`views.contrast`), encoded by a slowly following copy. The released code contrasts
    with the queue alone, which begins with random embeddings there; here the other keys of the batch take part, too,
    and places that are still empty count for nothing.

    Args:
        contrast_weight: of the contrast, beside 1 of the labels.
        temperature: of similarities.
        hidden: width inside the projection; null: that of the features.
        embedding: length of the embeddings.
        queue: keys that are remembered; null: 65536, or all training images where these are fewer.
        keep: what the copy of the encoder keeps of itself each step.
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
        contrast_weight: float = 1.0,
        temperature: float = 0.2,
        hidden: int | None = None,
        embedding: int = 128,
        queue: int | None = None,
        keep: float = 0.999,
    ) -> None:
        super().__init__(backbone, counts, loss, mixture)
        if contrast_weight <= 0:
            raise ValueError(f"contrast_weight must be above 0, not {contrast_weight}")
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        self.contrast_weight, self.temperature, self.prior = contrast_weight, temperature, loss.prior
        self.classifier = classifier(loss.classifier, backbone.out_dim, self.classes)
        self.projector = Projection(backbone.out_dim, hidden or backbone.out_dim, embedding)
        self.slow = MomentumEncoder(backbone, self.projector, keep)
        self.queue = Queue(queue_size(queue, 65536, int(counts.sum())), embedding)
        self._keys: tuple[Tensor, Tensor]  # of this step, until it ends

    def before_epoch(self, epoch: int, epochs: int, look: Look) -> None:  # noqa: D102
        if epoch == 0:  # whatever the network starts from, its copy starts from there, too
            self.slow.start(self.backbone, self.projector)

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        batch = step.streams["instance"]
        features = self.backbone(batch.views[0])  # [B, D]
        queries = self.projector(features)  # [B, E], of length 1
        keys = self.slow(batch.views[1])  # [B, E]
        self._keys = keys, batch.labels
        contrast = instance_contrastive(
            queries, keys, batch.labels, self.queue.entries, self.queue.labels, self.temperature
        )
        return {
            "loss": self.loss(self.classifier(features), batch.labels, step.progress),
            "contrast": self.contrast_weight * contrast,
        }

    def after_step(self) -> None:  # noqa: D102
        self.queue.put(*self._keys)
        self.slow.follow(self.backbone, self.projector)

    def predict(self, images: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.classifier(self.backbone(images))
        return logits

    def head(self) -> nn.Linear | None:  # noqa: D102
        return self.classifier if isinstance(self.classifier, nn.Linear) else None
