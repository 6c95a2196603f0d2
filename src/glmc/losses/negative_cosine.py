"""Negative cosine similarity.

Chen & He, "Exploring simple Siamese representation learning", CVPR 2021, arXiv:2011.10566.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def negative_cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """Minus the cosine between two sets of vectors, row by row. No gradient flows into `target`.

    Without that stop-gradient both sides could agree on a constant; it stands here, not at the caller, so that it
    cannot be forgotten.

    Shape:
        predicted  float [B, E]; computed in float32 or better
        target     float [B, E]
        output     float [], in [-1, 1], mean over B
    """
    dtype = torch.promote_types(predicted.dtype, torch.float32)
    return -F.cosine_similarity(predicted.to(dtype), target.detach().to(dtype), dim=1).mean()
