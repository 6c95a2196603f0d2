"""PaCo: parametric contrastive learning. Cui et al., ICCV 2021, arXiv:2107.12028."""

import torch
from torch import Tensor, nn

from glmc.losses.base import Loss
from glmc.losses.contrastive import parametric_contrastive, similarities
from glmc.losses.logit_adjusted import LogitAdjusted
from glmc.methods.base import Look, Method
from glmc.methods.memory import MomentumEncoder, Queue, queue_size
from glmc.mixtures.base import Mixture
from glmc.models import Backbone
from glmc.models.heads import Projection, linear
from glmc.step import Step


class PaCo(Method):
    """The rows of the classifier join a contrastive loss as learnt centres: one softmax trains both.

    Queries are the first views (`views.train`), encoded by the network that is trained; keys the second ones
    (`views.contrast`), encoded by a slowly following copy. Candidates are the C centres with the log prior, the other
    queries, the keys and a queue of earlier keys. Of the recipe's loss, `balanced_softmax` or `logit_adjusted`, the
    prior is taken: its tau says how much of it. Places of the queue that are still empty count for nothing (the
    released code begins with random embeddings and labels there).

    Args:
        alpha: weight of each embedding of the class as a positive, beside 1 of the centre.
        temperature: of similarities between embeddings; centres have none.
        hidden: width inside the projection; null: that of the features.
        embedding: length of the embeddings.
        queue: embeddings that are remembered; null: 1024, or all training images where these are fewer.
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
        alpha: float = 0.01,
        temperature: float = 0.05,
        hidden: int | None = None,
        embedding: int = 32,
        queue: int | None = None,
        keep: float = 0.999,
    ) -> None:
        super().__init__(backbone, counts, loss, mixture)
        self.log_prior: Tensor
        self.register_buffer("log_prior", log_prior(loss, "PaCo"), persistent=False)  # [C]
        check_scale(alpha, temperature)
        self.alpha, self.temperature, self.prior = alpha, temperature, loss.prior
        self.classifier = linear(backbone.out_dim, self.classes)
        self.projector = Projection(backbone.out_dim, hidden or backbone.out_dim, embedding, batch_norm=True)
        self.slow = MomentumEncoder(backbone, self.projector, keep)
        self.queue = Queue(queue_size(queue, 1024, int(counts.sum())), embedding)
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

        pool = torch.cat([queries, keys.to(queries.dtype), self.queue.entries])  # [2B + K, E]
        pool_labels = torch.cat([batch.labels, batch.labels, self.queue.labels])
        loss = parametric_contrastive(
            self.classifier(features) + self.log_prior,  # [B, C]
            similarities(queries, pool, self.temperature),  # [B, 2B + K]
            batch.labels,
            pool_labels,
            alpha=self.alpha,
        )
        return {"loss": loss}

    def after_step(self) -> None:  # noqa: D102
        self.queue.put(*self._keys)
        self.slow.follow(self.backbone, self.projector)

    def predict(self, images: Tensor) -> Tensor:  # noqa: D102
        return self.classifier(self.backbone(images))

    def head(self) -> nn.Linear | None:  # noqa: D102
        return self.classifier


def log_prior(loss: Loss, method: str) -> Tensor:
    """Log of the class frequencies that a loss puts inside the softmax; float32 [C], its exponentials sum to 1.

    Beside embeddings, which have no prior, a common shift of all the centres would matter.
    """
    if not isinstance(loss, LogitAdjusted):
        raise ValueError(
            f"{method} has one softmax over centres and embeddings, and only takes the prior of its loss: set "
            f"loss.name=balanced_softmax, or logit_adjusted with a tau (0: no prior)"
        )
    return loss.shift.log_softmax(0)


def check_scale(alpha: float, temperature: float) -> None:
    """Refuse a weight of embeddings below 0, and a temperature that is not above it."""
    if alpha < 0:
        raise ValueError(f"alpha must be at least 0, not {alpha}")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
