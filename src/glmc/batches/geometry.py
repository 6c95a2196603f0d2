"""Where the pixels of an image go: windows, mirrors, holes, and affine maps of whole batches on the device."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from glmc.batches.pixels import choose
from glmc.random import Draws

BITS = 20  # of the fixed point of affine maps: exact for sides of a hundred thousand pixels
ONE = 2**BITS
BOXES = 65_536  # images whose boxes are drawn at a time


def crop(images: Tensor, shift: Tensor, border: int, padding: str = "black") -> Tensor:
    """A window of the images' own size, out of the images with a border around them.

    Args:
        images: uint8 [B, H, W, ch].
        shift: int64 [B, 2], top and left edge of the window, in [0, 2 * border].
        border: its width in pixels.
        padding: what it holds: "black", or with "reflect" the image mirrored at its outermost pixels, which are not
            repeated; `border` is then at most H - 1 and W - 1.

    Returns:
        uint8 [B, H, W, ch].
    """
    height, width = images.shape[1:3]
    rows = shift[:, 0, None] + torch.arange(height, device=images.device)  # [B, H]
    columns = shift[:, 1, None] + torch.arange(width, device=images.device)  # [B, W]
    if padding == "reflect":
        rows, columns = mirrored(rows - border, height), mirrored(columns - border, width)
    else:
        images = F.pad(images, (0, 0, border, border, border, border))
    return pick(images, rows[:, :, None], columns[:, None, :])


def pick(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """The pixels at int64 [B, H', W'] (or what becomes so by broadcasting); uint8 [B, H, W, ch] -> [B, H', W', ch].

    As one list of all pixels: on a CPU several times faster than an index for each dimension.
    """
    batch, height, width, channels = images.shape
    first = height * width * torch.arange(batch, device=images.device)[:, None, None]
    place = (first + width * row) + column  # [B, H', W']
    return images.reshape(-1, channels).index_select(0, place.flatten()).view(*place.shape, channels)


def mirrored(place: Tensor, size: int) -> Tensor:
    """Places up to `size` - 1 beyond an edge brought back into [0, size): -1 becomes 1, and `size` becomes size - 2."""
    return size - 1 - (size - 1 - place.abs()).abs()


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Left and right exchanged where `mirrored` (bool [B]) says so; uint8 [B, H, W, ch] -> the same."""
    return choose(mirrored, images.flip(2), images)


def center_crop(images: Tensor, size: int) -> Tensor:
    """The middle `size` x `size` pixels; uint8 [B, H, W, ch] -> uint8 [B, size, size, ch]."""
    top, left = (images.shape[1] - size) // 2, (images.shape[2] - size) // 2
    return images[:, top : top + size, left : left + size]


def cutout(images: Tensor, centre: Tensor, length: int) -> Tensor:
    """A black square in each image, clipped where it reaches beyond. DeVries & Taylor 2017, arXiv:1708.04552.

    Args:
        images: uint8 [B, H, W, ch].
        centre: int64 [B, 2], row and column of its middle: of an even number of pixels, the one below and to the right.
        length: its side in pixels.

    Returns:
        uint8 [B, H, W, ch].
    """
    edge = (centre - length // 2)[..., None]  # [B, 2, 1]: top and left
    sides = [torch.arange(size, device=images.device) for size in images.shape[1:3]]
    down, across = ((side >= edge[:, i]) & (side < edge[:, i] + length) for i, side in enumerate(sides))
    kept = ~(down[:, :, None] & across[:, None, :])  # [B, H, W]
    return images & (kept.to(torch.uint8) * 255)[..., None]


def affine(images: Tensor, matrix: Tensor, offset: Tensor, fill: int) -> Tensor:
    """Each pixel of the result is the pixel of the image that an affine map leads to, the nearest.

    Places are counted in half pixels from the upper left corner, so that pixel 0 has its middle at 1: all numbers are
    whole, and the same pixels are found on every device.

    Args:
        images: uint8 [B, H, W, ch].
        matrix: int64 [B, 2, 2], times `ONE`, from (x, y) in the result to (x, y) in the image.
        offset: int64 [B, 2], times `ONE`, in half pixels, added to these.
        fill: level in [0, 255] where the map leads out of the image.

    Returns:
        uint8 [B, H, W, ch].
    """
    height, width = images.shape[1:3]
    x = 2 * torch.arange(width, device=images.device) + 1  # [W]
    y = 2 * torch.arange(height, device=images.device)[:, None] + 1  # [H, 1]
    matrix, offset = matrix[..., None, None], offset[..., None, None]
    column = (matrix[:, 0, 0] * x + (matrix[:, 0, 1] * y + offset[:, 0])) >> BITS + 1
    row = (matrix[:, 1, 0] * x + (matrix[:, 1, 1] * y + offset[:, 1])) >> BITS + 1
    framed = F.pad(images, (0, 0, 1, 1, 1, 1), value=fill)  # what lies outside is in the frame
    return pick(framed, row.clamp_(-1, height) + 1, column.clamp_(-1, width) + 1)


def random_boxes(
    draws: Draws, heights: NDArray[np.integer[Any]], widths: NDArray[np.integer[Any]], scale: Sequence[float]
) -> NDArray[np.float32]:
    """Boxes of a random area and shape in images of the given sizes.

    The area is uniform in `scale` (fractions of the image), the aspect ratio log-uniform in [3/4, 4/3]; the first of
    ten tries that lies inside the image counts, else the largest centred box with a ratio in that range (Szegedy et
    al., CVPR 2015, as torchvision has it).

    Args:
        draws: where the numbers come from.
        heights, widths: int [N], of the images in pixels.
        scale: smallest and largest area.

    Returns:
        float32 [N, 4]: top, left, height, width in pixels, whole numbers.
    """
    boxes = np.empty((len(heights), 4), dtype=np.float32)
    for start in range(0, len(heights), BOXES):
        part = slice(start, start + BOXES)
        boxes[part] = _boxes(draws, heights[part, None], widths[part, None], scale)
    return boxes


def _boxes(
    draws: Draws, heights: NDArray[np.integer[Any]], widths: NDArray[np.integer[Any]], scale: Sequence[float]
) -> NDArray[np.float64]:
    """Those of some images, whose sizes are [n, 1]: ten tries are 320 bytes an image, so not of all at once."""
    u = draws.uniform(len(heights), 10, 4)
    area = (scale[0] + u[..., 0] * (scale[1] - scale[0])) * heights * widths
    ratio = np.exp(np.log(3 / 4) + u[..., 1] * np.log(16 / 9))
    wide, high = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (wide >= 1) & (wide <= widths) & (high >= 1) & (high <= heights)
    top, left = np.floor(u[..., 2] * (heights - high + 1)), np.floor(u[..., 3] * (widths - wide + 1))
    tries = np.stack([top, left, high, wide], axis=-1)  # [n, 10, 4]
    chosen = tries[np.arange(len(heights)), fits.argmax(1)]
    high = np.minimum(heights, np.rint(widths / (3 / 4)))[:, 0]  # of the largest box in the middle
    wide = np.minimum(widths, np.rint(heights * (4 / 3)))[:, 0]
    middle = np.stack([(heights[:, 0] - high) // 2, (widths[:, 0] - wide) // 2, high, wide], axis=-1)
    return np.where(fits.any(1)[:, None], chosen, middle)
