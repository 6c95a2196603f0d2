"""LWS: one learned scale a class. Kang et al., ICLR 2020, arXiv:1910.09217."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glmc.methods.second_stage import SecondStage
from glmc.models import Backbone
from glmc.step import Step


class LWS(SecondStage):
    """Keeps the classifier and learns a factor for each of its outputs; every class is drawn equally often.

    Args:
        statistics: see `SecondStage`.
    """

    streams = {"balanced": 1.0}  # noqa: RUF012

    def __init__(
        self, backbone: Backbone, counts: Tensor, *, statistics: Literal["frozen", "drifting"] = "frozen"
    ) -> None:
        super().__init__(backbone, counts, statistics=statistics)
        self.classifier.requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(self.classes))  # [C]

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        batch = step.streams["balanced"]
        return {"cross_entropy": F.cross_entropy(self.predict(batch.views[0]), batch.labels)}

    @torch.no_grad()
    def head(self) -> nn.Linear:
        """The classifier with its scales multiplied in, which are 1 from then on: the same logits."""
        self.classifier.weight.mul_(self.scale[:, None])
        self.classifier.bias.mul_(self.scale)
        self.scale.fill_(1)
        return self.classifier

    def predict(self, images: Tensor) -> Tensor:  # noqa: D102
        return self.scale * super().predict(images)  # [B, C], the bias scaled, too
