"""Augmentation of whole batches on the device: uint8 in, normalised float out.

An operation is a function of a batch and of parameters that were drawn for each image beforehand, so the same rows and
parameters give the same pixels on every device and in every order.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from glmc.batches.resize import piecewise, resized_crop
from glmc.random import Draws

Parameters = dict[str, NDArray[Any]]  # name -> [N, ...], one row an image
CACHED = 2**19  # pixels' values at a time on a CPU: as floats they stay in its cache, which halves the time
BOXES = 65_536  # images whose boxes are drawn at a time


def crop(images: Tensor, shift: Tensor, border: int) -> Tensor:
    """A window of the images' own size, out of the images with a black border around them.

    Args:
        images: uint8 [B, H, W, ch].
        shift: int64 [B, 2], top and left edge of the window, in [0, 2 * border].
        border: width of the black border in pixels.

    Returns:
        uint8 [B, H, W, ch].
    """
    batch, height, width, _ = images.shape
    padded = F.pad(images, (0, 0, border, border, border, border))
    rows = shift[:, 0, None] + torch.arange(height, device=images.device)  # [B, H]
    columns = shift[:, 1, None] + torch.arange(width, device=images.device)  # [B, W]
    return padded[torch.arange(batch, device=images.device)[:, None, None], rows[:, :, None], columns[:, None, :]]


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Left and right exchanged where `mirrored` (bool [B]) says so; uint8 [B, H, W, ch] -> the same."""
    return choose(mirrored, images.flip(2), images)


def choose(chosen: Tensor, these: Tensor, others: Tensor) -> Tensor:
    """Of two uint8 [B, ...], those of `these` where `chosen` (bool [B]) says so.

    With bits, which a CPU does ten times faster than torch.where.
    """
    mask = (chosen.to(torch.uint8) * 255).view(-1, *[1] * (others.ndim - 1))
    return others ^ ((these ^ others) & mask)


def center_crop(images: Tensor, size: int) -> Tensor:
    """The middle `size` x `size` pixels; uint8 [B, H, W, ch] -> uint8 [B, size, size, ch]."""
    top, left = (images.shape[1] - size) // 2, (images.shape[2] - size) // 2
    return images[:, top : top + size, left : left + size]


def planar(images: Tensor) -> Tensor:
    """The same [B, H, W, ch], channel after channel in memory: sums over channels are several times faster so."""
    return images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)


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


def normalise(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """uint8 [B, H, W, ch] -> float32 [B, ch, H, W], pixel * scale + shift with float [ch] each.

    The memory stays channels-last.
    """
    pixels = torch.addcmul(shift, images.float(), scale).permute(0, 3, 1, 2)
    return pixels.contiguous(memory_format=torch.channels_last)


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


class View:
    """One augmentation of the recipe: a list of operations, normalisation last.

    Args:
        operations: as in a recipe's `views`: "flip", {"crop": border}, {"resized_crop": {"size", "scale"}},
            {"center_crop": size}, {"color_jitter": {"brightness", "contrast", "saturation", "hue", "p"}},
            {"grayscale": p}, {"blur": {"sigma", "p"}}.
        mean, std: per channel, in fractions of the full range: a pixel becomes (pixel / 255 - mean) / std.
        device: where the images are.
    """

    def __init__(
        self, operations: Sequence[Any], mean: Sequence[float], std: Sequence[float], device: torch.device
    ) -> None:
        steps = [(item, None) if isinstance(item, str) else next(iter(item.items())) for item in operations]
        self.operations: list[tuple[str, Any]] = [(str(name), value) for name, value in steps]
        self.scale = torch.tensor([1 / (255 * s) for s in std], device=device)  # [ch]
        self.shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)  # [ch]

    @property
    def names(self) -> list[str]:
        """Of its operations, in order."""
        return [name for name, _ in self.operations]

    def side(self, side: int) -> int:
        """Side of the result in pixels for images of `side` x `side`."""
        for name, value in self.operations:
            side = value["size"] if name == "resized_crop" else value if name == "center_crop" else side
        return side

    @property
    def cut(self) -> int | None:
        """Side of what the view cuts out of an image as its first operation; None if that is another operation."""
        return next((int(value["size"]) for name, value in self.operations[:1] if name == "resized_crop"), None)

    def draw(self, draws: Draws, heights: NDArray[np.integer[Any]], widths: NDArray[np.integer[Any]]) -> Parameters:
        """The parameters of every image of an epoch, whose sizes are int [N]: arrays [N, ...], named by operation."""
        table: Parameters = {}
        images = len(heights)
        for name, value in self.operations:
            if name == "crop":
                table[name] = draws.below(2 * value + 1, images, 2)
            elif name == "flip":
                table[name] = draws.below(2, images).astype(bool)
            elif name == "resized_crop":
                table[name] = random_boxes(draws, heights, widths, value["scale"])
            elif name == "center_crop":
                heights = widths = np.full(images, value)
            elif name == "color_jitter":
                kinds, factors, turns = random_jitter(draws, images, value)
                table |= {"color_jitter": factors, "color_jitter.kinds": kinds, "color_jitter.turns": turns}
            elif name == "grayscale":
                table[name] = draws.uniform(images) < value
            elif name == "blur":
                low, high = value["sigma"]
                u = draws.uniform(images, 2)
                table[name] = np.where(u[:, 1] < value["p"], low + u[:, 0] * (high - low), 0).astype(np.float32)
        return table

    def __call__(self, images: Tensor, parameters: Mapping[str, Tensor], *, cut: bool = False) -> Tensor:
        """uint8 [B, H, W, ch] and the parameters of these B images -> float32 [B, ch, H', W'], normalised.

        With `cut`, the first operation has been done.
        """
        some = max(1, CACHED // images[0].numel()) if piecewise(images) and parameters else len(images)
        if some < len(images):
            parts = [slice(start, start + some) for start in range(0, len(images), some)]
            return torch.cat(
                [self(images[part], {name: v[part] for name, v in parameters.items()}, cut=cut) for part in parts]
            )
        for name, value in self.operations[int(cut) :]:
            if name == "crop":
                images = crop(images, parameters[name], value)
            elif name == "flip":
                images = flip(images, parameters[name])
            elif name == "resized_crop":
                images = resized_crop(images, parameters[name], value["size"])
            elif name == "center_crop":
                images = center_crop(images, value)
            elif name == "color_jitter":
                turns = parameters["color_jitter.turns"] if value["hue"] else None
                images = color_jitter(images, parameters["color_jitter.kinds"], parameters["color_jitter"], turns)
            elif name == "grayscale":
                images = grayscale(images, parameters[name])
            elif name == "blur":
                images = blur(images, parameters[name], value["sigma"][1])
        return normalise(images, self.scale, self.shift)
