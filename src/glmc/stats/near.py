"""Test and validation images that are nearly a training image: resized, compressed anew, brighter, a frame of a series.

Small grey pictures are compared by their steps from pixel to pixel, which tell more than the pixels: most photographs
share a light sky over a dark ground. Of CIFAR-10's 10,000 test images this finds 102 that resemble a training image,
and of twenty at the threshold nineteen are the same photograph; what it misses is cropped or mirrored.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glmc import trust
from glmc.data import many, pictures
from glmc.data.split import Paths
from glmc.stats.files import Looks, each

SIDE = 16  # pixels; of smaller pictures, too many look alike
ALIKE = 0.9  # correlation of the steps
LIMIT = 100_000  # images of all parts together; more would take too long to decode
ROWS = 256  # images compared at a time, with all training images


def thumbnails(
    images: Paths | NDArray[np.uint8],
    looks: Looks,
    progress: Callable[[int], None],
    max_pixels: int = pictures.MAX_PIXELS,
) -> NDArray[np.uint8]:
    """uint8 [N, SIDE, SIDE + 1], the images in small and grey; 0 where one cannot be read or is small already.

    Args:
        images: N files, or uint8 [N, H, W, channels].
        looks: what they look like from outside.
        progress: called with the number of images done.
        max_pixels: as in `look`.
    """
    small = np.zeros((len(images), SIDE, SIDE + 1), np.uint8)

    def shrink(row: int) -> NDArray[np.uint8]:
        if looks.sizes[row].min() <= SIDE:
            return small[row]
        if not isinstance(images, Paths):
            return shrunk(Image.fromarray(images[row] if images.shape[3] == 3 else images[row, ..., 0]))
        try:
            with (
                trust.open_file(images[row], pictures.MOST_BYTES) as stream,
                pictures.open_image(stream, max_pixels) as image,
            ):
                return shrunk(image)
        except Exception:  # PIL raises nearly anything on a damaged file, which `looks` need not have found
            return small[row]

    for row, picture in enumerate(each(shrink, range(len(images)), progress)):
        small[row] = picture
    return small


def decoded(
    images: Paths, progress: Callable[[int], None], max_pixels: int
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """`thumbnails` of files that are decoded to their last pixel, and row -> why, of those that cannot be."""
    small, broken = np.zeros((len(images), SIDE, SIDE + 1), np.uint8), {}

    def shrink(row: int) -> NDArray[np.uint8] | str:
        try:
            pixels = pictures.read_image(images[row], 3, max_pixels=max_pixels)
        except Exception as error:  # PIL raises nearly anything on a damaged file
            return pictures.reason(error)
        return shrunk(Image.fromarray(pixels)) if min(pixels.shape[:2]) > SIDE else small[row]

    for row, found in enumerate(each(shrink, range(len(images)), progress, many.cores())):
        if isinstance(found, str):
            broken[row] = found
        else:
            small[row] = found
    return small, broken


def shrunk(image: Image.Image) -> NDArray[np.uint8]:
    """One image in small and grey; of a JPEG, no more is decoded than that takes."""
    image.draft("L", (2 * (SIDE + 1), 2 * SIDE))
    if image.mode.startswith("I"):  # 16 bits, some of them in use: a correlation does not depend on the scale
        values = np.asarray(image).astype(np.float32)
        image = Image.fromarray((values * (255 / max(values.max(), 1))).astype(np.uint8))
    return np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX))


def alike(
    train: NDArray[np.uint8], other: NDArray[np.uint8] | None = None, progress: Callable[[int], None] = lambda _: None
) -> list[tuple[int, int]]:
    """(row of `other`, row of `train`) where the nearest training image is nearly the same, the nearest pairs first.

    Args:
        train, other: of `thumbnails`; without others, the training images are compared with those before them.
        progress: called with the number of images done.
    """
    within, other = other is None, train if other is None else other
    known, found = steps(train), []
    for start in range(0, len(other), ROWS):
        likeness = steps(other[start : start + ROWS]) @ known.T  # [rows, N], in [-1, 1]
        if within:
            likeness = np.tril(likeness, start - 1)  # what comes before each; all else 0
        nearest = likeness.argmax(1)
        best = likeness[np.arange(len(nearest)), nearest]
        found += [(-best[row], start + row, int(nearest[row])) for row in np.flatnonzero(best >= ALIKE).tolist()]
        progress(min(start + ROWS, len(other)))
    return [(row, twin) for _, row, twin in sorted(found)]


def steps(small: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [N, SIDE * SIDE] of length 1: the differences of neighbours in a line; 0 for a picture of one colour."""
    differences = np.diff(small.astype(np.float32), axis=2).reshape(len(small), -1)
    return differences / np.maximum(np.linalg.norm(differences, axis=1, keepdims=True), 1e-6)
