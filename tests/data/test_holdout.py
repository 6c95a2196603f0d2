"""What is held out: shares, folds, whole groups, nothing; and a cross-validation from its command to its page."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

from glmc import recipe, report
from glmc.data import parts, sources
from glmc.data.holdout import HoldOut, divide, fold_rows, grouped
from glmc.data.split import Paths, Split
from glmc.errors import UserError
from glmc.report import evidence
from glmc.runs import result
from glmc.train import run as training
from glmc.train import seeds

CALL = {"command": "glmc", "quiet": True, "since": 0.0}


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_each_image_is_in_one_fold_and_each_class_in_all_trainings(folds):
    counts = np.array([50, 11, 6, 2, 1])
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), counts))
    seen = []
    for fold in range(folds):
        kept, held = fold_rows(labels, folds, fold)
        assert sorted([*kept, *held]) == list(range(len(labels)))
        assert (np.bincount(labels[kept], minlength=5) > 0).all()
        share = np.bincount(labels[held], minlength=5)
        assert (np.abs(share - np.where(counts > 1, counts, 0) / folds) < 1).all()
        seen += held.tolist()
    assert sorted(seen) == np.flatnonzero(labels != 4).tolist()  # the only image of its class is always trained on


@pytest.mark.parametrize(("hold", "rule"), [(HoldOut(0.25), r"/(\d+)_"), (HoldOut(folds=4, fold=2), r"\d+(?=_)")])
def test_groups_stay_together(hold, rule):
    """Sixteen animals with five photographs each; one species has a single animal, which is trained on."""
    names = [f"{'ab'[animal % 2] if animal else 'c'}/{animal}_{i}.jpg" for animal in range(16) for i in range(5)]
    labels = np.array(["abc".index(name[0]) for name in names])
    pool = Split(Paths.from_list("", names), labels, ("a", "b", "c"))
    kept, held, _ = divide(grouped(pool, rule, of_classes=True), hold)
    animals = np.repeat(np.arange(16), 5)
    assert not set(animals[kept]) & set(animals[held])
    assert set(labels[kept]) == {0, 1, 2}
    assert set(labels[held]) == {0, 1}
    with pytest.raises(UserError, match=r"none of the 80 images has it in its path, e\.g\. 'c/0_0\.jpg'"):
        grouped(pool, "patient", of_classes=True)


def data_of(root, **values):
    return recipe.load(
        "folder/ce", [f"data.root={root}", *(f"data.{key}={value}" for key, value in values.items())]
    ).data


def sites(split):
    return {split.images.relative(row).rpartition("/")[0].rpartition("/")[2] for row in range(len(split))}


def test_folders_and_columns_name_groups_of_test_and_validation_images(tmp_path):
    """Six sites, at each of which both animals are seen; the third class is one site, the fourth lies in no site."""
    lines = ["Site,path,label"]
    for name in ("ant", "bee"):
        lines += [f"{site},{name}/site{site}/{i}.png,{name}" for site in range(6) for i in range(3)]
    lines += [f"9,cat/site9/{i}.png,cat" for i in range(4)] + [f"d{i},dog/{i}.png,dog" for i in range(4)]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    for file in (tmp_path / line.split(",")[1] for line in lines[1:]):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(file)
    listed = {"name": "list", "train_list": "list.csv"}
    for values in ({"groups": "parent-folder"}, {"groups": "column:site", **listed}):
        data = data_of(tmp_path, val_fraction=0.25, **values)
        source = parts.find(data)
        train, val = parts.long_tailed(source, data)
        assert len(train) + len(val) + len(source.test) == 44
        for one, other in itertools.combinations(({*sites(train)}, {*sites(val)}, {*sites(source.test)}), 2):
            assert not one & other - {"dog"}
        assert train.counts[2] == 4
        assert any("all images of class 'cat' are one group" in remark for remark in source.remarks)
    of_list = parts.find(data_of(tmp_path, groups="parent-folder", **listed)).train
    assert len(np.unique(of_list.groups[of_list.labels == 3])) == 1  # of a list, the whole folder is the group

    def complaint(**values):
        with pytest.raises(UserError) as caught:
            parts.find(data_of(tmp_path, **values))
        return str(caught.value).replace(f"{tmp_path}/", "")

    assert complaint(groups="column:place", **listed) == (
        "data.groups=column:place: list.csv has no such column, only Site, path, label; name one of these"
    )
    assert "data.groups=column:site needs data.name=list" in complaint(groups="column:site")
    (tmp_path / "list.csv").write_text("\n".join([*lines[:7], lines[7][1:], *lines[8:]]))
    assert complaint(groups="column:site", **listed).startswith("list.csv:8: no value in column 'site'")
    (tmp_path / "list.txt").write_text("ant/site0/0.png ant\nbee/site0/0.png bee\n")
    assert "list.txt has no columns" in complaint(groups="column:site", name="list", train_list="list.txt")
    assert "all 2 images are one group" in complaint(groups="site0", name="list", train_list="list.txt")
    with pytest.raises(UserError, match="no paths that could name their groups"):
        sources.load("digits", root="", hold=HoldOut(groups="x"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds") / "photos"
    rng = np.random.default_rng(0)
    for shade, (name, number) in enumerate({"ant": 12, "bee": 8, "cat": 5}.items()):
        (folder / name).mkdir(parents=True)
        for i in range(number):
            pixels = np.clip(90 * shade + rng.integers(0, 60, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def wanted(photos, *overrides):
    values = ["data.size=8", "data.batch_size=8", "views.train=[flip]", "views.test=[]", "train.epochs=1"]
    return recipe.load("folder/ce", [f"data.root={photos}", "model.name=resnet20", *values, *overrides])


def test_a_cross_validation_scores_every_image_once(photos, tmp_path, monkeypatch):
    write = report.write
    monkeypatch.setattr(report, "write", lambda run: run == tmp_path / "cv" and write(run))  # not of each fold
    base = seeds.train_folds(wanted(photos), 3, tmp_path / "cv", **CALL)
    found = result.read(base)
    runs = [base / f"fold-{number}" for number in (1, 2, 3)]
    assert [row["test"] for row in found.per_class] == [12, 8, 5]
    pooled = evidence.read_predictions(base, ("ant", "bee", "cat"))
    assert sorted(pooled.images) == sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    assert found.last["top1"] == pytest.approx(100 * (pooled.true == pooled.predicted).mean())
    top1 = [result.read(run).last["top1"] for run in runs]
    assert found.folds["top1"] == {
        "mean": pytest.approx(np.mean(top1)),
        "sd": pytest.approx(np.std(top1, ddof=1)),
        "n": 3,
    }
    page = (base / "report.html").read_text()
    assert "3-fold cross-validation" in page
    assert "each scored once" in page
    before = (base / "result.json").read_bytes()
    seeds.go_through(base, **CALL)  # all are finished: the page is written again, and says the same
    assert (base / "result.json").read_bytes() == before
    assert json.loads(before)["folds"]


def test_a_run_on_everything_is_finished_without_a_figure(photos, tmp_path):
    run = training.train(wanted(photos, "data.test_fraction=0"), tmp_path / "all", **CALL)
    found = result.read(run)
    assert (found.last, found.best_on_test, sum(found.counts)) == ({}, None, 25)
    (run / "result.json").unlink()
    assert result.read(training.resume(run, **CALL)).weights_sha256 == found.weights_sha256
