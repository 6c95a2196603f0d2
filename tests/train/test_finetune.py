"""`glmc finetune` on a real, tiny run: every stage, its result, its errors."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch

from glmc import recipe
from glmc.errors import Interrupted, NonFiniteLoss, UserError
from glmc.methods.distillation import Distillation
from glmc.methods.lws import LWS
from glmc.runs import checkpoint, folder, result
from glmc.runs import trained as trained_run
from glmc.train import run, seeds
from glmc.train.stages import POSTHOC, check, finetune, go_on, last, second_recipe, stage_file, stages

QUIET = {"command": "glmc", "quiet": True, "since": time.perf_counter()}
pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A GLMC run of thirty steps on the digits."""
    out = tmp_path_factory.mktemp("runs") / "first"
    wanted = recipe.load("digits_lt/glmc", ["train.max_steps=30", "train.precision=float32"])
    return run.train(wanted, out, **QUIET)


@pytest.mark.parametrize("stage", stages())
def test_every_stage_leaves_a_run_folder_that_names_both_stages(stage, first, tmp_path):
    short = ("train.epochs=2",) if stage not in POSTHOC else ()
    if stage in ("crt", "linear"):
        short += ("train.milestones=[0.5]",)
    out = finetune(first, stage, short, tmp_path / "second", **QUIET)
    one, two = (json.loads((folder / "result.json").read_text()) for folder in (first, out))
    assert two["stage2"] == stage
    assert two["recipe"] == f"digits_lt/glmc+{stage}"
    assert two["stage1"]["last"] == one["last"]
    assert two["stage1"]["flip_tta"] == one["flip_tta"]
    assert two["counts"] == one["counts"]
    again = trained_run.test(out, (), quiet=True)
    assert again["test"]["top1"] == two["last"]["top1"]
    assert again["flip_tta"]["top1"] == two["flip_tta"]["top1"]


def test_an_adjustment_that_changes_nothing_gives_the_metrics_of_stage_one(first, tmp_path):
    out = finetune(first, "logit_adjustment", ("tau=0",), tmp_path / "second", **QUIET)
    one, two = (json.loads((folder / "result.json").read_text()) for folder in (first, out))
    assert two["last"] == pytest.approx(one["last"])


def test_the_second_recipe_keeps_data_and_network_and_takes_the_stages_optimizer(first):
    one = folder.recipe_of(first)
    two = second_recipe(one, first, "maxnorm", ("method.threshold=0.2", "train.epochs=4"))
    assert (two.data, two.model.name, two.train.seed) == (one.data, one.model.name, one.train.seed)
    assert (two.optim.lr, two.optim.weight_decay, two.train.schedule) == (0.01, 0.1, "cosine_to_zero")
    assert two.method.params == {"threshold": 0.2, "sampling": 0.0}
    assert (two.loss.name, two.loss.params, two.mixture.name) == ("softmax_bce", {"exponent": 1.2, "beta": 1.0}, "none")
    assert (two.starts_from, two.model.freeze, two.model.statistics) == ("all", True, "frozen")
    assert two.train.epochs == 4
    assert recipe.parse(two.to_yaml()) == two


def test_the_published_figure_of_a_stage_stands_beside_an_unchanged_run_only():
    assert set(stage_file("maxnorm")["published"]) <= set(recipe.names())
    first = recipe.load("cifar100_lt/glmc_published", ["train.seed=3"])
    two = second_recipe(first, Path("run"), "maxnorm", ("data.root=elsewhere",))
    assert (two.published.top1, two.published.network) == (57.11, "resnet32_w64")
    assert second_recipe(first, Path("run"), "maxnorm", ("method.threshold=0.2",)).published is None
    changed = first.override("published=null")
    assert second_recipe(changed, Path("run"), "maxnorm", ()).published is None
    assert second_recipe(first, Path("run"), "crt", ()).published is None


