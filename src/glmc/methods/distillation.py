"""A new network that learns from the labels and from a trained network. Li et al., ICCV 2021, arXiv:2109.04075."""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from glmc.losses.base import Loss
from glmc.losses.distillation import distillation
from glmc.methods.base import Method
from glmc.methods.supervised import Supervised
from glmc.mixtures.base import Mixture
from glmc.models import Backbone
from glmc.models.heads import linear
from glmc.step import Step


class Distillation(Supervised):
    """Two classifiers on a new backbone: one learns from the labels, one from a teacher.

    The teacher is the run that this one starts from. It sees the same augmented images as the student, and its
    BatchNorm statistics are those that it was trained with (the released code of SSD normalises by each batch). Its
    weights are a part of the state: a run resumes, and is tested, without its parent. The classifier that learns from
    the teacher is the one that predicts.

    Args:
        weight: of the teacher's term, beside 1 of the labels'.
        temperature: that the logits of both are divided by where they are compared.
        teacher_prior: class frequencies that the teacher's logits suit: "uniform" behind a rebalancing stage such as
            `lws`, "training" of plain cross entropy. Another teacher is refused.
        sampling: see `Supervised`.
    """

    second_stage = True

    def __init__(
        self,
        backbone: Backbone,
        counts: Tensor,
        loss: Loss,
        mixture: Mixture,
        *,
        weight: float = 1.0,
        temperature: float = 2.0,
        teacher_prior: Literal["uniform", "training"] = "uniform",
        sampling: float = 0.0,
    ) -> None:
        super().__init__(backbone, counts, loss, mixture, sampling=sampling)  # its classifier learns the labels
        if weight <= 0:
            raise ValueError(f"weight must be above 0, not {weight}")
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        self.weight, self.temperature, self.prior = weight, temperature, teacher_prior
        self.soft = linear(backbone.out_dim, self.classes)
        self.teacher = copy.deepcopy(nn.ModuleDict({"backbone": backbone, "classifier": self.soft}))
        self.teacher.requires_grad_(False).eval()

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        first, second = step.streams["instance"], step.streams.get("rebalanced")
        mixed = [self.mixture(first, second, step.draws, view) for view in range(len(self.views))]
        images, targets = (torch.cat(parts) for parts in zip(*mixed, strict=True))  # [V * B, ch, H, W], [V * B, C]
        features = self.backbone(images, groups=len(self.views))  # [V * B, D]
        with torch.no_grad():
            wanted = self.teacher["classifier"](self.teacher["backbone"](images, groups=len(self.views)))  # [V * B, C]
        return {
            "loss": self.loss(self.classifier(features), targets, step.progress),
            "distillation": self.weight * distillation(self.soft(features), wanted, self.temperature),
        }

    def logits(self, features: Tensor) -> Tensor:
        """Float [B, D] -> [B, C], of the classifier that learns from the teacher."""
        logits: Tensor = self.soft(features)
        return logits

    def head(self) -> nn.Linear | None:  # noqa: D102
        return self.soft

    @torch.no_grad()
    def adopt(self, trained: Method, what: Literal["backbone", "all"]) -> None:
        """Take a trained method for the teacher; backbone and classifiers start anew.

        Raises:
            ValueError: it has no linear classifier, or its logits suit other class frequencies.
            RuntimeError: the backbones differ.
        """
        head = trained.head()
        if head is None:
            raise ValueError(f"{type(trained).__name__} has no linear classifier, which a teacher needs")
        if trained.prior != self.prior:
            raise ValueError(f"its logits suit other class frequencies: set method.teacher_prior={trained.prior}")
        self.teacher["backbone"].load_state_dict(trained.backbone.state_dict())
        self.teacher["classifier"].load_state_dict(head.state_dict())

    def train(self, mode: bool = True) -> "Distillation":
        """Training mode for all but the teacher."""
        super().train(mode)
        self.teacher.eval()
        return self
