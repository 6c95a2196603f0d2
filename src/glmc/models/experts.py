"""Several experts on a shared stem: any network, multiplied from a named stage on.

As in RIDE (Wang et al., ICLR 2021, arXiv:2010.01809) the early stages are computed once. From the named stage on every
module is held E times; the experts' activations travel side by side along the batch dimension, so that the network's
own forward pass needs no change, whatever it does between its modules.
"""

import copy

import torch
from torch import Tensor, nn

from glmc.errors import UserError


class Copies(nn.Module):
    """E copies of a module with weights of their own.

    Args:
        module: that is copied; the weights of the copies start anew where it has layers that can.
        experts: E.
        first: whether its input is still shared: [B, ...] -> [E * B, ...]. Later: [E * B, ...] -> [E * B, ...].
    """

    def __init__(self, module: nn.Module, experts: int, first: bool) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copy.deepcopy(module) for _ in range(experts))
        self.first = first

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        inputs = [x] * len(self.copies) if self.first else x.chunk(len(self.copies))
        return torch.cat([module(part) for module, part in zip(self.copies, inputs, strict=True)])


def multiply(net: nn.Module, experts: int, stage: str) -> None:
    """Hold everything from a stage on E times, in place; features then come as [E * B, D], one expert after the other.

    Args:
        net: its modules stand in the order in which they are used, as in all of ours and timm's.
        experts: E >= 2.
        stage: dotted name of the first module that is multiplied, e.g. "layer3" or "blocks.8".

    Raises:
        UserError: the network has no such stage.
    """
    names = [name for name, _ in net.named_modules() if name]
    if stage not in names:
        near = [name for name in names if name.count(".") <= stage.count(".")]
        raise UserError(f"model.experts_from={stage}: the network has no such stage; it has {', '.join(near[:24])}")
    group, first = net, True
    path = stage.split(".")
    holders = []  # each group on the way down, and the child in it from which on modules belong to the experts
    for depth, name in enumerate(path):
        holders.append((group, name, depth == len(path) - 1))
        group = group.get_submodule(name)
    for holder, name, innermost in reversed(holders):
        children = [child for child, _ in holder.named_children()]
        start = children.index(name) + (0 if innermost else 1)
        for child in children[start:]:
            module = holder.get_submodule(child)
            if first or any(True for _ in module.parameters()):
                setattr(holder, child, Copies(module, experts, first))
            first = False
    for module in net.modules():
        if isinstance(module, Copies):
            for number, each in enumerate(module.copies):
                if number:
                    each.apply(_start_anew)


def _start_anew(module: nn.Module) -> None:
    """Give a layer other initial weights; of convolutions as our small-image networks start them."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        module.reset_parameters()