@pytest.mark.parametrize(
    ("stage", "overrides", "sentence"),
    [
        (
            "maxnrom",
            (),
            "choose one of balanced_softmax, crt, distillation, linear, los, lws, maxnorm, mislas, weight_balancing",
        ),
        ("tau_norm", ("threshold=0.1",), "tau_norm is set by tau"),
        ("tau_norm", ("tau=much",), "tau must be a number"),
        ("tau_norm", ("tau=nan",), "tau must be finite"),
        ("maxnorm_posthoc", ("threshold=2",), r"a threshold lies in \[0, 1\]"),
        ("crt", ("model.name=resnet32",), r"not the network of parent=.*, which is resnet20"),
        ("maxnorm", ("method.threshhold=0.1",), "threshold"),
    ],
)
def test_what_does_not_fit_is_said(stage, overrides, sentence, first, tmp_path):
    with pytest.raises(UserError, match=sentence):
        finetune(first, stage, overrides, tmp_path / "second", **QUIET)
    assert not (tmp_path / "second").exists()


def test_any_method_may_start_from_a_trained_backbone(first, tmp_path):
    with pytest.raises(UserError, match="starts_from says what is taken over from parent: give both, or neither"):
        recipe.load("digits_lt/ce", [f"parent={first}"])
    wanted = recipe.load(
        "digits_lt/ce", [f"parent={first}", "starts_from=backbone", "train.max_steps=1", "optim.lr=1e-9"]
    )
    out = run.train(wanted, tmp_path / "second", **QUIET)
    ours, theirs = (checkpoint.latest(place / "checkpoints").tensors("weights") for place in (out, first))
    assert torch.allclose(ours["backbone.net.conv1.weight"], theirs["backbone.net.conv1.weight"], atol=1e-6)


def test_a_second_stage_needs_a_parent(tmp_path):
    wanted = recipe.load("digits_lt/ce", ["method={name: lws}"])
    with pytest.raises(UserError, match="lws is a second stage: start it with glmc finetune"):
        run.train(wanted, tmp_path / "second", **QUIET)


def test_stages_stack_and_the_result_outlives_its_parent(first, tmp_path):
    """LWS, then an adjustment of it: the scales are part of the classifier that is adjusted."""
    second = finetune(first, "lws", ("train.epochs=1",), tmp_path / "second", **QUIET)
    third = finetune(second, "tau_norm", ("data.cache=false",), tmp_path / "third", **QUIET)
    result = json.loads((third / "result.json").read_text())
    assert result["recipe"] == "digits_lt/glmc+lws+tau_norm"
    assert result["stage1"]["recipe"] == "digits_lt/glmc+lws"
    point = checkpoint.latest(third / "checkpoints")
    norms = point.tensors("weights")["classifier.weight"].norm(dim=1)
    assert norms.tolist() == pytest.approx([1.0] * 10, rel=1e-5)
    assert json.loads((second / "stage1.json").read_text())["recipe"] == "digits_lt/glmc"


def test_a_folder_that_is_no_run_is_said(tmp_path):
    with pytest.raises(UserError, match="neither a run with a checkpoint nor a checkpoint"):
        finetune(tmp_path, "crt", (), tmp_path / "second", **QUIET)


