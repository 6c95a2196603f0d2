"""Linear layers on top of a backbone."""

from torch import nn


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with He-normal weights (fan-in, gain sqrt 2) and a zero bias.

    He et al., ICCV 2015, arXiv:1502.01852; the small-image networks of the long-tailed literature start all their linear
    layers like this, heads included.
    """
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
