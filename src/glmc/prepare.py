"""From a recipe's `data` section to pixels and labels in memory, and to the values it had left open."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glmc.data import decode, sources
from glmc.data.longtail import longtail_rows
from glmc.data.split import Paths, Split
from glmc.errors import UserError
from glmc.recipe import Data
from glmc.screen import Screen


class Prepared(NamedTuple):
    """Decoded images, and what a recipe's `data` leaves open, settled."""

    train: Split
    test: Split
    val: Split | None
    size: int  # side of the images in pixels
    channels: int
    mean: tuple[float, ...]  # per channel, in fractions of the full range
    std: tuple[float, ...]


def find(data: Data) -> sources.Source:
    """The splits of the recipe's source: images or paths, not decoded, not yet long-tailed."""
    return sources.load(
        data.name,
        root=str(Path(data.root).expanduser()),
        download=data.download,
        train_list=data.train_list,
        test_list=data.test_list,
        val_list=data.val_list,
        test_fraction=data.test_fraction,
    )


def long_tailed(source: sources.Source, data: Data) -> tuple[Split, Split | None]:
    """Training and validation split: the long tail first, then the hold-out from what is left of each class."""
    train, val = source.train, source.val
    if data.imbalance is not None:
        train = train.select(
            longtail_rows(
                train.labels,
                train.classes,
                imbalance=data.imbalance,
                profile=data.profile,
                n_max=data.n_max,
                order=data.class_order,
                split=data.split,
            )
        )
    if data.val_fraction > 0:
        rows, held = sources.stratified_holdout(train.labels, data.val_fraction, seed=0)
        train, val = train.select(rows), train.select(held)
    return train, val


def prepare(
    data: Data,
    screen: Screen,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | None = None,
) -> Prepared:
    """Find, subset and decode the images of a recipe.

    Args:
        data: the recipe's section.
        screen: for remarks and the progress of decoding.
        mean, std, size: what a pretrained network wants; used where the recipe says nothing.

    Raises:
        UserError: whatever is wrong with the images.
    """
    source = find(data)
    for remark in source.remarks:
        screen.say(remark)
    train, val = long_tailed(source, data)
    if data.size is None and isinstance(train.images, np.ndarray) and size not in (None, train.images.shape[1]):
        side = train.images.shape[1]
        raise UserError(
            f"model.pretrained: these weights were trained at {size} x {size} pixels, and the images of {data.name} "
            f"are {side} x {side} and are not resized; data.size={side} takes them as they are"
        )
    train = decoded(train, "training images", data.size or size, data.channels, data.cache, screen)
    size, channels = pixels(train).shape[1], pixels(train).shape[3]
    test = decoded(source.test, "test images", size, channels, data.cache, screen)
    val = None if val is None else decoded(val, "validation images", size, channels, data.cache, screen)
    if mean is not None and std is not None and channels == 1:  # colour weights see grey through the mean of theirs
        mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
    mean, std = data.mean or mean or source.mean, data.std or std or source.std
    if mean is None or std is None:
        mean, std = measured(pixels(train))
        screen.say(f"normalisation measured on the training images: mean {np.round(mean, 4)}, std {np.round(std, 4)}")
    if len(mean) != channels or len(std) != channels:
        raise UserError(f"data.mean and data.std need {channels} values, one for each channel of the images")
    return Prepared(
        train,
        test,
        val,
        size,
        channels,
        tuple(round(float(m), 6) for m in mean),
        tuple(round(float(s), 6) for s in std),
    )


def measured(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in fractions of the full range; at least one level of deviation.

    From a histogram, image after image: as floats, the pixels would take eight times their memory.
    """
    histogram = np.zeros((images.shape[3], 256))
    for image in images:
        for channel in range(images.shape[3]):
            histogram[channel] += np.bincount(image[..., channel].reshape(-1), minlength=256)
    share, level = histogram / histogram.sum(1, keepdims=True), np.arange(256)
    mean = share @ level
    std = np.sqrt((share * (level - mean[:, None]) ** 2).sum(1))
    return (mean / 255).tolist(), (np.maximum(std, 1) / 255).tolist()


def test_split(data: Data, screen: Screen) -> Split:
    """The decoded test images of a settled recipe."""
    source = find(data)
    for remark in source.remarks:
        screen.say(remark)
    return decoded(source.test, "test images", data.size, data.channels, data.cache, screen)


def decoded(split: Split, what: str, size: int | None, channels: int | None, cache: bool, screen: Screen) -> Split:
    """The split with its images as uint8 [N, size, size, channels]; arrays are passed on if they fit."""
    if isinstance(split.images, Paths):
        with screen.bar(f"decoding {what}", len(split)) as bar:
            images = decode.materialise(
                split.images,
                size=size,
                channels=channels,
                cache_dir=decode.cache_folder() if cache else None,
                progress=bar.to,
                say=screen.say,
            )
        return replace(split, images=images)
    side, depth = split.images.shape[1], split.images.shape[3]
    if size not in (None, side):
        raise UserError(f"data.size={size}: these images are {side} x {side} and are not resized; leave data.size out")
    if channels not in (None, depth):
        raise UserError(f"data.channels={channels}: these images have {depth}; leave data.channels out")
    return split


def pixels(split: Split) -> NDArray[np.uint8]:
    """uint8 [N, side, side, ch] of a decoded split."""
    assert isinstance(split.images, np.ndarray), "the images have not been decoded"
    return np.ascontiguousarray(split.images)
