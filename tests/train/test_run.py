"""Whole runs on the embedded digits, kept tiny: what a recipe asks for is done, and a killed run loses nothing."""

import csv
import json
import math
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from faults.small_runs import forked, wait_until
from glmc import __main__, recipe, report, runtime, trust
from glmc.random import Draws
from glmc.runs import checkpoint
from glmc.runs import trained as trained_run
from glmc.screen import Screen
from glmc.train import build, pace, run, saving
from glmc.train.engine import State

ROOT = Path(__file__).parent.parent.parent
STEPS = 7  # an epoch: 7 batches of 32, of which the last is not full
TINY = """
# Tiny GLMC on digits.
data:   {name: digits, imbalance: 4, n_max: 36, batch_size: 32}
views:  {train: [{crop: 1}], test: []}
model:  {name: resnet20}
method: {name: glmc}
optim:  {name: sgd, lr: 0.05, weight_decay: 5e-4}
train:  {epochs: 3, precision: float32, device: cpu}
eval:   {batch_size: 250}
"""
OWN_METHODS = '''
import copy

import torch
from torch.nn import functional as F
from glmc.losses.base import Loss
from glmc.methods.supervised import Supervised
from glmc.mixtures.base import Mixture


class Hooked(Supervised):
    """All that a method may ask for: class means, a queue, a momentum encoder, tables, rates; and dropout."""

    def __init__(self, *parts, size: int = 40):
        super().__init__(*parts)
        width = self.backbone.out_dim
        self.key = copy.deepcopy(self.backbone).requires_grad_(False)
        self.register_buffer("means", torch.zeros(self.classes, width))
        self.register_buffer("queue", torch.zeros(size, width))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def tables(self, rng, *, epoch, epochs, steps, batch):
        return {"slots": rng.below(len(self.queue), steps, batch)}  # int64: they stay integers

    def before_epoch(self, epoch, epochs, look):
        sums, seen = torch.zeros_like(self.means), torch.zeros(self.classes)
        for batch in look("test"):
            sums.index_add_(0, batch.labels, self.backbone(batch.views[0]))
            seen += torch.bincount(batch.labels, minlength=self.classes)
        self.means.copy_(sums / seen[:, None])

    def forward(self, step):
        batch = step.streams["instance"]
        images, slots = batch.views[0], step.draws["slots"][: len(batch.labels)]
        features = F.dropout(self.backbone(images), 0.5, self.training)
        with torch.no_grad():
            self.queue.index_copy_(0, slots, self.key(images))
            self.filled.add_(len(slots))
        pull = (features - self.means[batch.labels]).pow(2).mean() - (features @ self.queue.T).sigmoid().mean()
        return {"loss": self.loss(self.logits(features), batch.labels, step.progress), "pull": 0.01 * pull}

    def after_step(self):
        with torch.no_grad():
            torch._foreach_lerp_(list(self.key.parameters()), list(self.backbone.parameters()), 0.1)

    def rates(self, progress):
        return {"backbone": 1.0 if progress < 0.5 else 0.0}


class Bursting(Supervised):
    """Its second term is finite in the first half of a run only."""

    def forward(self, step):
        return {**super().forward(step), "fragile": 1e-3 * torch.log(0.5 - step.progress)}


class Vector(Supervised):
    """Forgets to take the mean."""

    def forward(self, step):
        batch = step.streams["instance"]
        return {"loss": F.cross_entropy(self.predict(batch.views[0]), batch.labels, reduction="none")}


class Bare(Supervised):
    """Forgets the name of its term."""

    def forward(self, step):
        return super().forward(step)["loss"]


class Short(Supervised):
    """Draws for a single step."""

    def tables(self, rng, *, epoch, epochs, steps, batch):
        return {"luck": rng.uniform(1)}


class Silent(Supervised):
    """Predicts for all images at once."""

    def predict(self, images):
        return super().predict(images).mean(0)


class Each(Loss):
    """A number for each image."""

    def forward(self, logits, targets, progress):
        return F.cross_entropy(logits, targets, reduction="none")


class Half(Mixture):
    """Loses half of the labels."""

    def forward(self, first, second, draws, view=0):
        return first.views[view], first.labels[::2]


class Broken(Supervised):
    """Has a mistake of its own."""

    def forward(self, step):
        return {"loss": self.nothing(step)}


class Unlucky(Supervised):
    """Its second term is NaN where a random number is small: with some seeds, not with others."""

    def tables(self, rng, *, epoch, epochs, steps, batch):
        return {"luck": rng.uniform(steps)}

    def forward(self, step):
        return {**super().forward(step), "luck": 0 * (step.draws["luck"] - 0.03).sqrt()}
'''


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the processes that are started below, so that the two may be compared bit by bit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "THREADS", 1)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the recipe, and with methods of the user's own."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "own_methods.py").write_text(OWN_METHODS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(trust, "_folders", [])
        trust.allow_folder(".")
        yield folder


