"""TSC: targeted supervised contrastive learning. Li et al., CVPR 2022, arXiv:2111.13998."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from glmc.losses.base import Loss
from glmc.losses.contrastive import contrast, left_out, similarities
from glmc.methods.base import Look
from glmc.methods.kcl import KCL, chosen
from glmc.mixtures.base import Mixture
from glmc.models import Backbone
from glmc.step import Step


def simplex(points: int, dimensions: int) -> Tensor:
    """Unit vectors as far apart as can be: float32 [points, dimensions], each two with cosine -1 / (points - 1).

    These minimise sum_ij exp(t_i . t_j / T) for any T. They need points - 1 dimensions; more are zero.

    Raises:
        ValueError: there are fewer.
    """
    if points > dimensions + 1:
        raise ValueError(
            f"embedding must be at least {points - 1} for evenly spread targets of {points} classes, not {dimensions}"
        )
    place = torch.arange(points, dtype=torch.float64)
    n = place[1:, None]  # row n of a Helmert matrix: n ones, then -n, then zeros; orthogonal to each other and to ones
    basis = (place < n).double() - n * (place == n)  # [points - 1, points]
    vertices = (basis / (n * (n + 1)).sqrt()).T  # [points, points - 1]
    return F.pad(F.normalize(vertices), (0, dimensions - points + 1)).float()


class TSC(KCL):
    """KCL whose classes are drawn to fixed points that are spread evenly over the sphere, rare classes included.

    At the beginning of each epoch after a first part without targets, the mean embeddings of the classes, over the
    training images without augmentation, are matched one to one to the points, so that the sum of cosines is largest
    (the paper tracks the means within the epoch and matches in every step). The points then join the denominators.

    Args:
        target_weight: lambda, of the attraction to a class's point.
        start: part of the epochs before there are targets, in [0, 1].
        embedding: length of the embeddings, at least the number of classes minus one.
    """

    def __init__(
        self,
        backbone: Backbone,
        counts: Tensor,
        loss: Loss,
        mixture: Mixture,
        *,
        target_weight: float = 0.2,
        start: float = 0.5,
        positives: int = 6,
        temperature: float = 0.07,
        embedding: int = 128,
    ) -> None:
        super().__init__(
            backbone, counts, loss, mixture, positives=positives, temperature=temperature, embedding=embedding
        )
        if not 0 <= start <= 1:
            raise ValueError(f"start must lie in [0, 1], not {start}")
        if target_weight < 0:
            raise ValueError(f"target_weight must be at least 0, not {target_weight}")
        self.target_weight, self.start = target_weight, start
        self.targets: Tensor
        self.aiming: Tensor
        self.register_buffer("targets", simplex(self.classes, embedding))  # [C, E], in the order of the classes
        self.register_buffer("aiming", torch.tensor(False))  # bool [], whether they have been matched

    def before_epoch(self, epoch: int, epochs: int, look: Look) -> None:  # noqa: D102
        if epoch < self.start * epochs:
            return
        sums = torch.zeros_like(self.targets)  # [C, E]
        for batch in look("test"):
            z = self.projector(self.backbone(batch.views[0]))  # [B, E]
            member = torch.arange(self.classes, device=z.device)[:, None] == batch.labels  # [C, B]
            with torch.autocast(z.device.type, enabled=False):
                sums += member.to(z.dtype) @ z
        gain = similarities(F.normalize(sums), self.targets, 1.0)  # [C, C], cosines of means and points
        _, places = linear_sum_assignment(gain.cpu().numpy(), maximize=True)
        self.targets.copy_(self.targets[torch.from_numpy(places).to(self.targets.device)])
        self.aiming.fill_(True)

    def contrasts(self, z: Tensor, labels: Tensor, step: Step) -> dict[str, Tensor]:  # noqa: D102
        anchor, candidate = (step.draws[name][: len(z)] for name in ("anchor", "candidate"))  # a last batch is smaller
        positives = chosen(labels, anchor, candidate, self.positives)  # [2B, 2B]
        classes = torch.arange(self.classes, device=z.device)
        own = (labels[:, None] == classes).float()  # [2B, C]

        scores = similarities(z, torch.cat([z, self.targets]), self.temperature)  # [2B, 2B + C]
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        log_weight = torch.cat([left_out(itself), left_out(~self.aiming).expand(len(z), self.classes)], 1)
        attraction = contrast(scores, torch.cat([torch.zeros_like(positives), own], 1), log_weight)
        return {
            "contrast": contrast(scores, torch.cat([positives, torch.zeros_like(own)], 1), log_weight),
            "target": self.target_weight * self.aiming * attraction,
        }
