"""Classifiers and projections on top of a backbone."""

from collections.abc import Sequence
from itertools import pairwise
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
    """The cosine between features and a vector of each class, times a fixed scale; no bias.

    Float [B, inputs] -> [B, outputs] in [-scale, scale], in the dtype of the weights. Rows start uniform in (-1, 1) per
    entry and with length 1, as in Cao et al., NeurIPS 2019, arXiv:1906.07413.
    """

    def __init__(self, inputs: int, outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(F.normalize(torch.empty(outputs, inputs).uniform_(-1, 1)))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        with torch.autocast(x.device.type, enabled=False):
            return self.scale * F.linear(F.normalize(x.to(self.weight.dtype)), F.normalize(self.weight))


class Projection(nn.Sequential):
    """Linear layers with a ReLU between each two, and the result scaled to length 1: what contrastive losses look at.

    Float [B, sizes[0]] -> [B, sizes[-1]], in the dtype of the weights. Chen et al., ICML 2020, arXiv:2002.05709.

    Args:
        sizes: inputs, hidden widths, outputs; two layers have three.
        batch_norm: whether each hidden layer is normalised before its ReLU, over all the views of a batch together.
    """

    def __init__(self, *sizes: int, batch_norm: bool = False) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes[:-1]):
            layers.append(linear(inputs, outputs, bias=not batch_norm))  # BatchNorm would take the bias away
            layers += [nn.BatchNorm1d(outputs)] if batch_norm else []
            layers.append(nn.ReLU())
        super().__init__(*layers, linear(sizes[-2], sizes[-1]))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return F.normalize(super().forward(x))


def linear(inputs: int, outputs: int, *, bias: bool = True) -> Head:
    """A head with He-normal weights (fan-in, gain sqrt 2) and a zero bias, or none.

    He et al., ICCV 2015, arXiv:1502.01852; the small-image networks of the long-tailed literature start all their
    linear layers like this, heads included.
    """
    layer = Head(inputs, outputs, bias=bias)
    nn.init.kaiming_normal_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


@torch.no_grad()
def with_rows(head: nn.Linear | Cosine, rows: Sequence[int | None], means: Tensor) -> nn.Linear | Cosine:
    """A classifier that has rows of another, and class means for the classes that the other does not know.

    A new row points from the mean of all class means to that of its class and is as long as the other's are on average;
    its bias gives it their mean logit at the former. (The class means themselves, Qi et al., CVPR 2018,
    arXiv:1712.07136, have most of their direction in common: beside trained rows, new classes would win everywhere.)
    Beside cosines, a new row has their mean cosine with that mean instead, and length 1.

    Args:
        head: the other.
        rows: of each of C classes the row of `head`, or none.
        means: float [C, inputs], mean features of each class.
    """
    new = torch.tensor([row is None for row in rows], device=head.weight.device)
    kept = torch.tensor([row or 0 for row in rows], device=head.weight.device)
    middle = means.mean(0)
    if isinstance(head, Cosine):
        cosine = Cosine(head.weight.shape[1], len(rows), head.scale).to(head.weight.device)
        common = F.normalize(middle, dim=0)
        share = (F.normalize(head.weight) @ common).mean()  # cosine of the other's rows with it
        own = F.normalize(means - (means @ common)[:, None] * common)
        weight = share * common + (1 - share**2).sqrt() * own
        cosine.weight.copy_(torch.where(new[:, None], weight, head.weight[kept]))
        return cosine
    weight = head.weight.norm(dim=1).mean() * F.normalize(means - middle)
    bias = F.linear(middle, head.weight, head.bias).mean() - weight @ middle
    linear = Head(head.weight.shape[1], len(rows)).to(head.weight.device)
    linear.weight.copy_(torch.where(new[:, None], weight, head.weight[kept]))
    linear.bias.copy_(torch.where(new, bias, head.bias[kept]))
    return linear


def classifier(kind: Literal["linear", "cosine"], inputs: int, outputs: int, scale: float = 1.0) -> nn.Module:
    """What gives the logits that a loss wants; see `Loss.classifier`. The scale is that of cosines."""
    return linear(inputs, outputs) if kind == "linear" else Cosine(inputs, outputs, scale)


def start_heads(
    method: nn.Module, how: Literal["he_zero", "he_uniform", "uniform", "class_means", "class_names"]
) -> None:
    """Draw the initial weights of all linear heads anew.

    Args:
        method: with `Head` layers somewhere inside.
        how: "he_uniform" has He-normal weights and uniform biases within 1 / sqrt(inputs), as the published ResNet-32
            of GLMC starts; "uniform" draws both uniformly within that bound, PyTorch's default, as its other networks
            start. Any other draws nothing: "he_zero" is what `linear` gives, for the rest see `train.beginning`.
    """
    if how not in ("he_uniform", "uniform"):
        return
    for module in method.modules():
        if isinstance(module, Head):
            module.reset_parameters()
            if how == "he_uniform":
                nn.init.kaiming_normal_(module.weight)
