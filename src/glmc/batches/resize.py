"""Parts of images cut out and resized, with antialiasing: the same whole numbers on every device.

One image at a time on a CPU, by PyTorch's own resize of uint8 images, which is the fastest; whole batches elsewhere, by
the same sums. `shrunk` is for what has become floats.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from glmc.step import Batch


def piecewise(images: Tensor) -> bool:
    """Whether to look at single images where that is faster: on a CPU, unless the step is being compiled."""
    return images.device.type == "cpu" and not torch.compiler.is_compiling()


def resample_weights(length: Tensor, inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which pixels of a stretch of a line make each pixel of the resized one, and how much each of them counts.

    The triangle filter of an antialiased bilinear resize, in the fixed point of PyTorch's resize of uint8 images on a
    CPU: whole numbers of at most 15 bits. PIL's have 22: some values, 3 in 100, differ from PIL's by one level.

    Args:
        length: int64 [B], how long the stretches are, in pixels, in [1, inputs].
        inputs: pixels of the whole line: sets how many pixels may count.
        outputs: pixels of the result.

    Returns:
        first int64 [B, outputs], the first pixel that counts, from the beginning of the stretch; weights int32
        [B, outputs, taps] of this pixel and the following; bits int32 [B]: the weights of a pixel add up to about
        2 ** bits.
    """
    scale = (length.double() / outputs)[:, None]
    support = scale.clamp(min=1)
    centres = (torch.arange(outputs, device=length.device) + 0.5) * scale  # [B, outputs]
    first = (centres - support + 0.5).long().clamp_(min=0)
    last = torch.minimum((centres + support + 0.5).long(), length[:, None])
    taps = torch.arange(2 * math.ceil(max(inputs / outputs, 1)) + 1, device=length.device)
    away = (taps + (first - centres)[..., None] + 0.5) * (1 / support)[..., None]
    weights = (1 - away.abs()).clamp_(min=0) * (taps < (last - first)[..., None])
    total = weights[..., 0].clone()
    for tap in range(1, len(taps)):  # in this order: a sum in another one may round differently
        total += weights[..., tap]
    weights /= total[..., None]
    powers = 2.0 ** torch.arange(1, 23, device=length.device, dtype=torch.float64)
    bits = ((0.5 + weights.amax((1, 2))[:, None] * powers).floor() < 2**15).sum(1)  # as many as fit into 16, with sign
    whole = (0.5 + weights * (2.0**bits)[:, None, None]).floor()
    return first, whole.int(), bits.int()


def resize_lines(images: Tensor, low: Tensor, length: Tensor, size: int) -> Tensor:
    """The columns of each image from `low` on, `length` of them, resized to `size` columns, which become rows.

    Args:
        images: uint8 [B, H, W, ch].
        low, length: int64 [B], in pixels.
        size: columns of the result.

    Returns:
        uint8 [B, size, H, ch].
    """
    where = torch.device("cpu") if images.device.type == "mps" else images.device  # MPS has no double precision
    first, weights, bits = (t.to(images.device) for t in resample_weights(length.to(where), images.shape[2], size))
    columns, batch = images.transpose(1, 2), torch.arange(len(images), device=images.device)[:, None]
    half = (1 << (bits - 1))[:, None, None, None]
    total = half.expand(-1, size, images.shape[1], images.shape[3]).clone()
    for tap in range(weights.shape[2]):
        at = (first + tap + low[:, None]).clamp_(max=images.shape[2] - 1)  # what lies beyond has no weight
        total.addcmul_(columns[batch, at].int(), weights[:, :, tap, None, None])
    return (total >> bits[:, None, None, None]).clamp_(0, 255).to(torch.uint8)


def cut_out(image: Tensor, box: Sequence[int], size: int) -> Tensor:
    """One box of one image, resized to `size` x `size` with antialiasing, on a CPU.

    Args:
        image: uint8 [H, W, ch].
        box: top, left, height, width in pixels, inside the image.
        size: side of the result in pixels.

    Returns:
        uint8 [size, size, ch].
    """
    top, left, height, width = box
    part = image[top : top + height, left : left + width].contiguous()[None].permute(0, 3, 1, 2)
    return F.interpolate(part, (size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0)


def resized_crop(images: Tensor, box: Tensor, size: int) -> Tensor:
    """The box of each image, resized to `size` x `size` with antialiasing.

    Args:
        images: uint8 [B, H, W, ch].
        box: float [B, 4], top, left, height, width in pixels (whole numbers), inside the image.
        size: side of the result in pixels.

    Returns:
        uint8 [B, size, size, ch].
    """
    if piecewise(images):
        out = images.new_empty(len(images), size, size, images.shape[3])
        for place, corner in enumerate(box.long().tolist()):
            out[place] = cut_out(images[place], corner, size)
        return out
    top, left, height, width = box.long().unbind(1)
    return resize_lines(resize_lines(images, left, width, size), top, height, size)


def shrunk(batch: Batch, side: int) -> Batch:
    """A batch whose images, float [B, ch, H, W], have `side` x `side` pixels, with antialiasing; 0: as they are."""
    if not side:
        return batch
    views = (F.interpolate(view, (side, side), mode="bilinear", antialias=True) for view in batch.views)
    return batch._replace(views=tuple(views))
