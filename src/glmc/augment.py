"""Augmentation of whole batches on the device: uint8 in, normalised float out.

An operation is a function of a batch and of parameters that were drawn for each image beforehand, so the same rows and
parameters give the same pixels on every device and in every order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from glmc.random import Draws

Parameters = dict[str, NDArray[Any]]  # name -> [N, ...], one row an image


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
    return torch.where(mirrored[:, None, None, None], images.flip(2), images)


def resample_weights(low: Tensor, length: Tensor, inputs: int, outputs: int) -> Tensor:
    """How much each input pixel counts for each output pixel when a stretch of a line is resized.

    The triangle filter of an antialiased bilinear resize, restricted to the stretch, as if it had been cut out first.

    Args:
        low: float [B], where the stretch begins, in pixels.
        length: float [B], how long it is, in pixels, > 0.
        inputs, outputs: pixels of the whole line and of the result.

    Returns:
        float [B, outputs, inputs], rows sum to 1.
    """
    scale = (length / outputs)[:, None, None]
    at = torch.arange(inputs, device=low.device)  # pixel j covers [j, j + 1)
    centres = low[:, None, None] + (torch.arange(outputs, device=low.device)[:, None] + 0.5) * scale  # [B, outputs, 1]
    weights = (1 - (at + 0.5 - centres).abs() / scale.clamp(min=1)).clamp(min=0)
    within = (at + 1 > low[:, None, None]) & (at < (low + length)[:, None, None])
    weights = weights * within
    return weights / weights.sum(-1, keepdim=True)


def resized_crop(images: Tensor, box: Tensor, size: int) -> Tensor:
    """The box of each image, resized to `size` x `size` with antialiasing.

    Args:
        images: uint8 [B, H, W, ch].
        box: float [B, 4], top, left, height, width in pixels (whole numbers), inside the image.
        size: side of the result in pixels.

    Returns:
        uint8 [B, size, size, ch].
    """
    batch, height, width, channels = images.shape
    down = resample_weights(box[:, 0], box[:, 2], height, size)  # [B, size, H]
    across = resample_weights(box[:, 1], box[:, 3], width, size)  # [B, size, W]
    lines = torch.bmm(down, images.float().view(batch, height, width * channels)).view(batch, size, width, channels)
    pixels = torch.einsum("bsw,bhwc->bhsc", across, lines)
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def center_crop(images: Tensor, size: int) -> Tensor:
    """The middle `size` x `size` pixels; uint8 [B, H, W, ch] -> uint8 [B, size, size, ch]."""
    top, left = (images.shape[1] - size) // 2, (images.shape[2] - size) // 2
    return images[:, top : top + size, left : left + size]


def normalise(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """uint8 [B, H, W, ch] -> float32 [B, ch, H, W], pixel * scale + shift with float [ch] each; memory stays channels-last."""
    return torch.addcmul(shift, images.float(), scale).permute(0, 3, 1, 2)


def random_boxes(draws: Draws, images: int, side: int, scale: tuple[float, float]) -> NDArray[np.float32]:
    """float32 [N, 4], boxes of a random area and shape: top, left, height, width in pixels.

    The area is uniform in `scale` (fractions of the image), the aspect ratio log-uniform in [3/4, 4/3]; the first of ten
    tries that lies inside the image counts, else the whole image (Szegedy et al., CVPR 2015, as torchvision has it).
    """
    u = draws.uniform(images, 10, 4)
    area = (scale[0] + u[..., 0] * (scale[1] - scale[0])) * side * side
    ratio = np.exp(np.log(3 / 4) + u[..., 1] * np.log(16 / 9))
    wide, high = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (wide >= 1) & (wide <= side) & (high >= 1) & (high <= side)
    top, left = np.floor(u[..., 2] * (side - high + 1)), np.floor(u[..., 3] * (side - wide + 1))
    tries = np.stack([top, left, high, wide], axis=-1)  # [N, 10, 4]
    chosen = tries[np.arange(images), fits.argmax(1)]
    chosen[~fits.any(1)] = (0, 0, side, side)
    return chosen.astype(np.float32)


class View:
    """One augmentation of the recipe: a list of operations, normalisation last.

    Args:
        operations: as in a recipe's `views`: "flip", {"crop": border}, {"resized_crop": {"size", "scale"}},
            {"center_crop": size}.
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

    def side(self, side: int) -> int:
        """Side of the result in pixels for images of `side` x `side`."""
        for name, value in self.operations:
            side = value["size"] if name == "resized_crop" else value if name == "center_crop" else side
        return side

    def draw(self, draws: Draws, images: int, side: int) -> Parameters:
        """The parameters of every image of an epoch; [N, ...] arrays under the operations' names."""
        table: Parameters = {}
        for name, value in self.operations:
            if name == "crop":
                table[name] = draws.below(2 * value + 1, images, 2)
            elif name == "flip":
                table[name] = draws.below(2, images).astype(bool)
            elif name == "resized_crop":
                table[name] = random_boxes(draws, images, side, value["scale"])
            elif name == "center_crop":
                side = value
        return table

    def __call__(self, images: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """uint8 [B, H, W, ch] and the parameters of these B images -> float32 [B, ch, H', W'], normalised."""
        for name, value in self.operations:
            if name == "crop":
                images = crop(images, parameters[name], value)
            elif name == "flip":
                images = flip(images, parameters[name])
            elif name == "resized_crop":
                images = resized_crop(images, parameters[name], value["size"])
            elif name == "center_crop":
                images = center_crop(images, value)
        return normalise(images, self.scale, self.shift)
