"""Image files become one uint8 array, decoded once in parallel and cached on disk, or single pictures.

What a pixel is: the first frame, turned upright by its EXIF orientation (or not: `exif`), in the colours as stored
(profiles are not applied). Transparent pixels are laid on white, the page that most cut-out pictures were drawn for. 16
bits keep the high byte; of a grey picture, the high byte of the `bits` in use, for cameras and microscopes often store
12 bits in 16, which would come out black. `bits` belongs to the whole set, or pictures would lose their brightness
relative to each other; only a TIFF that declares 12 bits has its own. CMYK and palettes become RGB; the grey of a
colour picture is ITU-R 601 luma. The array holds the middle square of each picture, see `centre_square`.

PIL reads everything but JPEGs, of which it keeps libjpeg's warnings of damaged data to itself. These go through
libjpeg-turbo itself, which gives the same pixels sooner.
"""

import hashlib
import importlib.util
import io
import json
import os
import stat
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from glmc import trust
from glmc.data import cache
from glmc.data.split import Paths
from glmc.errors import UserError
from glmc.recipe.sections import MAX_PIXELS

CACHE_FORMAT = 3  # to be raised when the pixels of the same files and options change
CHUNK = 32  # images per task: tasks of one small image would cost more than the image
MANY = 20_000  # files whose headers are read by processes: PIL reads headers in Python, one thread at a time
MOST_BYTES = 2**30  # of an image file
# No others: reading EPS would start Ghostscript.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
if importlib.util.find_spec("pillow_heif"):
    import pillow_heif

    pillow_heif.register_heif_opener()
    FORMATS += ("HEIF",)
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1"}  # behind "ftyp" at the beginning of a file
HEIC = "a HEIC photograph: install what reads it with python -m pip install 'glmc[heic]', or save it as JPEG"
JPEG_COLOURS = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # PIL's mode -> libjpeg-turbo's word for it
GREY_MODES = {"1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = {5, 6, 7, 8}  # those that exchange height and width
ORIENTATION = 0x0112  # the EXIF tag
BITS_PER_SAMPLE = 0x0102  # the TIFF tag

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # data.max_pixels decides

Progress = Callable[[int, int], None]
Resize = Literal["square", "short_side"]


class Unreadable(UserError):
    """Files that cannot be read, where all of them were to be decoded."""


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
        found_size, found_channels = _probe(paths, size is None, max_pixels, workers)
        size, channels = size or found_size, channels or found_channels
    try:
        pixels = np.empty((len(paths), size, size, channels), dtype=np.uint8)
    except MemoryError:
        gigabytes = len(paths) * size * size * channels / 1e9
        raise UserError(f"{len(paths)} images of data.size={size} take {gigabytes:.1f} GB: lower data.size") from None

    def decode(row: int) -> None:
        pixels[row] = decode_image(paths[row], size, channels, resize, exif, bits, max_pixels)

    _for_every(paths, decode, workers, progress)
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

    failures = _failures(paths, work, workers, progress)
    bad = {row: reason(error) for row, error in failures.items()}
    lasting = not any(isinstance(error, OSError) and error.errno for error in failures.values())
    if cache_dir is not None and lasting:  # a disk that could not be read may recover
        cache.write(cache_dir, fingerprint, np.frombuffer(json.dumps(bad).encode(), np.uint8), paths.root, say)
    return bad


def decode_image(
    file: str | Path,
    size: int,
    channels: int,
    resize: Resize = "square",
    exif: bool = True,
    bits: int = 16,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.uint8]:
    """The middle square of one image file as uint8 [size, size, channels], see `read_image` and `centre_square`.

    Raises:
        Exception: whatever is wrong with the file.
    """
    return centre_square(read_image(file, channels, exif, bits, max_pixels), size, resize)


def read_image(
    file: str | Path, channels: int, exif: bool = True, bits: int = 16, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """One whole image file as uint8 [H, W, channels]; the module's text says what a pixel is.

    Args:
        file: its path.
        channels: 1 grey, 3 RGB.
        exif: whether the picture is turned upright; else it stays as stored (TIFF and HEIC are always upright).
        bits: those in use of a grey picture with 16, in [8, 16]; 2 ** bits - 1 becomes white.
        max_pixels: a file with more is refused before it is decoded.

    Raises:
        Exception: whatever is wrong with the file.
    """
    return picture_of(content_of(file), channels, exif, bits, max_pixels)


def content_of(file: str | Path) -> bytes:
    """The bytes of an image file.

    Raises:
        OSError, ValueError: it cannot be read, or is no regular file.
    """
    with trust.open_file(file, MOST_BYTES) as stream:
        return stream.read()


def picture_of(
    data: bytes, channels: int, exif: bool = True, bits: int = 16, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """`read_image` from the content of the file."""
    with open_image(io.BytesIO(data), max_pixels) as image:
        if image.format in ("JPEG", "MPO"):
            picture = _of_jpeg(data, image)
        else:
            image.load()  # before the question below: of TIFF, PIL turns the pixels here and takes the tag away
            picture = image
        upright = UPRIGHT.get(_orientation(image)) if exif else None
        picture = _plain(picture, channels, bits)
    if upright is not None:
        picture = picture.transpose(upright)
    return np.array(picture).reshape(picture.height, picture.width, channels)


def _of_jpeg(data: bytes, image: Image.Image) -> Image.Image:
    """The decoded picture; whatever libjpeg warns of is an error."""
    pixels = simplejpeg.decode_jpeg(data, JPEG_COLOURS[image.mode])
    if image.mode == "CMYK":  # PIL knows whose inks are inverted
        return image
    return Image.fromarray(pixels if image.mode == "RGB" else pixels[..., 0])


def centre_square(picture: NDArray[np.uint8], size: int, resize: Resize = "square") -> NDArray[np.uint8]:
    """The middle of a picture as a square, resized with antialiasing (bilinear).

    Args:
        picture: uint8 [H, W, ch].
        size: side of the square in pixels.
        resize: "square": the largest centred square is resized. "short_side": the whole picture is resized until its
            short side has `size` pixels, and the square cut out then, as torchvision's Resize and CenterCrop do it.
            Both take the same part of the picture to within a pixel; their grids differ by some 0.4 of one.

    Returns:
        uint8 [size, size, ch].
    """
    if resize == "short_side":
        return _resized_middle(picture, size)
    height, width, channels = picture.shape
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    # Cropping first keeps whole pixels where nothing is to be resized, and a 1 x 65500 picture small.
    square = picture[top : top + side, left : left + side]
    if side == size:
        return square
    image = Image.fromarray(square if channels == 3 else square[..., 0])
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, channels)


def _resized_middle(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The middle `size` x `size` pixels of a picture after its short side has been resized to `size`.

    No pixel beside the square is made, and lines come before columns whatever the shape: in the order of the versions
    of PIL that published figures were made with.
    """
    height, width, channels = picture.shape
    side = min(width, height)
    tall, wide = size * height // side, size * width // side
    top, left = round((tall - size) / 2), round((wide - size) / 2)  # halves to the even number, as torchvision does
    image = Image.fromarray(picture if channels == 3 else picture[..., 0])
    box = (left / wide * width, 0, (left + size) / wide * width, height)
    image = image.resize((size, height), Image.Resampling.BILINEAR, box)
    box = (0, top / tall * height, size, (top + size) / tall * height)
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR, box)).reshape(size, size, channels)


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

            _for_every(paths, look, workers, progress)
        if cache_dir is not None:
            cache.write(cache_dir, fingerprint, found, paths.root, say)
    return np.ascontiguousarray(found[:, :2]), int(found[:, 2].max(initial=1))


def _header(path: str, exif: bool, max_pixels: int) -> tuple[int, int, int]:
    """Height, width and channels of the upright picture."""
    with trust.open_file(path, MOST_BYTES) as stream, open_image(stream, max_pixels) as image:
        width, height = image.size
        # Of TIFF, PIL tells the upright size.
        if exif and image.format != "TIFF" and _orientation(image) in SIDEWAYS:
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
    _refuse(paths, failures)


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

        _for_every(paths, look, workers, progress)
        if cache_dir is not None:
            cache.write(cache_dir, fingerprint, found, paths.root, say)
    return found


def _orientation(image: Image.Image) -> Any:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # asked for it, PIL would decode the whole image to look for a chunk behind the pixels
    return image.getexif().get(ORIENTATION, 1)


def _declares_12_bits(image: Image.Image) -> bool:
    return isinstance(image, TiffImageFile) and image.tag_v2.get(BITS_PER_SAMPLE) == (12,)


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
            if image.mode.startswith("I") and not _declares_12_bits(image):
                largest[row] = np.asarray(image).max()

    _failures(paths, look, workers, progress)  # whoever decodes the images next names these
    return largest


def open_image(stream: BinaryIO, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """`PIL.Image.open` for the formats that are read, and for images of no more than so many pixels.

    Raises:
        ValueError: a HEIC photograph, where the package that reads it is not installed, or too many pixels.
        Exception: whatever else is wrong with the file.
    """
    if Image.MAX_IMAGE_PIXELS is not None:  # above which PIL warns
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
    try:
        image = Image.open(stream, formats=FORMATS)
    except Image.DecompressionBombError:  # twice as many, at least
        raise ValueError(f"it has more pixels than data.max_pixels={max_pixels} allows") from None
    except PIL.UnidentifiedImageError:
        stream.seek(0)
        start = stream.read(12)
        if "HEIF" not in FORMATS and start[4:8] == b"ftyp" and start[8:] in HEIC_BRANDS:
            raise ValueError(HEIC) from None
        raise
    if image.width * image.height > max_pixels:
        raise ValueError(f"{image.width} x {image.height} pixels are more than data.max_pixels={max_pixels} allows")
    return image


def _plain(image: Image.Image, channels: int, bits: int) -> Image.Image:
    """The image in mode L or RGB, 8 bits a channel, without transparency."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("32-bit pixels outside 0 .. 65535: save it with 8 or 16 bits")
        bits = 12 if _declares_12_bits(image) else bits
        if values.max() >= 1 << bits:
            raise ValueError(f"it has a pixel of {values.max()}, which {bits} bits do not hold: set data.bits=16")
        image = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def _probe(paths: Paths, needs_size: bool, max_pixels: int, workers: int | None) -> tuple[int, int]:
    """The common size (0 if not needed) and channels of all files, from their headers."""
    seen: dict[tuple[int, int], int] = {}  # size -> a row that has it
    modes: set[str] = set()

    def look(row: int) -> None:
        with trust.open_file(paths[row], MOST_BYTES) as stream, open_image(stream, max_pixels) as image:
            seen.setdefault(image.size, row)
            modes.add(image.mode)

    _for_every(paths, look, workers, None)
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


def _for_every(paths: Paths, work: Callable[[int], None], workers: int | None, progress: Progress | None) -> None:
    """Does `work` for every row, in threads (PIL decodes without the interpreter lock); refuses unreadable files."""
    failures = _failures(paths, work, workers, progress)
    _refuse(paths, [f"{paths.relative(row)!r} ({reason(error)})" for row, error in failures.items()])


def _failures(
    paths: Paths, work: Callable[[int], None], workers: int | None, progress: Progress | None
) -> dict[int, Exception]:
    """Does `work` for every row, in threads; row -> what it raised."""
    Image.init()  # loads PIL's formats now rather than in several threads at once

    def chunk(start: int) -> dict[int, Exception]:
        failed: dict[int, Exception] = {}
        for row in range(start, min(start + CHUNK, len(paths))):
            try:
                work(row)
            except Exception as error:  # PIL raises nearly anything on a damaged file
                failed[row] = error.with_traceback(None)  # which would hold on to the file's bytes
        return failed

    failures: dict[int, Exception] = {}
    pool = ThreadPoolExecutor(workers or cores())
    try:
        for number, failed in enumerate(pool.map(chunk, range(0, len(paths), CHUNK)), 1):
            failures |= failed
            if progress is not None:
                progress(min(number * CHUNK, len(paths)), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted run does not decode the rest first
    return failures


def _refuse(paths: Paths, failures: list[str]) -> None:
    if failures:
        raise Unreadable(
            f"{len(failures)} of {len(paths)} images in {paths.root} cannot be read (first: "
            f"{', '.join(failures[:10])}): replace or remove them"
        )


def reason(error: Exception) -> str:
    """What is wrong with a file, in one line, from whatever its decoder raised."""
    if isinstance(error, PIL.UnidentifiedImageError):
        return "not an image, or not of its kind"
    return " ".join(str(error).split()) or type(error).__name__


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fingerprint_of(paths: Paths, *options: str | int | None) -> str:
    """sha256 over options and files: path below the root, bytes, and the times of the last change.

    The status time joins the modification time because tools that keep the latter (tar, rsync) may replace a file by
    another of the same size; moving the whole folder changes neither.
    """
    digest = hashlib.sha256(json.dumps([CACHE_FORMAT, PIL.__version__, *options]).encode())
    failures = []
    for row in range(len(paths)):
        name = paths.relative(row)
        try:
            status = os.stat(os.path.join(paths.root, name))
        except OSError as error:
            failures.append(f"{name!r} ({error.strerror})")
            continue
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            failures.append(f"{name!r} (not a file)")
        facts = f"\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\n"
        digest.update(os.fsencode(name) + facts.encode())
    _refuse(paths, failures)
    return digest.hexdigest()
