"""Balanced Softmax. Ren et al., NeurIPS 2020, arXiv:2007.10740."""

import torch
from torch import Tensor
from torch.nn import functional as F


def log_counts(counts: Tensor) -> Tensor:
    """float32 [C], log n_c: what Balanced Softmax adds to the logits.

    Args:
        counts: int [C], training samples per class, all >= 1.

    Raises:
        ValueError: a class has no training sample; log 0 would silence it for ever.
    """
    empty = (counts < 1).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"every class needs a training sample; empty classes: {empty}")
    return counts.double().log().float()


def balanced_softmax(logits: Tensor, targets: Tensor, shift: Tensor) -> Tensor:
    """Cross entropy after `shift` has been added to every logit.

    The shift takes the training prior up, so that the bare logits suit test classes of equal frequency: nothing is
    added when predicting. Equal counts give plain cross entropy, and a common factor of the counts changes nothing.
    Logit adjustment with tau = 1 (Menon et al., ICLR 2021) is the same loss.

    Shape:
        logits   float [B, C]            before softmax; computed in float32 or better
        targets  int64 [B] or float [B, C]  labels, or distributions over the classes (mixed labels)
        shift    float [C]               `log_counts` of the training samples
        output   float []                nats, mean over B
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    targets = targets.to(dtype) if targets.is_floating_point() else targets
    return F.cross_entropy(logits.to(dtype) + shift, targets)
