"""Image files become one uint8 array, decoded once in parallel and cached on disk; a pixel is what `pictures` says."""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glmc.data import cache
from glmc.data.files import common_shape
from glmc.data.many import Progress, Unreadable, failures_of, fingerprint_of, for_every
from glmc.data.pictures import Resize, decode_image, read_image, reason
from glmc.data.split import Paths
from glmc.errors import UserError
from glmc.recipe.sections import MAX_PIXELS


def materialise(
    paths: Paths,
    *,
    size: int | None,
    channels: int | None,
    resize: Resize = "square",
    exif: bool = True,
    bits: int = 16,
    max_pixels: int = MAX_PIXELS,
    cache_dir: Path | None,
    progress: Progress | None = None,
    say: Callable[[str], None] = warnings.warn,
    workers: int | None = None,
) -> NDArray[np.uint8]:
    """The pixels of image files, from the cache if these files were decoded before with the same options.

    Args:
        paths: N image files.
        size: side in pixels. None keeps the size of the files, which must then all be squares of one size.
        channels: 1 grey, 3 RGB; None takes 1 if all files are grey, else 3.
        resize, exif, bits, max_pixels: of `centre_square` and `read_image`.
        cache_dir: folder of the cache, usually `cache_folder()`; None neither reads nor writes one.
        progress: called with (images done, N), not when the cache serves.
        say: told in a sentence when the cache was damaged or cannot be written; the run goes on either way.
        workers: threads; None takes one per core. The pixels do not depend on it.

    Returns:
        uint8 [N, size, size, channels]; from the cache, a private mapping of the file: writing to it changes no file.

    Raises:
        Unreadable: files that cannot be read (the first ten and their number).
        UserError: sizes that differ while `size` is None, or too little memory.
    """
    fingerprint = fingerprint_of(paths, size, channels, resize, exif, bits)
    if cache_dir is not None:
        cached = cache.read(cache_dir, fingerprint, say)
        if cached is not None:
            return cached
    if size is None or channels is None:
        found_size, found_channels = common_shape(paths, size is None, max_pixels, workers)
        size, channels = size or found_size, channels or found_channels
    try:
        pixels = np.empty((len(paths), size, size, channels), dtype=np.uint8)
    except MemoryError:
        gigabytes = len(paths) * size * size * channels / 1e9
        raise UserError(f"{len(paths)} images of data.size={size} take {gigabytes:.1f} GB: lower data.size") from None

    def decode(row: int) -> None:
        pixels[row] = decode_image(paths[row], size, channels, resize, exif, bits, max_pixels)

    for_every(paths, decode, workers, progress)
    if cache_dir is not None:
        cache.write(cache_dir, fingerprint, pixels, paths.root, say)
    return pixels


def unreadable(
    paths: Paths,
    *,
    channels: int,
    max_pixels: int = MAX_PIXELS,
    cache_dir: Path | None,
    progress: Progress | None = None,
    say: Callable[[str], None] = warnings.warn,
    workers: int | None = None,
) -> dict[int, str]:
    """Row -> what is wrong, of all files that cannot be read: each is decoded once, and the answer kept in the cache.

    Args:
        paths, channels, max_pixels, cache_dir, progress, say, workers: as in `materialise`.
    """
    try:
        fingerprint = fingerprint_of(paths, "unreadable", channels, max_pixels)
    except Unreadable:  # what is not there now may be there next time
        fingerprint, cache_dir = "", None
    found = None if cache_dir is None else cache.read(cache_dir, fingerprint, say)
    if found is not None:
        return {int(row): why for row, why in json.loads(found.tobytes()).items()}

    def work(row: int) -> None:
        if not os.path.exists(paths[row]):
            raise ValueError("no such file")
        read_image(paths[row], channels, max_pixels=max_pixels)

    failures = failures_of(paths, work, workers, progress)
    bad = {row: reason(error) for row, error in failures.items()}
    lasting = not any(isinstance(error, OSError) and error.errno for error in failures.values())
    if cache_dir is not None and lasting:  # a disk that could not be read may recover
        cache.write(cache_dir, fingerprint, np.frombuffer(json.dumps(bad).encode(), np.uint8), paths.root, say)
    return bad