@pytest.fixture
def no_report(monkeypatch):
    """The report takes longer than such a run, and has tests of its own."""
    monkeypatch.setattr(report, "write", lambda run: (run / "report.html").touch())


def glmc(*words):
    """The command, in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["glmc", *map(str, words)])
        patch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as ended:
            __main__.main()
    return ended.value.code or 0


def start(place, *words):
    """The command, in a process of its own that can be killed."""
    return forked(lambda: glmc(*words), place / "errors")


def trained(name, *overrides):
    """A new run in the folder `name`."""
    assert glmc("train", "tiny.yaml", "--quiet", "--out", name, *overrides) == 0
    return Path(name)


def result_of(run):
    return json.loads((run / "result.json").read_text())


def metrics_of(run):
    """The records without what a clock says."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        del record["seconds"]
    return records


def weights_of(run, name="weights"):
    return checkpoint.latest(run / "checkpoints").tensors(name)


def initial_weights(*overrides):
    settled, data, device = build.settle(recipe.load("tiny.yaml", overrides), Screen(quiet=True))
    return trained_run.build_method(settled, torch.from_numpy(data.train.counts), device).state_dict()


def same(run, other):
    """Two runs ended alike, bit by bit; seconds and addresses aside."""
    a, b = result_of(run), result_of(other)
    assert a.pop("weights_sha256") == b.pop("weights_sha256")
    timed = ("seconds", "files", "seal")
    assert {key: a[key] for key in a if key not in timed} == {key: b[key] for key in b if key not in timed}
    assert metrics_of(run) == metrics_of(other)
    assert (run / "confusion.csv").read_text() == (other / "confusion.csv").read_text()
    for name in checkpoint.latest(run / "checkpoints").names:
        ours, theirs = weights_of(run, name), weights_of(other, name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


@pytest.fixture(scope="module")
def plain(place):
    """One run with everything in it, and a checkpoint of each epoch however short it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "SHARE", math.inf)
        return trained("plain")


# ------------------------------------------------------------------------------------------------------- run folder


def test_the_run_folder_holds_every_file(plain):
    assert sorted(path.name for path in plain.iterdir()) == [
        "checkpoints", "confusion.csv", "environment.json", "examples", "figures", "log.txt", "metrics.jsonl",
        "predictions.csv", "recipe.yaml", "report.html", "result.json",
    ]  # fmt: skip
    assert list((plain / "figures").glob("*.png"))
    assert [path.name for path in sorted((plain / "checkpoints").iterdir())] == ["step-00000014", "step-00000021"]
    assert "epoch 3/3" in (plain / "log.txt").read_text()
    environment = json.loads((plain / "environment.json").read_text())
    assert environment["command"].startswith("glmc train tiny.yaml")
    assert environment["precision"] == "float32"
    assert {"glmc", "python", "torch", "numpy", "platform", "cpu", "cores", "device"} <= environment.keys()


def test_the_recipe_of_a_run_repeats_it(plain, no_report):
    settled = recipe.load(str(plain / "recipe.yaml"))
    assert (settled.name, settled.data.size, settled.data.channels) == ("tiny", 8, 1)
    assert settled.data.mean is not None
    assert glmc("train", plain / "recipe.yaml", "--out", "repeated", "--quiet") == 0
    same(Path("repeated"), plain)


def test_result_json_says_everything_in_the_right_type(plain):
    result = result_of(plain)
    kinds = {
        "schema": int, "recipe": str, "method": str, "backbone": str, "parameters": int, "learnt": int, "counts": list,
        "epochs": int, "steps": int, "seed": int, "last": dict, "best_on_test": dict, "flip_tta": dict,
        "per_class": list, "weights_sha256": str, "seconds": dict, "step": dict, "files": dict, "seal": str,
    }  # fmt: skip
    assert {key: type(value) for key, value in result.items()} == kinds
    assert (result["schema"], result["recipe"], result["method"], result["backbone"]) == (
        1, "tiny", "glmc + class_weighted + mixup_cutmix", "resnet20"
    )  # fmt: skip
    assert (result["epochs"], result["steps"], result["seed"]) == (3, 3 * STEPS, 0)
    assert result["step"] == {"asked": "eager", "eager": 3 * STEPS}
    assert result["counts"] == [int(36 * 0.25 ** (c / 9)) for c in range(10)]
    assert (
        result["parameters"]
        == result["learnt"]
        == sum(t.numel() for n, t in initial_weights().items() if is_parameter(n))
    )
    for key in ("last", "flip_tta", "best_on_test"):
        scores = result[key]
        # 36 to 9 images a class: nobody has more than 100, and the empty group is absent
        wanted = ["top1", "top5", "balanced", "macro_f1", "worst_class", "medium", "few", "ece", "nll"]
        assert [name for name in scores if name != "epoch"] == wanted
        assert all(type(value) is float for name, value in scores.items() if name != "epoch")
        assert all(0 <= value <= 100 for name, value in scores.items() if name not in ("nll", "epoch"))
    assert len(result["per_class"]) == 10
    assert {"class": "0", "train": 36, "test": 50}.items() <= result["per_class"][0].items()
    assert set(result["seconds"]) == {"startup", "train", "eval"}
    assert all(value > 0 for value in result["seconds"].values())


def is_parameter(name):
    return not name.endswith(("running_mean", "running_var", "num_batches_tracked", "class_weights"))


def test_the_figures_of_a_run_agree_with_each_other(plain):
    result, records = result_of(plain), metrics_of(plain)
    assert result["last"] == records[-1]["test"]
    best = max(records, key=lambda record: record["test"]["top1"])
    assert result["best_on_test"] == {**best["test"], "epoch": best["epoch"]}
    assert [(record["epoch"], record["step"]) for record in records] == [(1, STEPS), (2, 2 * STEPS), (3, 3 * STEPS)]
    assert all(set(record["terms"]) == {"conventional", "rebalanced", "consistency"} for record in records)
    with (plain / "confusion.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["true \\ predicted", *"0123456789"]
    right = [int(row[1 + c]) for c, row in enumerate(rows)]
    assert [sum(map(int, row[1:])) for row in rows] == [50] * 10
    assert result["last"]["top1"] == pytest.approx(100 * sum(right) / 500)
    assert [entry["recall"] for entry in result["per_class"]] == pytest.approx([2 * n for n in right])


def test_weights_sha256_is_that_of_the_last_checkpoint(plain):
    assert result_of(plain)["weights_sha256"] == checkpoint.weights_sha256(weights_of(plain))


@pytest.mark.parametrize("what", [".", "checkpoints/step-00000021"])
def test_testing_repeats_the_last_figures(plain, capsys, what):
    assert glmc("test", plain / what, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["test"] == result_of(plain)["last"]
    assert answer["flip_tta"] == result_of(plain)["flip_tta"]
    assert answer["checkpoint"].endswith("step-00000021")


def test_testing_an_earlier_checkpoint_gives_the_figures_of_its_epoch(plain, capsys):
    assert glmc("test", plain / "checkpoints" / "step-00000014", "--json") == 0
    assert json.loads(capsys.readouterr().out)["test"] == metrics_of(plain)[1]["test"]


# -------------------------------------------------------------------------------------------- seeds and repetition


def test_the_same_seed_gives_the_same_run_and_another_seed_another(plain, no_report):
    same(trained("again"), plain)
    other = trained("other", "train.seed=1")
    assert result_of(other)["weights_sha256"] != result_of(plain)["weights_sha256"]
    assert metrics_of(other) != metrics_of(plain)


def test_a_recipe_sets_the_number_of_threads_for_itself_alone(place, no_report):
    for value, wanted in (("1", 1), ("2", 2), ("null", runtime.THREADS)):
        settings = ["train.max_steps=1", f"train.threads={value}"]
        run.train(recipe.load("tiny.yaml", settings), Path(f"threads-{value}"), command="", quiet=True, since=0.0)
        assert json.loads(Path(f"threads-{value}/environment.json").read_text())["threads"] == wanted


def test_several_seeds_and_their_mean(plain, no_report, capsys):
    assert glmc("train", "tiny.yaml", "--seeds", "0,1", "--out", "seeds") == 0
    runs = [Path("seeds/seed-0"), Path("seeds/seed-1")]
    assert sorted(path.name for path in Path("seeds").iterdir()) == ["seed-0", "seed-1", "seeds.json", "summary.json"]
    same(runs[0], plain)
    summary = json.loads(Path("seeds/summary.json").read_text())
    a, b = (result_of(run)["last"]["top1"] for run in runs)
    assert a != b
    assert summary["last"]["top1"]["mean"] == pytest.approx((a + b) / 2)
    assert summary["last"]["top1"]["sd"] == pytest.approx(abs(a - b) / 2**0.5)
    printed = capsys.readouterr().out.replace(" ", "")
    assert f"{(a + b) / 2:.2f}±{abs(a - b) / 2**0.5:.2f}" in printed


def test_seeds_side_by_side_are_each_as_if_alone(plain, no_report):
    assert glmc("train", "tiny.yaml", "--seeds", "1,0", "--together", "2", "--out", "together", "--quiet") == 0
    same(Path("together/seed-0"), plain)
    assert json.loads(Path("together/summary.json").read_text())["runs_per_hour"] > 0


def test_seeds_side_by_side_are_stopped_and_resumed_together(plain, place, no_report):
    process = start(place, "train", "tiny.yaml", "--seeds", "0,1,2", "--together", "2", "--out", "halved", "--quiet")
    wait_until(lambda: all((Path("halved") / f"seed-{seed}/metrics.jsonl").exists() for seed in (0, 1)))
    process.kill(signal.SIGTERM)
    assert process.wait() == 143
    assert "glmc train --resume halved" in process.said()
    assert all(checkpoint.latest(Path("halved") / f"seed-{seed}/checkpoints") for seed in (0, 1))
    assert not Path("halved/seed-2").exists()
    assert glmc("train", "--resume", "halved", "--together", "2", "--quiet") == 0
    same(Path("halved/seed-0"), plain)
    assert len(json.loads(Path("halved/summary.json").read_text())["runs"]) == 3
    assert "runs_per_hour" not in json.loads(Path("halved/summary.json").read_text())


def test_a_signal_in_the_last_moment_of_a_run_keeps_the_next_from_beginning(place, no_report, monkeypatch):
    conclude = run.conclude

    def late(*parts):
        conclude(*parts)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(run, "conclude", late)
    assert glmc("train", "tiny.yaml", "--seeds", "0,1", "--out", "late", "--quiet") == 143
    assert result_of(Path("late/seed-0"))
    assert not Path("late/seed-1").exists()


MISTAKES = {
    "method: Bare": "Bare.forward returns float32 []; it must be a dict of named terms",
    "method: Vector": "Vector.forward returns the term 'loss' as float32 [4]; it must be a dict of named terms",
    "method: Short": "Short.tables returns 'luck' as float64 [1]; it must be a dict of numpy arrays with a row for",
    "method: Silent": "Silent.predict returns float32 [10]; for 1 images it must be logits, float [1, 10]",
    "method: Broken": "AttributeError: 'Broken' object has no attribute 'nothing'; --debug shows",
    "loss: Each": "Each.forward returns float32 [4]; a loss is a float [], such as a mean over the batch",
    "mixture: Half": "Half.forward returns float32 [4, 1, 8, 8] and int64 [2]; a mixture returns images",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_class_of_ones_own_is_told_with_its_line(place, capsys, mistake):
    section, _, name = mistake.partition(": ")
    names = {"method": "supervised", "mixture": "none", section: f"own_methods:{name}"}
    words = [f"{section}={{name: {name}}}" for section, name in names.items()]
    assert glmc("train", "tiny.yaml", *words, "--out", name) == 2
    said = capsys.readouterr().err
    assert MISTAKES[mistake] in said
    number = int(re.match(rf"glmc: {place}/own_methods\.py:(\d+): ", said)[1])
    assert (place / "own_methods.py").read_text().splitlines()[number - 1].startswith("    ")
    assert not Path(name).exists()


def test_a_loss_that_is_nan_ends_its_own_run_and_not_those_beside_it(place, no_report, capsys):
    """Exit code 3, naming the run; the summary is of the others."""

    def unlucky(seed):
        return any((Draws(seed, "method", epoch).uniform(STEPS) < 0.03).any() for epoch in range(3))

    bad = next(seed for seed in range(100) if unlucky(seed))
    good = next(seed for seed in range(100) if not unlucky(seed))
    words = ["method={name: own_methods:Unlucky}", "--seeds", f"{bad},{good}", "--together", "2", "--out", "unlucky"]
    assert glmc("train", "tiny.yaml", *words) == 3
    assert f"seed-{bad}: the loss term 'luck' became nan in epoch" in capsys.readouterr().err
    summary = json.loads(Path("unlucky/summary.json").read_text())
    assert [run["seed"] for run in summary["runs"]] == [good]
    assert not Path(f"unlucky/seed-{bad}/result.json").exists()


# -------------------------------------------------------------------------------------------------- kill and resume

SETTINGS = {
    "sgd with a moving average, uphill, smaller images at first": [
        "train.ema=0.9",
        "optim.momentum=0.9",
        "optim.sharpness={rho: 0.05}",
        "train.progressive={side: 0.5, until: 0.5}",
    ],
    "muon with noise, a method of one's own with every hook and dropout": [
        "optim.name=muon",
        "optim.lr=0.003",
        "method={name: own_methods:Hooked}",
        "optim.backbone_lr=0.001",
        "optim.clip=1",
        "optim.sharpness={rho: 0.005, direction: random}",
    ],
}


def kill_when(process, come, delay):
    """SIGKILL, `delay` seconds after `come()` is true."""
    wait_until(come)
    time.sleep(delay)
    process.kill()
    assert process.wait() == -signal.SIGKILL, process.said()


def newest_step(run):
    """Of the checkpoints that are there, whole or not; 0 without any."""
    return max((int(path.name[5:13]) for path in run.glob("checkpoints/step-*")), default=0)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_run_killed_again_and_again_ends_as_if_nothing_had_been(place, no_report, setting):
    """Before the first checkpoint, in the middle of an epoch, around the end of one: the moment itself is random."""
    overrides = SETTINGS[setting]
    whole = trained(f"whole {setting}", *overrides)
    run = place / f"killed {setting}"
    often = ["train.save_minutes=1e-6"]  # a checkpoint after every step
    delays = [random.SystemRandom().uniform(0, most) for most in (0.05, 0.03, 0.03)]
    print("seconds between sign and kill:", delays)  # shown when the test fails

    process = start(place, "train", "tiny.yaml", *overrides, "--out", run.name)  # saves at the end of epochs only
    kill_when(process, (run / "recipe.yaml").exists, delays[0])
    assert newest_step(run) == 0
    process = start(place, "train", "--resume", run.name, *often)
    kill_when(process, lambda: newest_step(run) >= 3, delays[1])
    state = checkpoint.latest(run / "checkpoints").state["state"]
    assert state["sums"] or not state["step"]  # an epoch that is cut through keeps what its loss has summed up to
    process = start(place, "train", "--resume", run.name, *often)
    kill_when(process, lambda: len((run / "metrics.jsonl").read_text().splitlines()) == 2, delays[2])
    assert not (run / "result.json").exists(), "the kills came too late to show anything"
    assert newest_step(run) >= 2 * STEPS - 2  # the save after that is perhaps still being written
    assert glmc("train", "--resume", run, "--quiet") == 0
    same(run, whole)


def test_records_beyond_the_checkpoint_and_a_line_cut_short_are_dropped(plain, no_report):
    run = Path("cut")
    shutil.copytree(plain, run)
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints" / "step-00000021")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "step": 28, "lr": 0.0')
    assert glmc("train", "--resume", run, "--quiet") == 0
    assert (run / "metrics.jsonl").read_text().endswith("}\n")
    same(run, plain)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_names_the_way_on(place, plain, no_report, number, code):
    run = place / f"signal-{code}"
    process = start(place, "train", "tiny.yaml", "train.save_minutes=1e-6", "--out", run.name)
    wait_until(lambda: newest_step(run) >= 2)
    process.kill(number)
    assert process.wait() == code
    again = f"glmc train --resume {run.name} --code {place}"
    assert process.said() == f"glmc: stopped by {number.name}, state saved; go on with: {again}\n"
    assert not (run / "result.json").exists()
    assert 0 < newest_step(run) < 3 * STEPS
    assert glmc("train", "--resume", run, "--quiet") == 0
    same(run, plain)


def test_a_run_that_is_finished_is_not_trained_again(plain, capsys):
    before = {path: path.stat().st_mtime_ns for path in plain.rglob("*") if path.name != "log.txt"}
    assert glmc("train", "--resume", plain) == 0
    output = capsys.readouterr().out
    assert "is finished already" in output
    assert f"{result_of(plain)['last']['top1']:.2f}" in output
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_run_killed_between_its_result_and_its_report_gets_the_report(plain):
    page = plain / "report.html"
    page.unlink()
    assert glmc("train", "--resume", plain, "--quiet") == 0
    assert page.stat().st_size > 10_000


# ------------------------------------------------------------------------------------------------------ non-finite


def test_a_term_that_is_no_number_stops_the_run_and_spares_what_was_saved(place, no_report, capsys):
    run = place / "burst"
    method = "method={name: own_methods:Bursting}"
    often = "train.save_minutes=1e-6"
    assert glmc("train", "tiny.yaml", "train.epochs=4", method, often, "--out", run, "--quiet") == 3
    complaint = capsys.readouterr().err
    assert complaint.startswith("glmc: the loss term 'fragile' became -inf in epoch 3;")
    assert complaint.count("\n") == 1
    assert [record["epoch"] for record in metrics_of(run)] == [1, 2]
    assert not (run / "result.json").exists()
    assert checkpoint.latest(run / "checkpoints").step == 2 * STEPS
    assert glmc("test", run, "--json") == 0
    assert json.loads(capsys.readouterr().out)["test"] == metrics_of(run)[1]["test"]


@pytest.mark.parametrize("steps", [1, 7])
def test_a_learning_rate_beyond_reason_ends_in_a_sentence(place, no_report, capsys, steps):
    """Also when the loss of the only step was still a number, and nothing after it would be."""
    run = f"beyond-{steps}"
    assert glmc("train", "tiny.yaml", "optim.lr=1e18", f"train.max_steps={steps}", "--out", run, "--quiet") == 3
    complaint = capsys.readouterr().err
    assert "optim.lr" in complaint
    assert complaint.count("\n") == 1
    assert steps == 1 or "the loss term '" in complaint
    assert not Path(run, "result.json").exists()


# --------------------------------------------------------------------------------------------- what recipes may ask


def test_max_steps_ends_a_run_in_the_middle_of_an_epoch(plain, no_report):
    run = trained("short", "train.max_steps=10")
    assert (result_of(run)["steps"], result_of(run)["epochs"], newest_step(run)) == (10, 2, 10)
    records = metrics_of(run)
    assert [record["step"] for record in records] == [STEPS, 10]
    assert records[0] == metrics_of(plain)[0]
    assert records[1]["lr"] == metrics_of(plain)[1]["lr"]


def test_the_learning_rate_of_each_epoch_is_on_record(plain):
    assert [record["lr"] for record in metrics_of(plain)] == pytest.approx([0.05, 0.05 * 0.75, 0.05 * 0.25])


def test_evaluating_less_often_changes_nothing_else(plain, no_report):
    run = trained("seldom", "eval.every=2", "eval.flip_tta=false")
    assert ["test" in record for record in metrics_of(run)] == [False, True, True]
    assert "flip_tta" not in result_of(run)
    assert result_of(run)["weights_sha256"] == result_of(plain)["weights_sha256"]
    assert result_of(run)["last"] == result_of(plain)["last"]


def test_selection_on_validation_images(place, no_report, capsys):
    run = trained("selected", "data.val_fraction=0.3", "eval.select=val", "train.epochs=5", "optim.lr=0.2")
    records, selected = metrics_of(run), result_of(run)["selected_on_val"]
    assert all("val" in record and record["val"] != record["test"] for record in records)
    best = max(records, key=lambda record: record["val"]["top1"])
    assert selected == {**best["test"], "epoch": best["epoch"]}
    assert result_of(run)["last"] == records[-1]["test"]
    (kept,) = (run / "selected").iterdir()
    assert kept.name == f"step-{best['step']:08d}"
    assert glmc("test", kept, "--json") == 0
    assert json.loads(capsys.readouterr().out)["test"] == best["test"]


def test_a_run_that_gains_nothing_on_validation_images_stops_early_and_stays_stopped(place, no_report, capsys):
    run = trained("early", "data.val_fraction=0.3", "eval.stop_after=2", "train.epochs=9", "optim.lr=1e-9")
    scores = [record["val"]["top1"] for record in metrics_of(run)]
    assert len(scores) < 9
    assert max(scores[-2:]) <= max(scores[:-2])
    before = result_of(run)
    assert (before["epochs"], before["last"]) == (len(scores), metrics_of(run)[-1]["test"])
    (run / "result.json").unlink()  # a kill came just before it
    assert glmc("train", "--resume", run) == 0
    again = result_of(run)
    assert {**again, "seconds": None, "seal": None} == {**before, "seconds": None, "seal": None}
    assert f"stopped after epoch {len(scores)} of 9" in (run / "log.txt").read_text()


def test_minutes_give_the_run_of_so_many_epochs_and_what_is_ahead_is_told(place, no_report, monkeypatch):
    def five_seconds(self):
        known, self.seconds = bool(self.seconds), 5.0
        return not known

    monkeypatch.setattr(pace.Pace, "tick", five_seconds)
    begun = {"command": "", "quiet": True, "since": time.perf_counter()}
    out = run.train(recipe.load("tiny.yaml"), Path("minutes"), minutes=2.5, **begun)
    assert result_of(out)["epochs"] == 2
    same(out, trained("two", "train.epochs=2"))
    log = (out / "log.txt").read_text()
    assert "--minutes 2.5 sets train.epochs=2 in the place of 3" in log
    assert "about 2 min to go on cpu" in log


def test_steps_are_timed_after_the_first_few():
    ticks = iter(range(100))
    timed = pace.Pace(torch.device("cpu"), lambda: float(next(ticks)))
    assert [timed.tick() for _ in range(8)] == [False] * 5 + [True] + [False] * 2
    assert timed.seconds == pytest.approx(4 / 3)


def test_what_is_ahead_takes_longer_with_larger_images():
    asked = recipe.load("digits_lt/ce", ["train.epochs=4"])
    parts = SimpleNamespace(recipe=asked, areas=[0.25, 0.25, 1.0, 1.0], total_steps=40, sets={}, device="cpu")
    parts.loader = SimpleNamespace(batch_size=8, views=[None])
    assert pace.estimate(parts, State(), 60.0).startswith("about 1.7 h")  # 20 steps of a minute and 20 of four
    assert pace.estimate(parts, State(epoch=2, steps=20), 60.0).startswith("about 20 min")


def test_a_frozen_backbone_stays_bit_for_bit(plain, no_report):
    start, end = initial_weights(), checkpoint.latest(trained("frozen", "model.freeze=true") / "checkpoints").weights()
    backbone = [name for name in start if name.startswith("backbone.")]
    assert any("running_mean" in name for name in backbone)
    assert all(torch.equal(start[name], end[name]) for name in backbone)
    assert not torch.equal(start["rebalanced.weight"], end["rebalanced.weight"])
    thawed = weights_of(plain)
    assert not any(torch.equal(start[name], thawed[name]) for name in backbone)


BARE = ["optim.momentum=0", "optim.weight_decay=0", "eval.flip_tta=false", "train.max_steps=1"]


@pytest.fixture(scope="module")
def one_step(place):
    """Initial weights, and how far one step of plain gradient descent takes them: by name."""
    first, then = initial_weights(), weights_of(trained("one", *BARE))
    return first, {name: then[name] - first[name] for name in first if is_parameter(name)}


def test_the_backbone_may_have_a_learning_rate_of_its_own(one_step, no_report):
    first, moved = one_step
    then = weights_of(trained("slow", *BARE, "optim.backbone_lr=0.005"))
    for name, way in moved.items():
        share = 0.1 if name.startswith("backbone.") else 1.0
        torch.testing.assert_close(then[name], first[name] + share * way, rtol=1e-5, atol=1e-6)
    assert max(way.abs().max() for name, way in moved.items() if name.startswith("backbone.")) > 1e-3


def test_a_clipped_gradient_has_the_norm_asked_for(one_step, no_report):
    first, moved = one_step
    then = weights_of(trained("clipped", *BARE, "optim.clip=0.01"))
    clipped = torch.cat([(then[name] - first[name]).flatten() for name in moved])
    free = torch.cat([way.flatten() for way in moved.values()])
    assert free.norm() > 10 * 0.05 * 0.01
    assert clipped.norm().item() == pytest.approx(0.05 * 0.01, rel=1e-2)
    assert torch.cosine_similarity(clipped, free, dim=0) > 0.999


def test_the_moving_average_is_what_is_judged(place, no_report, capsys):
    options = ["train.ema=0.75", "eval.flip_tta=false"]
    after_one = weights_of(trained("average-1", *options, "train.max_steps=1"))
    run = trained("average-2", *options, "train.max_steps=2")
    after_two, average = weights_of(run), weights_of(run, "average")
    for name, first in initial_weights().items():
        if is_parameter(name):
            wanted = 0.75 * (0.75 * first + 0.25 * after_one[name]) + 0.25 * after_two[name]
            torch.testing.assert_close(average[name], wanted, rtol=1e-5, atol=1e-7)
    assert result_of(run)["weights_sha256"] == checkpoint.weights_sha256(average)
    assert glmc("test", run, "--json") == 0
    assert json.loads(capsys.readouterr().out)["test"] == result_of(run)["last"]
