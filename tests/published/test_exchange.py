"""Published checkpoints, evaluated and written by the commands."""

import json
import time

import numpy as np
import pytest
import torch

from glmc import recipe
from glmc.errors import UserError
from glmc.published import exchange
from glmc.runs import folder
from glmc.runs import trained as trained_run
from glmc.train import run

QUIET = {"command": "glmc", "quiet": True, "since": time.perf_counter()}
pytestmark = pytest.mark.usefixtures("no_report")
DIGITS = ("data.name=digits", "data.split=cao", "data.imbalance=25", "data.n_max=125", "train.precision=float32")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = ["train.max_steps=20", "train.precision=float32", "model.name=resnet20"]
    return run.train(recipe.load("digits_lt/glmc", settings), out, **QUIET)


def test_a_run_goes_out_and_comes_back_with_the_same_figures(trained, tmp_path, in_a_process_of_its_own):
    """Export, then evaluate the file as one evaluates a published one, by the command."""
    file = tmp_path / "ckpt.pth.tar"
    assert exchange.export(trained, file) == file
    own = json.loads((trained / "result.json").read_text())
    words = ["test", str(file), *DIGITS, "data.mean=null", "data.std=null", "--json"]
    code, output, errors = in_a_process_of_its_own(*words)
    assert code == 0, errors
    result = json.loads(output)
    assert result["test"]["top1"] == own["last"]["top1"]
    assert result["flip_tta"]["nll"] == pytest.approx(own["flip_tta"]["nll"], rel=1e-5)
    assert result["epoch"] == own["epochs"]
    state = torch.load(file, weights_only=True)
    assert set(state) == {"epoch", "state_dict", "best_acc1"}
    assert state["best_acc1"] == pytest.approx(own["best_on_test"]["top1"])


def test_the_data_set_must_be_named_and_fit(trained, tmp_path):
    file = exchange.export(trained, tmp_path / "ckpt.pth.tar")
    with pytest.raises(UserError, match=r"does not say what it was trained on; add data\.name"):
        exchange.test_published(file, (), quiet=True)
    from PIL import Image

    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for i in range(2):
                pixels = np.full((8, 8), 40 * i, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / part / name / f"{i}.png")
    with pytest.raises(UserError, match=r"was trained on 10 classes and data\.name=folder has 2"):
        exchange.test_published(
            file,
            (
                "data.name=folder",
                f"data.root={tmp_path / 'photos'}",
                "data.imbalance=null",
                "data.mean=null",
                "data.std=null",
            ),
            quiet=True,
        )


def test_nothing_is_overwritten_and_other_methods_are_refused(trained, tmp_path):
    exchange.export(trained, tmp_path / "ckpt.pth.tar")
    with pytest.raises(UserError, match="is there already"):
        exchange.export(trained, tmp_path / "ckpt.pth.tar")
    average = run.train(
        recipe.load("digits_lt/glmc", ["train.max_steps=2", "train.ema=0.9", "train.precision=float32"]),
        tmp_path / "average",
        **QUIET,
    )
    judged = trained_run.load_trained(
        trained_run.find_checkpoint(average), folder.recipe_of(average)
    ).method.state_dict()
    state = torch.load(exchange.export(average, None), weights_only=True)["state_dict"]
    assert torch.equal(state["module.fc_cb.weight"], judged["rebalanced.weight"])  # what the figures are of
    plain = recipe.load("digits_lt/glmc", ["train.max_steps=2", "method.rebalance=false"])
    with pytest.raises(UserError, match="it predicts with the conventional classifier"):
        exchange.export(run.train(plain, tmp_path / "plain", **QUIET), None)
    other = run.train(recipe.load("digits_lt/ce", ["train.max_steps=2"]), tmp_path / "ce", **QUIET)
    with pytest.raises(UserError, match="holds GLMC only, and this is a run of supervised"):
        exchange.export(other, None)
