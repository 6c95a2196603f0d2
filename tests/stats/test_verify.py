"""`glmc data verify`: every image is decoded once, every bad file and every duplicate is named."""

import json

import numpy as np
import pytest
from PIL import Image

from glmc.data import pictures
from glmc.errors import UserError
from glmc.stats.verify import verify


@pytest.fixture
def photos(tmp_path):
    """A clean folder with training and test images."""
    draws = np.random.default_rng(0)
    for part, images in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for i in range(images):
                rough = Image.fromarray(draws.integers(0, 256, (6, 6, 3), dtype=np.uint8))
                rough.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=95)
    return tmp_path


def test_a_clean_folder_is_decoded_once_and_counted(photos, monkeypatch, capsys):
    read, honest = [], pictures.content_of
    monkeypatch.setattr(pictures, "content_of", lambda file: read.append(file) or honest(file))
    verify(str(photos))
    assert sorted(read) == sorted(map(str, photos.rglob("*.jpg")))
    assert capsys.readouterr().out.splitlines() == [
        "cat: 6 train, 3 test",
        "dog: 6 train, 3 test",
        "18 images decoded, nothing wrong",
    ]


def test_every_bad_file_and_every_duplicate_is_named(photos, capsys):
    whole = (photos / "train/cat/0.jpg").read_bytes()
    Image.open(photos / "train/cat/0.jpg").save(photos / "train/cat/hole.png")
    damaged = bytearray((photos / "train/cat/hole.png").read_bytes())
    damaged[2000:2100] = bytes(100)  # header and end are in order
    (photos / "train/cat/hole.png").write_bytes(damaged)
    for i in range(12):
        (photos / f"train/dog/none{i}.jpg").write_bytes(b"")
    (photos / "test/cat/copy.jpg").write_bytes(whole)
    Image.open(photos / "train/dog/1.jpg").resize((50, 50)).save(photos / "test/dog/near.jpg")
    with pytest.raises(UserError, match="13 images cannot be read; 1 image: the same bytes in train and test; 1 image"):
        verify(str(photos), as_text=False)
    bad, same, near = json.loads(capsys.readouterr().out)["problems"].values()
    assert sorted(name.partition(" ")[0] for name in bad) == [
        "train/cat/hole.png", *sorted(f"train/dog/none{i}.jpg" for i in range(12))
    ]  # fmt: skip
    assert (same, near) == (["test/cat/copy.jpg = train/cat/0.jpg"], ["test/dog/near.jpg = train/dog/1.jpg"])
