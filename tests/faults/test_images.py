"""A thousand damaged and odd images through both loaders, `predict` and `stats`: each read by all or refused by all."""

import os
import resource
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from glmc.batches.worker import TASK, Task, Workshop
from glmc.data import bad, decode, folders, pictures
from glmc.data.sources import Source
from glmc.data.split import Paths
from glmc.errors import UserError
from glmc.inference.predict import decoded_ahead, readable
from glmc.recipe import load
from glmc.screen import Screen
from glmc.stats import files, near

SIDE = 24
KINDS = {
    "jpg": {"format": "JPEG", "quality": 90},
    "jpeg": {"format": "JPEG", "progressive": True},
    "png": {"format": "PNG"},
    "gif": {"format": "GIF"},
    "bmp": {"format": "BMP"},
    "tif": {"format": "TIFF", "compression": "tiff_lzw"},
    "webp": {"format": "WEBP", "lossless": True},
    "ppm": {"format": "PPM"},
}
MOST = 400 << 20  # bytes that reading them may take, bombs included


def encoded(rng, kind):
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    picture = coarse.resize((40, 30), Image.Resampling.BICUBIC)
    file = BytesIO()
    (picture.convert("L") if rng.random() < 0.2 else picture).save(file, **KINDS[kind])
    return file.getvalue()


def damaged(rng, data, other):
    """Cut short, bits flipped, a stretch zeroed, taken out or put in, another file's end, something behind the end."""
    at, length = int(rng.integers(1, len(data))), int(rng.integers(1, 40))
    flipped = bytearray(data)
    for place in rng.integers(0, len(data), 1 + length // 8):
        flipped[place] ^= 1 << int(rng.integers(8))
    ways = (
        data[:at],
        bytes(flipped),
        data[:at] + bytes(min(length, len(data) - at)) + data[at + length :],
        data[:at] + data[at + length :],
        data[:at] + rng.bytes(length) + data[at:],
        data[:at] + other[at:],
        data + rng.bytes(length),
    )
    return ways[rng.integers(len(ways))]


def png_of(width, height):
    """A black picture, packed as small as it can be."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packer = zlib.compressobj(9)
    lines = b"".join(packer.compress(bytes(1 + -(-width // 8))) for _ in range(height)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def lay_odd_ones(folder):
    """What lies among images and is none, and a bomb."""
    os.mkfifo(folder / "pipe.png")
    (folder / "zeros.jpg").symlink_to("/dev/zero")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "empty.jpg").touch()
    (folder / "page.jpg").write_text("<html></html>")
    (folder / "bomb.png").write_bytes(png_of(13_000, 13_000))
    with open(folder / "hole.tif", "wb") as file:
        file.truncate(2**40)


def most_memory():
    """Bytes that this process has ever used at a time."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_of(13_000, 13_000))
    assert (tmp_path / "bomb.png").stat().st_size < 25_000
    paths, before = Paths.from_list(tmp_path, ["bomb.png"]), most_memory()
    said = r"13000 x 13000 pixels are more than data\.max_pixels=120000000 allows"
    with pytest.raises(UserError, match=rf"'bomb\.png' \({said}\)"):
        decode.materialise(paths, size=8, channels=3, cache_dir=None)
    assert "data.max_pixels=120000000" in files.look(paths, lambda done: None).broken[0]
    assert most_memory() - before < 100 << 20
    (tmp_path / "small.png").write_bytes(png_of(60, 50))
    (tmp_path / "bomb.png").write_bytes(png_of(17_000, 17_000))
    with pytest.raises(ValueError, match=r"it has more pixels than data\.max_pixels=120000000 allows"):
        pictures.read_image(tmp_path / "bomb.png", 3)
    with pytest.raises(ValueError, match=r"60 x 50 pixels are more than data\.max_pixels=2999 allows"):
        pictures.read_image(tmp_path / "small.png", 3, max_pixels=2999)
    assert pictures.read_image(tmp_path / "small.png", 3, max_pixels=3000).shape == (50, 60, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_what_libjpeg_warns_of_is_an_error(mode):
    file, pixels = BytesIO(), np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, "JPEG")
    whole = file.getvalue()
    hurt = whole[: len(whole) // 2] + b"\xff\xd9" + whole[len(whole) // 2 :]
    Image.open(BytesIO(hurt)).load()  # of which PIL says nothing
    with pytest.raises(ValueError, match=r"Corrupt JPEG data|Premature end"):
        pictures.picture_of(hurt, 3)
    assert pictures.picture_of(whole, 3).shape == (64, 64, 3)


@pytest.mark.parametrize("number", [60, pytest.param(1000, marks=pytest.mark.faults)])
def test_every_image_is_read_by_all_or_refused_by_all(number, tmp_path, noted, request):
    rng, kinds = np.random.default_rng(15), list(KINDS)
    for name in ("heron", "owl"):
        (tmp_path / name).mkdir()
        for index in range(number // 2):
            kind = kinds[rng.integers(len(kinds))]
            data = damaged(rng, encoded(rng, kind), encoded(rng, kind))
            (tmp_path / name / f"{index}.{kind}").write_bytes(data)
        (tmp_path / name / "whole.png").write_bytes(encoded(rng, "png"))
    lay_odd_ones(tmp_path / "owl")
    before = most_memory()
    split = folders.read(tmp_path)[0]["train"]
    paths, names = split.images, [split.images[row] for row in range(len(split))]
    refused = decode.unreadable(paths, channels=3, cache_dir=None)
    kept = [row for row in range(len(split)) if row not in refused]
    pixels = decode.materialise(paths.select(np.array(kept)), size=SIDE, channels=3, cache_dir=None)
    resident = {names[row]: image for row, image in zip(kept, pixels, strict=True)}

    ring = torch.zeros(1, TASK, SIDE, SIDE, 3, dtype=torch.uint8)
    digests, at = torch.zeros(len(split), dtype=torch.int64), torch.full((1, 2), -1)
    shop = Workshop(paths, SIDE, 3, None, "square", True, 16, pictures.MAX_PIXELS, digests, [ring], at)
    streamed = {}
    for row, name in enumerate(names):
        if shop[Task(0, np.array([row]), (None,))] is None:
            streamed[name] = ring[0, 0].numpy().copy()
    recipe, problems, asked = load("digits_lt/ce", ["data.channels=3", f"data.size={SIDE}"]), {}, {}
    for batch in decoded_ahead(names, recipe, 16):
        asked |= readable(batch, problems)
    looks = files.look(paths, lambda done: None)
    near.thumbnails(paths, looks, lambda done: None)

    def same(found, name):
        return np.array_equal(found[name], resident[name]) if name in resident else name not in found

    for row, name in enumerate(names):
        why = refused.get(row, "read")
        noted("damaged image, resident", "survived" if why and "\n" not in why else "silent")
        noted("damaged image, streaming", "survived" if same(streamed, name) else "silent")
        noted("damaged image, predict", "survived" if same(asked, name) else "silent")
        noted("damaged image, stats", "survived" if row in looks.broken or looks.sizes[row].min() > 0 else "silent")
    left = bad.without(Source(split, split, None), load("digits_lt/ce", ["data.cache=false"]).data, Screen(quiet=True))
    for row, label in enumerate(left.train.labels.tolist()):
        right = left.train.images.relative(row).startswith(left.train.classes[label])
        noted("label beside damaged images", "survived" if right else "silent")
    assert len(left.train) == len(kept)
    assert len(kept) < len(split)
    assert most_memory() - before < MOST
    outcomes = [outcome for _, (_, outcome) in request.node.user_properties]
    assert set(outcomes) == {"survived"}
