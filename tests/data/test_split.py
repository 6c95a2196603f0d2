import os
import sys

import numpy as np
import pytest

from glmc.data.split import Paths, Split, check_names
from glmc.errors import UserError

NAMES = ["a.jpg", "with space/b c.png", "ä/日本.jpg", os.fsdecode(b"latin\xe9.jpg"), ""]


def test_paths_come_back_as_they_went_in():
    paths = Paths.from_list("/root", iter(NAMES))
    assert len(paths) == len(NAMES)
    assert [paths.relative(row) for row in range(len(NAMES))] == NAMES
    assert list(paths) == [os.path.join("/root", name) for name in NAMES]
    assert paths[-2] == os.path.join("/root", NAMES[-2])
    with pytest.raises(IndexError):
        paths[len(NAMES)]


@pytest.mark.parametrize("rows", [[], [3], [4, 0, 0, 2]])
def test_selected_paths(rows):
    chosen = Paths.from_list("root", NAMES).select(np.array(rows, dtype=np.int64))
    assert list(chosen) == [os.path.join("root", NAMES[row]) for row in rows]
    assert chosen.offsets.dtype == np.int64


def test_an_absolute_path_stands_for_itself():
    assert Paths.from_list("/root", ["/elsewhere/a.jpg"])[0] == "/elsewhere/a.jpg"


def test_many_paths_take_little_memory():
    paths = Paths.from_list("root", (f"train/{row % 100:03d}/{row:032d}.jpg" for row in range(10_000)))
    assert sys.getsizeof(paths.blob) + paths.offsets.nbytes < 60 * 10_000


def test_split_counts_and_selects():
    images = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
    split = Split(images, np.array([2, 0, 2, 0]), ("a", "b", "c"))
    assert split.counts.tolist() == [2, 0, 2]
    assert split.counts.dtype == np.int64
    part = split.select(np.array([3, 0]))
    assert len(part) == 2
    assert part.labels.tolist() == [0, 2]
    assert part.classes == split.classes
    np.testing.assert_array_equal(part.images, images[[3, 0]])
    paths = Split(Paths.from_list("r", ["w", "x", "y", "z"]), split.labels, split.classes).select(np.array([3, 0]))
    assert [paths.images.relative(0), paths.images.relative(1)] == ["z", "w"]


@pytest.mark.parametrize("labels", [[0, 1, 2], [0], [-1, 0]])
def test_labels_must_fit(labels):
    with pytest.raises(ValueError, match="label"):
        Split(np.zeros((2, 1, 1, 1), np.uint8), np.array(labels), ("a", "b"))


@pytest.mark.parametrize(
    "names", [("Cat", "cat"), ("polar_bear", "polar bear"), ("caf\u00e9", "cafe\u0301"), ("a  b", "A b "), ("ß", "SS")]
)
def test_two_spellings_are_refused_with_their_places(names):
    with pytest.raises(UserError) as caught:
        check_names({names[0]: "train.txt:3", "dog": "train.txt:4", names[1]: "train.txt:9"})
    for part in (*map(repr, names), "train.txt:3", "train.txt:9", "two spellings", "rename"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "what"), [("ca\nt", "control character"), ("\x00", "control"), ("caf\udce9", "bytes that are no UTF-8")]
)
def test_a_name_that_cannot_be_written_is_refused(name, what):
    with pytest.raises(UserError) as caught:
        check_names({"dog": "/train/dog", name: f"/train/{name}"})
    assert what in str(caught.value)
    assert str(caught.value).encode().isascii()  # what is wrong is shown escaped


def test_other_names_are_not_two_spellings():
    check_names({name: "" for name in ("cat", "cats", "a-b", "a b", "-1", "1", "n01", "n1")})
