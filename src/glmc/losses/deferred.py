"""Deferred re-weighting (DRW) of any loss, and a loss that gives way to another.

Cao et al., NeurIPS 2019, arXiv:1906.07413. With aligned weights and truncated logit adjustment (ADRW and TLA): Wang et
al., NeurIPS 2023, arXiv:2310.04752.
"""

import torch
from torch import Tensor

from glmc.losses.base import Loss, distributions
from glmc.losses.class_weighted import class_weights
from glmc.losses.cross_entropy import CrossEntropy


class Deferred(Loss):
    """A loss as it is, and class weights on it in the last part of the run, when the learning rate is small.

    Weights are E ** -exponent, E the effective number of images. The sum over a batch is divided by the weights in it,
    as PyTorch's weighted cross entropy is: where it begins, the loss keeps its size. A mixture counts as its labels do,
    each with its weight.

    VS with ADRW and TLA has weights that fit logits which are adjusted already, n_c ** -exponent with a small exponent
    (beta = 1), and leaves out the factors of VS in the last part: `late` is logit adjustment.

    Args:
        loss: what is re-weighted; null: cross entropy. LDAM-DRW is `{name: deferred, loss: {name: ldam}}`.
        late: what is re-weighted in its place in the last part; null: the same.
        start: progress at which the weights begin, epoch / epochs, in [0, 1); 0 re-weights all along.
        beta: of the effective number (1 - beta ** n) / (1 - beta), in [0, 1]; 1 is inverse frequency.
        exponent: at least 0; 1 is DRW, 0 leaves all weights the same.
    """

    def __init__(
        self,
        counts: Tensor,
        *,
        loss: Loss | None = None,
        late: Loss | None = None,
        start: float = 0.8,
        beta: float = 0.9999,
        exponent: float = 1.0,
    ) -> None:
        super().__init__(counts)
        if not 0 <= start < 1:
            raise ValueError(f"start must lie in [0, 1), not {start}")
        if exponent < 0:
            raise ValueError(f"exponent must be at least 0, not {exponent}")
        self.loss = CrossEntropy(counts) if loss is None else loss
        self.late = late
        last = self.loss if late is None else late
        for name, one in (("loss", self.loss), ("late", last)):
            if type(one).forward is not Loss.forward:
                raise ValueError(
                    f"{name} is {type(one).__name__}, which cannot be re-weighted: it does not come as a loss of each "
                    "image under each label"
                )
        if self.loss.classifier != last.classifier:
            raise ValueError(
                f"late is {type(last).__name__}, of a {last.classifier} classifier, and loss is "
                f"{type(self.loss).__name__}, of a {self.loss.classifier} one"
            )
        self.classifier, self.mixed, self.start = last.classifier, self.loss.mixed and last.mixed, start
        self.prior = "uniform" if exponent and beta else last.prior
        self.weights: Tensor
        self.register_buffer("weights", class_weights(counts, exponent, beta), persistent=False)  # [C]

    def forward(self, logits: Tensor, targets: Tensor, progress: Tensor) -> Tensor:  # noqa: D102
        begun = progress >= self.start  # bool []
        each = self.loss.each(logits)  # [B, C]
        if self.late is not None:
            each = torch.where(begun, self.late.each(logits), each)
        weights = torch.where(begun, self.weights, 1.0)  # [C]
        weighted = weights.to(each.dtype) * distributions(targets, each)  # [B, C]
        return (weighted * each).sum() / weighted.sum()
