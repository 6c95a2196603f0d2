"""From a recipe's `data` section to pixels and labels in memory, and to the values it had left open."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glmc.data import bad, cache, decode, files, many
from glmc.data.inventory import Inventory, shared_images
from glmc.data.parts import WORDS, Found, identity, images_of, prints_of
from glmc.data.split import Paths, Split
from glmc.errors import UserError
from glmc.random import Draws
from glmc.recipe import Data
from glmc.screen import Screen, writable

GLANCE = 200  # training images that tell whether there are some with 16 bits
SAMPLE = 10_000  # training images that normalisation is measured on where they are not kept in memory
SAMPLE_PART = 500  # of these in memory at a time


class Prepared(NamedTuple):
    """Images, and what a recipe's `data` leaves open, settled."""

    train: Split  # decoded, or still paths where they are streamed
    test: Split
    val: Split | None
    size: int  # side of the images in pixels
    channels: int
    mean: tuple[float, ...]  # per channel, in fractions of the full range
    std: tuple[float, ...]
    loader: str  # "resident" or "streaming"
    sizes: NDArray[np.int32] | None  # [N, 2], height and width of the training images, where data.area=whole
    inventory: Inventory | None  # the files of each part; none of a set that comes as arrays or from a hub
    fingerprints: dict[str, str]  # of each part
    bits: int | None  # those in use in grey pictures of 16; none if there are no such
    skipped: tuple[str, ...]  # path, tab and reason of each image that was left out


def prepare(
    data: Data,
    screen: Screen,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | None = None,
    room: int | None = None,
    known: Inventory | None = None,
) -> Prepared:
    """Find and subset the images of a recipe, and decode those that stay in memory.

    Where one of these cannot be read, all files of the data set are read to name every one. Images that are streamed
    are met in their batch.

    Args:
        data: the recipe's section.
        screen: for remarks and the progress of decoding.
        known: the files of each part, if that was decided before.
        mean, std, size: what a pretrained network wants; used where the recipe says nothing.
        room: bytes that are free for images, on the host and on the device; none: as many as are needed.

    Raises:
        UserError: whatever is wrong with the images.
    """
    found = images_of(data, screen, known)
    try:
        return _prepared(found, data, screen, mean, std, size, room, known)
    except many.Unreadable as error:
        if found.source is None:
            raise
        screen.say("some images cannot be read: every file is read to name them all")
        raise bad.refusal(found.source, data, screen) or error from error


def _prepared(
    found: Found,
    data: Data,
    screen: Screen,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    size: int | None,
    room: int | None,
    known: Inventory | None,
) -> Prepared:
    """`prepare` from the files on."""
    splits, source = found
    train, val = splits["train"], splits.get("val")
    refuse_unwritable(train.classes)
    if data.size is None and isinstance(train.images, np.ndarray) and size not in (None, train.images.shape[1]):
        side = train.images.shape[1]
        raise UserError(
            f"model.pretrained: these weights were trained at {size} x {size} pixels, and the images of {data.name} "
            f"are {side} x {side} and are not resized; data.size={side} takes them as they are"
        )
    if data.bits is None:
        data = data.model_copy(update={"bits": used_bits(train, data.max_pixels, screen)})
    size = data.size or size
    loader, why = choose_loader(data, train, size, room)
    if why:
        screen.say(why)
    channels: int | None = data.channels
    sizes = None
    if loader == "streaming":
        assert isinstance(train.images, Paths), "arrays are not streamed"
        if data.area == "whole" or channels is None:
            sizes, seen = headers(train.images, data, screen)
            channels = channels or seen
            sizes = sizes if data.area == "whole" else None
    else:
        train = decoded(train, "training images", _with(data, size, channels), screen)
        size, channels = pixels(train).shape[1], pixels(train).shape[3]
    assert size is not None
    assert channels is not None
    data = _with(data, size, channels)
    inventory, fingerprints = identity(splits, data, loader, screen) if known is None else (known, prints_of(known))
    if inventory is not None and known is None:
        for part in ("test", "val"):
            shared = shared_images(inventory["train"], inventory[part]) if part in inventory else 0
            if shared:
                screen.say(
                    f"{shared} of the {len(splits[part])} {WORDS[part]} images have the content of a training image, "
                    f"which flatters the figures: glmc stats names copies, and data.groups keeps images together"
                )
    test = decoded(splits["test"], "test images", data, screen)
    val = None if val is None else decoded(val, "validation images", data, screen)
    if mean is not None and std is not None and channels == 1:  # colour weights see grey through the mean of theirs
        mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
    if source is not None:
        mean, std = mean or source.mean, std or source.std
    mean, std = data.mean or mean, data.std or std
    if mean is None or std is None:
        mean, std = measure(train, data, channels, screen)
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
        loader,
        sizes,
        inventory,
        fingerprints,
        data.bits,
        () if source is None else source.skipped,
    )


def refuse_unwritable(classes: Iterable[str]) -> None:
    """Raise a `UserError` for a class whose name cannot be written down when the run is over."""
    for name in classes:
        if not writable(name):
            raise UserError(
                f"the class {name!a}: its name holds control characters or is not in UTF-8; rename its folder, or the "
                "class in its list"
            )


