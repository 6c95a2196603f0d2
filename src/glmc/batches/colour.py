"""What values the pixels of an image take, each by itself: blends with a grey, hue, and tables of levels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glmc.batches.pixels import choose, planar
from glmc.random import Draws

BRIGHTNESS, CONTRAST, SATURATION = range(3)  # what a blend leads away from: black, the mean grey, the own grey


def luma(images: Tensor) -> Tensor:
    """ITU-R 601 grey of uint8 [B, H, W, ch] as PIL rounds it: int32 [B, H, W, 1]."""
    if images.shape[3] == 1:
        return images.int()
    red, green, blue = (images[..., channel].int() for channel in range(3))
    total = red.mul_(19595).add_(green, alpha=38470).add_(blue, alpha=7471).add_(0x8000)
    return total.bitwise_right_shift_(16)[..., None]


def blend(images: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """Brightness, contrast or saturation times a factor, another kind for each image, to PIL's last digit.

    All three move a pixel along the line from a grey to itself: black for brightness, the image's mean grey for
    contrast, the pixel's own grey for saturation.

    Args:
        images: uint8 [B, H, W, ch].
        kind: int [B], `BRIGHTNESS`, `CONTRAST` or `SATURATION`.
        factor: float [B], >= 0; 1 changes nothing, 0 gives the grey.

    Returns:
        uint8 [B, H, W, ch]; fractions are cut off, as PIL does.
    """
    kind, factor = kind[:, None, None, None], factor[:, None, None, None]
    own = luma(images)
    pixels = images.shape[1] * images.shape[2]
    mean = (2 * own.sum((1, 2, 3), keepdim=True) + pixels) // (2 * pixels)  # whole numbers: the same on every device
    grey = (own * (kind == SATURATION).int() + mean.int() * (kind == CONTRAST).int()).float()
    return (images.float() - grey).mul_(factor).add_(grey).clamp_(0, 255).int().to(torch.uint8)


def shift_hue(images: Tensor, turn: Tensor) -> Tensor:
    """The hue of each pixel turned on the colour circle; uint8 [B, H, W, ch] -> the same. Grey images stay.

    Args:
        images: uint8 [B, H, W, ch].
        turn: float [B], part of a full turn, in [-0.5, 0.5]; 0 changes nothing.
    """
    if images.shape[3] == 1:
        return images
    red, green, blue = images.float().unbind(3)
    value, least = images.amax(3).float(), images.amin(3).float()
    chroma = value - least
    span = chroma.clamp(min=1)  # a grey pixel has no hue and keeps its value whatever hue it is given
    sixth = torch.where(red == value, (green - blue) / span, (blue - red) / span + 2)
    sixth = torch.where((blue == value) & (red < value) & (green < value), (red - green) / span + 4, sixth)
    sixth = sixth + 6 * turn[:, None, None]  # [B, H, W], the hue in sixths of the circle
    parts = [(sixth + offset) % 6 for offset in (5, 3, 1)]
    colours = [value - chroma * torch.minimum(part, 4 - part).clamp(0, 1) for part in parts]
    return torch.stack(colours, dim=3).round_().clamp_(0, 255).to(torch.uint8)


def color_jitter(images: Tensor, kinds: Tensor, factors: Tensor, turn: Tensor | None = None) -> Tensor:
    """The three blends in the order of each image, then the hue.

    Args:
        images: uint8 [B, H, W, ch].
        kinds: int [B, 3], the kinds of `blend`, in the order in which they are applied.
        factors: float [B, 3], their factors, in the same order.
        turn: float [B], for `shift_hue`; None leaves the hue.

    Returns:
        uint8 [B, H, W, ch].
    """
    images = planar(images)
    for place in range(3):
        images = blend(images, kinds[:, place], factors[:, place])
    return images if turn is None else shift_hue(images, turn)


def grayscale(images: Tensor, chosen: Tensor) -> Tensor:
    """Colours replaced by their grey where `chosen` (bool [B]) says so; uint8 [B, H, W, ch] -> the same."""
    return choose(chosen, luma(images).to(torch.uint8), images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Of each value the highest bits alone, `bits` (int [B], in [0, 8]) of them; uint8 [B, H, W, ch] -> the same."""
    kept = ((255 << (8 - bits)) & 255).to(torch.uint8)  # [B]
    return images & kept[:, None, None, None]


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Values from a threshold on (float [B]; 0: all of them) inverted; uint8 [B, H, W, ch] -> the same."""
    return images ^ ((images >= threshold[:, None, None, None]).to(torch.uint8) * 255)


def autocontrast(images: Tensor) -> Tensor:
    """Each channel of each image stretched to [0, 255]; uint8 [B, H, W, ch] -> the same. Constant channels stay."""
    low, high = (each.float() for each in (images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)))
    flat = high == low  # [B, 1, 1, ch]
    stretch = torch.where(flat, 1.0, 255 / (high - low).clamp(min=1))
    # Fractions, which are multiples of 1 / (high - low), are cut off; whole numbers may lack a rounding error.
    return (images.float() - low * ~flat).mul_(stretch).add_(1e-3).clamp_(0, 255).to(torch.uint8)


def equalize(images: Tensor) -> Tensor:
    """Each channel of each image mapped so that its levels are about equally frequent, as PIL does it.

    A level becomes the number of pixels below it, measured in steps: a 255th of all pixels but those of the highest
    level that occurs. An image too small or too uniform for a step of one pixel stays.

    Args:
        images: uint8 [B, H, W, ch].

    Returns:
        uint8 [B, H, W, ch].
    """
    batch, height, width, channels = images.shape
    values = images.permute(0, 3, 1, 2).reshape(batch * channels, height * width).long()
    levels = torch.arange(256, device=images.device)
    highest = values.amax(1, keepdim=True)
    count = torch.zeros(len(values), 256, dtype=torch.int64, device=images.device)
    count.scatter_add_(1, values, torch.ones_like(highest).expand_as(values))  # [B * ch, 256], pixels of each level
    step = (height * width - count.gather(1, highest)) // 255  # [B * ch, 1]
    below = count.cumsum(1) - count  # [B * ch, 256]
    table = torch.where(step > 0, (below + step // 2) // step.clamp(min=1), levels).clamp_(max=255).to(torch.uint8)
    return table.gather(1, values).view(batch, channels, height, width).permute(0, 2, 3, 1)


def random_jitter(draws: Draws, images: int, value: Mapping[str, float]) -> tuple[NDArray[Any], ...]:
    """Order, factors and hue turns of the colour jitter of N images.

    Args:
        draws: where the numbers come from.
        images: N.
        value: of the recipe: "brightness", "contrast" and "saturation" b give factors uniform in
            [max(0, 1 - b), 1 + b], "hue" h gives turns uniform in [-h, h]; an image is jittered with probability "p".

    Returns:
        kinds uint8 [N, 3] and factors float32 [N, 3], both in each image's own random order (three blends in another
        order are another colour, and torchvision draws it, too), and turns float32 [N].
    """
    spread = np.array([value["brightness"], value["contrast"], value["saturation"]])
    low, high = np.maximum(0, 1 - spread), 1 + spread
    u = draws.uniform(images, 8)
    chosen = u[:, 7] < value["p"]
    kinds = np.argsort(u[:, :3], axis=1)
    factors = np.where(chosen[:, None], low + u[:, 3:6] * (high - low), 1.0)
    turns = np.where(chosen, (2 * u[:, 6] - 1) * value["hue"], 0.0)
    ordered = np.take_along_axis(factors, kinds, axis=1)
    return kinds.astype(np.uint8), ordered.astype(np.float32), turns.astype(np.float32)
