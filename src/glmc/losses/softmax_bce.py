"""Class-weighted binary cross entropy on softmax probabilities: the second-stage loss of Weight Balancing.

Alshammari et al., CVPR 2022, arXiv:2203.14197, its released code.
"""

import torch
from torch import Tensor

from glmc.losses.base import precise
from glmc.losses.class_weighted import ClassWeighted


class SoftmaxBCE(ClassWeighted):
    """Mean over samples and classes of w * BCE(softmax(logits), target), w the class weight of the sample.

    Its value is small (about 0.01 for 100 classes), so the strong weight decay that goes with it has the last word on
    the length of the classifier's rows.

    Args:
        exponent, beta: of the class weights, see `ClassWeighted`.
    """

    def forward(self, logits: Tensor, targets: Tensor, progress: Tensor) -> Tensor:  # noqa: D102
        log_p = precise(logits).log_softmax(1)  # [B, C]
        if not targets.is_floating_point():
            targets = torch.zeros_like(log_p).scatter_(1, targets[:, None], 1.0)
        log_rest = torch.log1p(-log_p.exp().clamp(max=1 - torch.finfo(log_p.dtype).eps))  # log(1 - p)
        each = -(targets * log_p + (1 - targets) * log_rest)  # [B, C]
        weight = targets.to(log_p.dtype) @ self.weights.to(log_p.dtype)  # [B]: a mixture weighs as its classes do
        return (weight[:, None] * each).mean()
