"""Label-aware smoothing, of MiSLAS. Zhong et al., CVPR 2021, arXiv:2104.00466."""

import math

import torch
from torch import Tensor

from glmc.losses.base import Loss, precise


class LabelAwareSmoothing(Loss):
    """Cross entropy with labels smoothed by their frequency: networks are surest of themselves on frequent classes.

    The label of class c keeps 1 - e_c, and e_c is spread evenly over all classes, as `smoothing` of cross entropy does;
    the paper writes it as spread over the others. From the rarest to the most frequent class, with n_c images,
    e_c = tail + (head - tail) sin(pi / 2 (n_c - n_min) / (n_max - n_min)): the concave form, which the paper prefers.
    Where all classes have the same number of images, all are smoothed like the most frequent one.

    Args:
        head: e of the most frequent class, in [0, 1).
        tail: e of the rarest class, in [0, 1).
    """

    def __init__(self, counts: Tensor, *, head: float = 0.4, tail: float = 0.1) -> None:
        super().__init__(counts)
        for name, value in (("head", head), ("tail", tail)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {value}")
        behind = (counts.max() - counts).double() / (counts.max() - counts.min()).clamp(min=1)  # [C], 0 at the head
        smoothing = tail + (head - tail) * torch.cos(math.pi / 2 * behind)  # the sine of what is left to pi / 2
        self.smoothing: Tensor
        self.register_buffer("smoothing", smoothing.float(), persistent=False)  # [C]

    def each(self, logits: Tensor) -> Tensor:  # noqa: D102
        wrong = -precise(logits).log_softmax(1)  # [B, C], nats
        return (1 - self.smoothing) * wrong + self.smoothing * wrong.mean(1, keepdim=True)
