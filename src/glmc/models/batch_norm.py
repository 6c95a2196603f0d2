"""BatchNorm when several views share one pass through a network.

GLMC sends a MixUp batch and a CutMix batch through the encoder. MixUp lowers the variance of the pixels and CutMix does
not, so it matters whether the two are normalised together:

    split     one pass over [V * B, ...], statistics for each view on its own, running averages updated view after view
    two_pass  one pass for each view: the published code; the same numbers as `split`, slower
    joint     one pass, statistics over all views together (as in SimCLR)
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from glmc import ranks


@cache
def _per_view(norm: type[_BatchNorm]) -> type[_BatchNorm]:
    """`norm` with statistics for each of `groups` equal parts of the batch; parameters and buffers are the same."""

    class PerView(norm):  # type: ignore[valid-type, misc]
        groups = 1
        views = 1  # in each group
        over = "batch"  # or the images of a rank

        def forward(self, x: Tensor) -> Tensor:
            if self.training and ranks.spreading():
                if self.over == "batch":
                    return over_ranks(self, x, self.groups, self.views)
                if not len(x):  # of the last batch, nothing may be left for this rank: a gradient of zero
                    self.num_batches_tracked.add_(self.groups)
                    return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)
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


def over_ranks(norm: _BatchNorm, x: Tensor, groups: int, views: int) -> Tensor:
    """BatchNorm for each group of views of a batch that is spread over ranks, as one process would compute it.

    Raises:
        ValueError: a library's own kind, of which it is not known what else it does.
    """
    more = set(dict(norm.named_children())) - {"drop", "act"}
    if more or norm.momentum is None or norm.running_mean is None:
        raise ValueError(f"{type(norm).__bases__[0].__name__} cannot be spread over several processes")
    grouped = x.unflatten(0, (groups, len(x) // groups))  # [G, V * B / W, ch, ...]; a rank may have no images
    mean, var, number = ranks.moments(grouped.detach(), views)  # [G, 1, ch, 1, ...] each
    like = mean.shape[1:]
    weight, bias = (
        (norm.weight.view(like), norm.bias.view(like)) if norm.affine else (mean.new_ones(like), mean.new_zeros(like))
    )
    y = _Normalised.apply(grouped, mean, (var + norm.eps).rsqrt(), weight, bias, number)
    if norm.track_running_stats:  # not in the second pass of SAM
        norm.num_batches_tracked.add_(groups)  # type: ignore[union-attr]
        follow(norm, mean, var * (number / max(number - 1, 1)))
    y = y.flatten(0, 1)
    for child in norm.children():  # of timm's kinds: dropout, then activation
        y = child(y)
    return y


class _Normalised(torch.autograd.Function):
    """(x - mean) * rstd * weight + bias, with its gradient through mean and rstd, which are those of all ranks.

    As one function, it takes fewer passes over the images than autograd would make of it. Ioffe & Szegedy, ICML 2015,
    arXiv:1502.03167, algorithm 1 and the derivatives below it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor, number: int) -> Tensor:
        """Float [G, n, ch, ...]; mean, rstd [G, 1, ch, 1, ...]; weight, bias [1, ch, 1, ...]; -> as x."""
        ctx.save_for_backward(x, mean, rstd, weight)
        ctx.number = number
        scale = rstd * weight
        return torch.addcmul(bias - mean * scale, x.to(mean.dtype), scale).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, weight = ctx.saved_tensors
        over = [1, *range(3, x.ndim)]
        gradient, centred = gradient.to(mean.dtype), x.to(mean.dtype) - mean
        of_bias = gradient.sum(over, keepdim=True)  # [G, 1, ch, 1, ...]
        of_weight = (gradient * centred).sum(over, keepdim=True) * rstd
        everywhere = torch.stack([of_bias, of_weight])
        ranks.add_up([everywhere])
        through_mean, through_rstd = everywhere / ctx.number
        of_x = (gradient - through_mean).addcmul_(centred, -rstd * through_rstd).mul_(rstd * weight)
        return of_x.to(x.dtype), None, None, of_weight.sum(0), of_bias.sum(0), None


@torch.no_grad()
def follow(norm: _BatchNorm, mean: Tensor, var: Tensor) -> None:
    """Let running averages follow the statistics of each view in turn: float [V, 1, ch, 1, ...]."""
    for view in range(len(mean)):
        norm.running_mean.lerp_(mean[view].flatten(), norm.momentum)  # type: ignore[union-attr, arg-type]
        norm.running_var.lerp_(var[view].flatten(), norm.momentum)  # type: ignore[union-attr, arg-type]


def fusible(norm: _BatchNorm, x: Tensor, groups: int) -> Tensor:
    """The same as one reduction over all views and one affine map: half as many kernels where a compiler fuses them.

    Operation by operation it would be slower than `view_after_view`.
    """
    views = x.unflatten(0, (groups, -1)).to(torch.promote_types(x.dtype, torch.float32))  # [V, B, ch, ...]
    var, mean = torch.var_mean(views, [1, *range(3, views.ndim)], correction=0, keepdim=True)  # [V, 1, ch, 1, ...]
    weight, bias = (parameter.view(mean.shape[1:]) for parameter in (norm.weight, norm.bias))
    y = (views - mean) * ((var + norm.eps).rsqrt() * weight) + bias
    values = views[0].numel() // views.shape[2]  # behind each mean
    follow(norm, mean, var * (values / (values - 1)))
    return y.to(x.dtype).flatten(0, 1)


def split_by_view(network: nn.Module) -> list[nn.Module]:
    """Turn every BatchNorm of the network, timm's own kinds included, into one with a `groups` attribute.

    Returns them.
    """
    norms: list[nn.Module] = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.__class__ = _per_view(type(norm))  # type: ignore[arg-type]
    return norms
