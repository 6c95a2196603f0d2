"""LDAM: a margin that grows as the class gets rarer. Cao et al., NeurIPS 2019, arXiv:1906.07413."""

import torch
from torch import Tensor
from torch.nn import functional as F

from glmc.losses.base import Loss, precise


class LDAM(Loss):
    """Cross entropy of scaled cosines, from the label's of which a margin ~ n_c ** -1/4 has been taken.

    Its logits are cosines in [-1, 1], margins and scale are for training alone: the first class of a prediction is that
    of the paper, but the cosines are too close together for probabilities until `glmc calibrate` has found their scale.

    Args:
        margin: of the rarest class, at least 0; of the others, margin * (n_min / n_c) ** 0.25.
        scale: what cosines are multiplied with before softmax, above 0.
    """

    classifier = "cosine"

    def __init__(self, counts: Tensor, *, margin: float = 0.5, scale: float = 30.0) -> None:
        super().__init__(counts)
        if margin < 0:
            raise ValueError(f"margin must be at least 0, not {margin}")
        if scale <= 0:
            raise ValueError(f"scale must be above 0, not {scale}")
        self.scale = scale
        self.margins: Tensor
        margins = margin * (counts.min() / counts.double()) ** 0.25
        self.register_buffer("margins", margins.float(), persistent=False)  # [C], in (0, margin]

    def each(self, logits: Tensor) -> Tensor:
        """The loss of every image under every label: float [B, C] -> float [B, C].

        z are the scaled cosines and a = z_c - s m_c that of label c less its margin: the loss is
        log(exp(a) + sum of the others' exp(z_j)) - a = softplus(log sum of the others' exp(z_j) - a).
        """
        z = self.scale * precise(logits)
        total = z.logsumexp(1, keepdim=True)  # [B, 1], over all classes
        # The others' sum is the whole less one's own, which is exact but for the largest: that may be nearly all.
        largest = torch.zeros_like(z, dtype=torch.bool).scatter_(1, z.argmax(1, keepdim=True), True)
        without = z.masked_fill(largest, -torch.inf).logsumexp(1, keepdim=True)  # [B, 1]
        share = (z - total).exp().masked_fill(largest, 0.0)  # at most 1/2
        others = torch.where(largest, without, total + torch.log1p(-share))  # [B, C]
        return F.softplus(others - (z - self.scale * self.margins))
