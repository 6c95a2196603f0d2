"""What every loss is."""

from typing import Literal

import torch
from torch import Tensor, nn


class Loss(nn.Module):
    """A number to be made small, of logits and targets; made from class counts, with all it derives from them inside.

    A subclass defines `each`, the loss of every image under every label, which serves labels and mixtures alike and can
    be re-weighted; or `forward`, if its loss is of another kind. It takes its settings as keyword-only arguments with
    annotations and defaults: these are the keys that a recipe may write under `loss`. What follows from `counts` is a
    buffer with `persistent=False`.

    Args:
        counts: int64 [C], training images per class, all >= 1.

    Raises:
        ValueError: a class has no training image, or a setting is out of its range.
    """

    prior: Literal["training", "uniform"] = "training"  # class frequencies that the bare logits suit
    classifier: Literal["linear", "cosine"] = "linear"  # what should give the logits
    mixed = True  # whether targets may be distributions, as mixtures make them

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        empty = (counts < 1).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"every class needs a training image; empty classes: {empty}")

    def each(self, logits: Tensor) -> Tensor:
        """The loss of every image under every label: float [B, C] -> float [B, C], in float32 or better."""
        raise TypeError(f"{type(self).__name__} must say what the loss is: define each or forward")

    def forward(self, logits: Tensor, targets: Tensor, progress: Tensor) -> Tensor:
        """The loss of a batch: of its labels, or the mean over distributions of labels.

        Shape:
            logits    float [B, C]              before softmax; computed in float32 or better
            targets   int64 [B] or float [B, C]  labels, or distributions over the classes
            progress  float []                  epoch / epochs, in [0, 1)
            output    float []                  mean over B
        """
        each = self.each(logits)  # [B, C]
        if targets.is_floating_point():
            return (targets.to(each.dtype) * each).sum(1).mean()
        return each.gather(1, targets[:, None]).mean()


def distributions(targets: Tensor, each: Tensor) -> Tensor:
    """Targets as distributions over the classes.

    Shape:
        targets  int64 [B] or float [B, C]
        each     float [B, C]               gives shape and dtype
        output   float [B, C]               labels become one-hot rows
    """
    if targets.is_floating_point():
        return targets.to(each.dtype)
    return torch.zeros_like(each).scatter_(1, targets[:, None], 1.0)  # unlike F.one_hot, never looks at the values


def precise(logits: Tensor) -> Tensor:
    """Logits in float32 or better: in bfloat16, a softmax over many classes loses its small probabilities."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
