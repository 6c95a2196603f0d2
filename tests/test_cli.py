"""The command as a user meets it: what it prints, how it ends, and what it says to bad input."""

import json
import os
import pty
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import glmc
from faults.small_runs import forked
from faults.small_runs import glmc as glmc_command
from glmc import __main__, recipe, report
from glmc.data.holdout import stratified_holdout
from glmc.runs import checkpoint

TINY = """
# Tiny cross entropy on digits.
data:   {name: digits, imbalance: 4, n_max: 36, batch_size: 32}
views:  {train: [{crop: 1}], test: []}
model:  {name: resnet20}
method: {name: supervised}
optim:  {name: sgd, lr: 0.05, weight_decay: 5e-4}
train:  {epochs: 2, precision: float32, device: cpu}
eval:   {batch_size: 250}
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty working directory with the recipe."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def command(monkeypatch, capsys):
    """The command in this process: words -> (exit code, standard output, standard error)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["glmc", *map(str, words)])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as ended:
            __main__.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def process(*words, options=(), **changes):
    """The command in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **changes.pop("env", {})}
    return subprocess.run(
        [sys.executable, *options, "-m", "glmc", *words], capture_output=True, text=True, env=environment, **changes
    )


def everything(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


# ------------------------------------------------------------------------------------------- without torch, at once


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--version"], 0, f"glmc {glmc.__version__}\n"),
        (["--help"], 0, "Usage: glmc [OPTIONS] COMMAND"),
        (["train", "--help"], 0, "[RECIPE] [KEY=VALUE]..."),
        (["list", "recipes"], 0, "digits_lt/glmc  GLMC on scikit-learn's handwritten digits"),
        (["train", "digits_lt/glcm"], 2, "there is no recipe or folder 'digits_lt/glcm'; did you mean digits_lt/glmc"),
        (["train", "optim.lrr=1"], 2, "optim.lr"),
    ],
)
def test_help_and_mistakes_load_no_torch(place, words, code, expected):
    done = process(*words, options=["-X", "importtime"])
    imports = re.compile(r"^import time: .*\|\s+(\S+)$", re.M)
    loaded = {name.partition(".")[0] for name in imports.findall(done.stderr)}
    said = done.stdout + "".join(line for line in done.stderr.splitlines(True) if not line.startswith("import time:"))
    assert done.returncode == code
    assert expected in said
    assert "typer" in loaded, "the list of imports has not been understood"
    assert not loaded & {"torch", "torchvision", "timm", "matplotlib", "sklearn", "scipy"}
    assert [path.name for path in place.iterdir()] == ["tiny.yaml"]


# ------------------------------------------------------------------------------------------------ list, show, cache


def test_lists_are_text_or_json(command):
    for what, example in [
        ("recipes", "cifar10_lt/glmc_published"),
        ("methods", "glmc"),
        ("stages", "crt"),
        ("datasets", "digits"),
        ("backbones", "resnet32_w64"),
    ]:
        code, text, _ = command("list", what)
        assert code == 0
        assert example in [line.split()[0] for line in text.splitlines()]
        code, text, _ = command("list", what, "--json")
        assert code == 0
        assert example in [row["name"] for row in json.loads(text)]


def test_keys_are_explained_and_completed(command, monkeypatch):
    """A line with value, type, range and default, and one with the meaning; the Tab key knows them, too."""
    code, text, _ = command("show", "tiny.yaml", "--keys", "method.name=glmc")
    assert code == 0
    about = "whole number, at least 1, at most 1000000; needed"
    assert f"train.epochs=2  ({about})\n    passes over the training images\n" in text
    assert 'eval.few="<20"  (<20 or <=20; default "<20")\n    training images of a few-shot class\n' in text
    assert "method.contrast_weight=4.0  (number; default 4.0)\n    gamma, the factor of" in text
    for words, offered in [
        ("glmc train digits_lt/", ["digits_lt/ce", "digits_lt/glmc"]),
        ("glmc train t", ["tiny.yaml", "train.epochs=", "train.schedule="]),
        ("glmc train tiny.yaml loss.name=c", ["loss.name=cross_entropy", "loss.name=class_weighted"]),
        ("glmc test run eval.select = v", ["val"]),  # as bash has it
        ("glmc bench photos --systems ce,ba", ["ce,balanced_softmax", "ce,balpoe"]),
    ]:
        monkeypatch.setenv("_GLMC_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        found = command()[1].split()
        assert [word for word in offered if word not in found] == [], found
        assert all(word.startswith(words.split()[-1]) for word in found)


def test_the_methods_are_listed_with_their_settings(command):
    _, text, _ = command("list", "methods")
    (line,) = (line for line in text.splitlines() if line.startswith("glmc "))
    assert "contrast_weight=4.0" in line
    assert 'view_reduction="sum"' in line


def test_show_prints_the_complete_recipe_and_its_data(command, place):
    code, text, _ = command("show", "tiny.yaml", "train.seed=3", "data.val_fraction=0.1")
    assert code == 0
    Path("shown.yaml").write_text(text)
    shown = recipe.load("shown.yaml")
    assert shown.model_dump() == recipe.load("tiny.yaml", ["train.seed=3", "data.val_fraction=0.1"]).model_dump()
    assert text.startswith("# tiny with other values of data.val_fraction\n")
    tail = np.repeat(np.arange(10), [int(36 * 0.25 ** (c / 9)) for c in range(10)])
    kept, held = stratified_holdout(tail, 0.1, seed=0)  # the hold-out is taken from the long tail, not beside it
    counts = np.bincount(tail[kept])
    assert f"{len(held)} validation" in text
    assert f"# training images a class: {' '.join(map(str, counts))}\n" in text
    assert "500 test images of 10 classes" in text
    assert f"# steps: {-(-sum(counts) // 32)} an epoch, 2 epochs" in text
    assert sorted(path.name for path in place.iterdir()) == ["shown.yaml", "tiny.yaml"]


def test_show_says_what_is_wrong_with_the_data_and_still_shows_the_recipe(command):
    code, text, _ = command("show", "tiny.yaml", "data.name=folder", "data.root=nowhere")
    assert code == 0
    assert "name: folder" in text
    assert re.search(r"^# data: .*nowhere", text, re.M)


def photographs(root, **classes):
    """Noise, 8 x 8 in colour: class -> number of images."""
    noise = np.random.Generator(np.random.PCG64(0))
    for name, number in classes.items():
        (root / name).mkdir(parents=True)
        for n in range(number):
            Image.fromarray(noise.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(root / name / f"{n}.png")


FOLDER = ["data.name=folder", "data.root=images", "data.imbalance=null", "data.n_max=null"]


def test_the_cache_of_decoded_images_is_shown_and_cleared(command, place, monkeypatch):
    monkeypatch.setattr(report, "write", lambda run: None)
    photographs(place / "images/train", cat=5, dog=5)
    photographs(place / "images/test", cat=3, dog=3)
    assert command("train", "tiny.yaml", *FOLDER, "train.max_steps=1", "--out", "run", "--quiet")[0] == 0
    code, text, _ = command("cache")
    assert code == 0
    assert len(text.splitlines()) == 5  # pixels and digests of training and test images, sum
    assert str(place / "cache") in text.splitlines()[-1]
    entries = json.loads(command("cache", "--json")[1])
    assert len(entries) == 4
    assert sum(entry["bytes"] for entry in entries) >= 16 * 8 * 8 * 3
    code, text, _ = command("cache", "--clear")
    assert code == 0
    assert "freed" in text
    assert json.loads(command("cache", "--json")[1]) == []


# -------------------------------------------------------------------------------------------------------- bad input


def lists(place, train, test="path,label\nimages/train/cat/0.png,cat\n"):
    photographs(place / "images/train", cat=2, dog=2)
    (place / "train.csv").write_text(train)
    (place / "test.csv").write_text(test)


LISTS = ["data.name=list", "data.root=.", "data.train_list=train.csv", "data.test_list=test.csv"]
LISTS += ["data.imbalance=null", "data.n_max=null"]
GOOD = "path,label\nimages/train/cat/0.png,cat\nimages/train/dog/0.png,dog\n"


def damaged(place):
    photographs(place / "images/train", cat=2, dog=2)
    photographs(place / "images/test", cat=1, dog=1)
    (place / "images/train/dog/1.png").write_bytes(b"\x89PNG, but no more")


def spelled_twice(place):
    photographs(place / "images/train", cat=2, dog=2)
    photographs(place / "images/test", Cat=1, dog=1)


def without_images(place):
    photographs(place / "images/train", cat=2, dog=0)
    photographs(place / "images/test", cat=1, dog=1)


def only_in_test(place):
    photographs(place / "images/train", cat=2, dog=2)
    photographs(place / "images/test", cat=1, emu=1)


def in_both(place):
    photographs(place / "images/train", cat=2, dog=2)
    photographs(place / "images/test", cat=1, dog=1)


def taken(place):
    (place / "out").mkdir()
    (place / "out" / "thesis.tex").write_text("precious")


def occupied(place):
    (place / "out").write_text("a file")


# what to prepare, words after `train`, what the sentence must name
BAD = {
    "missing root": (None, ["tiny.yaml", *FOLDER], ["images", "data.root"]),
    "empty folder": (lambda p: (p / "images").mkdir(), ["tiny.yaml", *FOLDER], ["images"]),
    "class without training images": (without_images, ["tiny.yaml", *FOLDER], ["'dog'", "images/train/dog"]),
    "class only in test": (only_in_test, ["tiny.yaml", *FOLDER], ["'emu'", "images/test/emu", "remove"]),
    "two spellings of a class": (spelled_twice, ["tiny.yaml", *FOLDER], ["Cat", "cat"]),
    "unreadable image": (damaged, ["tiny.yaml", *FOLDER], ["images", "train/dog/1.png", "replace or remove"]),
    "fewer images than the profile asks for": (
        None, ["tiny.yaml", "data.n_max=500"], ["has 1", "needs 500", "data.n_max="],
    ),
    "list line without label": (
        lambda p: lists(p, GOOD + "images/train/cat/1.png\n"), ["tiny.yaml", *LISTS], ["train.csv:4", "label"],
    ),
    "csv without header": (
        lambda p: lists(p, GOOD.partition("\n")[2]), ["tiny.yaml", *LISTS], ["train.csv:1", "path,label"],
    ),
    "label out of range": (
        lambda p: lists(p, GOOD.replace("cat\n", "-1\n").replace("dog\n", "1\n")),
        ["tiny.yaml", *LISTS], ["train.csv:2", "-1"],
    ),
    "imbalance below 1": (None, ["tiny.yaml", "data.imbalance=0.5"], ["data.imbalance", "0.5"]),
    "output folder not empty": (taken, ["tiny.yaml", "--out", "out"], ["out", "not empty", "name another"]),
    "output folder is a file": (occupied, ["tiny.yaml", "--out", "out"], ["out", "name another folder"]),
    "output folder under a file": (occupied, ["tiny.yaml", "--out", "out/run"], ["out/run", "name another folder"]),
    "no such recipe": (None, ["digit_lt/glmc"], ["digit_lt/glmc", "did you mean digits_lt/glmc"]),
    "no such recipe file": (None, ["tony.yaml"], ["tony.yaml"]),
    "last part of a recipe's name": (None, ["ce"], ["'ce'", "did you mean folder/ce", "digits_lt/ce"]),
    "value as an option": (None, ["tiny.yaml", "--batch-size", "3"], ["--batch-size", "data.batch_size=3?"]),
    "option misspelt": (None, ["tiny.yaml", "--sed", "0,1"], ["--sed", "did you mean --seeds?"]),
    "wrong key": (None, ["tiny.yaml", "optim.lrate=1"], ["optim.lrate", "optim.lr"]),
    "value of another type": (None, ["tiny.yaml", "train.epochs=many"], ["train.epochs", "many"]),
    "unknown method": (None, ["tiny.yaml", "method.name=glcm"], ["glcm", "glmc"]),
    "unknown model": (None, ["tiny.yaml", "model.name=resnet21"], ["resnet21", "resnet2", "glmc list backbones"]),
    "unknown data set": (None, ["tiny.yaml", "data.name=digitz"], ["digitz", "digits"]),
    "model for other images": (
        None, ["tiny.yaml", "model.name=vit_tiny_patch16_224"], ["model.name=vit_tiny_patch16_224", "8 x 8"],
    ),
    "model for images of one size": (
        in_both,
        ["tiny.yaml", *FOLDER, "model.name=test_vit", "data.size=160", "train.progressive={side: 0.75, until: 0.5}"],
        ["train.progressive", "test_vit", "120 x 120", "null"],
    ),
    "batch beyond the memory": (
        None, ["tiny.yaml", "data.batch_size=1000000000"], ["data.batch_size=1000000000", "GiB", "would fit"],
    ),
    "a last batch of one image": (
        None, ["tiny.yaml", "model.name=resnet18", "data.n_max=33", "data.imbalance=1", "data.batch_size=47"],
        ["data.batch_size=47", "one image"],
    ),
    "no validation images": (None, ["tiny.yaml", "eval.select=val"], ["eval.select=val", "data.val_fraction"]),
    "stopping on test images": (None, ["tiny.yaml", "eval.stop_after=2"], ["eval.stop_after=2", "data.val_fraction"]),
    "minutes and epochs": (None, ["tiny.yaml", "train.epochs=2", "--minutes", "3"], ["--minutes 3", "train.epochs"]),
    "minutes for several": (None, ["tiny.yaml", "--seeds", "0,1", "--minutes", "3"], ["--minutes", "one new run"]),
    "no minutes": (None, ["tiny.yaml", "--minutes", "0"], ["--minutes 0: an epoch takes about", "more minutes"]),
    "pretrained at another size": (
        None, ["tiny.yaml", "model.name=resnet18", "model.pretrained=true"], ["224 x 224", "data.size=8"],
    ),
    "no file of weights": (None, ["tiny.yaml", "model.pretrained=w.safetensors"], ["model.pretrained=w.safetensors"]),
    "device that is not there": (None, ["tiny.yaml", "train.device=mps"], ["train.device=mps", "train.device=auto"]),
    "resuming nothing": (None, ["--resume", "nowhere"], ["nowhere", "no run"]),
    "resuming with a recipe": (None, ["tiny.yaml", "--resume", "nowhere"], ["--resume"]),
    "two recipes": (None, ["tiny.yaml", "other.yaml"], ["'other.yaml'", "key=value"]),
    "seeds that are no numbers": (None, ["tiny.yaml", "--seeds", "a,b"], ["--seeds a,b", "0,1,2"]),
    "a seed twice": (None, ["tiny.yaml", "--seeds", "1,1"], ["--seeds 1,1", "different"]),
    "a seed below 0": (None, ["tiny.yaml", "--seeds", "0,-1"], ["train.seed=-1"]),
    "seeds with bad data": (None, ["tiny.yaml", *FOLDER, "--seeds", "0,1"], ["images"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_answered_with_one_sentence(command, place, name):
    """Exit code 2, what is wrong and what to do; nothing is left behind and nothing is overwritten."""
    prepare, words, named = BAD[name]
    if prepare:
        prepare(place)
    before = everything(place)
    code, _, complaint = command("train", *words)
    assert code == 2, complaint
    assert complaint.startswith("glmc: ")
    assert complaint.count("\n") == 1, "more than a line"
    assert "Traceback" not in complaint
    assert "defect" not in complaint
    assert [word for word in named if word not in complaint] == [], complaint
    after = {path: content for path, content in everything(place).items() if place / "cache" not in path.parents}
    assert {path for path in after if path.name != "cache"} == set(before)
    assert all(after[path] == content for path, content in before.items())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(command, place):
    (place / "locked").mkdir(mode=0o500)
    code, _, complaint = command("train", "tiny.yaml", "--out", "locked/run")
    assert code == 2
    assert "locked/run" in complaint
    assert "Permission denied" in complaint


def test_debug_shows_where(place):
    quiet, loud = process("train", "nothing.yaml"), process("--debug", "train", "nothing.yaml")
    assert quiet.returncode == 2
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr
    assert "UserError" in loud.stderr


def test_weights_that_cannot_be_fetched(command, place, monkeypatch):
    """The switch of the hub's own library takes the network away."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "hub"))
    code, _, complaint = command(
        "train", "tiny.yaml", "model.name=resnet18", "model.pretrained=true", "data.size=8", "data.mean=[0.3]",
        "data.std=[0.4]",
    )  # fmt: skip
    assert code == 2
    assert complaint.startswith("glmc: model.pretrained: the weights of resnet18 cannot be had")
    assert "model.pretrained=FILE" in complaint
    assert complaint.count("\n") == 1
    assert not (place / "runs").exists()


