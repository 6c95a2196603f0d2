"""Learnt and random chains of primitive operations: AutoAugment and RandAugment, for whole batches on the device.

Both give each image a few operations one after another. Which, how strong and in which direction is drawn on the host,
as one small number an image and operation: a row of the policy's table of settings. On the device, every operation that
occurs in the policy is then a masked change of the batch.

The strengths are those of torchvision: what has two directions, such as more or less contrast, goes either way.

Cubuk et al., "AutoAugment", CVPR 2019, arXiv:1805.09501, and "RandAugment", NeurIPS 2020, arXiv:1909.13719.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glmc.batches.colour import autocontrast, blend, equalize, posterize, solarize
from glmc.batches.filters import sharpen
from glmc.batches.geometry import ONE, affine
from glmc.batches.pixels import change_some
from glmc.random import Draws

# Some follow others: a kind's number in this order says whether it moves pixels, and which blend it is.
KINDS = ("brightness", "contrast", "color", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "sharpness",
         "posterize", "solarize", "autocontrast", "equalize", "invert", "identity")  # fmt: skip
BLENDS, MOVES, SIGNED = KINDS[:3], KINDS[3:8], KINDS[:9]  # the signed ones go either way, with equal probability

Setting = tuple[str, float]  # kind, and its amount as `amount` gives it

# For each image one line is drawn; its operations are carried out with these probabilities, at these levels of 0 to 9.
# From the appendix of the paper.
LINES: dict[str, tuple[tuple[tuple[str, float, int | None], ...], ...]] = {
    "cifar10": (
        (("invert", 0.1, None), ("contrast", 0.2, 6)),
        (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
        (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
        (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
        (("autocontrast", 0.5, None), ("equalize", 0.9, None)),
        (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
        (("color", 0.4, 3), ("brightness", 0.6, 7)),
        (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
        (("equalize", 0.6, None), ("equalize", 0.5, None)),
        (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
        (("color", 0.7, 7), ("translate_x", 0.5, 8)),
        (("equalize", 0.3, None), ("autocontrast", 0.4, None)),
        (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
        (("brightness", 0.9, 6), ("color", 0.2, 8)),
        (("solarize", 0.5, 2), ("invert", 0.0, None)),
        (("equalize", 0.2, None), ("autocontrast", 0.6, None)),
        (("equalize", 0.2, None), ("equalize", 0.6, None)),
        (("color", 0.9, 9), ("equalize", 0.6, None)),
        (("autocontrast", 0.8, None), ("solarize", 0.2, 8)),
        (("brightness", 0.1, 3), ("color", 0.7, 0)),
        (("solarize", 0.4, 5), ("autocontrast", 0.9, None)),
        (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
        (("autocontrast", 0.9, None), ("solarize", 0.8, 3)),
        (("equalize", 0.8, None), ("invert", 0.1, None)),
        (("translate_y", 0.7, 9), ("autocontrast", 0.9, None)),
    ),
    "imagenet": (
        (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
        (("solarize", 0.6, 5), ("autocontrast", 0.6, None)),
        (("equalize", 0.8, None), ("equalize", 0.6, None)),
        (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
        (("equalize", 0.4, None), ("solarize", 0.2, 4)),
        (("equalize", 0.4, None), ("rotate", 0.8, 8)),
        (("solarize", 0.6, 3), ("equalize", 0.6, None)),
        (("posterize", 0.8, 5), ("equalize", 1.0, None)),
        (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
        (("equalize", 0.6, None), ("posterize", 0.4, 6)),
        (("rotate", 0.8, 8), ("color", 0.4, 0)),
        (("rotate", 0.4, 9), ("equalize", 0.6, None)),
        (("equalize", 0.0, None), ("equalize", 0.8, None)),
        (("invert", 0.6, None), ("equalize", 1.0, None)),
        (("color", 0.6, 4), ("contrast", 1.0, 8)),
        (("rotate", 0.8, 8), ("color", 1.0, 2)),
        (("color", 0.8, 8), ("solarize", 0.8, 7)),
        (("sharpness", 0.4, 7), ("invert", 0.6, None)),
        (("shear_x", 0.6, 5), ("equalize", 1.0, None)),
        (("color", 0.4, 0), ("equalize", 0.6, None)),
        (("equalize", 0.4, None), ("solarize", 0.2, 4)),
        (("solarize", 0.6, 5), ("autocontrast", 0.6, None)),
        (("invert", 0.6, None), ("equalize", 1.0, None)),
        (("color", 0.6, 4), ("contrast", 1.0, 8)),
        (("equalize", 0.8, None), ("equalize", 0.6, None)),
    ),
}


# What an operation does at its largest strength: tangent, part of a side, degrees, change of the factor 1.
MOST = {"shear_x": 0.3, "shear_y": 0.3, "translate_x": 150 / 331, "translate_y": 150 / 331, "rotate": 30.0,
        "brightness": 0.9, "contrast": 0.9, "color": 0.9, "sharpness": 0.9}  # fmt: skip


def amount(kind: str, part: float) -> float:
    """How much an operation does at a part (in [0, 1]) of its largest strength, in the units that it is carried out in.

    Of posterize these are bits kept, 8 down to 4; of solarize the threshold, 255 down to 0; of what has none, 0.
    """
    if kind == "posterize":
        return 8 - round(4 * part)
    if kind == "solarize":
        return round(255 * (1 - part), 6)  # thirds of levels, without what floats add to whole ones
    return MOST.get(kind, 0.0) * part


def both_ways(kind: str, part: float) -> list[Setting]:
    """The settings for one direction and the other: equal ones for what has none."""
    size = amount(kind, part)
    return [(kind, size), (kind, -size if kind in SIGNED else size)]


def linear_map(kind: str, size: float) -> list[list[int]]:
    """Where a place (x, y) of the result lies in the image, without translations: 2 x 2, times `ONE`."""
    if kind == "rotate":  # counter-clockwise by `size` degrees
        cos, sin = math.cos(math.radians(size)), math.sin(math.radians(size))
        rows = [[cos, -sin], [sin, cos]]
    else:
        rows = [[1, size * (kind == "shear_x")], [size * (kind == "shear_y"), 1]]
    return [[round(value * ONE) for value in row] for row in rows]


class Policy:
    """What chooses operations for images, and carries them out.

    Args:
        settings: K <= 256 of them, which `draw` chooses from.
        fill: level in [0, 255] where pixels have moved away.
        device: where the images are.
    """

    def __init__(self, settings: list[Setting], fill: int, device: torch.device) -> None:
        self.settings, self.fill, self.used = settings, fill, {kind for kind, _ in settings}
        self.kinds = torch.tensor([KINDS.index(kind) for kind, _ in settings], device=device)  # int64 [K]
        self.amounts = torch.tensor([size for _, size in settings], device=device)  # float32 [K]
        self.maps = torch.tensor([linear_map(*setting) for setting in settings], device=device)  # int64 [K, 2, 2]

    def draw(self, draws: Draws, images: int) -> NDArray[np.uint8]:
        """The settings of N images, uint8 [N, operations], in the order in which they are carried out."""
        raise NotImplementedError

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """uint8 [B, H, W, ch] and the settings of these images, uint8 [B, operations] -> uint8 [B, H, W, ch]."""
        for setting in drawn.long().unbind(1):
            images = self.change(images, setting)
        return images

    def change(self, images: Tensor, setting: Tensor) -> Tensor:
        """One operation for each image, as `setting` (int64 [B]) says: each of the changes leaves all others alone."""
        kind, size = self.kinds[setting], self.amounts[setting]

        def chosen(*kinds: str) -> Tensor:
            return (kind >= KINDS.index(kinds[0])) & (kind <= KINDS.index(kinds[-1]))

        if self.used & set(MOVES):
            images = change_some(images, chosen(*MOVES), lambda x, rows: self.move(x, setting[rows]))
        if self.used & set(BLENDS):
            images = change_some(images, chosen(*BLENDS), lambda x, rows: blend(x, kind[rows], 1 + size[rows]))
        if "sharpness" in self.used:
            images = change_some(images, chosen("sharpness"), lambda x, rows: sharpen(x, 1 + size[rows]))
        if "posterize" in self.used:
            images = change_some(images, chosen("posterize"), lambda x, rows: posterize(x, size[rows].int()))
        if "solarize" in self.used:
            images = change_some(images, chosen("solarize"), lambda x, rows: solarize(x, size[rows]))
        if "autocontrast" in self.used:
            images = change_some(images, chosen("autocontrast"), lambda x, rows: autocontrast(x))
        if "equalize" in self.used:
            images = change_some(images, chosen("equalize"), lambda x, rows: equalize(x))
        if "invert" in self.used:
            images = change_some(images, chosen("invert"), lambda x, rows: 255 - x)
        return images

    def move(self, images: Tensor, setting: Tensor) -> Tensor:
        """Shears, which keep the upper left corner; translations by whole pixels; rotations about the middle."""
        kind, size, maps = self.kinds[setting], self.amounts[setting], self.maps[setting]
        turned, (_, height, width, _) = kind == KINDS.index("rotate"), images.shape
        offsets = []
        for axis, side in enumerate((width, height)):
            # What a rotation adds to bring the middle back to where it was, and a translation to the right or down.
            middle = (side * ONE - maps[:, axis, 0] * width - maps[:, axis, 1] * height) * turned
            pixels = (size * side).int() * (kind == KINDS.index("translate_x") + axis)  # fractions are cut off
            offsets.append(middle - 2 * ONE * pixels)
        return affine(images, maps, torch.stack(offsets, dim=1), self.fill)


class AutoAugment(Policy):
    """One of 25 learnt pairs of operations for each image, each carried out with a probability of its own.

    Args:
        policy: of `LINES`: "cifar10" or "imagenet", by the images it was learnt on.
        fill, device: of `Policy`.
    """

    def __init__(self, policy: str, fill: int, device: torch.device) -> None:
        self.lines = LINES[policy]
        pairs = [both_ways(kind, (level or 0) / 9) for line in self.lines for kind, _, level in line]
        super().__init__([("identity", 0.0), *(setting for pair in pairs for setting in pair)], fill, device)

    def draw(self, draws: Draws, images: int) -> NDArray[np.uint8]:  # noqa: D102
        line = draws.below(len(self.lines), images)
        u = draws.uniform(images, 2, 2)
        probability = np.array([[p for _, p, _ in line] for line in self.lines])  # [25, 2]
        setting = 1 + 2 * (2 * line[:, None] + np.arange(2)) + (u[..., 1] < 0.5)
        return np.where(u[..., 0] < probability[line], setting, 0).astype(np.uint8)


class RandAugment(Policy):
    """A few operations for each image, all of the same strength, drawn from 14 with equal probability.

    Args:
        n: operations an image; one may come again.
        m: strength, in [0, 30].
        p: probability that an image is changed, in [0, 1].
        fill, device: of `Policy`.
    """

    def __init__(self, n: int, m: int, fill: int, device: torch.device, p: float = 1.0) -> None:
        self.n, self.p = n, p
        kinds = [kind for kind in KINDS if kind != "invert"]
        super().__init__([setting for kind in kinds for setting in both_ways(kind, m / 30)], fill, device)

    def draw(self, draws: Draws, images: int) -> NDArray[np.uint8]:  # noqa: D102
        settings = draws.below(len(self.settings), images, self.n)
        if self.p < 1:
            settings[draws.uniform(images) >= self.p] = self.settings.index(("identity", 0.0))
        return settings.astype(np.uint8)
