"""`glmc calibrate` on a real, tiny run over image files, and the arithmetic of temperatures and class frequencies."""

import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn import functional as F

from glmc import recipe
from glmc.errors import UserError
from glmc.inference.calibrate import assumed_prior, calibrate, find_calibration
from glmc.inference.temperature import class_shares, crossfit, ece_by_chance, fit, metrics_of, reweighted
from glmc.runs import checkpoint, folder
from glmc.runs import trained as trained_run
from glmc.runs.trained import load_trained
from glmc.train import run
from glmc.train import stages as finetune

CLASSES = {"eight": 40, "five": 24, "three": 8}  # training images
DIGIT = {"eight": 8, "five": 5, "three": 3}
QUIET = {"command": "glmc", "quiet": True, "since": time.perf_counter()}
pytestmark = pytest.mark.usefixtures("no_report")


def write_digits(folder: Path, rows: range, names=tuple(CLASSES)) -> None:
    """PNG files of scikit-learn's digits, `folder/<class>/<row>.png`."""
    digits = load_digits()
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        images = digits.images[digits.target == DIGIT[name]]
        for row in rows:
            Image.fromarray(np.rint(images[row] * (255 / 16)).astype(np.uint8)).save(folder / name / f"{row:03d}.png")


def train_on(photos: Path, out: Path, *overrides: str, epochs: int = 2) -> Path:
    """A short run on a folder of images."""
    data = ("data.name=folder", f"data.root={photos}", "data.imbalance=null", "data.n_max=null", "data.cache=false")
    short = (
        f"train.epochs={epochs}",
        f"eval.every={epochs}",
        "eval.batch_size=16",
        "data.batch_size=16",
        "train.device=cpu",
    )
    return run.train(recipe.load("digits_lt/ce", [*data, *short, *overrides]), out, **QUIET)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "photos"
    for name, count in CLASSES.items():
        write_digits(folder / "train", range(count), [name])
    write_digits(folder / "test", range(40, 52))
    write_digits(folder.parent / "new", range(60, 90))
    return folder


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """With validation images: a quarter of each class."""
    return train_on(photos, tmp_path_factory.mktemp("runs") / "held", "data.val_fraction=0.25")


@pytest.fixture
def own(trained, tmp_path):
    """A copy of the run that a test may write into."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def plain(photos, tmp_path_factory):
    """Without validation images."""
    return train_on(photos, tmp_path_factory.mktemp("runs") / "plain", "train.max_steps=2")


def world(prior, images, seed=0, temperature=1.0):
    """Logits (scaled by `temperature`) of a Bayes classifier of three normal distributions that was made for `prior`.

    The images, with their labels, have equal class frequencies.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % 3
    points = labels.double()[:, None] * 1.5 + torch.randn(images, 1, generator=generator, dtype=torch.float64)
    likelihood = -0.5 * (points - torch.arange(3) * 1.5) ** 2  # [N, 3], log p(x | class) up to a constant
    return (likelihood + torch.tensor(prior).double().log()) * temperature, labels


# --- the arithmetic ---------------------------------------------------------------------------------------------------


def test_the_fit_finds_temperature_and_class_frequencies_of_a_known_world():
    prior = [0.7, 0.2, 0.1]
    logits, labels = world(prior, 9000, temperature=2.5)
    temperature, found = fit(logits, labels, torch.full((3,), 1 / 3).double())
    assert temperature == pytest.approx(2.5, rel=0.05)
    assert found.tolist() == pytest.approx(prior, rel=0.1)


def test_at_the_optimum_the_mean_probability_of_a_class_is_its_share_and_the_temperature_a_grids_best():
    logits, labels = world([0.6, 0.3, 0.1], 3000, temperature=1.7)
    labels[:600] = 0  # images with frequencies of their own
    temperature, prior = fit(logits, labels, torch.full((3,), 1 / 3).double())
    shares = class_shares(labels, 3)
    mean = reweighted(logits, temperature, prior, shares).exp().mean(0)
    assert mean.tolist() == pytest.approx(shares.tolist(), abs=2e-3)  # but for the weight of the start
    grid = [temperature * factor for factor in (0.9, 0.97, 1.0, 1.03, 1.1)]
    losses = [float(F.nll_loss(reweighted(logits, t, prior, shares), labels)) for t in grid]
    assert min(losses) == losses[2]


