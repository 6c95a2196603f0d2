"""GLMC: global and local mixture consistency cumulative learning. Du et al., CVPR 2023, arXiv:2305.08661."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glmc.losses import class_weights, negative_cosine, soft_cross_entropy
from glmc.losses.balanced_softmax import balanced_softmax, log_counts
from glmc.methods.base import Method
from glmc.mixtures.mixing import cutmix, mixup
from glmc.models import Backbone
from glmc.models.heads import linear
from glmc.random import Draws
from glmc.step import Step


class GLMC(Method):
    """MixUp and CutMix of the same images must agree, while the loss moves from the head classes to the tail.

    Each image of the instance stream is paired with one of a re-sampled stream. Their first views are mixed globally,
    their second views locally, with the same lambda. Both mixtures pass the encoder; a conventional classifier learns
    the mixed labels, a rebalanced one learns them with class weights, and a predictor on top of a projection must tell
    each mixture's projection from the other's. The published text and code disagree in places; those are settings here.

    The last three settings are for ablations and for GLMC + BS.

    Args:
        resample_weighting: r of the second stream, P(class c) ~ n_c ** (1 - r). The documents' inverse sampler is
            r = 2, the published commands use 0 and 0.2.
        label_weighting: k of the rebalanced classifier's weights, ~ n_c ** -k with mean 1.
        contrast_weight: gamma, the factor of the consistency term.
        mix_alpha: lambda ~ Beta(mix_alpha, mix_alpha); the published code always uses 1, whatever its `--beta`.
        label_share: CutMix labels by the pixels really pasted ("box") or by lambda as drawn ("drawn", published code).
        view_reduction: both cross entropies as the mean over the two views ("mean", the documents' 1 / 2N) or as their
            sum ("sum", published code: twice the formula, beside an unchanged gamma).
        embedding: length of projections and predictions. None is the published code's choice: 128 behind features of at
            most 256 (ResNet-20 to 56 of either width), 256 behind longer ones (ResNet-18, 34, 50, ResNeXt-50).
        rebalanced_loss: the rebalanced classifier's loss: class weights ("weighted"), or Balanced Softmax on the
            unweighted mixed labels ("balanced_softmax", one reading of "GLMC + BS"; the other is a second stage).
        mixtures: false leaves both views of the instance stream unmixed.
        rebalance: false keeps alpha at 1 and lets the conventional classifier answer.
    """

    views = ("train", "train")  # two augmentations of each image

    def __init__(
        self,
        backbone: Backbone,
        counts: Tensor,
        *,
        resample_weighting: float = 0.0,
        label_weighting: float = 1.2,
        contrast_weight: float = 4.0,
        mix_alpha: float = 1.0,
        label_share: Literal["box", "drawn"] = "box",
        view_reduction: Literal["mean", "sum"] = "sum",
        embedding: int | None = None,
        rebalanced_loss: Literal["weighted", "balanced_softmax"] = "weighted",
        mixtures: bool = True,
        rebalance: bool = True,
    ) -> None:
        super().__init__(backbone, counts)
        self.streams = {"rebalanced": resample_weighting}
        self.contrast_weight, self.mix_alpha, self.label_share = contrast_weight, mix_alpha, label_share
        self.view_scale = {"mean": 1.0, "sum": 2.0}[view_reduction]
        self.classifier = linear(backbone.out_dim, self.classes)
        self.rebalanced = linear(backbone.out_dim, self.classes)  # the one that answers at test time
        if embedding is None:
            embedding = 128 if backbone.out_dim <= 256 else 256
        self.projector = linear(backbone.out_dim, embedding)
        self.predictor = linear(embedding, embedding)
        self.rebalanced_loss, self.mixtures, self.rebalance = rebalanced_loss, mixtures, rebalance
        self.answers_prior = "uniform" if rebalance else "training"
        self.log_counts: Tensor
        self.register_buffer("log_counts", log_counts(counts), persistent=False)  # [C]
        self.class_weights: Tensor
        self.register_buffer("class_weights", class_weights(counts, label_weighting))  # [C]

    def draws(self, draws: Draws, steps: int) -> dict[str, NDArray[np.float64]]:  # noqa: D102
        lam = draws.beta(self.mix_alpha, self.mix_alpha, steps)  # [steps], one for both mixtures of a whole batch
        if not self.mixtures:
            lam = np.ones(steps)  # all of the first image, an empty box
        return {"lam": lam, "centre": draws.uniform(steps, 2)}  # centre: of the box, in fractions of the sides

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        head, tail = step.streams["instance"], step.streams["rebalanced"]  # views [B, ch, H, W], labels [B]
        lam = step.draws["lam"]  # float [], share of `head`
        mixed = mixup(head.views[0], tail.views[0], lam)  # [B, ch, H, W]
        cut, left = cutmix(head.views[1], tail.views[1], lam, step.draws["centre"])  # left: pixel share of `head`
        shares = (lam, left if self.label_share == "box" else lam)
        a, b = self.one_hot(head.labels), self.one_hot(tail.labels)  # [B, C]
        targets = torch.cat([share * a + (1 - share) * b for share in shares])  # [2B, C], rows sum to 1

        features = self.backbone(torch.cat([mixed, cut]), groups=2)  # [2B, D], one pass, BatchNorm for each view
        z = self.projector(features)  # [2B, E]
        z_mixed, z_cut = z.chunk(2)
        p_mixed, p_cut = self.predictor(z).chunk(2)

        tailwards = step.progress**2 * self.rebalance  # 0 -> 1; alpha of the paper is 1 - tailwards
        conventional = self.view_scale * soft_cross_entropy(self.classifier(features), targets)
        if self.rebalanced_loss == "weighted":
            rebalanced = self.view_scale * soft_cross_entropy(self.rebalanced(features), targets, self.class_weights)
        else:
            rebalanced = self.view_scale * balanced_softmax(self.rebalanced(features), targets, self.log_counts)
        disagreement = negative_cosine(p_mixed, z_cut) + negative_cosine(p_cut, z_mixed)
        return {
            "conventional": (1 - tailwards) * conventional,
            "rebalanced": tailwards * rebalanced,
            "consistency": self.contrast_weight * disagreement,
        }

    def head(self) -> nn.Linear:  # noqa: D102
        return self.rebalanced if self.rebalance else self.classifier

    def predict(self, images: Tensor) -> Tensor:  # noqa: D102
        return self.head()(self.backbone(images))
