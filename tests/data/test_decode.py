import json
import os
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Resize

from glmc.data.cache import cache_entries, cache_folder, clear_cache
from glmc.data.decode import materialise
from glmc.data.files import headers
from glmc.data.pictures import centre_square, decode_image, read_image
from glmc.data.split import Paths
from glmc.errors import UserError

RANDOM = np.random.RandomState(0)
COLOUR = RANDOM.randint(0, 256, (6, 6, 3)).astype(np.uint8)
GREY = RANDOM.randint(0, 256, (6, 6)).astype(np.uint8)
ALPHA = np.array([[0, 255, 128, 1, 254, 77]] * 6, dtype=np.uint8)


def read(tmp_path, image, name="image.png", channels=3, size=6, **options):
    image.save(tmp_path / name, **options)
    return decode_image(tmp_path / name, size, channels)


def on_white(values, alpha):
    """Slow and obvious: share alpha of the picture, the rest white."""
    share = alpha.astype(float)[..., None] / 255
    return values.reshape(*alpha.shape, -1) * share + 255 * (1 - share)


def close(actual, expected, tolerance=1):
    assert actual.dtype == np.uint8
    assert np.abs(actual.astype(float) - expected).max() <= tolerance


# ---------------------------------------------------------------------------------------------- kinds of pictures


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.webp"])
def test_colour_is_exact(tmp_path, name):
    options = {"lossless": True} if name == "a.webp" else {}
    np.testing.assert_array_equal(read(tmp_path, Image.fromarray(COLOUR), name, **options), COLOUR)


def test_grey(tmp_path):
    image = Image.fromarray(GREY)
    np.testing.assert_array_equal(read(tmp_path, image, channels=1), GREY[..., None])
    np.testing.assert_array_equal(read(tmp_path, image, channels=3), np.stack([GREY] * 3, -1))
    np.testing.assert_array_equal(read(tmp_path, image, "a.pgm", channels=1), GREY[..., None])


def test_black_and_white(tmp_path):
    bits = GREY > 127
    np.testing.assert_array_equal(read(tmp_path, Image.fromarray(bits), channels=1), bits[..., None] * np.uint8(255))


def test_colour_to_grey_is_luma(tmp_path):
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])
    close(read(tmp_path, Image.fromarray(COLOUR), channels=1), luma[..., None])


def test_cmyk(tmp_path):
    inks = RANDOM.randint(0, 256, (6, 6, 4)).astype(np.uint8)
    light = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    close(read(tmp_path, Image.frombytes("CMYK", (6, 6), inks.tobytes()), "a.tif"), light)


def test_cmyk_jpeg_is_not_inverted(tmp_path):
    image = Image.new("CMYK", (6, 6), (255, 64, 0, 0))
    close(read(tmp_path, image, "a.jpg", quality=100), np.full((6, 6, 3), (0, 191, 255)), tolerance=3)


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.bmp"])
def test_palette(tmp_path, name):
    image = Image.fromarray((GREY % 4).astype(np.uint8)).convert("P")
    colours = np.array([[250, 10, 20], [0, 0, 0], [255, 255, 255], [1, 99, 200]], dtype=np.uint8)
    image.putpalette(colours.tobytes())
    np.testing.assert_array_equal(read(tmp_path, image, name), colours[GREY % 4])


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_a_transparent_palette_entry_is_white(tmp_path, name):
    image = Image.fromarray((GREY % 4).astype(np.uint8)).convert("P")
    colours = np.array([[250, 10, 20], [0, 0, 0], [7, 7, 7], [1, 99, 200]], dtype=np.uint8)
    image.putpalette(colours.tobytes())
    expected = colours.copy()
    expected[2] = 255
    np.testing.assert_array_equal(read(tmp_path, image, name, transparency=2), expected[GREY % 4])


def test_transparency_is_laid_on_white(tmp_path):
    close(read(tmp_path, Image.fromarray(np.dstack([COLOUR, ALPHA]))), on_white(COLOUR, ALPHA))
    pair = np.dstack([GREY, ALPHA])
    close(read(tmp_path, Image.frombytes("LA", (6, 6), pair.tobytes()), channels=1), on_white(GREY, ALPHA))


