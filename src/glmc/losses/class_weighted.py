"""Cross entropy with class weights: the rebalanced loss of GLMC, and the effective number of samples.

Du et al., CVPR 2023, arXiv:2305.08661, L_cb. Cui et al., CVPR 2019, arXiv:1901.05555.
"""

import torch
from torch import Tensor

from glmc.losses.base import Loss
from glmc.losses.cross_entropy import soft_cross_entropy


def class_weights(counts: Tensor, exponent: float, beta: float = 1.0) -> Tensor:
    """Weights ~ E_c ** -exponent, scaled to mean 1, where E_c is the effective number of images of a class.

    Args:
        counts: int [C], training images per class, all >= 1.
        exponent: 0 weighs all classes the same, 1 is inverse frequency.
        beta: E = 1 + beta + ... + beta ** (n - 1) = (1 - beta ** n) / (1 - beta), in [0, 1]: each further image of a
            class adds less than the one before. 1 counts images as they are, 0 weighs all classes the same.

    Returns:
        float32 [C], mean 1.

    Raises:
        ValueError: beta is out of its range.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must lie in [0, 1], not {beta}")
    counts = counts.double()
    effective = counts if beta == 1 else (1 - torch.pow(beta, counts)) / (1 - beta)
    weights = effective**-exponent
    return (weights / weights.mean()).float()


class ClassWeighted(Loss):
    """Cross entropy in which a class counts as n_c ** -exponent, with mean 1 over the classes.

    The sum over a batch is divided by the batch, not by the weights in it.

    Args:
        exponent: 0 is plain cross entropy, 1 inverse frequency; GLMC calls it label weighting and takes 1 to 1.2.
        beta: below 1, the effective number (1 - beta ** n) / (1 - beta) stands in place of n, in [0, 1]; usual: 0.9999.
    """

    def __init__(self, counts: Tensor, *, exponent: float = 1.0, beta: float = 1.0) -> None:
        super().__init__(counts)
        self.prior = "uniform" if exponent and beta else "training"
        self.weights: Tensor
        self.register_buffer("weights", class_weights(counts, exponent, beta), persistent=False)  # [C]

    def forward(self, logits: Tensor, targets: Tensor, progress: Tensor) -> Tensor:  # noqa: D102
        return soft_cross_entropy(logits, targets, self.weights)
