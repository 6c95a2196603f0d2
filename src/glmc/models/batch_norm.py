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
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


@cache
def _per_view(norm: type[_BatchNorm]) -> type[_BatchNorm]:
    """`norm` with statistics for each of `groups` equal parts of the batch; parameters and buffers are the same."""

    class PerView(norm):  # type: ignore[valid-type, misc]
        groups = 1

        def forward(self, x: Tensor) -> Tensor:
            if self.groups == 1 or not self.training:
                return super().forward(x)
            if norm is not nn.BatchNorm2d or self.momentum is None or not self.track_running_stats:
                # timm's own kinds have more to do, and others less
                return torch.cat([super(PerView, self).forward(view) for view in x.chunk(self.groups)])
            self.num_batches_tracked.add_(self.groups)
            return (fusible if torch.compiler.is_compiling() else view_after_view)(self, x, self.groups)

    PerView.__name__ = PerView.__qualname__ = f"PerView{norm.__name__}"
    return PerView


def view_after_view(norm: _BatchNorm, x: Tensor, groups: int) -> Tensor:
    """A library's BatchNorm for each view; float [groups * B, ch, ...] -> the same shape."""
    state = norm.running_mean, norm.running_var, norm.weight, norm.bias
    how = {"training": True, "momentum": norm.momentum, "eps": norm.eps}
    return torch.cat([F.batch_norm(view, *state, **how) for view in x.chunk(groups)])  # type: ignore[arg-type]


def fusible(norm: _BatchNorm, x: Tensor, groups: int) -> Tensor:
    """The same as one reduction over all views and one affine map: half as many kernels where a compiler fuses them.

    Operation by operation it would be slower than `view_after_view`.
    """
    views = x.unflatten(0, (groups, -1)).to(torch.promote_types(x.dtype, torch.float32))  # [V, B, ch, ...]
    var, mean = torch.var_mean(views, [1, *range(3, views.ndim)], correction=0, keepdim=True)  # [V, 1, ch, 1, ...]
    weight, bias = (parameter.view(mean.shape[1:]) for parameter in (norm.weight, norm.bias))
    y = (views - mean) * ((var + norm.eps).rsqrt() * weight) + bias
    values = views[0].numel() // views.shape[2]  # behind each mean
    with torch.no_grad():
        for view in range(groups):
            norm.running_mean.lerp_(mean[view].flatten(), norm.momentum)  # type: ignore[union-attr, arg-type]
            norm.running_var.lerp_(var[view].flatten() * (values / (values - 1)), norm.momentum)  # type: ignore[union-attr, arg-type]
    return y.to(x.dtype).flatten(0, 1)


def split_by_view(network: nn.Module) -> list[nn.Module]:
    """Turn every BatchNorm of the network, timm's own kinds included, into one with a `groups` attribute.

    Returns them.
    """
    norms: list[nn.Module] = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.__class__ = _per_view(type(norm))  # type: ignore[arg-type]
    return norms
