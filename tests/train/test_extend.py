"""`glmc extend` on a real, tiny run: new classes and images, both scores, interruption, errors."""

import shutil
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn import functional as F

from glmc import recipe, report
from glmc.data.inventory import listed, names
from glmc.data.joined import join
from glmc.data.split import Paths, Split
from glmc.errors import Interrupted, UserError
from glmc.methods.supervised import Supervised
from glmc.models.heads import Cosine, Head, with_rows
from glmc.runs import folder, result, trained
from glmc.screen import Screen
from glmc.train import run
from glmc.train.extend import extend, extended

QUIET = {"command": "glmc", "quiet": True, "since": time.perf_counter()}
CLASSES = ("zero", "one", "two")


def put(place, digit, rows):
    """Some of scikit-learn's images of a digit as files."""
    data = load_digits()
    place.mkdir(parents=True, exist_ok=True)
    for row in np.flatnonzero(data.target == digit)[rows]:
        Image.fromarray((data.images[row] * 15).astype(np.uint8)).save(place / f"{row}.png")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """photos: three digits; first: a run on them; more: a fourth digit, others of the first, and what is known."""
    home = tmp_path_factory.mktemp("extend")
    for digit, name in enumerate(CLASSES):
        put(home / "photos" / name, digit, slice(20))
    put(home / "more" / "Zero", 0, slice(15, 30))  # five of them are known
    put(home / "more" / "three", 3, slice(10))
    words = [
        f"data.root={home / 'photos'}", "data.size=8", "data.channels=1", "model.name=resnet20", "train.epochs=5",
        "views.train=[{crop: 1}]", "data.batch_size=16", "train.precision=float32", "data.cache=false",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda run: None)  # it takes longer than such a run
        run.train(recipe.load("folder/ce", words), home / "first", **QUIET)
    return home


def test_old_and_new_images_are_joined_and_scored_apart(home, tmp_path, capsys):
    out = extend(home / "first", (f"data.root={home / 'more'}",), tmp_path / "out", **QUIET | {"quiet": False})
    said = capsys.readouterr().out
    assert "the class 'Zero' is taken for 'zero', as the run spells it" in said
    first, found = (result.read(place) for place in (home / "first", out))
    assert [row["class"] for row in found.per_class] == ["one", "two", "zero", "three"]
    assert found.counts[:2] + found.counts[3:] == [16, 16, 8]
    assert (found.stage2, found.stage, found.epochs) == ("extend", 2, 1)
    assert found.stage1.tests == first.per_class
    assert found.stage1.last["top1"] == first.last["top1"]
    parts = {name: sum(row["test"] for row in getattr(found.extended, name)) for name in ("old_tests", "new_tests")}
    assert parts["old_tests"] == 12
    assert sum(found.counts) + sum(parts.values()) == 60 + 10 + 10  # each image once
    hits = sum(row["test"] * row["recall"] for row in found.extended.old_tests + found.extended.new_tests)
    assert hits / sum(parts.values()) == pytest.approx(found.last["top1"])
    for row in ("before, last", "after, the same", "after, new images", "after, all images"):
        assert row in said
    assert "three" in said.partition("accuracy of single classes")[2]
    assert "test images that came with the extension" in (out / "report.html").read_text()
    assert trained.test(out, (), quiet=True)["test"]["top1"] == found.last["top1"]
    before, after = (folder.inventory_of(place, folder.recipe_of(place).data.root) for place in (home / "first", out))
    assert set(before["test"].digests) <= set(after["test"].digests)
    assert not set(after["test"].digests) & set(after["train"].digests)


def test_an_interrupted_extension_goes_on_to_the_same_bits(home, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "write", lambda run: None)
    words = (f"data.root={home / 'more'}", "train.epochs=2")
    whole = extend(home / "first", words, tmp_path / "whole", **QUIET)
    with monkeypatch.context() as patch:
        patch.setattr(Supervised, "after_epoch", lambda _: signal.raise_signal(15))
        with pytest.raises(Interrupted, match="stopped by SIGTERM"):
            extend(home / "first", words, tmp_path / "halved", **QUIET)
    run.resume(tmp_path / "halved", **QUIET)
    one, other = (result.read(place) for place in (whole, tmp_path / "halved"))
    assert one.weights_sha256 == other.weights_sha256
    assert one.extended == other.extended


def test_images_that_have_moved_are_found_again_and_those_that_are_gone_are_told(home, tmp_path, capsys):
    for name in ("first", "photos", "more"):
        shutil.copytree(home / name, tmp_path / name)
    words = [f"data.root={tmp_path / 'photos'}"]
    point = trained.find_checkpoint(tmp_path / "first")
    first = recipe.parse_settled(point.state["recipe"], words)
    data = extended(first, tmp_path / "first", (f"data.root={tmp_path / 'more'}",)).data

    known = folder.inventory_of(tmp_path / "first", first.data.root)

    def joined():
        return join(known, point.state["classes"], data, Screen(quiet=True)).inventory

    images = sum(len(files.split) for files in joined().values())
    shutil.move(tmp_path / "photos" / "one", tmp_path / "more" / "one")
    moved = joined()
    assert sum(len(files.split) for files in moved.values()) == images
    for part in ("train", "test"):
        assert set(known[part].digests) <= set(moved[part].digests)
    next((tmp_path / "photos" / "two").iterdir()).unlink()
    joined()
    assert "1 of the run's" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "photos" / "two")
    with pytest.raises(UserError, match="the run's class 'two' has no training image left: put its images back"):
        joined()


