"""Class-weighted binary cross entropy on softmax probabilities: the second-stage loss of Weight Balancing.

Alshammari et al., "Long-tailed recognition via weight balancing", CVPR 2022, arXiv:2203.14197, its released code.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def softmax_bce(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Mean over samples and classes of w_label * BCE(softmax(logits), one-hot).

    Its value is small (about 0.01 for 100 classes), so the strong weight decay that goes with it has the last word on
    the length of the classifier's rows. Computed in float32 or better: in bfloat16 probabilities reach 0 and 1.

    Shape:
        logits  float [B, C]  before softmax
        labels  int64 [B]
        weight  float [C]     of a sample of each class
        output  float []      nats, mean over B * C
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_p = logits.to(dtype).log_softmax(1)
    log_rest = torch.log1p(-log_p.exp().clamp(max=1 - torch.finfo(dtype).eps))  # log(1 - p)
    hit = F.one_hot(labels, logits.shape[1]).to(dtype)
    each = -(hit * log_p + (1 - hit) * log_rest)  # [B, C]
    return (weight.to(dtype)[labels, None] * each).mean()