def test_a_temperature_alone_would_be_wrong_where_the_frequencies_differ():
    logits, labels = world([0.98, 0.01, 0.01], 6000)
    alone = min(np.linspace(0.5, 5, 200), key=lambda t: float(F.cross_entropy(logits / t, labels)))
    together, _ = fit(logits, labels, torch.full((3,), 1 / 3).double())
    assert abs(alone - 1) > 0.3
    assert together == pytest.approx(1, abs=0.07)


def test_the_fit_stays_finite_where_all_is_right_and_leaves_a_class_without_images_in_its_place():
    labels = torch.tensor([0, 1] * 20)
    assumed = torch.tensor([0.5, 0.3, 0.2]).double()
    temperature, prior = fit(10 * F.one_hot(labels, 3).double(), labels, assumed)
    assert 0.05 < temperature < 1
    assert (prior > 0).all()
    assert float(prior.sum()) == pytest.approx(1)
    assert float(prior[2] / prior[0]) == pytest.approx(0.4, rel=0.3)


def test_reweighting_is_bayes_rule():
    logits = torch.tensor([[0.3, -1.0, 2.0], [0.0, 0.0, 0.0]]).double()
    source, target = torch.tensor([0.5, 0.25, 0.25]).double(), torch.tensor([0.0, 0.1, 0.9]).double()
    found = reweighted(logits, 2.0, source, target).exp()
    for row, values in zip(found, logits, strict=True):
        odds = [math.exp(z / 2) * t / s for z, s, t in zip(values.tolist(), source, target, strict=True)]
        assert row.tolist() == pytest.approx([float(o / sum(odds)) for o in odds])


def test_held_out_figures_are_better_after_than_before_and_the_error_covers_the_truth():
    logits, labels = world([0.6, 0.3, 0.1], 900, temperature=3)
    fitted = crossfit(logits, labels, torch.full((3,), 1 / 3).double(), lambda done: None)
    assert fitted.after["nll"] < fitted.before["nll"]
    assert fitted.after["ece"] < fitted.before["ece"]
    assert fitted.helps
    assert fitted.gain[0] < fitted.before["nll"] - fitted.after["nll"] < fitted.gain[1]
    assert abs(fitted.temperature - 3) < 4 * fitted.error
    assert 0.02 < fitted.error < 0.6


def test_where_nothing_is_to_be_gained_the_error_of_the_temperature_is_its_spread_and_no_fit_is_kept():
    fits = [
        crossfit(*world([1 / 3] * 3, 150, seed=seed), torch.full((3,), 1 / 3).double(), lambda done: None)
        for seed in range(12)
    ]
    spread = np.std([each.temperature for each in fits])
    assert 0.5 < np.mean([each.error for each in fits]) / spread < 2
    assert not any(each.helps for each in fits)


def test_chance_alone_makes_the_ece_that_right_probabilities_show():
    logits, _ = world([1 / 3] * 3, 60)
    draws = [metrics_of(*world([1 / 3] * 3, 60, seed=seed))["ece"] for seed in range(60)]
    assert ece_by_chance(logits.log_softmax(1)) == pytest.approx(np.mean(draws), rel=0.25)
    many = ece_by_chance(logits.log_softmax(1).repeat(50, 1))
    assert many < 0.3 * ece_by_chance(logits.log_softmax(1))


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_own_validation_images_are_used_and_the_file_says_all(own, capsys):
    result = calibrate(own)
    assert json.loads((own / "calibration.json").read_text()) == result
    assert (result["images"], result["source"]) == (18, "validation images of the run")  # 10 + 6 + 2
    assert result["step"] == trained_run.find_checkpoint(own).step
    assert result["temperature"] > 0
    assert result["temperature_se"] > 0
    assert sum(result["prior"].values()) == pytest.approx(1)
    assert result["assumed_prior"] == "training"
    assert result["imbalance"]["assumed"] == pytest.approx(5)  # 30 and 6 images are left to train on
    shown = capsys.readouterr().out
    assert "18 images are few" in shown
    assert f"temperature {result['temperature']:.3f} ± {result['temperature_se']:.3f}" in shown
    assert f"{result['after']['nll']:.3f}" in shown
    checkpoint_again = trained_run.find_checkpoint(own / "checkpoints" / f"step-{result['step']:08d}")
    assert calibrate(checkpoint_again.path, quiet=True) == result  # a checkpoint finds the folder of its run