def test_a_transparent_colour_is_white(tmp_path):
    expected = COLOUR.copy()
    expected[2, 3] = 255
    image = Image.fromarray(COLOUR)
    np.testing.assert_array_equal(read(tmp_path, image, transparency=tuple(COLOUR[2, 3].tolist())), expected)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bit_grey_keeps_the_high_byte(tmp_path, name):
    deep = (np.arange(36, dtype=np.uint16) * 1820 + 5).reshape(6, 6)
    if name == "a.pgm":
        (tmp_path / name).write_bytes(b"P5 6 6 65535\n" + deep.astype(">u2").tobytes())
        pixels = decode_image(tmp_path / name, 6, 1)
    else:
        pixels = read(tmp_path, Image.fromarray(deep), name, channels=1)
    np.testing.assert_array_equal(pixels[..., 0], deep // 256)


def packed(values):
    """A TIFF that declares 12 bits, two pixels in three bytes."""
    pairs = values.reshape(-1, 2).astype(int)
    data = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    strip = data.astype(np.uint8).tobytes()
    tags = {256: 6, 257: 6, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 6, 279: len(strip)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_twelve_bits_in_sixteen_keep_the_high_byte_of_the_twelve(tmp_path):
    deep = (np.arange(36, dtype=np.uint16) * 117).reshape(6, 6)
    for name in ("a.png", "a.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name, 1, bits=12)[..., 0], deep // 16)
    with pytest.raises(ValueError, match=r"a pixel of 4095, which 10 bits do not hold: set data.bits=16"):
        read_image(tmp_path / name, 1, bits=10)
    (tmp_path / "packed.tif").write_bytes(packed(deep))
    for bits in (10, 16):  # those of the set, and this file has its own
        np.testing.assert_array_equal(read_image(tmp_path / "packed.tif", 1, bits=bits)[..., 0], deep // 16)


def test_a_heic_photograph_is_read_or_what_reads_it_named(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    stored = np.kron(GREY[:2, :3] // 128 * 200, np.ones((32, 32), np.uint8))
    heif.from_pillow(Image.fromarray(np.stack([stored] * 3, -1))).save(tmp_path / "a.heic", quality=100)
    close(read_image(tmp_path / "a.heic", 1)[..., 0], stored, tolerance=6)
    assert headers(Paths.from_list(tmp_path, ["a.heic"]), cache_dir=None)[0].tolist() == [[64, 96]]
    monkeypatch.setattr("glmc.data.pictures.FORMATS", ("JPEG", "PNG"))
    with pytest.raises(UserError, match=r"'a.heic' \(a HEIC photograph: .*pip install 'glmc\[heic\]', or save"):
        load(Paths.from_list(tmp_path, ["a.heic"]), size=6)


def test_sixteen_bit_colour_keeps_the_high_byte(tmp_path):
    deep = RANDOM.randint(0, 65536, (6, 6, 3)).astype(">u2")

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", 6, 6, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(png)
    np.testing.assert_array_equal(decode_image(tmp_path / "deep.png", 6, 3), deep // 256)


def test_pixels_without_a_fixed_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no fixed range: save it with 8 or 16 bits"):
        read(tmp_path, Image.fromarray(np.zeros((6, 6), np.float32)), "a.tif")
    with pytest.raises(ValueError, match=r"outside 0 .. 65535: save it with 8 or 16 bits"):
        read(tmp_path, Image.fromarray(np.full((6, 6), 70_000, np.int32)), "a.tif")


def test_the_first_frame_counts(tmp_path):
    pair = {"save_all": True, "append_images": [Image.new("L", (6, 6))], "quality": 100}
    close(read(tmp_path, Image.new("L", (6, 6), 99), "a.jpg", channels=1, format="MPO", **pair), 99.0)
    first, second = Image.fromarray(GREY).convert("P"), Image.fromarray(255 - GREY).convert("P")
    pixels = read(tmp_path, first, "a.gif", channels=1, save_all=True, append_images=[second])
    close(pixels, GREY[..., None])


# What the EXIF standard says of the stored picture: where its first row and its first column belong.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_exif_orientation(tmp_path, orientation, name):
    stored = np.kron(RANDOM.randint(0, 2, (3, 3)), np.ones((8, 8))).astype(np.uint8) * 255  # blocks that JPEG keeps
    upright = np.zeros_like(stored)
    for row in range(24):
        for column in range(24):
            y = x = None
            for place, side in zip((row, column), SIDES[orientation], strict=True):
                if side in ("top", "bottom"):
                    y = place if side == "top" else 23 - place
                else:
                    x = place if side == "left" else 23 - place
            upright[y, x] = stored[row, column]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"a.jpg": {"quality": 100}, "a.webp": {"lossless": True}}.get(name, {})
    pixels = read(tmp_path, Image.fromarray(stored), name, channels=1, size=24, exif=exif, **options)
    close(pixels[..., 0], upright, tolerance=3)


def test_an_unknown_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 77
    np.testing.assert_array_equal(read(tmp_path, Image.fromarray(COLOUR), exif=exif), COLOUR)


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_without_exif_a_picture_stays_as_pil_reads_it(tmp_path, channels, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RANDOM.randint(0, 256, (5, 8, 3)).astype(np.uint8)).save(tmp_path / name, exif=exif)
    with Image.open(tmp_path / name) as theirs:
        stored = np.array(theirs.convert("RGB" if channels == 3 else "L")).reshape(5, 8, channels)
    np.testing.assert_array_equal(read_image(tmp_path / name, channels, exif=False), stored)
    paths = Paths.from_list(tmp_path, [name])
    assert headers(paths, exif=False, cache_dir=None)[0].tolist() == [[5, 8]]
    np.testing.assert_array_equal(load(paths, 5, channels, exif=False)[0], stored[:, 1:6])


# -------------------------------------------------------------------------------------------------- the middle square

SHAPES = [(375, 500), (500, 375), (500, 333), (300, 401), (256, 343), (343, 256), (768, 1025), (90, 121), (2000, 30)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_short_side_is_resized_and_the_middle_cut_out_as_torchvision_does_it(shape, channels):
    picture = RANDOM.randint(0, 256, (*shape, channels)).astype(np.uint8)
    image = Image.fromarray(picture if channels == 3 else picture[..., 0])
    theirs = np.array(CenterCrop(224)(Resize(256)(image))).reshape(224, 224, channels)
    ours = centre_square(picture, 256, "short_side")[16:240, 16:240]
    close(ours, theirs.astype(float))
    assert (ours != theirs).mean() < 0.01


def test_cut_out_first_the_grid_is_another_one():
    picture = RANDOM.randint(0, 256, (500, 333, 3)).astype(np.uint8)
    assert (centre_square(picture, 256, "short_side") != centre_square(picture, 256)).mean() > 0.9


def test_a_square_is_the_same_either_way():
    picture = RANDOM.randint(0, 256, (77, 77, 3)).astype(np.uint8)
    for size in (77, 60, 90):
        np.testing.assert_array_equal(centre_square(picture, size, "short_side"), centre_square(picture, size))


# -------------------------------------------------------------------------------------------------- JPEGs, twice read


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("kind", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"keep_rgb": True}])
@pytest.mark.parametrize("shape", [(37, 50), (64, 48), (1, 9), (16, 16)])
def test_a_jpeg_has_pils_pixels(tmp_path, shape, kind, subsampling):
    coarse = RANDOM.randint(0, 256, (5, 7, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC)
    options = kind if "keep_rgb" in kind else kind | {"subsampling": subsampling}
    for quality in (30, 75, 95):
        image.save(tmp_path / "a.jpg", quality=quality, **options)
        with Image.open(tmp_path / "a.jpg") as theirs:
            np.testing.assert_array_equal(read_image(tmp_path / "a.jpg", 3), np.asarray(theirs.convert("RGB")))
            np.testing.assert_array_equal(
                read_image(tmp_path / "a.jpg", 1)[..., 0], np.asarray(theirs.convert("RGB").convert("L"))
            )


def test_a_whole_image_is_read_without_changing_its_shape(tmp_path):
    values = RANDOM.randint(0, 256, (4, 7, 3)).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 3), values)
    assert read_image(tmp_path / "a.png", 1).shape == (4, 7, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_headers_tell_the_size_of_the_upright_picture(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((4, 9), np.uint8)).save(tmp_path / name, exif=exif)
    sizes, _ = headers(Paths.from_list(tmp_path, [name]), cache_dir=None)
    assert tuple(sizes[0]) == read_image(tmp_path / name, 3).shape[:2]
    assert tuple(sizes[0]) == ((4, 9) if orientation < 5 else (9, 4))


@pytest.mark.parametrize("many", [1, 20_000])  # read by processes, by threads
def test_headers_tell_channels_and_are_cached(tmp_path, monkeypatch, many):
    monkeypatch.setattr("glmc.data.files.MANY", many)
    grey = save(tmp_path / "images", {"a.png": GREY, "b.png": np.zeros((3, 5), np.uint8)})
    sizes, channels = headers(grey, cache_dir=tmp_path / "cache")
    assert (sizes.dtype, sizes.tolist(), channels) == (np.int32, [[6, 6], [3, 5]], 1)
    calls = []
    again, channels = headers(grey, cache_dir=tmp_path / "cache", progress=lambda *call: calls.append(call))
    assert (again.tolist(), channels, calls) == (sizes.tolist(), 1, [])
    assert load(grey, size=6, cache_dir=tmp_path / "cache").shape == (2, 6, 6, 1)  # the pixels are another entry
    mixed = save(tmp_path / "images", {"a.png": GREY, "c.png": COLOUR})
    assert headers(mixed, cache_dir=tmp_path / "cache")[1] == 3
    (tmp_path / "images" / "c.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"1 of 2 images in .* cannot be read \(first: 'c.png'"):
        headers(mixed, cache_dir=tmp_path / "cache")


# ---------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(("height", "width", "top", "left"), [(6, 9, 0, 1), (11, 6, 2, 0), (6, 6, 0, 0)])
def test_the_centre_is_cut_out_exactly(tmp_path, height, width, top, left):
    values = RANDOM.randint(0, 256, (height, width, 3)).astype(np.uint8)
    pixels = read(tmp_path, Image.fromarray(values))
    np.testing.assert_array_equal(pixels, values[top : top + 6, left : left + 6])


def slow_resize(values, size):
    """Antialiased bilinear: each new pixel is a mean of old ones, weighted by a triangle as wide as the coarser."""
    for _ in range(2):  # rows, then columns
        scale = len(values) / size
        reach = max(scale, 1.0)
        rows = []
        for place in range(size):
            centre = (place + 0.5) * scale
            weights = np.maximum(0, 1 - np.abs(np.arange(len(values)) + 0.5 - centre) / reach)
            rows.append(np.tensordot(weights / weights.sum(), values, 1))
        values = np.swapaxes(np.array(rows), 0, 1)
    return values


@pytest.mark.parametrize("size", [1, 5, 12, 13, 31])
def test_resizing_is_antialiased_bilinear(tmp_path, size):
    values = RANDOM.randint(0, 256, (13, 17, 3)).astype(np.uint8)
    close(read(tmp_path, Image.fromarray(values), size=size), slow_resize(values[:, 2:15].astype(float), size))


def test_an_extreme_shape_stays_small(tmp_path):
    assert read(tmp_path, Image.new("L", (30_000, 1), 9), size=4).tolist() == np.full((4, 4, 3), 9).tolist()
    for shape in ((30_000, 1), (1, 30_000)):  # 256 x 7,680,000 pixels if the whole were resized
        assert (centre_square(np.full((*shape, 3), 9, np.uint8), 256, "short_side") == 9).all()


def save(folder, images):
    """Writes arrays as PNG files and returns their paths in that order."""
    folder.mkdir(exist_ok=True)
    for name, values in images.items():
        Image.fromarray(values).save(folder / name, format="PNG")
    return Paths.from_list(folder, images)


def load(paths, size=None, channels=None, cache_dir=None, **options):
    return materialise(paths, size=size, channels=channels, cache_dir=cache_dir, **options)


def test_size_and_channels_of_the_files(tmp_path):
    grey = save(tmp_path / "grey", {"a.png": GREY, "b.png": GREY.astype(np.uint16) * 256, "c.png": GREY > 9})
    assert load(grey).shape == (3, 6, 6, 1)
    assert load(grey, channels=3, size=4).shape == (3, 4, 4, 3)
    mixed = save(tmp_path / "mixed", {"a.png": GREY, "b.png": COLOUR})
    pixels = load(mixed)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, [np.stack([GREY] * 3, -1), COLOUR])
    assert load(mixed, channels=1).shape == (2, 6, 6, 1)


@pytest.mark.parametrize("other", [(6, 7), (5, 5)])
def test_sizes_that_differ_need_a_size(tmp_path, other):
    paths = save(tmp_path, {"a.png": GREY, "b.png": np.zeros(other, np.uint8)})
    with pytest.raises(UserError, match=r"not all squares of one size .*'b.png'.*: set e.g. data.size=[56], to which"):
        load(paths)
    assert load(paths, size=5).shape == (2, 5, 5, 1)


def test_one_oblong_size_needs_a_size(tmp_path):
    with pytest.raises(UserError, match=r"7 x 6: 'a.png'\): set e.g. data.size=6"):
        load(save(tmp_path, {"a.png": np.zeros((6, 7), np.uint8)}))


# ------------------------------------------------------------------------------------------------ many, in parallel


def test_parallel_is_serial_bit_by_bit(tmp_path):
    images = {f"{n}.png": RANDOM.randint(0, 256, (9 + n % 7, 9 + n % 5, 3)).astype(np.uint8) for n in range(100)}
    images |= {f"{n}.png": RANDOM.randint(0, 256, (9, 12)).astype(np.uint8) for n in range(0, 100, 3)}
    paths = save(tmp_path, images)
    serial = load(paths, size=8, workers=1)
    for workers in (2, 7, None):
        np.testing.assert_array_equal(load(paths, size=8, workers=workers), serial)
    assert len(np.unique(serial.reshape(100, -1), axis=0)) == 100
    np.testing.assert_array_equal(load(paths.select(np.array([70, 2])), size=8), serial[[70, 2]])


def test_progress_reaches_the_number_of_images(tmp_path):
    calls = []
    load(save(tmp_path, {f"{n}.png": GREY for n in range(70)}), progress=lambda *call: calls.append(call))
    assert calls == [(32, 70), (64, 70), (70, 70)]


def test_unreadable_images_are_counted_and_ten_are_named(tmp_path):
    paths = save(tmp_path, {f"{n:02d}.png": COLOUR for n in range(40)})
    for number in range(0, 36, 3):
        (tmp_path / f"{number:02d}.png").write_bytes(b"nothing")
    for size in (6, None):
        with pytest.raises(
            UserError, match=r"^12 of 40 images in .* cannot be read \(first: '00.png' \(not an im"
        ) as caught:
            load(paths, size=size, channels=3, cache_dir=tmp_path / "cache")
        assert "'27.png'" in str(caught.value)
        assert "'30.png'" not in str(caught.value)
    assert cache_entries(tmp_path / "cache") == []


def damage(file, how):
    whole = file.read_bytes()
    file.unlink()
    if how == "missing":
        return
    if how == "a folder":
        file.mkdir()
    elif how == "a pipe":
        os.mkfifo(file)
    else:
        content = {
            "empty": b"",
            "cut short": whole[: len(whole) // 2],
            "a web page": b"<html></html>",
            "a program for Ghostscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
            "a header of another length": whole[:16] + b"\xff" * 8 + whole[24:],
        }
        file.write_bytes(content[how])


DAMAGE = ("missing", "a folder", "a pipe", "empty", "cut short", "a web page", "a program for Ghostscript")


@pytest.mark.parametrize(
    ("kind", "how"),
    [*((kind, how) for kind in ("PNG", "JPEG") for how in DAMAGE), ("PNG", "a header of another length")],
)
def test_every_damage_is_named(tmp_path, kind, how):
    save(tmp_path, {"good.png": COLOUR})
    Image.fromarray(np.kron(COLOUR, np.ones((9, 9, 1), np.uint8))).save(tmp_path / "bad.jpg", format=kind)
    damage(tmp_path / "bad.jpg", how)
    paths = Paths.from_list(tmp_path, ["good.png", "bad.jpg"])
    with pytest.raises(
        UserError, match=r"^1 of 2 images in .* cannot be read \(first: 'bad.jpg' \(.+\)\): replace or"
    ) as caught:
        load(paths, size=6, channels=3)
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------------- the cache


class Witness:
    """Whether images were decoded, and what was said."""

    def __init__(self, paths, cache, **options):
        self.said, self.decoded = [], False
        self.pixels = load(paths, cache_dir=cache, progress=self.progress, say=self.said.append, **options)

    def progress(self, done, total):
        self.decoded = True


@pytest.fixture
def paths(tmp_path):
    return save(tmp_path / "images", {"a.png": COLOUR, "b.png": 255 - COLOUR})


def test_a_second_time_comes_from_the_cache(tmp_path, paths):
    first, second = Witness(paths, tmp_path / "new" / "cache"), Witness(paths, tmp_path / "new" / "cache")
    assert (first.decoded, second.decoded) == (True, False)
    np.testing.assert_array_equal(first.pixels, [COLOUR, 255 - COLOUR])
    np.testing.assert_array_equal(second.pixels, first.pixels)
    assert first.said == second.said == []
    second.pixels[:] = 0  # a private mapping: the file keeps its pixels
    np.testing.assert_array_equal(Witness(paths, tmp_path / "new" / "cache").pixels, first.pixels)


def test_without_a_cache_nothing_is_written(tmp_path, paths, monkeypatch):
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path / "cache"))
    assert Witness(paths, None).decoded
    assert not (tmp_path / "cache").exists()


def test_a_moved_folder_is_still_known(tmp_path, paths):
    Witness(paths, tmp_path / "cache")
    (tmp_path / "images").rename(tmp_path / "moved")
    assert not Witness(Paths.from_list(tmp_path / "moved", ["a.png", "b.png"]), tmp_path / "cache").decoded


def rewrite(folder):
    """Another picture of the same size on disk, with the old modification time: only the status time tells."""
    file = folder / "a.bmp"
    before = file.stat()
    Image.fromarray(255 - COLOUR).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_another_picture_in_the_same_file_is_noticed(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.bmp")
    paths = Paths.from_list(tmp_path, ["a.bmp"])
    Witness(paths, tmp_path / "cache")
    rewrite(tmp_path)
    changed = Witness(paths, tmp_path / "cache")
    assert changed.decoded
    np.testing.assert_array_equal(changed.pixels[0], 255 - COLOUR)


def test_other_options_order_and_names_are_other_sets(tmp_path, paths):
    cache = tmp_path / "cache"
    Witness(paths, cache)
    assert Witness(paths, cache, size=5).decoded
    assert Witness(paths, cache, size=6).decoded
    assert Witness(paths, cache, channels=1).decoded
    turned = Witness(paths.select(np.array([1, 0])), cache)
    assert turned.decoded
    np.testing.assert_array_equal(turned.pixels, [255 - COLOUR, COLOUR])
    assert len(cache_entries(cache)) == 5
    assert Witness(paths, cache, size=5, resize="short_side").decoded
    assert Witness(paths, cache, size=5, exif=False).decoded
    assert not Witness(paths, cache, size=5, resize="short_side").decoded
    assert len(cache_entries(cache)) == 7
    headers(paths, cache_dir=cache)
    headers(paths, exif=False, cache_dir=cache)
    assert len(cache_entries(cache)) == 9


def flip(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "how",
    [
        lambda array, about: flip(array),
        lambda array, about: array.write_bytes(array.read_bytes()[:-1]),
        lambda array, about: array.write_bytes(b""),
        lambda array, about: array.unlink(),
        lambda array, about: about.write_text("{"),
        lambda array, about: about.write_text(json.dumps({"sha256": "0"})),
    ],
    ids=["flipped bit", "cut short", "emptied", "removed", "broken json", "other json"],
)
def test_a_damaged_cache_is_rebuilt_and_said(tmp_path, paths, how):
    cache = tmp_path / "cache"
    whole = Witness(paths, cache).pixels
    (entry,) = cache_entries(cache)
    how(cache / f"{entry.name}.npy", cache / f"{entry.name}.json")
    again = Witness(paths, cache)
    assert again.decoded
    assert len(again.said) == 1
    assert again.said[0].endswith("is damaged: it is made again")
    np.testing.assert_array_equal(again.pixels, whole)
    healed = Witness(paths, cache)
    assert (healed.decoded, healed.said) == (False, [])


def test_damage_is_said_without_being_asked(tmp_path, paths):
    load(paths, cache_dir=tmp_path)
    flip(next(tmp_path.glob("*.npy")))
    with pytest.warns(UserWarning, match="damaged"):
        load(paths, cache_dir=tmp_path)


def test_a_folder_that_takes_no_cache_is_said(tmp_path, paths):
    (tmp_path / "file").touch()
    witness = Witness(paths, tmp_path / "file" / "cache")
    np.testing.assert_array_equal(witness.pixels, [COLOUR, 255 - COLOUR])
    assert len(witness.said) == 1
    assert "not cached" in witness.said[0]
    assert "Not a directory" in witness.said[0]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    paths = save(tmp_path / "images", {"a.png": np.zeros((64, 64, 3), np.uint8)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # no file may grow beyond: writing fails midway
    try:
        witness = Witness(paths, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert witness.pixels.shape == (1, 64, 64, 3)
    assert len(witness.said) == 1
    assert "not cached" in witness.said[0]
    assert "set GLMC_CACHE to another folder" in witness.said[0]
    assert list((tmp_path / "cache").iterdir()) == []


def test_entries_and_clearing(tmp_path, paths):
    cache = tmp_path / "cache"
    assert cache_entries(cache) == []
    assert clear_cache(cache) == 0
    Witness(paths, cache)
    (entry,) = cache_entries(cache)
    assert entry.root == str(tmp_path / "images")
    assert entry.bytes == (cache / f"{entry.name}.npy").stat().st_size >= 2 * 6 * 6 * 3
    assert entry.date[:2] == "20"
    (cache / "mine.npy").write_bytes(b"1234")
    (cache / ".glmc-left.tmp").write_bytes(b"123")
    total = sum(file.stat().st_size for file in cache.iterdir())
    assert clear_cache(cache) == total - 4
    assert [file.name for file in cache.iterdir()] == ["mine.npy"]
    assert Witness(paths, cache).decoded


def test_the_usual_folder_of_the_cache(tmp_path, paths, monkeypatch):
    for name in ("GLMC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "glmc"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "glmc"
    monkeypatch.setenv("GLMC_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"
    Witness(paths, cache_folder())
    assert len(cache_entries()) == 1
    assert clear_cache() > 0
    assert cache_entries() == []


# --------------------------------------------------------------------------------------------------- real photographs


def test_real_photographs_as_pil_reads_them(tmp_path):
    folder = os.environ.get("GLMC_TEST_DATA")
    if not folder or not os.path.isdir(os.path.join(folder, "cifar10-jpeg")):
        pytest.skip("set GLMC_TEST_DATA to the folder that holds cifar10-jpeg")
    names = sorted(os.listdir(os.path.join(folder, "cifar10-jpeg", "test", "cat")))[:64]
    paths = Paths.from_list(os.path.join(folder, "cifar10-jpeg", "test", "cat"), names)
    expected = [np.asarray(Image.open(path)) for path in paths]
    np.testing.assert_array_equal(load(paths), expected)
