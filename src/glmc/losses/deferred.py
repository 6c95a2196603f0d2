"""Deferred re-weighting (DRW) of any loss. Cao et al., NeurIPS 2019, arXiv:1906.07413."""

import torch
from torch import Tensor

from glmc.losses.base import Loss, distributions
from glmc.losses.class_weighted import class_weights
from glmc.losses.cross_entropy import CrossEntropy


class Deferred(Loss):
    """A loss as it is, and class weights on it in the last part of the run, when the learning rate is small.

    Weights are inverse effective numbers. The sum over a batch is divided by the weights in it, as PyTorch's weighted
    cross entropy is: where it begins, the loss keeps its size. A mixture counts as its labels do, each with its weight.

    Args:
        loss: what is re-weighted; null: cross entropy. LDAM-DRW is `{name: deferred, loss: {name: ldam}}`.
        start: progress at which the weights begin, epoch / epochs, in [0, 1); 0 re-weights all along.
        beta: of the effective number (1 - beta ** n) / (1 - beta), in [0, 1]; 1 is inverse frequency.
    """

    prior = "uniform"

    def __init__(self, counts: Tensor, *, loss: Loss | None = None, start: float = 0.8, beta: float = 0.9999) -> None:
        super().__init__(counts)
        if not 0 <= start < 1:
            raise ValueError(f"start must lie in [0, 1), not {start}")
        self.loss = CrossEntropy(counts) if loss is None else loss
        if type(self.loss).forward is not Loss.forward:
            raise ValueError(
                f"loss is {type(self.loss).__name__}, which cannot be re-weighted: it does not come as a loss of each "
                "image under each label"
            )
        self.classifier, self.mixed, self.start = self.loss.classifier, self.loss.mixed, start
        self.weights: Tensor
        self.register_buffer("weights", class_weights(counts, 1.0, beta), persistent=False)  # [C]

    def forward(self, logits: Tensor, targets: Tensor, progress: Tensor) -> Tensor:  # noqa: D102
        each = self.loss.each(logits)  # [B, C]
        weights = torch.where(progress >= self.start, self.weights, 1.0)  # [C]
        weighted = weights.to(each.dtype) * distributions(targets, each)  # [B, C]
        return (weighted * each).sum() / weighted.sum()
