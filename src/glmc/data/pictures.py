"""One image file becomes pixels.

What a pixel is: the first frame, turned upright by its EXIF orientation (or not: `exif`), in the colours as stored
(profiles are not applied). Transparent pixels are laid on white, the page that most cut-out pictures were drawn for. 16
bits keep the high byte; of a grey picture, the high byte of the `bits` in use, for cameras and microscopes often store
12 bits in 16, which would come out black. `bits` belongs to the whole set, or pictures would lose their brightness
relative to each other; only a TIFF that declares 12 bits has its own. CMYK and palettes become RGB; the grey of a
colour picture is ITU-R 601 luma.

PIL reads everything but JPEGs, of which it keeps libjpeg's warnings of damaged data to itself. These go through
libjpeg-turbo itself, which gives the same pixels sooner.
"""

import importlib.util
import io
import warnings
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from glmc import trust
from glmc.recipe.sections import MAX_PIXELS

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
SIDEWAYS = {5, 6, 7, 8}  # orientations that exchange height and width
ORIENTATION = 0x0112  # its EXIF tag
BITS_PER_SAMPLE = 0x0102  # the TIFF tag

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # data.max_pixels decides

Resize = Literal["square", "short_side"]


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
        upright = UPRIGHT.get(orientation_of(image)) if exif else None
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
        bits = 12 if declares_12_bits(image) else bits
        if values.max() >= 1 << bits:
            raise ValueError(f"it has a pixel of {values.max()}, which {bits} bits do not hold: set data.bits=16")
        image = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def orientation_of(image: Image.Image) -> Any:
    """The EXIF orientation, usually one of 1 to 8; 1 is upright."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # asked for it, PIL would decode the whole image to look for a chunk behind the pixels
    return image.getexif().get(ORIENTATION, 1)


def declares_12_bits(image: Image.Image) -> bool:
    """Whether this is a TIFF whose header says so."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(BITS_PER_SAMPLE) == (12,)


def reason(error: Exception) -> str:
    """What is wrong with a file, in one line, from whatever its decoder raised."""
    if isinstance(error, PIL.UnidentifiedImageError):
        return "not an image, or not of its kind"
    return " ".join(str(error).split()) or type(error).__name__