@pytest.mark.parametrize("how", ["parent-folder", r"/(\w+)/\w+\.png", "column:site"])
def test_images_of_groups_that_the_run_knows_go_where_these_are(how, tmp_path, monkeypatch, capsys):
    """The run has trained on the meadow, validated on the pond and tested on the dam; other sites are drawn."""
    monkeypatch.chdir(tmp_path)
    known_sites = {"meadow": "train", "pond": "val", "dam": "test"}

    def photos(root, sites, images, classes=("fox", "owl")):
        """A folder of classes and sites, and its list."""
        names = [f"{c}/{site}/{i}.png" for c in classes for site in sites for i in range(images)]
        for number, name in enumerate(names):
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / root / name).write_bytes(f"{root}{number}".encode())
        lines = [f"{name},{name.split('/')[0]},{name.split('/')[1]}" for name in names]
        (tmp_path / root / "list.csv").write_text("\n".join(["path,label,site", *lines]))
        words = [f"data.root={tmp_path / root}", f"data.groups={how}", "data.val_fraction=0.2", "data.cache=false"]
        words += ["data.name=list", "data.train_list=list.csv"] if how != "parent-folder" else []
        return names, recipe.load("folder/ce", words).data

    def sites_of(inventory):
        parts = {part: [path.split("/")[-2] for path in names(files.split)] for part, files in inventory.items()}
        return {site: {part for part in parts if site in parts[part]} for each in parts.values() for site in each}

    def both(known, data, sections):
        return join(known, ("fox", "owl"), data, Screen(), sections).inventory

    paths, first = photos("photos", known_sites, 2)
    known = {}
    for site, part in known_sites.items():
        own = [path for path in paths if f"/{site}/" in path]
        labels = np.array([int(path.startswith("owl")) for path in own])
        known[part] = listed(Split(Paths.from_list(first.root, own), labels, ("fox", "owl")), first.root, None)
    _, more = photos("more", [*known_sites, *(f"new{i}" for i in range(8))], 3)
    found = both(known, more, [first])
    where = sites_of(found)
    assert {site: where[site] for site in known_sites} == {site: {part} for site, part in known_sites.items()}
    assert all(len(parts) == 1 for parts in where.values())
    assert set.union(*(where[f"new{i}"] for i in range(8))) == {"train", "val", "test"}
    assert sum(len(files.split) for files in found.values()) == 12 + 66
    assert "18 of the 66 images found are of groups that the run knows" in capsys.readouterr().out
    _, again = photos("again", ["meadow", *where], 1)  # an extension of the extension
    assert sites_of(both(found, again, [more, first])) == where
    with pytest.raises(UserError, match="all images of the new class 'elk' are of groups that the run tests or"):
        both(known, photos("last", ["pond"], 1, ("elk",))[1], [first])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data.root=photos"], "no new class and no new image"),
        (["data.root=more", "data.size=16"], "data.size=16: the run was trained with 8"),
        (["data.root=more", "data.name=digits"], "data.name=digits: new images come as a folder or a list"),
        (["data.root=more", "loss.name=ldam"], "LDAM has a classifier of another kind"),
    ],
)
def test_what_does_not_fit_is_said(words, sentence, home, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    with pytest.raises(UserError, match=sentence):
        extend(home / "first", tuple(words), tmp_path / "out", **QUIET)
    assert not (tmp_path / "out").exists()


def test_a_recipe_of_an_extension_is_not_trained_by_itself(home, tmp_path):
    first = recipe.parse_settled(trained.find_checkpoint(home / "first").state["recipe"])
    with pytest.raises(UserError, match="only glmc extend RUN puts together"):
        run.train(extended(first, home / "first", (f"data.root={home / 'more'}",)), tmp_path / "out", **QUIET)


@torch.no_grad()
def test_rows_follow_their_classes_and_new_ones_start_from_means():
    """A new class: as sure of its own mean as its length allows, and at the middle no surer than the others are."""
    head, means = Head(6, 2), torch.rand(3, 6)
    found = with_rows(head, [1, None, 0], means)
    assert torch.equal(found.weight[[2, 0]], head.weight)
    assert torch.equal(found.bias[[2, 0]], head.bias)
    assert found.weight[1].norm() == pytest.approx(head.weight.norm(dim=1).mean().item())
    assert found(means.mean(0))[1] == pytest.approx(head(means.mean(0)).mean().item(), abs=1e-6)
    assert F.cosine_similarity(found.weight[1], means[1] - means.mean(0), dim=0) == pytest.approx(1)
    cosine = Cosine(6, 2)
    found = with_rows(cosine, [0, 1, None], means)
    assert torch.equal(found.weight[:2], cosine.weight)
    assert found.weight[2].norm() == pytest.approx(1)
    assert found(means.mean(0)[None])[0, 2] == pytest.approx(cosine(means.mean(0)[None]).mean().item(), abs=1e-6)
