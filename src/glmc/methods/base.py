"""What every method is."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glmc.models import Backbone
from glmc.random import Draws
from glmc.step import Step


class Method(nn.Module):
    """A backbone, heads, and the loss that trains them. All state is parameters and buffers.

    Subclasses take their settings as keyword-only arguments with annotations and defaults: these are the keys that a
    recipe may write under `method`.

    Args:
        backbone: images -> features.
        counts: int64 [C], training images per class.
    """

    views: tuple[str, ...] = ("train",)  # names of augmentations in the recipe, one for each view of a batch
    answers_prior: Literal["training", "uniform"] = "training"  # class frequencies that `predict` is meant for
    streams: dict[str, float] = {}  # noqa: RUF012  extra streams: name -> r, drawn with P(class c) ~ n_c ** (1 - r)

    def __init__(self, backbone: Backbone, counts: Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        self.classes = len(counts)

    def draws(self, draws: Draws, steps: int) -> dict[str, NDArray[np.float64]]:
        """The method's own random numbers for an epoch: name -> [steps, ...]."""
        return {}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms of the loss by name, already weighted: float [] each, and their sum is the loss."""
        raise TypeError(f"{type(self).__name__} must say what its loss is: define forward")

    def predict(self, images: Tensor) -> Tensor:
        """Float [B, ch, H, W] -> logits float [B, C]."""
        raise TypeError(f"{type(self).__name__} must say what it predicts: define predict")

    def head(self) -> nn.Linear:
        """The linear classifier that `predict` answers with, on features of the backbone."""
        raise TypeError(f"{type(self).__name__} must say which classifier answers: define head")

    def after_epoch(self) -> None:
        """What happens to the weights after the last step of an epoch and before evaluation; nothing by default."""

    def freeze_backbone(self) -> None:
        """Train the heads alone: the backbone keeps its weights, and its BatchNorm statistics (see `train`)."""
        self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> "Method":
        """Training mode for what is trained; a frozen backbone stays as it is at test time."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self.backbone.eval()
        return self

    def one_hot(self, labels: Tensor) -> Tensor:
        """int64 [B] -> float32 [B, C]."""
        rows = torch.zeros(len(labels), self.classes, device=labels.device)
        return rows.scatter_(1, labels[:, None], 1.0)  # unlike F.one_hot, this never looks at the values
