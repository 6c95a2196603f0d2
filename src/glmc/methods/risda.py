"""RISDA: features augmented in closed form, in directions borrowed from confused classes. Chen et al., AAAI 2022.

arXiv:2112.07928, on top of ISDA (Wang et al., NeurIPS 2019, arXiv:1909.12220): the expected cross entropy of a feature
that is moved by a normal random vector has an upper bound in the logits and a quadratic form of the classifier's rows.
"""

import torch
from torch import Tensor, nn

from glmc.losses.base import Loss, distributions
from glmc.methods.base import Look
from glmc.methods.supervised import Supervised
from glmc.mixtures.base import Mixture
from glmc.models import Backbone
from glmc.step import Step

MOST_BYTES = 2**30  # of the covariances, which a step holds a few times


class RISDA(Supervised):
    """Plain training, and then the classifier alone on features augmented along directions of similar classes.

    At the beginning of the second part, one look at the training images without augmentation gives the class means M
    and the graph K, the part of each class's images that is taken for each class. (The released code looks after every
    epoch, keeps the graph of its best epoch, and rounds it to hundredths; by then the two are much the same.) From then
    on the backbone keeps its weights, but its running averages go on. With t = epoch / epochs and label y, the logits

        z_j + alpha t w_j (K M - M)_y + beta t / 2 (w_j - w_y) S_y (w_j - w_y)

    go into the recipe's loss; `deferred` with the same `start` is the paper's, with effective numbers as class weights.
    S are the covariances of all features since the beginning of the second part. A class that borrows takes
    sum_k K_yk S_k in place of its own: the rarest do, by a share of the classes, where the released code has all but
    twenty, whatever their number.

    The mean shift stands in the logits once. The released code adds it to the features as well, which for a softmax is
    the same as twice: its alpha of 0.5 is 1 here.

    Args:
        alpha: of the mean shift, at least 0.
        beta: of the covariances, at least 0.
        start: part of the epochs before the second part, in [0, 1).
        borrowers: share of the classes, the rarest, that borrow covariances, in [0, 1].
        compounding: whether what is borrowed stays in the running covariances and is borrowed from in the next step, as
            in the released code; false borrows from what was measured.

    Raises:
        ValueError: no linear classifier, covariances larger than 1 GiB, or a value out of its range.
    """

    takes_mixtures = False  # how a feature is augmented depends on its label
    takes_sharpness = False  # each batch is measured once
    classifier: nn.Linear
    means: Tensor
    covariances: Tensor
    amounts: Tensor
    lending: Tensor
    shifts: Tensor
    late: Tensor
    keeps: Tensor

    def __init__(
        self,
        backbone: Backbone,
        counts: Tensor,
        loss: Loss,
        mixture: Mixture,
        *,
        alpha: float = 1.0,
        beta: float = 0.75,
        start: float = 0.8,
        borrowers: float = 0.8,
        compounding: bool = True,
    ) -> None:
        super().__init__(backbone, counts, loss, mixture)
        if self.head() is None:
            raise ValueError(f"RISDA needs a linear classifier, and {type(loss).__name__} has another")
        for name, value in (("alpha", alpha), ("beta", beta)):
            if value < 0:
                raise ValueError(f"{name} must be at least 0, not {value}")
        if not 0 <= start < 1:
            raise ValueError(f"start must lie in [0, 1), not {start}")
        if not 0 <= borrowers <= 1:
            raise ValueError(f"borrowers must lie in [0, 1], not {borrowers}")
        classes, length = self.classes, backbone.out_dim
        if classes * length**2 * 4 > MOST_BYTES:
            raise ValueError(
                f"RISDA keeps a covariance of {length} x {length} for each of {classes} classes, "
                f"{classes * length**2 * 4 / 2**30:.1f} GiB where 1 GiB is the most: take a network of shorter features"
            )
        self.alpha, self.beta, self.start, self.compounding = alpha, beta, start, compounding
        rarest_last = counts.argsort(descending=True, stable=True)
        keeps = torch.zeros(classes, dtype=torch.bool)
        keeps[rarest_last[: classes - round(borrowers * classes)]] = True
        self.register_buffer("keeps", keeps, persistent=False)  # bool [C], classes that borrow nothing
        self.register_buffer("means", torch.zeros(classes, length))  # [C, D], of the features since the switch
        self.register_buffer("covariances", torch.zeros(classes, length, length))  # [C, D, D]
        self.register_buffer("amounts", torch.zeros(classes))  # [C], how many features these are of
        self.register_buffer("lending", torch.eye(classes))  # [C, C], rows of K; unit vectors of those that keep
        self.register_buffer("shifts", torch.zeros(classes, length))  # [C, D], K M - M
        self.register_buffer("late", torch.tensor(False))  # bool [], whether the second part has begun

    def before_epoch(self, epoch: int, epochs: int, look: Look) -> None:  # noqa: D102
        if epoch / epochs < self.start or self.late:
            return
        confusion, sums = torch.zeros_like(self.lending), torch.zeros_like(self.shifts)
        for batch in look("test"):
            features = self.backbone(batch.views[0])  # [B, D]
            logits = self.logits(features)  # [B, C]
            with torch.autocast(features.device.type, enabled=False):
                own = distributions(batch.labels, sums[:, 0].expand_as(logits))  # [B, C], one-hot
                confusion += own.T @ distributions(logits.argmax(1), own)
                sums += own.T @ features.to(sums.dtype)
        images = confusion.sum(1, keepdim=True)  # [C, 1], all >= 1
        graph, means = confusion / images, sums / images
        self.shifts.copy_(graph @ means - means)
        self.lending.copy_(torch.where(self.keeps[:, None], torch.eye(self.classes, device=graph.device), graph))
        self.late.fill_(True)

    def rates(self, progress: float) -> dict[str, float]:
        """No learning rate for the backbone in the second part: neither weight decay nor momentum moves it."""
        return {"backbone": 0.0} if progress >= self.start else {}

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        batch = step.streams["instance"]
        features = self.backbone(batch.views[0])  # [B, D]
        features = torch.where(self.late, features.detach(), features)
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.shifts.dtype)
            covariances = self.measure(features.detach(), batch.labels)
            logits = self.augmented(features, batch.labels, covariances, step.progress * self.late)
        return {"loss": self.loss(logits, batch.labels, step.progress)}

    def augmented(self, features: Tensor, labels: Tensor, covariances: Tensor, strength: Tensor) -> Tensor:
        """Logits of augmented features, float [B, C]; `strength` is t, and 0 leaves the logits alone."""
        rows = self.classifier.weight  # [C, D]
        apart = rows - rows[labels][:, None]  # [B, C, D], w_j - w_y
        spread = ((apart @ covariances[labels]) * apart).sum(2)  # [B, C]
        shifted = features + self.alpha * strength * self.shifts[labels]
        return self.logits(shifted) + self.beta * strength / 2 * spread

    @torch.no_grad()
    def measure(self, features: Tensor, labels: Tensor) -> Tensor:
        """Let means and covariances follow a batch, and lend: float [C, D, D]. Nothing moves in the first part.

        The covariance of two sets of features together is that of each, weighted by its share, and the product of the
        shares times the outer product of the difference of their means.
        """
        own = distributions(labels, self.amounts.expand(len(labels), -1)) * self.late  # [B, C], one-hot or zeros
        amounts = own.sum(0)  # [C], of this batch
        at_least_one = amounts.clamp(min=1)
        means = own.T @ features / at_least_one[:, None]  # [C, D]
        centred = features - means[labels]
        outer = (centred[:, :, None] * centred[:, None]).flatten(1)  # [B, D * D]
        within = (own.T @ outer).view_as(self.covariances) / at_least_one[:, None, None]

        share = (amounts / (self.amounts + amounts).clamp(min=1))[:, None]  # [C, 1], of the batch among all
        between = self.means - means  # [C, D]
        measured = torch.lerp(self.covariances, within, share[:, :, None])
        measured += (share * (1 - share))[:, :, None] * between[:, :, None] * between[:, None]
        self.means.lerp_(means, share)
        self.amounts.add_(amounts)
        lent = (self.lending @ measured.flatten(1)).view_as(measured)
        self.covariances.copy_(lent if self.compounding else measured)
        return lent
