"""One look at every image file: size in pixels, kind, a digest of its bytes, and what is wrong with it.

Each file is opened once and its first 64 KiB are read; only files that agree in these and in length are read whole.
Per image some 40 bytes are kept.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glmc import trust
from glmc.data import many, pictures
from glmc.data.split import Paths

HEAD = 2**16  # bytes that the first digest is taken of
SAMPLE = 200  # images whose headers tell the usual size
TAIL = 2**12  # bytes at the end in which the end marker is looked for: cameras append a little
CHUNK = 128  # images per task
END = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
ENDINGS = {
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".jpg", ".jpeg"),  # a JPEG with further pictures behind the first
    "PNG": (".png",),
    "BMP": (".bmp",),
    "DIB": (".bmp",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm"),
    "HEIF": (".heic", ".heif"),
}
SIGNS = {  # what often lies behind an image's name, by a piece of its first bytes
    b"ftypavif": "an AVIF picture",
    b"<html": "a web page",
    b"<!doctype html": "a web page",
    b"<svg": "an SVG drawing",
    b"%pdf": "a PDF",
}

Progress = Callable[[int], None]
T = TypeVar("T")


class Looks(NamedTuple):
    """What N images look like from outside.

    Args:
        sizes: int32 [N, 2], height and width of the upright picture in pixels; 0 where it cannot be read.
        kinds: int16 [N], place in `names`; -1 where it cannot be read.
        names: (format, mode) as PIL calls them, e.g. ("JPEG", "RGB").
        digests: uint64 [N, 2], equal for equal bytes.
        broken: row -> why it cannot be read.
        disguised: row -> what the file is, where its name says something else.
    """

    sizes: NDArray[np.int32]
    kinds: NDArray[np.int16]
    names: list[tuple[str, str]]
    digests: NDArray[np.uint64]
    broken: dict[int, str]
    disguised: dict[int, str]


class Look(NamedTuple):
    """One file; `broken` says why the size is 0, `rest` whether the file goes on behind what the digest is of."""

    size: tuple[int, int]
    kind: tuple[str, str]
    digest: bytes
    broken: str | None
    rest: bool


def look(
    images: Paths | NDArray[np.uint8],
    progress: Progress,
    max_pixels: int = pictures.MAX_PIXELS,
    workers: int | None = None,
) -> Looks:
    """Looks at N image files, or at N images in memory, which are all whole.

    Args:
        images: the files, or uint8 [N, H, W, channels].
        progress: called with the number of images done.
        max_pixels: a file with more is refused, as in training.
        workers: threads; None takes four per core, at least eight, because disks and networks make them wait.
    """
    seen = Looks(
        np.zeros((len(images), 2), np.int32),
        np.full(len(images), -1, np.int16),
        [],
        np.zeros((len(images), 2), np.uint64),
        {},
        {},
    )
    if not isinstance(images, Paths):
        return _in_memory(images, seen)
    Image.init()  # loads PIL's formats now rather than in several threads at once
    number: dict[tuple[str, str], int] = {}
    rest = []
    for row, one in enumerate(
        each(lambda row: look_at(images[row], max_pixels), range(len(images)), progress, workers)
    ):
        seen.digests[row] = np.frombuffer(one.digest, np.uint64)
        if one.rest:
            rest.append(row)
        if one.broken is not None:
            seen.broken[row] = one.broken
            continue
        seen.sizes[row] = one.size
        seen.kinds[row] = number.setdefault(one.kind, len(number))
        if not images.relative(row).lower().endswith(ENDINGS[one.kind[0]]):
            seen.disguised[row] = one.kind[0]
    seen.names.extend(number)
    _whole_digests(images, seen.digests, rest, workers)
    return seen


def usual_size(images: Paths) -> tuple[int, int]:
    """Width and height in pixels of a middling image, by its shorter side, among the headers of a few.

    (0, 0) if none of them can be read.
    """
    rows = np.unique(np.linspace(0, len(images) - 1, SAMPLE).astype(np.int64)).tolist()

    def size(row: int) -> tuple[int, int]:
        try:
            with trust.open_file(images[row], pictures.MOST_BYTES) as stream:
                height, width = _header(stream, pictures.MAX_PIXELS)[0]
                return width, height
        except Exception:  # PIL raises nearly anything on a damaged file
            return 0, 0

    Image.init()  # loads PIL's formats now rather than in several threads at once
    with ThreadPoolExecutor(max(8, 4 * many.cores())) as pool:
        sizes = sorted((found for found in pool.map(size, rows) if min(found)), key=min)
    return sizes[len(sizes) // 2] if sizes else (0, 0)


def _in_memory(images: NDArray[np.uint8], seen: Looks) -> Looks:
    for row, image in enumerate(images):
        seen.digests[row] = np.frombuffer(hashlib.blake2b(image.tobytes(), digest_size=16).digest(), np.uint64)
    seen.sizes[:] = images.shape[1:3]
    seen.kinds[:] = 0
    seen.names.append(("array", "L" if images.shape[3] == 1 else "RGB"))
    return seen


def each(work: Callable[[int], T], rows: range, progress: Progress, workers: int | None = None) -> Iterator[T]:
    """`work` of every row in order, done in threads; `workers` as in `look`."""
    pool = ThreadPoolExecutor(workers or max(8, 4 * many.cores()))
    try:
        chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        for chunk, done in zip(chunks, pool.map(lambda chunk: [work(row) for row in chunk], chunks), strict=True):
            yield from done
            progress(chunk.stop)
    finally:
        pool.shutdown(cancel_futures=True)  # who interrupts need not wait for the rest


def look_at(file: str, max_pixels: int) -> Look:
    """One file. Whatever is wrong with it stands in `broken`."""
    nothing = hashlib.blake2b(os.fsencode(file), digest_size=16).digest()  # files that cannot be read equal none
    try:
        with trust.open_file(file, pictures.MOST_BYTES) as stream:
            length, head = os.fstat(stream.fileno()).st_size, stream.read(HEAD)
            if not length:
                return Look((0, 0), ("", ""), nothing, "empty file", False)
            digest = hashlib.blake2b(head + length.to_bytes(8, "little"), digest_size=16).digest()
            try:
                size, kind = _header(stream, max_pixels)
            except Exception as error:  # PIL raises nearly anything on a damaged file
                return Look((0, 0), ("", ""), digest, _sign(head) or pictures.reason(error), False)
            broken = None if _ends(stream, kind[0], length) else _decodes(stream, max_pixels)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return Look((0, 0), ("", ""), nothing, sys.intern(why or str(error)), False)
    return Look(size if broken is None else (0, 0), kind, digest, broken, length > HEAD)


def _header(stream: BinaryIO, max_pixels: int) -> tuple[tuple[int, int], tuple[str, str]]:
    """(height, width) of the upright picture, and (format, mode)."""
    stream.seek(0)
    with pictures.open_image(stream, max_pixels) as image:
        width, height = image.size
        kind = (image.format or "", image.mode)
        # Asking a PNG without this tag would decode it; of TIFF, PIL tells the upright size.
        asks = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
        if asks and image.getexif().get(pictures.ORIENTATION) in pictures.SIDEWAYS:
            width, height = height, width
    return (height, width), kind


def _ends(stream: BinaryIO, form: str, length: int) -> bool:
    """Whether the file is known to go to its end: of a copy that was cut short, the header is all right."""
    if form not in END:
        return False
    stream.seek(max(0, length - TAIL))
    return END[form] in stream.read()


def _decodes(stream: BinaryIO, max_pixels: int) -> str | None:
    """Why the file cannot be decoded; None if it can."""
    stream.seek(0)
    try:
        with pictures.open_image(stream, max_pixels) as image:
            image.load()
    except Exception as error:  # as above
        return pictures.reason(error)
    return None


def _sign(head: bytes) -> str | None:
    start = head[:512].lower()
    return next((what for sign, what in SIGNS.items() if sign in start), None)


def _whole_digests(paths: Paths, digests: NDArray[np.uint64], rest: list[int], workers: int | None) -> None:
    """Puts the digest of the whole file where two long files begin alike."""
    rows = np.array(rest, np.int64)
    _, group, count = np.unique(digests[rows], axis=0, return_inverse=True, return_counts=True)
    alike = rows[count[group.reshape(-1)] > 1].tolist() if len(rows) else []

    def whole(row: int) -> bytes:
        try:
            with open(paths[row], "rb") as stream:
                return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest()
        except OSError:  # taken away in the meantime
            return hashlib.blake2b(str(row).encode(), digest_size=16).digest()

    with ThreadPoolExecutor(workers or many.cores()) as pool:
        for row, digest in zip(alike, pool.map(whole, alike), strict=True):
            digests[row] = np.frombuffer(digest, np.uint64)