def choose_loader(data: Data, train: Split, size: int | None, room: int | None) -> tuple[str, str]:
    """The loader, "resident" or "streaming", and why in a sentence; arrays are resident, without a word.

    Args:
        data: the recipe's section.
        train: the training images.
        size: side of the decoded images in pixels, if known.
        room: bytes that are free for images; none: as many as are needed.

    Raises:
        UserError: the recipe wants what these images cannot give.
    """
    if isinstance(train.images, np.ndarray):
        if data.area == "whole" or data.loader == "streaming":
            key, value = ("area", "square") if data.area == "whole" else ("loader", "resident")
            raise UserError(
                f"data.{key}={getattr(data, key)} is for image files, and the images of {data.name} come as one array: "
                f"set data.{key}={value}"
            )
        return "resident", ""
    if size is None:
        if data.area == "whole" or data.loader == "streaming":
            key = "area" if data.area == "whole" else "loader"
            raise UserError(
                f"data.{key}={getattr(data, key)} needs data.size, to which the test images are brought at least: set "
                "it, e.g. data.size=256"
            )
        return "resident", ""
    needed = len(train) * size * size * (data.channels or 3)
    why = f"decoded to {size} x {size} pixels they take {amount(needed)}"
    why += "" if room is None else f", and {amount(room)} are free"
    if data.area == "whole":
        why = "data.area=whole cuts out of the images as they are"
    full = data.loader == "auto" and room is not None and needed > room // 2
    if data.area == "whole" or data.loader == "streaming" or full:
        return "streaming", f"workers decode the {len(train):,} training images in each epoch: {why}"
    return "resident", f"the {len(train):,} training images stay in memory: {why}"


def amount(size: int) -> str:
    """Bytes as people write them."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def _with(data: Data, size: int | None, channels: int | None) -> Data:
    """The section with these values settled."""
    return data.model_copy(update={"size": size, "channels": channels})


def headers(paths: Paths, data: Data, screen: Screen) -> tuple[NDArray[np.int32], int]:
    """Height and width of every image (int32 [N, 2]), and channels."""
    cache_dir = cache.cache_folder() if data.cache else None
    with screen.bar("reading sizes", len(paths)) as bar:
        return files.headers(
            paths,
            exif=data.exif,
            max_pixels=data.max_pixels,
            cache_dir=cache_dir,
            progress=bar.to,
            say=screen.say,
        )


def used_bits(train: Split, max_pixels: int, screen: Screen) -> int | None:
    """How many bits the training images use where they are grey with 16, which is said; none if there are no such.

    A few images tell whether it is worth looking at all.
    """
    paths = train.images
    if not isinstance(paths, Paths):
        return None
    rows = np.unique(np.linspace(0, len(paths) - 1, GLANCE).astype(np.int64))
    largest = files.largest_values(paths.select(rows), max_pixels)
    if largest.max() < 0:
        return None
    if largest.max() < 1 << 14:
        with screen.bar("looking for the brightest pixels", len(paths)) as bar:
            largest = files.largest_values(paths, max_pixels, bar.to)
    bits = next(bits for bits in (8, 10, 12, 14, 16) if largest.max() < 1 << bits or bits == 16)
    if bits < 16:
        screen.say(
            f"grey images of 16 bits use {bits} of them: their largest value, {largest.max():,}, is no more than "
            f"{(1 << bits) - 1:,}, which becomes white (data.bits={bits})"
        )
    return bits


def measure(train: Split, data: Data, channels: int, screen: Screen) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the training images' channels, said in a sentence.

    Of images that are not in memory, 10,000 are taken, the same ones each time.
    """
    images, what = train.images, "the training images"
    if isinstance(images, Paths):
        rows = np.sort(Draws(0, "normalisation").permutation(len(images))[:SAMPLE])
        what = f"{len(rows):,} of {len(images):,} training images" if len(rows) < len(images) else what
        with screen.bar("measuring colours", len(rows)) as bar:
            mean, std = measured(_sampled(images, rows, data, bar.to), channels)
    else:
        mean, std = measured([images], channels)
    screen.say(f"normalisation measured on {what}: mean {np.round(mean, 4)}, std {np.round(std, 4)}")
    return mean, std


def _sampled(paths: Paths, rows: NDArray[np.int64], data: Data, progress: many.Progress) -> Iterable[NDArray[np.uint8]]:
    for start in range(0, len(rows), SAMPLE_PART):
        some = paths.select(rows[start : start + SAMPLE_PART])
        yield decode.materialise(
            some,
            size=data.size,
            channels=data.channels,
            resize=data.resize,
            exif=data.exif,
            bits=data.bits or 16,
            max_pixels=data.max_pixels,
            cache_dir=None,
        )
        progress(start + len(some), len(rows))


def measured(parts: Iterable[NDArray[np.uint8]], channels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in fractions of the full range; at least one level of deviation.

    From a histogram, image after image: as floats, the pixels would take eight times their memory.

    Args:
        parts: uint8 [n, side, side, channels] each.
        channels: how many.
    """
    histogram = np.zeros((channels, 256))
    for images in parts:
        for image in images:
            for channel in range(channels):
                histogram[channel] += np.bincount(image[..., channel].reshape(-1), minlength=256)
    share, level = histogram / histogram.sum(1, keepdims=True), np.arange(256)
    mean = share @ level
    std = np.sqrt((share * (level - mean[:, None]) ** 2).sum(1))
    return (mean / 255).tolist(), (np.maximum(std, 1) / 255).tolist()


def test_split(data: Data, screen: Screen) -> Split:
    """The decoded test images of a settled recipe."""
    return decoded(images_of(data, screen, None).splits["test"], "test images", data, screen)


def decoded(split: Split, what: str, data: Data, screen: Screen) -> Split:
    """The split with its images as uint8 [N, size, size, channels]; arrays are passed on if they fit."""
    size, channels = data.size, data.channels
    if isinstance(split.images, Paths):
        with screen.bar(f"decoding {what}", len(split)) as bar:
            images = decode.materialise(
                split.images,
                size=size,
                channels=channels,
                resize=data.resize,
                exif=data.exif,
                bits=data.bits or 16,
                max_pixels=data.max_pixels,
                cache_dir=cache.cache_folder() if data.cache else None,
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
