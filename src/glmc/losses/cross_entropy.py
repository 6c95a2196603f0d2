"""Softmax cross entropy: the baseline of every table."""

from torch import Tensor
from torch.nn import functional as F

from glmc.losses.base import Loss, precise


def soft_cross_entropy(logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over the batch of -sum_c w_c p_c log softmax(logits)_c.

    The divisor is the batch, not the sum of the weights in it: a batch of light classes yields a small loss. Weighting
    a mixed target equals mixing the weighted targets, so `weight` does for mixtures what it does for single labels.

    Shape:
        logits   float [B, C]               before softmax; computed in float32 or better
        targets  int64 [B] or float [B, C]  labels, or distributions over the classes
        weight   float [C]                  or none
        output   float []                   nats
    """
    logits = precise(logits)
    weight = None if weight is None else weight.to(logits.dtype)
    if targets.is_floating_point():
        return F.cross_entropy(logits, targets.to(logits.dtype), weight)
    if weight is None:
        return F.cross_entropy(logits, targets)
    return F.cross_entropy(logits, targets, weight, reduction="sum") / len(targets)


class CrossEntropy(Loss):
    """Softmax cross entropy.

    Args:
        smoothing: share of each target that is spread evenly over the classes, in [0, 1). Szegedy et al., CVPR 2016.
    """

    def __init__(self, counts: Tensor, *, smoothing: float = 0.0) -> None:
        super().__init__(counts)
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must lie in [0, 1), not {smoothing}")
        self.smoothing = smoothing

    def each(self, logits: Tensor) -> Tensor:  # noqa: D102
        wrong = -precise(logits).log_softmax(1)  # [B, C], nats
        return (1 - self.smoothing) * wrong + self.smoothing * wrong.mean(1, keepdim=True)