def test_a_recipe_goes_on_into_its_second_stage_and_is_resumed_there(tmp_path, monkeypatch):
    """One command for both, stopped in the second and taken up again: the same bits as without."""
    wanted = recipe.load("digits_lt/ce", ["train.max_steps=5", "train.precision=float32", "then=lws"])
    whole, halved = (run.train(wanted, tmp_path / name, **QUIET) for name in ("whole", "halved"))
    go_on(whole, **QUIET)
    ends = []
    with monkeypatch.context() as patch:
        patch.setattr(LWS, "after_epoch", lambda _: ends.append(1) or (len(ends) == 4 and signal.raise_signal(15)))
        with pytest.raises(Interrupted, match="stopped by SIGTERM"):
            go_on(halved, **QUIET)
    assert not result.finished(halved / "stage-2")
    go_on(halved, **QUIET)
    one, other = (result.read(folder / "stage-2") for folder in (whole, halved))
    assert (one.stage2, one.epochs) == ("lws", 10)
    assert one.weights_sha256 == other.weights_sha256
    before = (halved / "stage-2/result.json").stat().st_mtime_ns
    go_on(halved, **QUIET)  # there is nothing left to do
    assert (halved / "stage-2/result.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="then=lsw: choose one of"):
        check(wanted.override("then=lsw"))


def test_a_chain_of_stages_is_stopped_and_taken_up_again_in_any_of_them(tmp_path, monkeypatch):
    """SSD and an adjustment, whole, and stopped in its second and in its third stage: the same bits."""
    stages = "[lws train.epochs=2, distillation train.epochs=3, lws train.epochs=1, tau_norm tau=0.5]"
    words = [
        "train.max_steps=3", "train.precision=float32", "data.batch_size=256", f"then={stages}",
        "views={train: [{crop: 1}], contrast: [{crop: 2}], test: []}", "method={name: ssd, embedding: 8}",
    ]  # fmt: skip
    wanted = recipe.load("digits_lt/ce", words)
    check(wanted)
    whole, halved = (run.train(wanted, tmp_path / name, **QUIET) for name in ("whole", "halved"))
    go_on(whole, **QUIET)
    for method in (LWS, Distillation):
        with monkeypatch.context() as patch:
            ends = []
            patch.setattr(method, "after_epoch", lambda _, ends=ends: ends.append(1) or signal.raise_signal(15))
            with pytest.raises(Interrupted, match=f"glmc train --resume {halved}( |$)"):
                go_on(halved, **QUIET)
            assert ends == [1]
    assert [folder.stage(halved, n).exists() for n in (2, 3, 4)] == [True, True, False]
    go_on(halved, **QUIET)
    one, other = (last(place, wanted) for place in (whole, halved))
    assert one == whole / "stage-5"
    first, again = (result.read(place) for place in (one, other))
    assert first.weights_sha256 == again.weights_sha256
    chain = "ssd + cross_entropy, then lws, then distillation, then lws, then tau_norm"
    assert (first.title, first.stage) == (f"{chain} on resnet20", 5)
    student = checkpoint.latest(whole / "stage-3/checkpoints").tensors("weights")
    teacher = checkpoint.latest(whole / "stage-2/checkpoints").tensors("weights")
    scaled = teacher["scale"][:, None] * teacher["classifier.weight"]
    assert torch.equal(student["teacher.classifier.weight"], scaled)
    after = checkpoint.latest(whole / "stage-4/checkpoints").tensors("weights")
    assert torch.equal(after["classifier.weight"], student["soft.weight"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("[lws, lsw]", "then=lsw: choose one of"),
        ("lws loss.hed=1", "then=lws: override loss.hed=1: unknown key"),
        ("tau_norm taus=1", "then=tau_norm: taus=1: tau_norm is set by tau"),
        ("lws 'x", "then=lws 'x: write a stage, then key=value"),
        ("[crt loss.name=ldam, lws]", "then=lws: Supervised has no linear classifier to take over"),
        ("[crt loss.name=ldam, tau_norm]", "then=tau_norm: Supervised has no linear classifier to take over"),
        ("distillation", "then=distillation: its logits suit other class frequencies"),
    ],
)
def test_wrong_stages_are_refused_before_training(words, sentence):
    with pytest.raises(UserError, match=sentence):
        check(recipe.load("digits_lt/ce").override(f"then={words}"))


def test_a_seed_whose_later_stage_diverges_leaves_the_others_alone(tmp_path, monkeypatch):
    def diverging(place, **words):
        if place.name == "seed-0":
            raise NonFiniteLoss("the loss term 'loss' became nan")
        go_on(place, **words)

    monkeypatch.setattr("glmc.train.stages.go_on", diverging)
    wanted = recipe.load("digits_lt/ce", ["train.max_steps=1", "then=tau_norm"])
    with pytest.raises(NonFiniteLoss, match="seed-0: the loss term 'loss' became nan; the other 1 finished"):
        seeds.train_seeds(wanted, [0, 1], tmp_path / "both", **QUIET)
    assert len(json.loads((tmp_path / "both" / "summary.json").read_text())["runs"]) == 1
