"""Pixels made of their neighbours: blur and sharpness, of whole batches on the device."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from glmc.batches.pixels import planar
from glmc.batches.resize import piecewise


def blur(images: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Gaussian blur, cut off at three times the largest deviation; beyond the border its pixels go on.

    Args:
        images: uint8 [B, H, W, ch].
        sigma: float [B], standard deviation in pixels, in [0, largest]; 0 changes nothing.
        largest: > 0, sets the width of the window for the whole batch, so that its shape is known beforehand.

    Returns:
        uint8 [B, H, W, ch].
    """
    if piecewise(images) and not sigma.all():
        rows, out = sigma.nonzero()[:, 0], images.clone()
        if len(rows):
            out[rows] = blur(images[rows], sigma[rows], largest)
        return out
    reach = math.ceil(3 * largest)
    taps = torch.arange(-reach, reach + 1, device=images.device)
    weights = torch.exp(-0.5 * (taps / sigma.clamp(min=1e-3)[:, None]) ** 2)  # [B, taps]
    weights = weights / weights.sum(1, keepdim=True)
    pixels = planar(images).permute(0, 3, 1, 2).float()
    for dim, border in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
        padded, size = F.pad(pixels, border, mode="replicate"), pixels.shape[dim]
        pixels.zero_()
        for tap in range(2 * reach + 1):  # a product, then a sum: on a CPU addcmul is several times slower
            pixels.add_(padded.narrow(dim, tap, size) * weights[:, tap, None, None, None])
    return pixels.round_().clamp_(0, 255).int().to(torch.uint8).permute(0, 2, 3, 1)


def sharpen(images: Tensor, factor: Tensor) -> Tensor:
    """Sharpness times a factor, as PIL does it: along the line from a smoothed image to the image itself.

    The smoothed pixel is the mean of the 3 x 3 pixels around it, its own counted five times. The outermost pixels stay.

    Args:
        images: uint8 [B, H, W, ch].
        factor: float [B], >= 0; 1 changes nothing, 0 gives the smoothed image.

    Returns:
        uint8 [B, H, W, ch].
    """
    pixels = images.float()
    rows = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    inner = pixels[:, 1:-1, 1:-1]
    smooth = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]).add_(inner, alpha=4).div_(13).round_()
    sharp = (inner - smooth).mul_(factor[:, None, None, None]).add_(smooth).clamp_(0, 255)
    out = images.clone()
    out[:, 1:-1, 1:-1] = sharp.to(torch.uint8)
    return out
