"""`glmc stats` on folders, lists and arrays with everything wrong that people's images have."""

import doctest
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from glmc import stats
from glmc.data.split import Paths
from glmc.errors import UserError
from glmc.metrics import GROUPS
from glmc.stats import advice, duplicates, files, find, terminal
from glmc.stats.verify import verify


def save(file, size=(40, 30), mode="RGB", seed=None, **options):
    """An image file unlike all others: its path is the seed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(list(str(seed or file).encode()))
    pixels = draws.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, **options)


def fill(folder, **counts):
    """A folder of class folders."""
    for name, count in counts.items():
        for i in range(count):
            save(folder / name / f"{i}.jpg")
    return folder


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path / "photos", cat=9, dog=3)


@pytest.fixture(autouse=True)
def weights(monkeypatch):
    """Weights can be had, and nobody is asked."""
    monkeypatch.setattr("glmc.models.weights.obstacle", lambda name: None)


@pytest.fixture
def told(capsys):
    """(data, *assignments) -> what --json prints."""

    def tell(data, *assignments):
        stats.stats(str(data), assignments, as_text=False)
        return json.loads(capsys.readouterr().out)

    return tell


@pytest.mark.parametrize("room", [advice, find, terminal], ids=lambda room: room.__name__)
def test_the_examples_in_the_docstrings(room):
    assert doctest.testmod(room).failed == 0


# ---------------------------------------------------------------------------------------------------- what DATA is


def test_a_folder_is_counted_whole_and_grouped_by_what_is_trained_on(photos, told):
    fill(photos, cat=22)
    said = told("photos")
    assert said["images"] == {"train": 25}
    assert (said["classes"], said["largest"], said["median"], said["smallest"]) == (2, 22, 12.5, 3)
    assert said["imbalance"] == round(22 / 3, 4)
    # 22 images are medium; without the fifth that is held out, 18 are few.
    assert [(row["class"], row["train"], row["trained"], row["group"]) for row in said["per_class"]] == [
        ("cat", 22, 18, "few"),
        ("dog", 3, 2, "few"),
    ]
    assert said["sizes"] == {
        "smallest": [40, 30], "median": [40, 30], "largest": [40, 30], "aspect": [1.333, 1.333, 1.333],
    }  # fmt: skip
    assert (said["formats"], said["modes"], said["refusal"]) == ({"JPEG": 25}, {"RGB": 25}, None)
    assert not any(said["odd"].values())
    assert not any(copies["images"] for copies in said["duplicates"].values())


def test_train_and_val_folders(tmp_path, told):
    fill(tmp_path / "train", a=4, b=2)
    fill(tmp_path / "val", a=2, b=2)
    said = told(tmp_path)
    assert said["images"] == {"train": 6, "test": 4}
    assert [row["trained"] for row in said["per_class"]] == [4, 2]


def test_a_list_finds_its_images_beside_itself_or_below_the_working_directory(photos, told, tmp_path):
    for file, prefix in ((photos / "all.txt", ""), (tmp_path / "lists" / "all.txt", "photos/")):
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(f"{prefix}{name}/{i}.jpg {name}\n" for name in ("cat", "dog") for i in range(3)))
        said = told(file)
        assert said["images"] == {"train": 6}
        assert said["odd"]["broken"] == []


def test_a_list_with_missing_images_is_told_all_the_same(photos, told):
    (photos / "train.txt").write_text("cat/0.jpg 0\ncat/nothing.jpg 0\ndog/0.jpg 2\n")
    said = told(photos / "train.txt")
    assert said["odd"]["broken"] == ["cat/nothing.jpg (No such file or directory)"]
    assert [row["class"] for row in said["per_class"]] == ["0", "2"]
    assert "no image of 1 of them" in said["refusal"]


def test_numbered_classes_sort_by_number(photos, told):
    (photos / "train.txt").write_text("".join(f"cat/{i % 9}.jpg {i}\n" for i in range(11)))
    said = told(photos / "train.txt")
    assert [row["class"] for row in said["per_class"]] == [str(i) for i in range(11)]
    assert said["duplicates"]["across"]["images"] == 4  # cat/0 and cat/1 have two labels each


def test_a_named_set_and_a_long_tail_cut_out_of_it(told):
    said = told("digits", "data.imbalance=10", "data.n_max=100", "eval.few=<=20")
    assert (said["largest"], said["smallest"], said["images"]["test"]) == (100, 10, 500)
    counts = np.array([row["train"] for row in said["per_class"]])
    assert said["groups"]["few"]["classes"] == (counts <= 20).sum()
    assert said["sizes"]["largest"] == [8, 8]


@pytest.mark.parametrize(
    ("word", "assignments", "sentence"),
    [
        ("fotos", (), "did you mean 'photos'?"),
        ("digit", (), "did you mean 'digits'?"),
        ("photos", ("train.seed=1",), "'train.seed=1' does not describe data"),
        ("photos", ("data.name=list",), "'data.name=list' does not describe data"),
        ("photos", ("data.sise=3",), "data.size"),
        ("photos/cat/0.jpg", (), "is a single file"),
        ("photos/cat", (), "holds no images"),
        ("photos", ("data.groups=parent_folder",), "data.groups is 'parent_folder': did you mean parent-folder?"),
        (
            ".",
            ("data.groups=column:site",),
            "data.groups=column:site needs data.name=list",
        ),  # images lie a folder deeper
    ],
)
def test_what_is_no_data_is_refused(photos, word, assignments, sentence):
    with pytest.raises(UserError) as error:
        stats.stats(word, assignments)
    assert sentence in str(error.value)


# ---------------------------------------------------------------------------------------------------- odd images


def test_odd_files_are_named_and_stop_nothing(photos, told):
    dog = photos / "dog"
    whole = (dog / "0.jpg").read_bytes()
    (dog / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (dog / "zero.png").write_bytes(b"")
    (dog / "page.jpg").write_text("<!DOCTYPE html><html>not found</html>")
    (dog / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(90))
    (dog / "notes.txt").write_text("none")
    (dog / "gone.jpg").symlink_to("nowhere")
    save(dog / "sign.jpg", format="PNG", mode="L")
    (photos / "Cat").mkdir()
    said = told("photos")
    cut, *others = sorted(said["odd"]["broken"])
    assert others.pop(2).startswith("dog/phone.jpg (")  # why depends on whether glmc[heic] is installed
    assert cut.startswith("dog/cut.jpg (image file is truncated")
    assert others == [
        "dog/gone.jpg (No such file or directory)",
        "dog/page.jpg (a web page)",
        "dog/zero.png (empty file)",
    ]
    assert said["odd"]["disguised"] == ["dog/sign.jpg is PNG"]
    assert said["odd"]["spelling"] == ["Cat = cat"]
    assert said["odd"]["empty"] == ["photos/Cat"]
    assert said["odd"]["other"] == ["photos/dog/notes.txt"]
    assert said["formats"] == {"JPEG": 12, "PNG": 1}
    assert said["modes"] == {"RGB": 12, "L": 1}
    assert "two spellings" in said["refusal"]
    assert said["advice"]["mend"][0].startswith("training refuses these data: two spellings")
    assert said["advice"]["mend"][1].startswith("5 images cannot be read")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_file_cut_short_is_found_and_a_whole_one_with_something_behind_is_not(tmp_path, form):
    ending = files.ENDINGS[form][0]
    save(tmp_path / f"a{ending}", format=form)
    whole = (tmp_path / f"a{ending}").read_bytes()
    (tmp_path / f"cut{ending}").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / f"more{ending}").write_bytes(whole + bytes(2 * files.TAIL))
    names = [f"a{ending}", f"cut{ending}", f"more{ending}"]
    looks = files.look(Paths.from_list(tmp_path, names), lambda done: None)
    assert list(looks.broken) == [1]
    assert looks.names == [(form, looks.names[0][1])]
    assert looks.sizes.tolist() == [[30, 40], [0, 0], [30, 40]]


def test_sideways_pictures_have_upright_sizes(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "b.png"):
        save(tmp_path / name, size=(50, 20), exif=exif)
    looks = files.look(Paths.from_list(tmp_path, ["a.jpg", "b.png"]), lambda done: None)
    assert looks.sizes.tolist() == [[50, 20], [50, 20]]


def test_long_files_that_begin_alike_are_read_whole(tmp_path):
    save(tmp_path / "a.bmp", size=(200, 200))
    whole = (tmp_path / "a.bmp").read_bytes()
    assert len(whole) > files.HEAD
    (tmp_path / "same.bmp").write_bytes(whole)
    (tmp_path / "other.bmp").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    digests = files.look(Paths.from_list(tmp_path, ["a.bmp", "same.bmp", "other.bmp"]), lambda done: None).digests
    assert digests[0].tolist() == digests[1].tolist() != digests[2].tolist()


def test_duplicates_within_and_across_classes_and_between_parts(tmp_path, told):
    train, test = fill(tmp_path / "train", cat=4, dog=3), fill(tmp_path / "test", cat=2, dog=2)
    shutil.copy(train / "cat/0.jpg", train / "cat/again.jpg")
    shutil.copy(train / "cat/0.jpg", test / "cat/leak.jpg")
    shutil.copy(train / "cat/1.jpg", train / "dog/wrong.jpg")
    twins = told(tmp_path)["duplicates"]
    assert {kind: copies["images"] for kind, copies in twins.items()} == {"within": 1, "across": 2, "test": 1, "val": 0}
    assert twins["across"]["examples"] == [["train/cat/1.jpg (cat)", "train/dog/wrong.jpg (dog)"]]
    assert sorted(twins["test"]["examples"][0]) == ["test/cat/leak.jpg", "train/cat/0.jpg", "train/cat/again.jpg"]


def test_test_images_that_are_nearly_a_training_image(tmp_path, told):
    draws = np.random.default_rng(0)

    def photograph():
        return Image.fromarray(draws.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((64, 48))

    for name in ("cat", "dog"):
        train, test = tmp_path / "train" / name, tmp_path / "test" / name
        train.mkdir(parents=True)
        test.mkdir(parents=True)
        photo, plain = photograph(), Image.new("RGB", (40, 40), {"cat": "red", "dog": "blue"}[name])
        photo.save(train / "photo.png")
        plain.save(train / "plain.png")
        photo.save(test / "same bytes.png")
        photo.resize((50, 40)).save(test / "small.jpg", quality=60)
        photo.convert("L").point(lambda value: 60 + value // 2).save(test / "light.bmp")
        photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(test / "mirrored.png")
        photograph().save(test / "other.png")
        Image.new("RGB", (40, 40), "white").save(test / "plain.png")
        photo.resize((12, 9)).save(test / "tiny.png")  # too little to tell
    said = told(tmp_path)
    assert said["duplicates"]["test"]["images"] == 2
    pairs = {tuple(pair) for pair in said["near_duplicates"]["test"]["examples"]}
    assert pairs == {
        (f"test/{name}/{file}", f"train/{name}/photo.png")
        for name in ("cat", "dog")
        for file in ("small.jpg", "light.bmp")
    }
    assert any(
        "4 test images nearly the same as a training image, e.g. test/" in text for text in said["advice"]["mend"]
    )


def test_frames_of_a_series_that_the_split_would_part(tmp_path, told, capsys):
    """Ten series of four frames; groups keep each on one side, where they do no harm."""
    draws = np.random.default_rng(0)
    for series in range(10):
        photo = Image.fromarray(draws.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((64, 48))
        folder = tmp_path / ("cat", "dog")[series % 2] / f"series{series}"
        folder.mkdir(parents=True)
        for frame in range(4):
            darker = photo.point(lambda value, dark=10 * frame: max(value - dark, 0))
            darker.save(folder / f"{frame}.jpg")
            darker.save(folder.parent / f"{series}_{frame}.jpg")
    parted = told(tmp_path)
    assert parted["near_duplicates"]["held"]["images"] == parted["images"]["train"] - 32 == 8
    with pytest.raises(UserError, match="8 images: nearly the same in train and what is held out of it"):
        verify(str(tmp_path))
    capsys.readouterr()
    for path in tmp_path.glob("*/*.jpg"):
        path.unlink()
    together = told(tmp_path, "data.groups=parent-folder")
    assert together["near_duplicates"]["held"]["images"] == 0
    assert together["near_duplicates"]["train"]["images"] == 30
    (sentence,) = (text for text in parted["advice"]["mend"] if "nearly the same" in text)
    assert sentence.startswith("8 of the 8 images held out for testing nearly the same as a training image, e.g. ")
    assert "data.groups (parent-folder, column:NAME" in sentence
    assert "nearly the same" not in " ".join(together["advice"]["mend"])
    verify(str(tmp_path), ["data.groups=parent-folder"])  # nothing speaks against these data


def test_duplicates_against_counting_pair_by_pair():
    draws = np.random.default_rng(0)
    sizes = {"train": 60, "test": 30, "val": 20}
    keys = {part: draws.integers(0, 40, (n, 1), dtype=np.uint64).repeat(2, 1) for part, n in sizes.items()}
    labels = {part: draws.integers(0, 3, n) for part, n in sizes.items()}
    readable = {part: draws.random(n) < 0.9 for part, n in sizes.items()}
    every = [(p, r, int(keys[p][r, 0]), int(labels[p][r])) for p in sizes for r in range(sizes[p]) if readable[p][r]]
    within = sum(any(q == p and s < r and k == j and m == n for q, s, j, m in every) for p, r, k, n in every)
    across = sum(any(k == j and m != n for _, _, j, m in every) for _, _, k, n in every)
    leaks = {
        part: sum(p == part and any(q == "train" and k == j for q, _, j, _ in every) for p, _, k, _ in every)
        for part in ("test", "val")
    }
    found = duplicates.duplicates(keys, labels, readable)
    assert found.within.images == within > 0
    assert found.across.images == across > 0
    assert {"test": found.test.images, "val": found.val.images} == leaks


# ------------------------------------------------------------------------------------------------- what is printed


def test_the_terminal_gets_a_bar_for_each_class_and_what_to_do(photos, capsys):
    stats.stats("photos")
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line for line in printed.splitlines() if line.split()[:1] in (["cat"], ["dog"])}
    assert lines["cat"].count("█") == pytest.approx(3 * lines["dog"].count("█"), abs=3)
    assert "imbalance factor" in printed
    assert "glmc train folder/linear data.root=photos" in printed


@pytest.mark.parametrize(("classes", "lines"), [(20, 20), (21, 22), (1000, 24)])
def test_the_curve_takes_few_lines_and_no_line_crosses_a_group(tmp_path, classes, lines):
    counts = np.geomspace(1200, 5, classes).astype(int)

    class Known:
        train = type("Train", (), {"classes": tuple(map(str, range(classes)))})
        order = np.arange(classes)
        group = np.select([counts > 100, counts >= 20], [0, 1], 2)

    Known.counts = counts
    bars = terminal.bars(Known)
    assert len(bars) <= lines
    assert [bar.group for bar in bars] == sorted((bar.group for bar in bars), key=GROUPS.index)
    if classes > terminal.NAMED:
        ends = [[int(end.replace(",", "")) for end in bar.label.split("-")] for bar in bars]
        assert ends[0][0] == 1
        assert ends[-1][-1] == classes
        for bar, end in zip(bars, ends, strict=True):
            assert bar.size == pytest.approx(counts[end[0] - 1 : end[-1]].mean())
            assert len(set(Known.group[end[0] - 1 : end[-1]])) == 1


def test_a_page_and_a_picture(photos, tmp_path, capsys):
    (photos / "dog").rename(photos / "<dog>")
    stats.stats("photos", out=tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert page.count("<svg") == 2
    assert "&lt;dog&gt;" in page
    assert "<dog>" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    stats.stats("photos", out=tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (1600, 640)


def test_nothing_is_overwritten(photos, tmp_path):
    (tmp_path / "a.png").write_text("mine")
    with pytest.raises(UserError, match="already"):
        stats.stats("photos", out=tmp_path / "a.png")
    with pytest.raises(UserError, match=r"must end in \.html"):
        stats.stats("photos", out=tmp_path / "a.jpg")
    assert (tmp_path / "a.png").read_text() == "mine"


def test_an_empty_folder_beside_the_classes_is_no_class(tmp_path, told):
    fill(tmp_path / "train", a=4, b=2)
    fill(tmp_path / "test", a=1, b=1)
    (tmp_path / "test" / "c").mkdir()
    (tmp_path / "train" / "d").mkdir()
    said = told(tmp_path)
    assert [row["class"] for row in said["per_class"]] == ["a", "b"]
    assert said["refusal"] is None


def test_a_folder_of_nothing_readable(tmp_path, told):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(b"no image")
    said = told(tmp_path)
    assert (said["sizes"], said["modes"], len(said["odd"]["broken"])) == ({}, {}, 2)
