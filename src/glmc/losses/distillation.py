"""Knowledge distillation: a student learns the softened class probabilities of a teacher."""

from torch import Tensor
from torch.nn import functional as F

from glmc.losses.base import precise


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T ** 2 KL(softmax(teacher / T) || softmax(student / T)). Hinton et al., 2015, arXiv:1503.02531.

    The factor keeps the size of the gradient when T grows.

    Shape:
        student  float [B, C]  logits; computed in float32 or better
        teacher  float [B, C]  logits; no gradient
        output   float []      nats, mean over B
    """
    ours, theirs = ((precise(each) / temperature).log_softmax(1) for each in (student, teacher))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
