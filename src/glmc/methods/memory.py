"""What contrastive methods remember beyond a step: embeddings of earlier batches, and a slow copy of the encoder.

He et al., CVPR 2020, arXiv:1911.05722. All of it is tensors that are changed in place, so that a run resumes with it.
"""

import copy

import torch
from torch import Tensor, nn


class Queue(nn.Module):
    """The last K embeddings with their labels; the oldest give way.

    Args:
        size: K.
        embedding: E, their length.
    """

    def __init__(self, size: int, embedding: int) -> None:
        super().__init__()
        self.entries: Tensor
        self.labels: Tensor
        self.place: Tensor
        self.register_buffer("entries", torch.zeros(size, embedding))  # [K, E]
        self.register_buffer("labels", torch.full((size,), -1))  # int64 [K]; -1: still empty
        self.register_buffer("place", torch.tensor(0))  # int64 [], the next to be replaced

    @torch.no_grad()
    def put(self, entries: Tensor, labels: Tensor) -> None:
        """Remember float [B, E] and int64 [B]; of more than K the first K."""
        size = len(self.labels)
        entries, labels = entries[:size], labels[:size]
        places = (self.place + torch.arange(len(labels), device=labels.device)) % size
        self.entries.index_copy_(0, places, entries.to(self.entries.dtype))
        self.labels.index_copy_(0, places, labels)
        self.place.add_(len(labels)).remainder_(size)


def queue_size(asked: int | None, usual: int, images: int) -> int:
    """How many embeddings to remember: as asked, or the usual number where there are as many training images.

    Raises:
        ValueError: more than there are training images, so that images would stand beside older selves.
    """
    if asked is None:
        return min(usual, images)
    if not 1 <= asked <= images:
        raise ValueError(f"queue must lie in [1, {images}], the number of training images, not {asked}")
    return asked


class MomentumEncoder(nn.ModuleDict):
    """A slow copy of backbone and projection, which encodes keys; nothing in it has a gradient.

    Args:
        backbone: that it follows.
        projector: that it follows.
        keep: what it keeps of itself each step, in [0, 1).
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, keep: float) -> None:
        if not 0 <= keep < 1:
            raise ValueError(f"keep must lie in [0, 1), not {keep}")
        super().__init__({"backbone": copy.deepcopy(backbone), "projector": copy.deepcopy(projector)})
        self.requires_grad_(False)
        self.keep = keep

    def start(self, backbone: nn.Module, projector: nn.Module) -> None:
        """Become the same network, its BatchNorm statistics included."""
        self["backbone"].load_state_dict(backbone.state_dict())
        self["projector"].load_state_dict(projector.state_dict())

    @torch.no_grad()
    def follow(self, backbone: nn.Module, projector: nn.Module) -> None:
        """self = keep * self + (1 - keep) * network, for the parameters; running averages of BatchNorm stay its own."""
        fast: list[Tensor] = [*backbone.parameters(), *projector.parameters()]
        torch._foreach_lerp_(list(self.parameters()), fast, 1 - self.keep)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Float [B, ch, H, W] -> keys, float [B, E]."""
        keys: Tensor = self["projector"](self["backbone"](images))
        return keys