@pytest.fixture
def run(command, monkeypatch, place):
    """A finished run."""
    monkeypatch.setattr(report, "write", lambda run: (run / "report.html").touch())
    assert command("train", "tiny.yaml", "train.max_steps=2", "--out", "run", "--quiet") == (0, "", "")
    return place / "run"


def test_a_run_or_checkpoint_that_does_not_suit(command, place, run):
    photographs(place / "images/train", cat=2, dog=2)
    photographs(place / "images/test", cat=1, dog=1)
    before = everything(place)
    classes = ["2 classes", "trained on 10", "data.root=images"]
    data = ["data.name=folder", "data.root=images", "data.channels=1"]
    for words, named in [
        (["test", "run", *data], classes),
        (["test", "nowhere"], ["nowhere", "neither a run"]),
        (["test", "images"], ["images", "neither a run"]),
        (["test", "run", "model.name=resnet32"], ["model.name=resnet32", "weights"]),
        (["test", "run", "model.nome=resnet32"], ["model.nome", "model.name"]),
        (["train", "--resume", "images"], ["images", "recipe.yaml"]),
        (["train", "--resume", "run", "optim.lr=1"], ["optim.lr=1", "data.root"]),
        (["train", "--resume", "run", "train.epochs=9"], ["train.epochs=9"]),
        (["train", "tiny.yaml", "--out", "run"], ["run", "not empty"]),
    ]:
        code, _, complaint = command(*words)
        assert (code, complaint.count("\n")) == (2, 1), complaint
        assert [word for word in named if word not in complaint] == [], complaint
        after = {path: content for path, content in everything(place).items() if place / "cache" not in path.parents}
        assert {path: after[path] for path in before} == before


