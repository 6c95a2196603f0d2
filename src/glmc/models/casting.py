"""Weights in the precision of a step, all of them in one call.

Autocast turns every weight into bfloat16 where it is used, and every gradient back: two kernels a layer, of a few
thousand values each. Here the weights of all convolutions and linear layers are turned together, and their gradients
back together; the values are the same to the bit where a network is passed through once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call


def lowered(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Copies in another precision, in one call."""
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if copies:
        torch._foreach_copy_(copies, tensors)
    return copies


class _Together(torch.autograd.Function):
    """Tensors, at least one -> the same in another precision; their gradients -> in float32."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(lowered(list(weights), dtype))

    @staticmethod
    def backward(ctx: Any, *low: Tensor | None) -> tuple[Tensor | None, ...]:
        full = iter(lowered([gradient for gradient in low if gradient is not None], torch.float32))
        return None, *(None if gradient is None else next(full) for gradient in low)


class Place(NamedTuple):
    """Where a weight stands: a module may be given another tensor in its place, by `.to(device)` for one."""

    name: str  # in the whole network
    module: nn.Module
    key: str


def weights_of(net: nn.Module) -> tuple[Place, ...]:
    """The parameters that autocast would turn: those of plain convolutions and linear layers.

    Subclasses are left to autocast: they may compute with their weights before they use them.
    """
    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    found: dict[Tensor, Place] = {}  # a weight that several layers share has one name
    for place, module in net.named_modules():
        if type(module) in plain:
            for key, parameter in module.named_parameters(recurse=False):
                found.setdefault(parameter, Place(f"{place}.{key}".lstrip("."), module, key))
    return tuple(found.values())


def carried_out(net: nn.Module, places: Sequence[Place], images: Tensor) -> Tensor:
    """`net(images)`, its weights turned all at once where autocast would turn them one by one.

    Args:
        net: any network.
        places: `weights_of` it, which to look for in each step would take as long as some of its kernels.
        images: float [B, ch, H, W].
    """
    kind = images.device.type
    if not torch.is_autocast_enabled(kind):
        return net(images)
    dtype = torch.get_autocast_dtype(kind)
    weights = {name: weight for name, module, key in places if (weight := getattr(module, key)).dtype == torch.float32}
    trained = {name: weight for name, weight in weights.items() if weight.requires_grad}
    frozen = {name: weight.detach() for name, weight in weights.items() if not weight.requires_grad}
    low = dict(zip(frozen, lowered(list(frozen.values()), dtype), strict=True))
    if trained:
        low |= dict(zip(trained, _Together.apply(dtype, *trained.values()), strict=True))
    return functional_call(net, low, (images,))
