"""BatchNorm when several views share one pass through a network.

GLMC sends a MixUp batch and a CutMix batch through the encoder. MixUp lowers the variance of the pixels and CutMix does
not, so it matters whether the two are normalised together:

    split     one pass over [V * B, ...], statistics for each view on its own, running averages updated view after view
    two_pass  one pass for each view: the published code; the same numbers as `split`, slower
    joint     one pass, statistics over all views together (as in SimCLR)
"""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@cache
def _per_view(norm: type[_BatchNorm]) -> type[_BatchNorm]:
    """`norm` with statistics for each of `groups` equal parts of the batch; parameters and buffers are the same."""

    class PerView(norm):  # type: ignore[valid-type, misc]
        groups = 1

        def forward(self, x: Tensor) -> Tensor:
            if self.groups == 1 or not self.training:
                return super().forward(x)
            return torch.cat([super(PerView, self).forward(view) for view in x.chunk(self.groups)])

    PerView.__name__ = PerView.__qualname__ = f"PerView{norm.__name__}"
    return PerView


def split_by_view(network: nn.Module) -> list[nn.Module]:
    """Turn every BatchNorm of the network, timm's own kinds included, into one with a `groups` attribute.

    Returns them.
    """
    norms: list[nn.Module] = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.__class__ = _per_view(type(norm))  # type: ignore[arg-type]
    return norms
