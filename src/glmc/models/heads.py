"""Linear layers on top of a backbone."""

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


def linear(inputs: int, outputs: int) -> Head:
    """A head with He-normal weights (fan-in, gain sqrt 2) and a zero bias.

    He et al., ICCV 2015, arXiv:1502.01852; the small-image networks of the long-tailed literature start all their
    linear layers like this, heads included.
    """
    layer = Head(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
