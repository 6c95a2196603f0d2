"""What the operations of an augmentation share: choice among images, layout in memory, the last step to floats."""

from collections.abc import Callable

import torch
from torch import Tensor

from glmc.batches.resize import piecewise


def choose(chosen: Tensor, these: Tensor, others: Tensor) -> Tensor:
    """Of two uint8 [B, ...], those of `these` where `chosen` (bool [B]) says so.

    With bits, which a CPU does ten times faster than torch.where.
    """
    mask = (chosen.to(torch.uint8) * 255).view(-1, *[1] * (others.ndim - 1))
    return others ^ ((these ^ others) & mask)


def planar(images: Tensor) -> Tensor:
    """The same [B, H, W, ch], channel after channel in memory: sums over channels are several times faster so."""
    return images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)


def normalise(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """uint8 [B, H, W, ch] -> float32 [B, ch, H, W], pixel * scale + shift with float [ch] each.

    The memory stays channels-last.
    """
    pixels = torch.addcmul(shift, images.float(), scale).permute(0, 3, 1, 2)
    return pixels.contiguous(memory_format=torch.channels_last)


def change_some(images: Tensor, chosen: Tensor, change: Callable[[Tensor, Tensor | slice], Tensor]) -> Tensor:
    """Some images of a batch replaced by what an operation makes of them.

    On a CPU only these are worked on, elsewhere all of them, and the others thrown away: nothing waits for the device.

    Args:
        images: uint8 [B, H, W, ch].
        chosen: bool [B].
        change: from images and their rows (an index of [B]) to images of the same shape.

    Returns:
        uint8 [B, H, W, ch].
    """
    if not piecewise(images):
        return choose(chosen, change(images, slice(None)), images)
    rows = chosen.nonzero()[:, 0]
    return images.index_copy(0, rows, change(images.index_select(0, rows), rows)) if len(rows) else images
