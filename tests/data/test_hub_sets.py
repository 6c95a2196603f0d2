"""Data sets through the `datasets` library: tables and folders on disk, as it would have fetched them."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from glmc.data import decode, hub
from glmc.errors import UserError

datasets = pytest.importorskip("datasets", reason='needs datasets: pip install ".[hub]"')


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8))


def png(seed):
    content = io.BytesIO()
    picture(seed).save(content, format="PNG")
    return {"bytes": content.getvalue(), "path": f"{seed}.png"}


def put(folder, columns=None, **parts):
    """Writes tables as they lie in a repository: part -> labels; image i of a part is `picture` of its place in all."""
    (folder / "data").mkdir(parents=True)
    names = {"label": datasets.ClassLabel(names=["ant", "bee", "none"])} | (columns or {})
    seed = 0
    for part, labels in parts.items():
        rows = {name: labels for name in names} | {"photo": [png(seed + i) for i in range(len(labels))]}
        seed += len(labels)
        features = datasets.Features({"photo": datasets.Image(), **names})
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(folder / "data" / f"{part}-00000-of-00001.parquet")
    return f"hf:{folder}"


def test_a_table_becomes_files_once(tmp_path):
    name = put(tmp_path / "bugs", train=[1, 0, 1], test=[0, 1], validation=[1])
    calls = []
    parts, remarks = hub.read(name, progress=lambda done, total: calls.append((done, total)))
    assert parts["train"].classes == ("ant", "bee")
    assert {part: split.labels.tolist() for part, split in parts.items()} == {
        "train": [1, 0, 1],
        "test": [0, 1],
        "val": [1],
    }
    assert remarks == [f"data.name={name}: 1 of its 3 class names have no image at all"]
    for part, first in (("train", 0), ("test", 3), ("val", 5)):
        split = parts[part]
        pixels = decode.materialise(split.images, size=4, channels=3, cache_dir=None)
        assert np.array_equal(pixels, [np.asarray(picture(first + i)) for i in range(len(split))])
    assert sorted(calls) == [(1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3)]
    again, _ = hub.read(name, progress=lambda done, total: calls.append((done, total)))
    assert len(calls) == 6  # what lies there is not written again
    assert [again["train"].images[i] for i in range(3)] == [parts["train"].images[i] for i in range(3)]
    assert str(tmp_path / "cache") in parts["train"].images[0]


def test_a_folder_is_used_in_place(tmp_path):
    for part, count in (("train", 2), ("validation", 1)):
        for label in ("ant", "bee"):
            (tmp_path / "bugs" / part / label).mkdir(parents=True)
            for i in range(count):
                picture(i).save(tmp_path / "bugs" / part / label / f"{i}.png")
    parts, remarks = hub.read(f"hf:{tmp_path / 'bugs'}")
    assert parts["train"].images[3] == str(tmp_path / "bugs" / "train" / "bee" / "1.png")
    assert parts["train"].labels.tolist() == [0, 0, 1, 1]
    assert set(parts) == {"train", "test"}
    assert "there is no test set, the validation set is taken" in remarks[0]


def test_of_several_labels_the_finest_and_of_secret_ones_none(tmp_path):
    columns = {
        "label": datasets.ClassLabel(names=["insect"] * 1 + ["other"]),
        "kind": datasets.ClassLabel(names=["ant", "bee", "cow"]),
    }
    name = put(tmp_path / "bugs", columns, train=[0, 1], test=[-1, -1], valid=[1])
    parts, remarks = hub.read(name)
    assert parts["train"].classes == ("ant", "bee")
    assert parts["test"].labels.tolist() == [1]
    assert any("of the labels label, kind, kind with the most classes is taken" in remark for remark in remarks)
    assert any("'test' is left aside, as its labels are kept secret" in remark for remark in remarks)


def test_what_is_wrong_is_told_in_a_sentence(tmp_path, monkeypatch):
    for name, sentence in (
        ("hf:bugs", "write hf:user/name, hf:user/name/config or hf:user/name@revision"),
        (f"hf:{tmp_path / 'none'}", "there is no folder"),
        (put(tmp_path / "a", train=[-1, 0, 1]), "1 images of its train set have no label"),
        (put(tmp_path / "b", train=[0, 0], test=[0, 1]), "class 'bee' has no training image"),
        (put(tmp_path / "c", test=[0, 1]), "has the parts test and no 'train'"),
        (
            put(tmp_path / "d", {"label": datasets.Value("int64")}, train=[0, 1]),
            "1 columns of images and 0 of class labels",
        ),
    ):
        with pytest.raises(UserError, match=r"data\.name=hf:") as caught:
            hub.read(name)
        assert sentence in str(caught.value)
    with pytest.raises(UserError, match=r"no copy lies in the cache; allow it with data\.download=true"):
        hub.read("hf:nobody/nothing", download=False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'needs the package datasets: pip install "glmc\[hub\]"'):
        hub.read("hf:nobody/nothing")
