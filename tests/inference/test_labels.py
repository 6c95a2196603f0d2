"""Planted mistakes are found, in a long tail, too; and the corrected list trains again."""

import csv
import itertools
import re
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_predict

from glmc import recipe, report
from glmc.cli.training import train
from glmc.data import parts, sources
from glmc.data.holdout import HoldOut
from glmc.data.inventory import names
from glmc.errors import UserError
from glmc.inference.labels import judge, labels
from glmc.train import seeds

CALL = {"command": "glmc", "quiet": True, "since": 0.0}


def planted(seed):
    """Twelve classes of 300 to 6 images, 8 % of them mislabelled as another class by its frequency: out-of-fold
    log-probabilities, labels, which are wrong, which are of the five rarest classes."""
    draws = np.random.default_rng(seed)
    counts = np.rint(300 * (6 / 300) ** (np.arange(12) / 11)).astype(int)
    true = np.repeat(np.arange(12), counts)
    images = 0.65 * draws.normal(size=(12, 16))[true] + draws.normal(size=(len(true), 16))
    given = true.copy()
    for row in np.flatnonzero(draws.random(len(true)) < 0.08):
        others = np.where(np.arange(12) == true[row], 0, counts)
        given[row] = draws.choice(12, p=others / others.sum())
    model = LogisticRegression(max_iter=200)
    found = cross_val_predict(model, images, given, cv=5, method="predict_log_proba")
    return found, given, given != true, given >= 7


def confident_learning(log_probabilities, given):
    """The published rule: bool [N], off the diagonal of the confident joint."""
    p = np.exp(log_probabilities)
    thresholds = np.array([p[given == c, c].mean() for c in range(p.shape[1])])
    confident = np.where(p >= thresholds, p, 0)
    return (confident.max(1) > 0) & (confident.argmax(1) != given)


def f1(flagged, wrong):
    return 2 * (flagged & wrong).sum() / (flagged.sum() + wrong.sum())


def test_planted_mistakes_are_found_and_rare_classes_are_not_flagged_as_a_whole():
    better = []
    for seed in range(3):
        log_probabilities, given, wrong, rare = planted(seed)
        judged = judge(log_probabilities, given)
        flagged = judged.contradicted(given)
        plain = -log_probabilities[np.arange(len(given)), given]  # the probability of the label alone
        as_many = plain >= np.sort(plain)[-flagged.sum()]
        better.append(
            [
                average_precision_score(wrong, judged.score) - average_precision_score(wrong, plain),
                f1(flagged, wrong) - f1(as_many, wrong),
                f1(flagged, wrong) - f1(confident_learning(log_probabilities, given), wrong),
                as_many[rare & ~wrong].mean() - flagged[rare & ~wrong].mean(),
            ]
        )
        assert flagged[rare & ~wrong].mean() < 0.15
        assert f1(flagged, wrong) > 0.5
    assert (np.mean(better, 0) > [0.03, 0.02, 0.1, 0.1]).all(), better


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """Three shades with 16, 12 and 8 photographs in burst folders of two, two of them in the wrong class, in 2 folds;
    and one that is alone in its class."""
    place = tmp_path_factory.mktemp("labels")
    draws = np.random.default_rng(0)
    for shade, (name, number) in enumerate({"ant": 16, "bee": 12, "=cat": 8}.items()):
        for i in range(number):
            wrong = name == "ant" and i in (3, 8)
            pixels = np.clip((170 if wrong else 85 * shade) + draws.integers(0, 60, (8, 8, 3)), 0, 255).astype(np.uint8)
            file = place / "photos" / name / f"burst{name}{i // 2}" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    (place / "photos/dog").mkdir()
    Image.new("RGB", (8, 8)).save(place / "photos/dog/0.png")
    values = ["data.size=8", "data.batch_size=4", "views.train=[flip]", "views.test=[]", "train.epochs=5"]
    values += [f"data.root={place}/photos", "data.groups=parent-folder", "model.name=resnet20", "optim.lr=0.02"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda run: None)  # it takes longer than such a run
        seeds.train_folds(recipe.load("folder/ce", values), 2, place / "cv", **CALL)
    return place


def test_planted_mistakes_stand_first_and_the_corrected_list_trains_again(folds, capsys):
    base = folds / "cv"
    labels(base)
    said = capsys.readouterr().out
    file = base / "labels.csv"
    with open(file, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 37
    assert {row["path"] for row in rows[:2]} == {"ant/burstant1/3.png", "ant/burstant4/8.png"}
    assert {(row["label"], row["given"], row["suggested"]) for row in rows[:2]} == {("ant", "ant", "'=cat")}
    assert [float(row["score"]) for row in rows[:2]] > [10, 10]
    assert (rows[-1]["path"], rows[-1]["score"]) == ("dog/0.png", "")
    assert "1 images are in no fold" in said
    page = (base / "labels.html").read_text()
    assert page.count("<figure") == sum(row["suggested"] != "" for row in rows)
    assert "label <b>ant</b>" in page
    assert 'href="labels.html"' in (base / "report.html").read_text()

    text = file.read_text()
    for row in rows[:2]:
        text = text.replace(f"{row['path']},ant,", f"{row['path']},'=cat,")
    file.write_text(text)
    words = shlex.split(said.split("then: ")[1])
    assert words[:5] == ["glmc", "train", str(base / "recipe.yaml"), "--folds", "2"]
    data = recipe.load(words[2], [*words[5:], "data.folds=2", "data.fold=0"]).data
    again = parts.find(data)
    counts = dict(zip(again.train.classes, (again.train.counts + again.test.counts).tolist(), strict=True))
    assert counts == {"=cat": 10, "ant": 14, "bee": 12, "dog": 1}
    bursts = [{file.split("/")[1] for file in names(split)} - {"0.png"} for split in (again.train, again.test)]
    assert not bursts[0] & bursts[1]
    with pytest.raises(UserError, match=r"labels\.csv is there already, and may hold your corrections"):
        labels(base)


def test_a_single_run_contradicts_no_label(folds):
    with pytest.raises(UserError, match=r"is no cross-validation.*glmc train .*fold-1/recipe\.yaml --folds 5 makes"):
        labels(folds / "cv" / "fold-1")


def test_folds_of_a_folder_with_a_test_set_are_of_its_training_images(folds, tmp_path):
    """The command that is printed for a run on such a folder works, and --folds without it is refused unread."""
    for part, name in itertools.product(("train", "test"), ("ant", "bee")):
        shutil.copytree(folds / "photos" / name, tmp_path / "own" / part / name)
    values = [f"data.root={tmp_path}/own", "data.groups=parent-folder", "data.size=8"]
    (tmp_path / "recipe.yaml").write_text(recipe.load("folder/ce", values).to_yaml())
    with pytest.raises(UserError) as error:
        labels(tmp_path)
    words = shlex.split(re.search("glmc train .* makes", str(error.value))[0])[2:-1]
    assert words[1:] == ["--folds", "5", f"data.root={tmp_path}/own/train"]
    found = parts.find(recipe.load(words[0], [words[3], "data.folds=5", "data.fold=0"]).data)
    assert len(found.train) + len(found.test) == 28
    for name in (f"{tmp_path}/own", f"{tmp_path}/recipe.yaml"):
        with pytest.raises(UserError, match=rf"^--folds .* set data\.root={tmp_path}/own/train$"):
            train([name, "data.groups=parent-folder"], folds=5, out=tmp_path / "cv", quiet=True)
    with pytest.raises(UserError, match=r"set data\.test_list=null$"):
        sources.load("list", root="", train_list="a.csv", test_list="b.csv", hold=HoldOut(folds=5))
