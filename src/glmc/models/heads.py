"""Classifiers and projections on top of a backbone."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Head(nn.Linear):
    """A linear layer that computes in the precision of its weights, whatever autocast does around it.

    In bfloat16 the two largest of a hundred logits are equal for one image in sixty or so; ties go to the first class,
    which in long-tailed data is the most frequent one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, inputs] -> [B, outputs] in the dtype of the weights."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


class Cosine(nn.Module):
    """The cosine between features and a vector of each class; no bias, no scale.

    Float [B, inputs] -> [B, outputs] in [-1, 1], in the dtype of the weights. Rows start uniform in (-1, 1) per entry
    and with length 1, as in Cao et al., NeurIPS 2019, arXiv:1906.07413.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.empty(outputs, inputs).uniform_(-1, 1)))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(F.normalize(x.to(self.weight.dtype)), F.normalize(self.weight))


def linear(inputs: int, outputs: int) -> Head:
    """A head with He-normal weights (fan-in, gain sqrt 2) and a zero bias.

    He et al., ICCV 2015, arXiv:1502.01852; the small-image networks of the long-tailed literature start all their
    linear layers like this, heads included.
    """
    layer = Head(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def classifier(kind: Literal["linear", "cosine"], inputs: int, outputs: int) -> nn.Module:
    """What gives the logits that a loss wants; see `Loss.classifier`."""
    return linear(inputs, outputs) if kind == "linear" else Cosine(inputs, outputs)


def start_heads(method: nn.Module, how: Literal["he_zero", "he_uniform", "uniform"]) -> None:
    """Draw the initial weights of all linear heads anew.

    Args:
        method: with `Head` layers somewhere inside.
        how: "he_zero" is what `linear` gives and draws nothing; "he_uniform" has He-normal weights and uniform biases
            within 1 / sqrt(inputs), as the published ResNet-32 of GLMC starts; "uniform" draws both uniformly within
            that bound, PyTorch's default, as its other networks start.
    """
    if how == "he_zero":
        return
    for module in method.modules():
        if isinstance(module, Head):
            module.reset_parameters()
            if how == "he_uniform":
                nn.init.kaiming_normal_(module.weight)
