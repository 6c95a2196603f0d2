"""What a network learns from the answers of another."""

from torch import Tensor
from torch.nn import functional as F

from glmc.losses.base import precise


def distillation(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """T ** 2 KL(softmax(wanted / T) || softmax(logits / T)). Hinton et al., 2015, arXiv:1503.02531.

    The factor keeps the size of the gradient when T grows.

    Shape:
        logits  float [B, C]  of the student; computed in float32 or better
        wanted  float [B, C]  logits of the teacher; no gradient
        output  float []      nats, mean over B
    """
    ours, theirs = ((precise(each) / temperature).log_softmax(1) for each in (logits, wanted))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
