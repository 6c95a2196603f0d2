"""Cross entropy with class weights: the rebalanced loss of GLMC. Du et al., CVPR 2023, arXiv:2305.08661, L_cb."""

from torch import Tensor

from glmc.losses.base import Loss
from glmc.losses.cross_entropy import soft_cross_entropy


def class_weights(counts: Tensor, exponent: float) -> Tensor:
    """Weights ~ n_c ** -exponent, scaled to mean 1.

    Args:
        counts: int [C], training images per class, all >= 1.
        exponent: 0 weighs all classes the same, 1 is inverse frequency.

    Returns:
        float32 [C], mean 1.
    """
    weights = counts.double() ** -exponent
    return (weights / weights.mean()).float()


class ClassWeighted(Loss):
    """Cross entropy in which a class counts as n_c ** -exponent, with mean 1 over the classes.

    The sum over a batch is divided by the batch, not by the weights in it.

    Args:
        exponent: 0 is plain cross entropy, 1 inverse frequency; GLMC calls it label weighting and takes 1 to 1.2.
    """

    def __init__(self, counts: Tensor, *, exponent: float = 1.0) -> None:
        super().__init__(counts)
        self.prior = "uniform" if exponent else "training"
        self.weights: Tensor
        self.register_buffer("weights", class_weights(counts, exponent), persistent=False)  # [C]

    def forward(self, logits: Tensor, targets: Tensor, progress: Tensor) -> Tensor:  # noqa: D102
        return soft_cross_entropy(logits, targets, self.weights)