def test_a_run_is_resumed_on_its_own_images_alone(command, place, monkeypatch):
    """The folder that the recipe names has changed since: an image is gone, a class has come."""
    monkeypatch.setattr(report, "write", lambda run: None)
    photographs(place / "images/train", cat=4, dog=4)
    photographs(place / "images/test", cat=1, dog=1)
    assert command("train", "tiny.yaml", *FOLDER, "train.max_steps=1", "--out", "run", "--quiet")[0] == 0
    (place / "run/result.json").unlink()
    away = (place / "images/train/dog/0.png").rename(place / "0.png")
    code, _, complaint = command("train", "--resume", "run")
    assert code == 2
    assert "of the run's 8 training images under images, 1 missing (first: 'train/dog/0.png')" in complaint
    away.rename(place / "images/train/dog/0.png")
    photographs(place / "images/train", emu=4)
    photographs(place / "images/test", emu=1)
    code, output, _ = command("train", "--resume", "run")
    assert code == 0
    assert "new since the run began: 5 images" in output
    assert checkpoint.latest(place / "run/checkpoints").step == 1


def test_a_damaged_checkpoint_is_passed_over_and_named(command, place, run):
    newest = checkpoint.latest(run / "checkpoints").path
    weights = newest / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    code, _, complaint = command("test", "run")
    assert code == 2
    assert "weights.safetensors is damaged" in complaint


