"""Weights in the precision of a step, all of them in one call.

Autocast turns every weight into bfloat16 where it is used, and every gradient back: two kernels a layer, of a few
thousand values each. Here the weights of all convolutions and linear layers are turned together, and their gradients
back together; the values are the same to the bit.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


class _Together(torch.autograd.Function):
    """Tensors -> the same in another precision; their gradients -> in their own."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtypes = [weight.dtype for weight in weights]
        low = [torch.empty_like(weight, dtype=dtype) for weight in weights]
        torch._foreach_copy_(low, weights)
        return tuple(low)

    @staticmethod
    def backward(ctx: Any, *low: Tensor | None) -> tuple[Tensor | None, ...]:
        there = [(gradient, dtype) for gradient, dtype in zip(low, ctx.dtypes, strict=True) if gradient is not None]
        full = [torch.empty_like(gradient, dtype=dtype) for gradient, dtype in there]
        torch._foreach_copy_(full, [gradient for gradient, _ in there])
        left = iter(full)
        return None, *(None if gradient is None else next(left) for gradient in low)


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """The parameters that autocast would turn, by name: those of plain convolutions and linear layers.

    Subclasses are left to autocast: they may compute with their weights before they use them.
    """
    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return {
        f"{place}.{name}" if place else name: parameter
        for place, module in net.named_modules()
        if type(module) in plain
        for name, parameter in module.named_parameters(recurse=False)
    }


def carried_out(net: nn.Module, images: Tensor) -> Tensor:
    """`net(images)`, its weights turned all at once where autocast would turn them one by one."""
    kind = images.device.type
    if not torch.is_autocast_enabled(kind):
        return net(images)
    weights = weights_of(net)
    low = _Together.apply(torch.get_autocast_dtype(kind), *weights.values())
    return functional_call(net, dict(zip(weights, low, strict=True)), (images,))
