"""Experts on a shared stem, each trained by a loss of its own; the mean of their logits answers.

RIDE (Wang et al., ICLR 2021, arXiv:2010.01809) pushes the experts apart with a diversity term; BalPoE (Aimar et al.,
CVPR 2023, arXiv:2206.05260) gives each another prior, so that their mean is balanced.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glmc.losses.base import Loss
from glmc.methods.base import Method
from glmc.mixtures.base import Mixture
from glmc.models import Backbone
from glmc.models.heads import classifier
from glmc.step import Step


class Experts(Method):
    """As many classifiers as the network has experts (`model.experts`).

    Args:
        diversity: weight of the KL divergence of each expert from the mean of all, which is made large; RIDE 0.45 on
            CIFAR and 0.2 elsewhere, 0 leaves it out.
        softening: r in [0, 1] of the temperatures of that divergence, which are lower for rarer classes; 0 leaves all
            at 1. RIDE 0.05 on CIFAR-100-LT.
        softening_from: progress in [0, 1] from which on temperatures differ.
        taus: one for each expert, or none: tau * log prior is added to its logits in the loss. BalPoE takes 0, 1 and 2.
        scale: what the cosines of a loss with cosine classifiers are multiplied with to become logits.

    Raises:
        ValueError: a single expert, taus that do not fit, or a value out of its range.
    """

    takes_experts = True
    temperatures: Tensor
    shifts: Tensor

    def __init__(
        self,
        backbone: Backbone,
        counts: Tensor,
        loss: Loss,
        mixture: Mixture,
        *,
        diversity: float = 0.0,
        softening: float = 0.0,
        softening_from: float = 0.8,
        taus: list[float] | None = None,
        scale: float = 30.0,
    ) -> None:
        super().__init__(backbone, counts, loss, mixture)
        if backbone.experts < 2:
            raise ValueError("experts need a network that holds several: set model.experts=3 and model.experts_from")
        if taus is not None and len(taus) != backbone.experts:
            raise ValueError(f"taus must be one for each of the {backbone.experts} experts, not {len(taus)}")
        if taus is not None and (loss.classifier == "cosine" or loss.prior != "training"):
            raise ValueError(
                "taus put a prior into the loss: leave them out, or take a loss without one, of linear logits"
            )
        if taus is not None and min(abs(sum(taus)), abs(sum(taus) - len(taus))) > 1e-6:
            raise ValueError(f"taus must have a mean of 0 or 1, not {sum(taus) / len(taus):g}")
        for name, value in (("softening", softening), ("softening_from", softening_from)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {value}")
        if scale <= 0:
            raise ValueError(f"scale must be above 0, not {scale}")
        self.views = ("train",) * mixture.views
        self.streams = {"instance": None} | ({} if mixture.stream is None else {"rebalanced": mixture.stream})
        self.prior = "uniform" if taus is not None and sum(taus) > 0.5 else loss.prior
        self.diversity, self.softening_from = diversity, softening_from
        self.scale = scale if loss.classifier == "cosine" else 1.0
        self.classifiers = nn.ModuleList(
            classifier(loss.classifier, backbone.out_dim, self.classes) for _ in range(backbone.experts)
        )
        prior = counts / counts.sum()  # float [C]
        softened = self.classes * prior * softening + 1 - softening
        shifts = torch.tensor(taus or [0.0] * backbone.experts).view(-1, 1) * prior.log()  # float [E, C]
        self.register_buffer("temperatures", (softened / softened.max()).float(), persistent=False)
        self.register_buffer("shifts", shifts.float(), persistent=False)

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        first, second = step.streams["instance"], step.streams.get("rebalanced")
        mixed = [self.mixture(first, second, step.draws, view) for view in range(len(self.views))]
        images, targets = (torch.cat(parts) for parts in zip(*mixed, strict=True))
        logits = self.logits(images, groups=len(self.views))  # [E, V * B, C]
        each = [self.loss(own + shift, targets, step.progress) for own, shift in zip(logits, self.shifts, strict=True)]
        terms = {"experts": torch.stack(each).sum()}
        if self.diversity:
            terms["diversity"] = -self.diversity * self.divergence(logits * self.scale, step.progress)
        return terms

    def divergence(self, logits: Tensor, progress: Tensor) -> Tensor:
        """Sum over the experts of KL(mean of all || expert), softened, mean over the batch; [E, B, C] -> []."""
        temperatures = torch.where(progress >= self.softening_from, self.temperatures, 1.0)  # [C]
        apart = (logits / temperatures).log_softmax(-1)
        mean = (logits.mean(0).detach() / temperatures).softmax(-1)
        divergence = F.kl_div(apart, mean.expand_as(apart), reduction="none").sum((0, 2)).mean()
        return temperatures.mean() ** 2 * divergence

    def predict(self, images: Tensor) -> Tensor:  # noqa: D102
        return self.scale * self.logits(images).mean(0)

    def logits(self, images: Tensor, groups: int = 1) -> Tensor:
        """Float [B, ch, H, W] -> [E, B, C], as the loss takes them."""
        features = self.backbone(images, groups=groups)  # [E, B, D]
        return torch.stack([own(part) for own, part in zip(self.classifiers, features, strict=True)])
