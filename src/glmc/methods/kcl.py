"""KCL: contrastive learning with k positives. Kang et al., ICLR 2021, "Exploring balanced feature spaces"."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from glmc.losses.base import Loss
from glmc.losses.contrastive import contrast, left_out, similarities
from glmc.methods.supcon import SupCon
from glmc.mixtures.base import Mixture
from glmc.models import Backbone
from glmc.random import Draws
from glmc.step import Step


def chosen(labels: Tensor, anchor: Tensor, candidate: Tensor, k: int) -> Tensor:
    """The positives of each embedding: the other view of its image, and k random others of its class.

    Args:
        labels: int64 [2B], both views one after the other.
        anchor, candidate: float [2B] in [0, 1), random. The order of candidates j for anchor i is that of
            (anchor_i + candidate_j) mod 1: for each anchor all sets of k are equally likely, and 4B numbers do.
        k: where the class has fewer in the batch, these.

    Returns:
        float32 [2B, 2B] of zeros and ones.
    """
    image = torch.arange(len(labels), device=labels.device) % (len(labels) // 2)  # [2B]
    twin = image[:, None] == image  # [2B, 2B]: itself, and its other view
    others = (labels[:, None] == labels) & ~twin
    order = ((anchor[:, None] + candidate) % 1).masked_fill(~others, -1.0)
    highest, places = order.topk(min(k, len(labels)), dim=1)  # [2B, k]
    positives = (twin & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)).float()
    return positives.scatter_add_(1, places, (highest >= 0).float())


class KCL(SupCon):
    """SupCon with the same number of positives for every image, so that frequent classes do not draw closer than rare.

    In the form that was published for CIFAR: candidates are the two views of the batch, with neither queue nor momentum
    encoder. The rest is as in `SupCon`, the second stage included.

    Args:
        positives: k, beside the other view of the image; fewer where the batch holds fewer of the class.
    """

    def __init__(
        self,
        backbone: Backbone,
        counts: Tensor,
        loss: Loss,
        mixture: Mixture,
        *,
        positives: int = 6,
        temperature: float = 0.07,
        embedding: int = 128,
    ) -> None:
        super().__init__(backbone, counts, loss, mixture, temperature=temperature, embedding=embedding)
        views = 2 * (int(counts.max()) - 1)  # of other images of the largest class
        if views < 1:
            raise ValueError("KCL draws images of one class together, and no class has two training images")
        if not 1 <= positives <= views:
            raise ValueError(
                f"positives must lie in [1, {views}], the views of other images in the largest class, not {positives}"
            )
        self.positives = positives

    def tables(self, rng: Draws, *, epoch: int, epochs: int, steps: int, batch: int) -> dict[str, NDArray[Any]]:  # noqa: D102
        return {"anchor": rng.uniform(steps, 2 * batch), "candidate": rng.uniform(steps, 2 * batch)}

    def contrasts(self, z: Tensor, labels: Tensor, step: Step) -> dict[str, Tensor]:  # noqa: D102
        anchor, candidate = (step.draws[name][: len(z)] for name in ("anchor", "candidate"))  # a last batch is smaller
        positives = chosen(labels, anchor, candidate, self.positives)  # [2B, 2B]
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        return {"contrast": contrast(similarities(z, z, self.temperature), positives, left_out(itself))}
