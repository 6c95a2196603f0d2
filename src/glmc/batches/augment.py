"""Augmentation of whole batches on the device: uint8 in, normalised float out.

An operation is a function of a batch and of parameters that were drawn for each image beforehand, so the same rows and
parameters give the same pixels on every device and in every order. `geometry`, `colour`, `filters` and `policies` hold
the operations; here is what draws their parameters and carries them out one after another.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glmc.batches.colour import color_jitter, grayscale, random_jitter
from glmc.batches.filters import blur
from glmc.batches.geometry import center_crop, crop, cutout, flip, random_boxes
from glmc.batches.pixels import normalise
from glmc.batches.policies import AutoAugment, RandAugment
from glmc.batches.resize import piecewise, resized_crop
from glmc.random import Draws

Parameters = dict[str, NDArray[Any]]  # name -> [N, ...], one row an image
CACHED = 2**19  # pixels' values at a time on a CPU: as floats they stay in its cache, which halves the time
POLICIES = {"autoaugment": AutoAugment, "randaugment": RandAugment}


class View:
    """One augmentation of the recipe: a list of operations, normalisation last.

    Args:
        operations: as in a recipe's `views`: "flip", {"crop": border} or {"crop": {"border", "padding"}},
            {"resized_crop": {"size", "scale"}}, {"center_crop": size}, {"color_jitter": {"brightness", "contrast",
            "saturation", "hue", "p"}}, {"grayscale": p}, {"blur": {"sigma", "p"}}, {"cutout": length},
            {"autoaugment": {"policy", "fill"}}, {"randaugment": {"n", "m", "p", "fill"}}.
        mean, std: per channel, in fractions of the full range: a pixel becomes (pixel / 255 - mean) / std.
        device: where the images are.
    """

    def __init__(
        self, operations: Sequence[Any], mean: Sequence[float], std: Sequence[float], device: torch.device
    ) -> None:
        steps = [(item, None) if isinstance(item, str) else next(iter(item.items())) for item in operations]
        self.operations: list[tuple[str, Any]] = [(str(name), value) for name, value in steps]
        makers = {"autoaugment": AutoAugment, "randaugment": RandAugment}
        self.policies = {
            name: makers[name](**value, device=device) for name, value in self.operations if name in makers
        }
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
                border = value["border"] if isinstance(value, dict) else value
                table[name] = draws.below(2 * border + 1, images, 2)
            elif name == "flip":
                table[name] = draws.below(2, images).astype(bool)
            elif name == "resized_crop":
                table[name] = random_boxes(draws, heights, widths, value["scale"])
                heights = widths = np.full(images, value["size"])
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
            elif name == "cutout":
                table[name] = (draws.uniform(images, 2) * np.stack([heights, widths], axis=1)).astype(np.int64)
            elif name in self.policies:
                table[name] = self.policies[name].draw(draws, images)
        return table

    def __call__(self, images: Tensor, parameters: Mapping[str, Tensor], *, cut: bool = False) -> Tensor:
        """uint8 [B, H, W, ch] and the parameters of these B images -> float32 [B, ch, H', W'], normalised.

        With `cut`, the first operation has been done.
        """
        some = max(1, CACHED // images.shape[1:].numel()) if piecewise(images) and parameters else len(images)
        if some < len(images):
            parts = [slice(start, start + some) for start in range(0, len(images), some)]
            return torch.cat(
                [self(images[part], {name: v[part] for name, v in parameters.items()}, cut=cut) for part in parts]
            )
        for name, value in self.operations[int(cut) :]:
            if name == "crop":
                framed = value if isinstance(value, dict) else {"border": value}
                images = crop(images, parameters[name], **framed)
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
            elif name == "cutout":
                images = cutout(images, parameters[name], value)
            elif name in self.policies:
                images = self.policies[name](images, parameters[name])
        return normalise(images, self.scale, self.shift)
