"""From a recipe's data section to images in memory, or to paths that are streamed."""

import numpy as np
import pytest
from PIL import Image

from glmc import recipe
from glmc.data import pictures
from glmc.data.cache import cache_entries
from glmc.data.prepare import measured, pixels, prepare
from glmc.data.split import Paths
from glmc.errors import UserError
from glmc.screen import Screen


class Listener(Screen):
    """A screen that remembers what was said."""

    def __init__(self):
        super().__init__(quiet=True)
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two classes of ten images, 20 x 30 and 30 x 20 pixels, the second ones turned by EXIF."""
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for part, images in (("train", 10), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for number in range(images):
                exif = Image.Exif()
                exif[0x0112] = 6 if name == "dog" else 1
                image = Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8))
                image.save(tmp_path / "photos" / part / name / f"{number}.jpg", exif=exif)
    return tmp_path / "photos"


def settled(folder, *overrides, name="folder", imbalance="null", room=None, **options):
    """(what prepare made of a recipe's data, what it said)."""
    listener = Listener()
    words = [
        f"data.imbalance={imbalance}",
        "data.mean=null",
        "data.std=null",
        f"data.name={name}",
        f"data.root={folder}",
    ]
    return prepare(
        recipe.load("cifar10_lt/ce", [*words, *overrides]).data, listener, room=room, **options
    ), listener.said


def test_images_that_fit_are_decoded(folder):
    data, said = settled(folder, "data.size=16", room=10**9)
    assert (data.loader, data.sizes, data.size, data.channels) == ("resident", None, 16, 3)
    assert pixels(data.train).shape == (20, 16, 16, 3)
    assert (
        "the 20 training images stay in memory: decoded to 16 x 16 pixels they take 0.0 MiB, and 0.9 GiB are free"
        in said
    )


def test_all_pictures_are_read_as_the_recipe_says(folder):
    for resize, exif in (("square", True), ("short_side", False)):
        words = ["data.size=17", f"data.resize={resize}", f"data.exif={str(exif).lower()}"]
        data, _ = settled(folder, *words, "data.val_fraction=0.2")
        for part, split in (("train", data.train), ("train", data.val), ("test", data.test)):
            files = sorted((folder / part).rglob("*.jpg"))
            right = {pictures.decode_image(file, 17, 3, resize, exif).tobytes() for file in files}
            assert {image.tobytes() for image in pixels(split)} <= right
        streamed, _ = settled(folder, *words, "data.loader=streaming", "data.area=whole")
        assert set(map(tuple, streamed.sizes.tolist())) == ({(20, 30), (30, 20)} if exif else {(20, 30)})


@pytest.mark.parametrize(
    ("room", "loader"), [(2 * 20 * 16 * 16 * 3, "resident"), (2 * 20 * 16 * 16 * 3 - 2, "streaming")]
)
def test_half_of_what_is_free_is_the_border(folder, room, loader):
    assert settled(folder, "data.size=16", room=room)[0].loader == loader
    assert settled(folder, "data.size=16", "data.loader=resident", room=room)[0].loader == "resident"
    assert settled(folder, "data.size=16", "data.loader=streaming", room=room)[0].loader == "streaming"


def test_streamed_images_stay_paths_and_are_measured_on_a_sample(folder, monkeypatch):
    resident, _ = settled(folder, "data.size=16")
    data, said = settled(folder, "data.size=16", room=1000)
    assert isinstance(data.train.images, Paths)
    assert (data.loader, data.sizes, data.size, data.channels) == ("streaming", None, 16, 3)
    assert pixels(data.test).shape == (4, 16, 16, 3)
    assert (data.mean, data.std) == (resident.mean, resident.std)
    (why,) = (text for text in said if "workers" in text)
    assert why == (
        "workers decode the 20 training images in each epoch: decoded to 16 x 16 pixels they take 0.0 MiB, and 0.0 MiB "
        "are free"
    )
    monkeypatch.setattr("glmc.data.prepare.SAMPLE", 7)
    monkeypatch.setattr("glmc.data.prepare.SAMPLE_PART", 3)
    sampled, said = settled(folder, "data.size=16", room=1000)
    assert any(text.startswith("normalisation measured on 7 of 20 training images: mean") for text in said)
    assert sampled.mean == settled(folder, "data.size=16", room=1000)[0].mean != data.mean
    assert sampled.mean == pytest.approx(data.mean, abs=0.05)


def test_whole_images_come_with_their_sizes(folder):
    data, said = settled(folder, "data.size=16", "data.area=whole", room=10**12)
    assert data.loader == "streaming"
    assert (
        "workers decode the 20 training images in each epoch: data.area=whole cuts out of the images as they are"
        in said
    )
    assert data.sizes is not None
    assert data.sizes.tolist() == [[20, 30]] * 10 + [[30, 20]] * 10
    (folder / "train" / "cat" / "0.jpg").touch()  # another time of change: the sizes are read anew, and are the same
    assert settled(folder, "data.size=16", "data.area=whole")[0].sizes.tolist() == data.sizes.tolist()
    assert len(cache_entries()) == 4  # two of sizes, pixels and contents of the test images


def test_the_rows_of_a_long_tail_have_their_own_sizes(folder):
    data, _ = settled(folder, "data.size=16", "data.area=whole", imbalance=5)
    assert len(data.train) == 12
    assert data.sizes is not None
    for row, (height, width) in enumerate(data.sizes.tolist()):
        assert pictures.read_image(data.train.images[row], 3).shape == (height, width, 3)


def test_all_bad_images_are_named_at_once_or_left_out(folder):
    names = ["train/cat/3.jpg", "train/dog/0.jpg", "train/dog/9.jpg", "test/cat/1.jpg"]
    (folder / names[0]).write_bytes((folder / names[0]).read_bytes()[:300])
    for name in names[1:]:
        (folder / name).write_text("<html></html>")
    with pytest.raises(
        UserError, match=r"^4 of 24 images cannot be read \(e.g. '.*3.jpg' \(.*; all in .*t\)"
    ) as caught:
        settled(folder, "data.size=16")
    with open(str(caught.value).partition("all in ")[2].partition(")")[0]) as lines:
        assert [line.split("\t")[0] for line in lines] == [str(folder / name) for name in names]
    for loader in ("resident", "streaming"):
        data, said = settled(folder, "data.size=16", "data.on_bad_image=skip", f"data.loader={loader}")
        assert (data.train.counts.tolist(), data.test.counts.tolist()) == ([9, 8], [1, 2])
        assert [line.split("\t")[0] for line in data.skipped] == [str(folder / name) for name in names]
        assert any(text.startswith("4 images cannot be read and are left out") for text in said)
    tail, _ = settled(folder, "data.size=16", "data.on_bad_image=skip", imbalance=4)
    assert tail.train.counts.tolist() == [9, 2]  # of what can be read
    for file in (folder / "train" / "cat").iterdir():
        file.write_bytes(b"")
    with pytest.raises(
        UserError, match=r"skip: class 'cat' has no training image that can be read, e.g. '.*cat/0.jpg'"
    ):
        settled(folder, "data.size=16", "data.on_bad_image=skip")


def test_one_bit_depth_for_all_images_of_a_set(folder):
    brightest = {}
    for file in sorted(folder.rglob("*.jpg")):
        values = np.random.default_rng(len(brightest)).integers(
            0, 4000 - 90 * len(brightest), (20, 20), dtype=np.uint16
        )
        brightest[file] = values.max()
        Image.fromarray(values).save(file, format="PNG")
    files = sorted((folder / "test").rglob("*.jpg"))
    for loader in ("resident", "streaming"):
        data, said = settled(folder, "data.size=20", f"data.loader={loader}")
        assert data.bits == 12
        assert any("grey images of 16 bits use 12 of them: their largest value, 3," in text for text in said)
        assert pixels(data.test).max((1, 2, 3)).tolist() == [brightest[file] // 16 for file in files]
    assert pixels(settled(folder, "data.bits=16")[0].test).max() < 16
    Image.fromarray(np.full((20, 20), 5000, np.uint16)).save(files[0], format="PNG")
    with pytest.raises(
        UserError, match=r"1 of 4 .* \(it has a pixel of 5000, which 12 bits do not hold: set data.bits"
    ):
        settled(folder, "data.size=20")


def test_grey_images_are_streamed_grey(folder):
    for file in folder.rglob("*.jpg"):
        Image.open(file).convert("L").save(file)
    data, _ = settled(folder, "data.size=16", "data.loader=streaming")
    assert (data.channels, pixels(data.test).shape, len(data.mean)) == (1, (4, 16, 16, 1), 1)
    assert settled(folder, "data.size=16", "data.loader=streaming", "data.channels=3")[0].channels == 3


REFUSED = {
    "no size to stream": (("data.loader=streaming",), r"data.loader=streaming needs data.size.*e.g. data.size=256"),
    "no size of whole images": (("data.area=whole",), r"data.area=whole needs data.size"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_streaming_needs_a_size(folder, name):
    overrides, sentence = REFUSED[name]
    with pytest.raises(UserError, match=sentence):
        settled(folder, *overrides)
    assert settled(folder, *overrides, size=12)[0].size == 12  # a pretrained network's will do


@pytest.mark.parametrize("override", ["data.loader=streaming", "data.area=whole"])
def test_arrays_are_not_streamed(folder, override):
    with pytest.raises(UserError, match=rf"{override} is for image files, and the images of digits come as one array"):
        settled(folder, override, name="digits")


def test_arrays_stay_in_memory_without_a_word(folder):
    data, said = settled(folder, name="digits", room=1)
    assert (data.loader, data.sizes) == ("resident", None)
    assert not any("memory" in text or "workers" in text for text in said)


def test_whole_images_in_memory_are_refused_with_the_recipe(folder):
    with pytest.raises(
        UserError, match=r"data.area is whole, which data.loader=resident does not keep: set data.loader"
    ):
        settled(folder, "data.area=whole", "data.loader=resident")


def test_measured_is_mean_and_deviation():
    images = np.random.default_rng(0).integers(0, 256, (9, 5, 5, 3), dtype=np.uint8)
    mean, std = measured([images[:4], images[4:]], 3)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)))
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)))
    assert measured([np.zeros((2, 3, 3, 1), np.uint8)], 1) == ([0.0], [1 / 255])  # nothing to divide by