def test_without_a_gain_beyond_noise_probabilities_stay_as_they_are_and_so_does_an_earlier_fit(
    own, monkeypatch, capsys
):
    right = np.log([30 / 54, 18 / 54, 6 / 54])  # all that these logits say is already so
    monkeypatch.setattr("glmc.inference.calibrate.logits_of_split", lambda split, *_: np.tile(right, (len(split), 1)))
    assert not calibrate(own)["helps"]
    assert "no gain: on held-out images the log-likelihood changes by" in capsys.readouterr().out
    kept = json.loads((own / "calibration.json").read_text())  # for --unknown and --sets alone
    assert kept["held_out"]["first"] == pytest.approx([30 / 54] * 18)
    assert find_calibration(trained_run.find_checkpoint(own), kept["prior"], print) is None
    assert "has found nothing to gain" in capsys.readouterr().out
    (own / "calibration.json").write_text(json.dumps(kept | {"helps": True, "temperature": 1.5}))
    calibrate(own)
    assert "of an earlier calibration stays in use" in capsys.readouterr().out
    assert json.loads((own / "calibration.json").read_text())["temperature"] == 1.5
    (own / "calibration.json").write_text("{}")
    with pytest.raises(UserError, match=r"calibration.json is damaged .*; delete it, and calibrate again"):
        calibrate(own, quiet=True)


def test_what_unknown_and_sets_do_is_measured_on_the_test_images_where_they_are(own, photos, tmp_path, capsys):
    found = calibrate(own, quiet=True)
    row = json.loads((own / "result.json").read_text())["last"]
    assert found["test"]["images"] == 36
    assert set(found["test"]["curves"]) == {"all", "medium", "few"}
    if not found["helps"]:
        assert 100 * (1 - found["test"]["curves"]["all"][-1][1]) == pytest.approx(row["top1"])
    moved = Path(shutil.copytree(photos, tmp_path / "moved"))
    next((moved / "test").rglob("*.png")).unlink()
    assert "test" not in calibrate(own, (f"data.root={moved}",))
    assert "not measured on the test images of the run: " in capsys.readouterr().out


def test_the_figures_before_are_those_of_the_validation_images(own):
    fitted = calibrate(own, quiet=True)
    before = fitted["before"]
    logged = json.loads((own / "metrics.jsonl").read_text().splitlines()[-1])["val"]
    # Held-out and training images have the same class frequencies, but for rounding.
    assert before["nll"] == pytest.approx(logged["nll"], rel=0.1)
    assert before["top1"] == pytest.approx(logged["top1"], abs=6)
    assert fitted["plain"]["top1"] == pytest.approx(logged["top1"])


def test_given_images_are_a_folder_or_a_list_and_some_classes_may_be_absent(own, photos, capsys):
    new = photos.parent / "new"
    by_folder = calibrate(own, images=new, quiet=True)
    assert by_folder["images"] == 90
    lines = sorted(f"{file.relative_to(photos.parent)} {file.parent.name}" for file in new.rglob("*.png"))
    listed = photos.parent / "new.txt"
    listed.write_text("\n".join(lines))
    by_list = calibrate(own, images=listed, quiet=True)
    assert by_list["source"] == f"images of {listed}"
    assert {k: v for k, v in by_list.items() if k != "source"} == {k: v for k, v in by_folder.items() if k != "source"}
    listed.write_text("\n".join(line for line in lines if "three" not in line))
    capsys.readouterr()
    assert calibrate(own, images=listed)["classes_without_images"] == ["three"]
    assert "1 class has no image here (three): there the run is taken to" in capsys.readouterr().out


