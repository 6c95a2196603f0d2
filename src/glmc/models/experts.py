"""Several experts on a shared stem: any network, multiplied from a named stage on.

As in RIDE (Wang et al., ICLR 2021, arXiv:2010.01809) the early stages are computed once. From the named stage on every
module is held E times; the experts' activations travel side by side along the batch dimension, so that the network's
own forward pass needs no change, whatever it does between its modules.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glmc.errors import UserError


class Copies(nn.Module):
    """The same part of E networks, each with weights of its own.

    Args:
        parts: E modules.
        first: whether their input is still shared: [B, ...] -> [E * B, ...]. Later: [E * B, ...] -> [E * B, ...].
    """

    apart = False  # whether each expert has a part of the batch to itself, from its input on

    def __init__(self, parts: Sequence[nn.Module], first: bool) -> None:
        super().__init__()
        self.copies, self.first = nn.ModuleList(parts), first

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        number = len(self.copies)
        shared = self.first and not self.apart
        inputs = [x] * number if shared else x.unflatten(0, (number, -1)).unbind()  # `chunk` would fix B in an export
        return torch.cat([part(each) for part, each in zip(self.copies, inputs, strict=True)])


def multiply(nets: Sequence[nn.Module], stage: str) -> None:
    """Turn the first of E equal networks, in place, into one that holds everything from a stage on E times.

    Its features then come as [E * B, D], one expert after the other.

    Args:
        nets: E >= 2; their modules stand in the order in which they are used, as in all of ours and timm's.
        stage: dotted name of the first module that is held E times, e.g. "layer3" or "blocks.8"; "last" is the last
            group of modules within a group: a ResNet's last block, a ConvNeXt's last stage.

    Raises:
        UserError: the networks have no such stage, or nothing in it can be trained.
    """
    net = nets[0]
    names = [name for name, module in net.named_modules() if name and any(True for _ in module.parameters())]
    if stage == "last":
        stage = [name for name in names if name.count(".") == 1 and any(net.get_submodule(name).children())][-1]
    if stage not in names:
        near = [name for name in names if name.count(".") <= stage.count(".")]
        raise UserError(f"model.experts_from={stage}: the network has no such stage; it has {', '.join(near[:24])}")
    path, first = stage.split("."), True
    for depth in reversed(range(len(path))):  # the group that holds the stage, then the group around it, and so on
        group = ".".join(path[:depth])
        children = [name for name, _ in net.get_submodule(group).named_children()]
        start = children.index(path[depth]) + (0 if depth == len(path) - 1 else 1)
        for child in children[start:]:
            parts = [each.get_submodule(f"{group}.{child}".lstrip(".")) for each in nets]
            if any(True for _ in parts[0].parameters()):
                setattr(net.get_submodule(group), child, Copies(parts, first))
                first = False
