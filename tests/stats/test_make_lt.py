"""`glmc make-lt`: its lists read back as what the same long tail in a recipe trains on."""

import doctest

import numpy as np
import pytest
from PIL import Image

from glmc.data import lists
from glmc.data.parts import find, long_tailed
from glmc.errors import UserError
from glmc.stats import make_lt
from glmc.stats.find import wanted


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """(layout, class names) -> a folder of them, 20 images a class and part."""
    monkeypatch.chdir(tmp_path)

    def make(parts=("",), names=("cat", "dog", "emu")):
        for part in parts:
            for c, name in enumerate(names):
                place = tmp_path / "photos" / part / name
                place.mkdir(parents=True)
                for i in range(20):
                    Image.fromarray(np.full((2, 2), 20 * c + i, np.uint8)).save(place / f"{i} x.png")
        return "photos"

    return make


def pairs(split):
    return [(split.images.relative(row), split.classes[split.labels[row]]) for row in range(len(split))]


def test_examples():
    assert doctest.testmod(make_lt).failed == 0


@pytest.mark.parametrize("rule", ["cao", "du"])
@pytest.mark.parametrize("name", ["x.txt", "x.csv"])
@pytest.mark.parametrize("parts", [("",), ("train", "test"), ("train", "test", "val")])
def test_the_lists_say_what_the_recipe_would_train_and_test_on(folder, tmp_path, parts, name, rule, capsys):
    data = folder(parts)
    make_lt.make_lt(data, imbalance=4, split=rule, order=3, out=tmp_path / name)
    stem, dot, ending = name.partition(".")
    files = {"train": name} | {
        part: f"{stem}_{part}{dot}{ending}" for part in ("test", "val") if part in parts or part == "test"
    }
    read, _ = lists.read(tmp_path / data, files)
    settings = wanted(data, ("data.imbalance=4", f"data.split={rule}", "data.class_order=3")).data
    source = find(settings)
    train, val = long_tailed(source, settings)
    assert pairs(read["train"]) == pairs(train)
    assert pairs(read["test"]) == pairs(source.test)
    assert ("val" in read) == (val is not None) == ("val" in parts)
    largest, smallest = (20, 5) if len(parts) > 1 else (16, 4)
    said = capsys.readouterr().out
    assert f"{name}: " in said
    assert f"{largest} to {smallest} a class" in said
    assert f"data.train_list={tmp_path / name}" in said


@pytest.mark.parametrize(
    ("names", "file", "classes"),
    [
        (("red fox", "dog"), "photos_if2.csv", ("dog", "red fox")),
        (("3", "20"), "photos_if2.txt", ("0", "1")),
        (("a.jpg", "b"), "photos_if2.csv", ("a.jpg", "b")),
        (("cat", "dog"), "photos_if2.txt", ("cat", "dog")),
    ],
)
def test_classes_keep_their_names_where_a_list_can_tell_them(folder, tmp_path, names, file, classes, capsys):
    make_lt.make_lt(folder(names=names), imbalance=2)
    read, _ = lists.read(tmp_path / "photos", {"train": str(tmp_path / file)})
    assert read["train"].classes == classes
    assert read["train"].counts.tolist() == [16, 8]
    assert ("classes are numbered" in capsys.readouterr().out) == (classes == ("0", "1"))


def test_a_list_with_its_test_list_gives_one_list(folder, tmp_path, capsys):
    folder()
    (tmp_path / "all.txt").write_text("".join(f"{c}/{i} x.png {c}\n" for c in ("cat", "dog") for i in range(15)))
    (tmp_path / "some.txt").write_text("".join(f"{c}/19 x.png {c}\n" for c in ("cat", "dog")))
    make_lt.make_lt("all.txt", ["data.root=photos", "data.test_list=some.txt"], imbalance=3, profile="step", n_max=12)
    read, _ = lists.read(tmp_path / "photos", {"train": str(tmp_path / "all_if3.txt")})
    assert read["train"].counts.tolist() == [12, 4]
    assert "data.test_list=some.txt" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.glob("*.txt")) == ["all.txt", "all_if3.txt", "some.txt"]


def test_nothing_is_overwritten_and_nothing_half_written(folder, tmp_path):
    data = folder()
    (tmp_path / "photos_if2_test.txt").write_text("mine")
    with pytest.raises(UserError, match=r"photos_if2_test\.txt is there already"):
        make_lt.make_lt(data, imbalance=2)
    (tmp_path / "photos_if2_test.txt").unlink()
    (tmp_path / "photos" / "emu" / "0 x.png").rename(tmp_path / "photos" / "emu" / "two\nlines.png")
    with pytest.raises(UserError, match="rename it without line breaks"):
        make_lt.make_lt(data, imbalance=1)
    assert list(tmp_path.glob("*.txt")) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"imbalance": 0.5}, "--imbalance 0.5: "),
        ({"imbalance": 4, "profile": "stair"}, "--profile stair: "),
        ({"imbalance": 4, "order": "size"}, "--order size: "),
        ({"imbalance": 4, "split": "coa"}, "--split coa: "),
        ({"imbalance": 4, "n_max": 30}, "the largest that works is --n-max 16"),
        ({"imbalance": 99}, "lower --imbalance to at most 16"),
    ],
)
def test_mistakes_are_told_in_the_words_of_the_command(folder, options, sentence):
    with pytest.raises(UserError) as error:
        make_lt.make_lt(folder(), **options)
    assert sentence in str(error.value)


def test_arrays_have_no_files_to_list():
    with pytest.raises(UserError, match=r"data\.imbalance=10 instead"):
        make_lt.make_lt("digits", imbalance=10)
