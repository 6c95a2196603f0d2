"""What image files tell before they are decoded: sizes and channels in their headers, digests of their bytes."""

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glmc import trust
from glmc.data import cache
from glmc.data.many import CHUNK, Progress, cores, failures_of, fingerprint_of, for_every, refuse
from glmc.data.pictures import (
    GREY_MODES,
    MOST_BYTES,
    SIDEWAYS,
    content_of,
    declares_12_bits,
    open_image,
    orientation_of,
    reason,
)
from glmc.data.split import Paths
from glmc.errors import UserError
from glmc.recipe.sections import MAX_PIXELS

MANY = 20_000  # files whose headers are read by processes: PIL reads headers in Python, one thread at a time


def headers(
    paths: Paths,
    *,
    exif: bool = True,
    max_pixels: int = MAX_PIXELS,
    cache_dir: Path | None,
    progress: Progress | None = None,
    say: Callable[[str], None] = warnings.warn,
    workers: int | None = None,
) -> tuple[NDArray[np.int32], int]:
    """Size of every picture as `read_image` gives it, and channels, from the headers of the files or from the cache.

    Args:
        paths, exif, max_pixels, cache_dir, progress, say, workers: as in `materialise`.

    Returns:
        int32 [N, 2], height and width in pixels, and 1 if all files are grey, else 3.

    Raises:
        UserError: files that cannot be read (the first ten and their number).
    """
    fingerprint = fingerprint_of(paths, "headers", exif)
    found = None if cache_dir is None else cache.read(cache_dir, fingerprint, say)
    if found is None:
        found = np.empty((len(paths), 3), dtype=np.int32)  # height, width, channels
        if len(paths) >= MANY:
            _read_by_processes(paths, exif, max_pixels, found, workers or cores(), progress)
        else:

            def look(row: int) -> None:
                found[row] = _header(paths[row], exif, max_pixels)

            for_every(paths, look, workers, progress)
        if cache_dir is not None:
            cache.write(cache_dir, fingerprint, found, paths.root, say)
    return np.ascontiguousarray(found[:, :2]), int(found[:, 2].max(initial=1))


def _header(path: str, exif: bool, max_pixels: int) -> tuple[int, int, int]:
    """Height, width and channels of the upright picture."""
    with trust.open_file(path, MOST_BYTES) as stream, open_image(stream, max_pixels) as image:
        width, height = image.size
        # Of TIFF, PIL tells the upright size.
        if exif and image.format != "TIFF" and orientation_of(image) in SIDEWAYS:
            width, height = height, width
        return height, width, 1 if image.mode in GREY_MODES else 3


class _Headers:
    """`_header` of many files at a time, for the workers of a DataLoader."""

    size = 16 * CHUNK

    def __init__(self, paths: Paths, exif: bool, max_pixels: int) -> None:
        self.paths, self.exif, self.max_pixels = paths, exif, max_pixels

    def __len__(self) -> int:
        return -(-len(self.paths) // self.size)

    def __getitem__(self, number: int) -> tuple[NDArray[np.int32], list[str]]:
        rows = range(number * self.size, min((number + 1) * self.size, len(self.paths)))
        found, failures = np.zeros((len(rows), 3), dtype=np.int32), []
        for place, row in enumerate(rows):
            try:
                found[place] = _header(self.paths[row], self.exif, self.max_pixels)
            except Exception as error:  # PIL raises nearly anything on a damaged file
                failures.append(f"{self.paths.relative(row)!r} ({reason(error)})")
        return found, failures


def _read_by_processes(
    paths: Paths, exif: bool, max_pixels: int, found: NDArray[np.int32], workers: int, progress: Progress | None
) -> None:
    """Fill int32 [N, 3] with the headers of all files; refuses unreadable ones."""
    from torch.utils.data import DataLoader

    from glmc import runtime

    there, failures = 0, []
    files: Any = _Headers(paths, exif, max_pixels)
    loader: Any = DataLoader(files, batch_size=None, num_workers=workers, collate_fn=list)
    with runtime.same_child_signal():
        batches = iter(loader)
    for some, failed in batches:
        found[there : there + len(some)] = some
        there += len(some)
        failures += failed
        if progress is not None:
            progress(there, len(paths))
    refuse(paths, failures)


def common_shape(paths: Paths, needs_size: bool, max_pixels: int, workers: int | None) -> tuple[int, int]:
    """The common size (0 if not needed) and channels of all files, from their headers."""
    seen: dict[tuple[int, int], int] = {}  # size -> a row that has it
    modes: set[str] = set()

    def look(row: int) -> None:
        with trust.open_file(paths[row], MOST_BYTES) as stream, open_image(stream, max_pixels) as image:
            seen.setdefault(image.size, row)
            modes.add(image.mode)

    for_every(paths, look, workers, None)
    channels = 1 if modes <= GREY_MODES else 3
    if not needs_size:
        return 0, channels
    (width, height), *others = sorted(seen)
    if others or width != height:
        some = ", ".join(f"{w} x {h}: {paths.relative(seen[w, h])!r}" for w, h in sorted(seen)[:3])
        side = min(min(sizes) for sizes in seen)
        raise UserError(
            f"the images in {paths.root} are not all squares of one size ({some}): set e.g. data.size={side}, to which "
            "the centre of each is resized"
        )
    return width, channels


def largest_values(
    paths: Paths, max_pixels: int = MAX_PIXELS, progress: Progress | None = None, workers: int | None = None
) -> NDArray[np.int64]:
    """int64 [N], the largest value in each grey picture with 16 bits; -1 for all others and what cannot be read.

    Args:
        paths, max_pixels, progress, workers: as in `materialise`.
    """
    largest = np.full(len(paths), -1)

    def look(row: int) -> None:
        with trust.open_file(paths[row], MOST_BYTES) as stream, open_image(stream, max_pixels) as image:
            if image.mode.startswith("I") and not declares_12_bits(image):
                largest[row] = np.asarray(image).max()

    failures_of(paths, look, workers, progress)  # whoever decodes the images next names these
    return largest


def digest_of(content: bytes) -> int:
    """63 bits of BLAKE2b of a file's content, in [1, 2**63)."""
    return max(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) >> 1, 1)


def digests(
    paths: Paths,
    *,
    cache_dir: Path | None,
    progress: Progress | None = None,
    say: Callable[[str], None] = warnings.warn,
    workers: int | None = None,
) -> NDArray[np.int64]:
    """`digest_of` every file, int64 [N]; read, or from the cache.

    Args:
        paths, cache_dir, progress, say, workers: as in `materialise`.

    Raises:
        UserError: files that cannot be read (the first ten and their number).
    """
    fingerprint = fingerprint_of(paths, "digests")
    found = None if cache_dir is None else cache.read(cache_dir, fingerprint, say)
    if found is None:
        found = np.empty(len(paths), dtype=np.int64)

        def look(row: int) -> None:
            found[row] = digest_of(content_of(paths[row]))

        for_every(paths, look, workers, progress)
        if cache_dir is not None:
            cache.write(cache_dir, fingerprint, found, paths.root, say)
    return found
