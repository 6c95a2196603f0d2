import csv
import json

import numpy as np
import pytest
from PIL import Image

from glmc.errors import UserError
from glmc.report import evidence

CLASSES = ("cat", "dog, big", "猫", "rare")
TRUE = np.array([0, 0, 0, 1, 1, 2, 2, 3, 3, 3])
PREDICTED = np.array([0, 1, 1, 1, 0, 2, 2, 0, 0, 3])
CONFIDENCE = np.array([0.9, 0.6, 0.8, 1.0, 0.5, 0.4, 0.0, 0.7, 0.9, 0.3])
TRAIN = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])


def pictures(height, width, channels):
    return lambda row: np.full((height, width, channels), 10 * row, dtype=np.uint8)


def write(run, side=(8, 8, 1), train=True, **more):
    run.mkdir(exist_ok=True)
    picture = pictures(*side)
    evidence.write(run, CLASSES, TRUE, PREDICTED, CONFIDENCE, picture, TRAIN, picture if train else None, **more)
    return json.loads((run / "examples" / "examples.json").read_text())


def test_predictions_come_back(tmp_path):
    write(tmp_path)
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {"image": "1", "true": "cat", "predicted": "dog, big", "confidence": "0.600000"}
    found = evidence.read_predictions(tmp_path, CLASSES)
    assert found.images == tuple(map(str, range(10)))
    assert found.true.tolist() == TRUE.tolist()
    assert found.predicted.tolist() == PREDICTED.tolist()
    assert found.confidence.tolist() == CONFIDENCE.tolist()
    assert evidence.read_predictions(tmp_path / "elsewhere", CLASSES) is None


def test_paths_stand_for_rows_whatever_they_are(tmp_path):
    names = [f"a,b\udcff {i}\n.jpg" for i in range(10)]
    chosen = write(tmp_path, names={"test": names, "train": [f"{i}.jpg" for i in range(10)]})
    assert chosen["files"]["test-2.png"] == names[2]
    assert chosen["files"]["train-4.png"] == "4.jpg"
    assert evidence.read_predictions(tmp_path, CLASSES).images == tuple(names)


def test_the_examples_are_the_worst(tmp_path):
    chosen = write(tmp_path)
    assert [(pair["true"], pair["predicted"]) for pair in chosen["pairs"]] == [
        ("cat", "dog, big"),
        ("rare", "cat"),
        ("dog, big", "cat"),
    ]
    assert chosen["pairs"][0]["test"] == ["test-2.png", "test-1.png"], "the most confident mistake first"
    assert chosen["pairs"][0]["train"] == ["train-4.png", "train-5.png"], "of the class it was taken for"
    assert chosen["tail"] == [{"class": "rare", "train": ["train-9.png"]}], "class 3 of the tail has no mistake"
    assert evidence.read_examples(tmp_path) == chosen
    pixels = np.asarray(Image.open(tmp_path / "examples" / "test-2.png"))
    assert (pixels == 20).all()
    assert pixels.shape == (8, 8)


def test_without_training_images(tmp_path):
    chosen = write(tmp_path, train=False)
    assert chosen["tail"] == []
    assert all(pair["train"] == [] for pair in chosen["pairs"])


def test_large_images_become_thumbnails(tmp_path):
    chosen = write(tmp_path, side=(300, 150, 3))
    name = chosen["pairs"][0]["test"][0]
    assert name == "test-2.jpg"
    assert Image.open(tmp_path / "examples" / name).size == (32, 64)


def test_pictures_that_are_gone_are_left_out_and_no_path_leads_outside(tmp_path):
    chosen = write(tmp_path)
    (tmp_path / "examples" / "test-2.png").unlink()
    assert evidence.read_examples(tmp_path)["pairs"][0]["test"] == ["test-1.png"]
    chosen["pairs"][0]["test"].append("../predictions.csv")
    (tmp_path / "examples" / "examples.json").write_text(json.dumps(chosen))
    with pytest.raises(UserError, match=r"examples.json is damaged \(pairs.0.test.2"):
        evidence.read_examples(tmp_path)


def test_few_files_whatever_the_number_of_classes(tmp_path):
    random = np.random.default_rng(0)
    true, predicted = random.integers(0, 500, 4000), random.integers(0, 500, 4000)
    train = np.repeat(np.arange(500), 7)
    called = []

    def picture(row):
        called.append(row)
        return np.zeros((4, 4, 3), dtype=np.uint8)

    classes = [str(c) for c in range(500)]
    evidence.write(tmp_path, classes, true, predicted, np.ones(4000), picture, train, picture)
    assert len(called) <= 60
    assert len(list((tmp_path / "examples").iterdir())) <= 61


def test_predictions_of_other_classes_are_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(UserError, match=r"predictions.csv line 3 is not"):
        evidence.read_predictions(tmp_path, ("cat", "dog", "猫", "rare"))