def test_a_full_disk_stops_a_run_that_then_goes_on(command, place, run):
    """No file may grow beyond 256 KiB, as on a full disk: the first checkpoint does not fit."""

    def cramped():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18))
        return glmc_command("train", "tiny.yaml", "train.max_steps=2", "--out", "cramped", "--quiet")

    child = forked(cramped, place / "errors")
    assert child.wait() == 2
    said = child.said()
    assert said.count("\n") == 1
    assert "cramped/checkpoints: the checkpoint of step 2 could not be saved (File too large)" in said
    assert "resume" in said
    assert list((place / "cramped/checkpoints").iterdir()) == []
    assert command("train", "--resume", "cramped", "--quiet")[0] == 0
    names = ("metrics.jsonl", "result.json")
    ours, theirs = ([json.loads((place / r / name).read_text()) for name in names] for r in ("cramped", "run"))
    assert ours[0]["terms"] == theirs[0]["terms"]


# ----------------------------------------------------------------------------------------------------------- screen


def test_a_pipe_gets_plain_lines(place):
    done = process("train", "tiny.yaml", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    for epoch in (1, 2):
        assert [
            line
            for line in lines
            if re.fullmatch(
                rf"epoch {epoch}/2  loss \d+\.\d+  top-1 \d+\.\d+ \(epoch {epoch}\)  [\d:]+ passed, [\d:]+ left", line
            )
        ]
    last = json.loads((place / "run/result.json").read_text())["last"]
    (row,) = (line for line in lines if "last epoch " in line)
    assert f"{last['top1']:.2f}" in row
    assert f"{last['balanced']:.2f}" in row
    assert lines[-1] == "run folder: run   report: run/report.html"


def test_a_terminal_sees_the_progress():
    """Epoch, terms of the loss, accuracy and the time left, as drawn on a terminal of 150 columns."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "glmc", "train", "tiny.yaml", "train.epochs=12", "--out", "run"],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "150", "LINES": "40", "TERM": "xterm"},
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        seen += part
    os.close(ours)
    assert child.wait() == 0
    drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
    bar = r"epoch (\d+)/12  loss \d+\.\d+  top-1 \d+\.\d+ \(epoch \d+\) +\S+ +(\d+)/84 +(\d+:\d\d:\d\d)"
    found = re.findall(bar, drawn)
    assert found, drawn[-2000:]
    assert int(found[-1][0]) > int(found[0][0])
    assert "last epoch" in drawn


def test_quiet_is_quiet(command, run):
    assert (run / "log.txt").read_text().count("epoch 1/2") == 1
    assert (run / "result.json").exists()
