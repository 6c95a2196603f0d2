"""Cross entropy with label distributions and class weights: the conventional and the rebalanced loss of GLMC.

Du et al., CVPR 2023, arXiv:2305.08661, equations for L_c and L_cb.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def class_weights(counts: Tensor, exponent: float) -> Tensor:
    """Weights ~ n_c ** -exponent, scaled to mean 1.

    Args:
        counts: int [C], training samples per class, all >= 1.
        exponent: 0 weighs all classes the same, 1 is inverse frequency.

    Returns:
        float32 [C], mean 1.

    Raises:
        ValueError: a class has no training sample.
    """
    empty = (counts < 1).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"every class needs a training sample; empty classes: {empty}")
    weights = counts.double() ** -exponent
    return (weights / weights.mean()).float()


def soft_cross_entropy(logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over the batch of -sum_c w_c p_c log softmax(logits)_c.

    The divisor is the batch, not the sum of the weights met: a batch of light classes yields a small loss. Weighting a
    mixed target equals mixing the weighted targets, so `weight` does for mixtures what it does for single labels.

    Shape:
        logits   float [B, C]  before softmax; computed in float32 or better
        targets  float [B, C]  rows sum to 1
        weight   float [C]     or none
        output   float []      nats
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(dtype), targets.to(dtype), weight=None if weight is None else weight.to(dtype))