def test_an_adjusted_classifier_is_taken_to_assume_equal_frequencies(trained, tmp_path):
    out = finetune.finetune(trained, "tau_norm", (), tmp_path / "second", **QUIET)
    point = trained_run.find_checkpoint(out)
    assumed, prior = assumed_prior(point, load_trained(point, folder.recipe_of(out)))
    assert assumed == "uniform"
    assert prior.tolist() == pytest.approx([1 / 3] * 3)
    assert calibrate(out, quiet=True)["assumed_prior"] == "uniform"


def test_a_method_says_which_frequencies_it_assumes(trained):
    point = trained_run.find_checkpoint(trained)
    loaded = load_trained(point, folder.recipe_of(trained))
    assert assumed_prior(point, loaded)[0] == "training"
    assert assumed_prior(point, loaded)[1].tolist() == pytest.approx([30 / 54, 18 / 54, 6 / 54])
    loaded.method.prior = "uniform"
    assert assumed_prior(point, loaded)[1].tolist() == pytest.approx([1 / 3] * 3)


def test_without_validation_images_the_remedy_is_named_and_nothing_is_written(plain):
    with pytest.raises(UserError, match=r"no validation images.*--images FOLDER.*data.val_fraction=0.1"):
        calibrate(plain, quiet=True)
    assert not (plain / "calibration.json").exists()


@pytest.mark.parametrize(("part", "what"), [("test", "is tested on 36 of these 36"), ("train", "was trained on 54 of")])
def test_images_of_the_run_are_refused(trained, photos, part, what):
    with pytest.raises(UserError, match=what):
        calibrate(trained, images=photos / part, quiet=True)


def test_bad_images_are_refused_in_a_sentence(trained, photos, tmp_path):
    for images, sentence in (
        (photos, "it holds the sets test, train; name the folder of one of them"),
        (tmp_path / "absent", "neither a folder nor a list"),
    ):
        with pytest.raises(UserError, match=sentence):
            calibrate(trained, images=images, quiet=True)
    write_digits(tmp_path / "more", range(100, 103))
    with pytest.raises(UserError, match="too few to calibrate on: give at least 10"):
        calibrate(trained, images=tmp_path / "more", quiet=True)
    (tmp_path / "more" / "three").rename(tmp_path / "more" / "tree")
    with pytest.raises(UserError, match=r"more/tree: the run has no class 'tree'"):
        calibrate(trained, images=tmp_path / "more", quiet=True)
    (tmp_path / "more.txt").write_text("more/eight/100.png eight\nmore/five/100.png fife\n")
    with pytest.raises(UserError, match=r"more.txt:2: the run has no class 'fife'"):
        calibrate(trained, images=tmp_path / "more.txt", quiet=True)


def test_its_own_images_stay_its_own_and_overrides_that_change_the_predictions_are_refused(own, photos, tmp_path):
    moved = Path(shutil.copytree(photos, tmp_path / "moved"))
    assert calibrate(own, (f"data.root={moved}",), quiet=True)["images"] == 18
    write_digits(moved / "train", range(100, 104), ["three"])  # no image moves to another part for it
    assert calibrate(own, (f"data.root={moved}",), quiet=True)["images"] == 18
    with pytest.raises(UserError, match=r"data.val_fraction=0.5: a run predicts as it was trained to"):
        calibrate(own, ("data.val_fraction=0.5",), quiet=True)


def test_a_checkpoint_that_lies_alone_keeps_its_calibration_beside_it(trained, photos, tmp_path):
    point = trained_run.find_checkpoint(trained)
    alone = Path(shutil.copytree(point.path, tmp_path / "alone"))
    calibrate(alone, images=photos.parent / "new", quiet=True)
    assert (alone / "calibration.json").exists()
    assert checkpoint.read(alone).step == point.step
