"""Focal loss, which lets go of easy images, and its class-balanced form.

Lin et al., ICCV 2017, arXiv:1708.02002. Cui et al., CVPR 2019, arXiv:1901.05555.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from glmc.losses.base import Loss, precise
from glmc.losses.class_weighted import class_weights


class Focal(Loss):
    """Cross entropy times (1 - p) ** gamma, where p is the probability of what is right.

    Two losses go by this name. Of the softmax form, p is the softmax of the label's class. The sigmoid form asks C
    questions of every image, one for each class, adds up their answers, and divides by the batch; Cui et al. start the
    bias of its classifier at -log(C - 1).

    Args:
        gamma: 0 is plain cross entropy, at least 0; 0.5 to 2 are usual.
        form: "softmax" or "sigmoid", one against all.
    """

    def __init__(self, counts: Tensor, *, gamma: float = 1.0, form: Literal["softmax", "sigmoid"] = "softmax") -> None:
        super().__init__(counts)
        if gamma < 0:
            raise ValueError(f"gamma must be at least 0, not {gamma}")
        self.gamma, self.form = gamma, form

    def each(self, logits: Tensor) -> Tensor:  # noqa: D102
        logits = precise(logits)
        if self.form == "softmax":
            log_p = logits.log_softmax(1)
            # Where p is 1, a power below 1 has no derivative, and 0 times infinity would be its gradient.
            rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)  # 1 - p
            return -(rest**self.gamma) * log_p
        yes, no = F.softplus(-logits), F.softplus(logits)  # -log p and -log(1 - p) of every question
        right = torch.exp(-self.gamma * no) * yes  # [B, C]: loss if the answer should be yes; (1 - p) ** gamma in front
        wrong = torch.exp(-self.gamma * yes) * no  # if it should be no
        return right + wrong.sum(1, keepdim=True) - wrong


class ClassBalancedFocal(Focal):
    """Focal loss times the class weight of the label, by the effective number of images. CB-Focal of Cui et al.

    The sum over a batch is divided by the batch, not by the weights in it.

    Args:
        gamma, form: see `Focal`; the sigmoid form is that of the paper.
        beta: of the effective number (1 - beta ** n) / (1 - beta), in [0, 1]; weights are its inverse, with mean 1.
    """

    prior = "uniform"

    def __init__(
        self,
        counts: Tensor,
        *,
        gamma: float = 1.0,
        form: Literal["softmax", "sigmoid"] = "sigmoid",
        beta: float = 0.9999,
    ) -> None:
        super().__init__(counts, gamma=gamma, form=form)
        self.weights: Tensor
        self.register_buffer("weights", class_weights(counts, 1.0, beta), persistent=False)  # [C]

    def each(self, logits: Tensor) -> Tensor:  # noqa: D102
        return self.weights * super().each(logits)
