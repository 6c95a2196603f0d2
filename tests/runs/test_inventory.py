"""The split that a run writes down: what comes to its folder later changes nothing, what changes in it is noticed."""

import json
import shutil
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from glmc import recipe
from glmc.errors import UserError
from glmc.inference import heldout
from glmc.runs import result, trained
from glmc.train import run as training
from glmc.train import stages
from glmc.train.saving import Saver

CALL = {"command": "glmc", "quiet": True, "since": 0.0}
pytestmark = pytest.mark.usefixtures("no_report")


def paint(folder, number, seed=0, first=0):
    """`number` pictures of noise for each of three classes, the last class with a third of them."""
    rng = np.random.default_rng(seed)
    for shade, name in enumerate(("ant", "bee", "cat")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(first, first + (number if shade < 2 else number // 3)):
            pixels = np.clip(80 * shade + rng.integers(0, 90, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.bmp")  # all files are of one size


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    place = tmp_path_factory.mktemp("split")
    paint(place / "photos", 12)
    values = ["data.size=8", "data.batch_size=8", "views.train=[flip]", "views.test=[]", "train.epochs=2"]
    wanted = recipe.load("folder/ce", [f"data.root={place / 'photos'}", "model.name=resnet20", *values])
    training.train(wanted, place / "run", **CALL)
    training.train(wanted.override("train.seed=1"), place / "sibling", **CALL)
    return place


@pytest.fixture
def place(trained_once, tmp_path):
    """Photographs, a run on them and its sibling, which may be changed; the run has not concluded."""
    shutil.copytree(trained_once, tmp_path / "copy")
    run = tmp_path / "copy" / "run"
    text = (run / "recipe.yaml").read_text().replace(str(trained_once), str(tmp_path / "copy"))
    (run / "recipe.yaml").write_text(text)
    return tmp_path / "copy"


def own(place):
    return (f"data.root={place / 'photos'}",)


def test_a_folder_that_grows_changes_no_figure(place):
    """Its split used to be drawn anew: trained images became test images, and stage 2 began with an invented gain."""
    run, before = place / "run", result.read(place / "run").last
    split = (run / "split.csv").read_bytes()
    paint(place / "photos", 9, seed=1, first=100)
    assert trained.test(run, own(place), quiet=True)["test"] == before
    for stage in ("tau_norm", "crt"):
        values = own(place) + (("train.epochs=1",) if stage == "crt" else ())
        second = stages.finetune(run, stage, values, place / stage, **CALL)
        assert (second / "split.csv").read_bytes() == split
        assert result.read(second).stage1.last == before
    (run / "result.json").unlink()
    training.resume(run, **CALL)
    assert result.read(run).last == before

    given = heldout.score_given(run, place / "photos", own(place), quiet=True)
    assert given["trained_on"] == split.count(b"\ntrain,") == 23
    (run / "split.csv").unlink()  # a split drawn anew is not taken for the run's own
    assert trained.test(run, own(place), quiet=False)["test"] != before
    with pytest.raises(UserError, match="no validation images"):
        heldout.own_images(trained.find_checkpoint(run), recipe.load(str(run / "recipe.yaml")), None)


def rewrite(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def replace_an_image(place):
    name = next(line.split(",")[1] for line in (place / "run/split.csv").read_text().splitlines() if "train," in line)
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(place / "photos" / name)


TAMPERED = {
    "learning rate": (lambda p: rewrite(p / "run/recipe.yaml", "  lr: ", "  lr: 1"), "optim.lr is"),
    "seed": (lambda p: rewrite(p / "run/recipe.yaml", "seed: 0", "seed: 7"), "train.seed is 7, .* trained with 0"),
    "epochs": (lambda p: rewrite(p / "run/recipe.yaml", "epochs: 2", "epochs: 3"), "train.epochs is 3"),
    "checkpoints of a sibling": (
        lambda p: shutil.copytree(p / "sibling/checkpoints", p / "run/checkpoints", dirs_exist_ok=True),
        "saved by another run",
    ),
    "an image": (replace_an_image, "1 altered"),
    "a missing image": (lambda p: next((p / "photos/ant").iterdir()).unlink(), "1 missing"),
    "other images": (lambda p: paint(p / "photos", 12, seed=3), "23 altered"),
    "the split": (lambda p: rewrite(p / "run/split.csv", "\ntest,ant", "\ntrain,ant"), "images than those that the"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_run_is_not_resumed_as_another_experiment(place, what):
    tamper, sentence = TAMPERED[what]
    (place / "run/result.json").unlink()
    tamper(place)
    with pytest.raises(UserError, match=sentence):
        training.resume(place / "run", **CALL)


def test_checkpoints_of_another_run_are_not_tested_as_its_own(place):
    shutil.copytree(place / "sibling/checkpoints", place / "run/checkpoints", dirs_exist_ok=True)
    for use in (lambda: trained.test(place / "run", own(place), quiet=True),
                lambda: stages.finetune(place / "run", "crt", (), place / "crt", **CALL)):  # fmt: skip
        with pytest.raises(UserError, match="saved by another run"):
            use()


def test_the_records_of_a_run_are_those_of_its_checkpoint(place):
    """A damaged line of metrics.jsonl used to change the loss of the next epoch."""
    file = place / "run/metrics.jsonl"
    whole = file.read_text()
    (place / "run/result.json").unlink()
    file.write_text("{" + whole[1:].replace('"epoch": 1', '"epoch": 9'))
    training.resume(place / "run", **CALL)
    assert [json.loads(line) for line in file.read_text().splitlines()] == [json.loads(x) for x in whole.splitlines()]


def test_streamed_images_are_known_once_they_have_been_read(place, monkeypatch):
    """To read half a million files before the first step would be an epoch's work; a worker reads them anyway."""
    wanted = recipe.load(str(place / "run/recipe.yaml"), ["data.loader=streaming", "data.workers=1"])
    run = place / "streamed"
    with monkeypatch.context() as patch:
        patch.setattr(Saver, "save", Mock(side_effect=RuntimeError("power cut")))  # of the first checkpoint
        with pytest.raises(RuntimeError, match="power cut"):
            training.train(wanted, run, **CALL)
    assert (run / "split.csv").read_bytes() == (place / "run/split.csv").read_bytes()
    replace_an_image(place)
    with pytest.raises(UserError, match=r"23 training images under .*, 1 altered"):
        training.resume(run, **CALL)
