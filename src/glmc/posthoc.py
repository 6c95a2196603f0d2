"""Post-hoc adjustments of a trained classifier, without training: functions of its weights."""

import torch
from torch import Tensor


def tau_norm(weight: Tensor, bias: Tensor, tau: float = 1.0) -> tuple[Tensor, Tensor]:
    """Rows divided by their norm to the power tau; no bias. Kang et al., ICLR 2020, arXiv:1910.09217.

    Args:
        weight: float [C, D], a row for each class.
        bias: float [C]; dropped, as in the paper.
        tau: 0 leaves the rows alone, 1 makes them equally long.
    """
    return weight / weight.norm(dim=1, keepdim=True) ** tau, torch.zeros_like(bias)


def logit_adjustment(weight: Tensor, bias: Tensor, counts: Tensor, tau: float = 1.0) -> tuple[Tensor, Tensor]:
    """tau * log prior taken off the logits. Menon et al., ICLR 2021, arXiv:2007.07314, post-hoc form.

    Args:
        weight: float [C, D]; stays.
        bias: float [C].
        counts: int [C], training images per class, all >= 1.
        tau: 0 changes nothing.
    """
    prior = counts.double() / counts.sum()
    return weight, bias - tau * prior.log().to(bias)


def norm_limit(weight: Tensor, threshold: float) -> Tensor:
    """The bound of MaxNorm: float [], `threshold` of the way from the shortest to the longest row of float [C, D]."""
    norms = weight.detach().norm(dim=1)
    return norms.min() + threshold * (norms.max() - norms.min())


def max_norm(weight: Tensor, limit: Tensor) -> Tensor:
    """Rows longer than `limit` (float []) shortened to it, others left alone; float [C, D] -> the same. Idempotent.

    Alshammari et al., CVPR 2022, arXiv:2203.14197.
    """
    return weight * (limit / weight.norm(dim=1, keepdim=True)).clamp(max=1)
