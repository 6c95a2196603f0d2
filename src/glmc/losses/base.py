"""What every loss is."""

from typing import Literal

import torch
from torch import Tensor, nn


class Loss(nn.Module):
    """A number to be made small, of logits and targets; made from class counts, with all it derives from them inside.

    Subclasses take their settings as keyword-only arguments with annotations and defaults: these are the keys that a
    recipe may write under `loss`. What follows from `counts` is a buffer with `persistent=False`.

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

    def forward(self, logits: Tensor, targets: Tensor, progress: Tensor) -> Tensor:
        """The loss of a batch.

        Shape:
            logits    float [B, C]              before softmax; computed in float32 or better
            targets   int64 [B] or float [B, C]  labels, or distributions over the classes
            progress  float []                  epoch / epochs, in [0, 1)
            output    float []                  mean over B
        """
        raise TypeError(f"{type(self).__name__} must say what the loss is: define forward")


def precise(logits: Tensor) -> Tensor:
    """Logits in float32 or better: in bfloat16, a softmax over many classes loses its small probabilities."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
