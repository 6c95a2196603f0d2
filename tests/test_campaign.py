"""benchmarks/campaign.py on a CPU, with a tiny queue: killed, gone on with, recorded."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parent.parent
QUEUE = {
    "data": {"squares": ["data.name=folder", "data.root=squares", "data.imbalance=3"]},
    "runs": [
        {
            "name": "squares",
            "data": "squares",
            "recipe": "cifar10_lt/ce",
            "overrides": ["model.name=resnet20", "data.mean=null", "data.std=null", "train.max_steps=4"],
            "seeds": [0],
            "minutes": 0.1,
        },
        {
            "name": "too-long",
            "recipe": "digits_lt/ce",
            "overrides": [],
            "seeds": [0],
            "minutes": 1e3,
            "whole": True,
        },
        {
            "name": "digits",
            "recipe": "digits_lt/ce",
            "overrides": ["data.n_max=40", "eval.every=60", "eval.flip_tta=false", "train.epochs=20"],
            "seeds": [0, 1],
            "minutes": 0.2,
        },
    ],
}


@pytest.fixture
def campaign(tmp_path):
    """Starts a part of the script in a folder of its own."""
    environment = {**os.environ, "GLMC_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), environment.get("PYTHONPATH", "")])

    def start(*words):
        command = [sys.executable, ROOT / "benchmarks" / "campaign.py", *map(str, words)]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)

    return start


def archive(folder):
    """A data set of 4 classes of 8 x 8 pixels as an archive."""
    rng = np.random.default_rng(0)
    for part, number in (("train", 12), ("test", 4)):
        for label in range(4):
            place = folder / "squares" / part / f"class{label}"
            place.mkdir(parents=True)
            for n in range(number):
                pixels = np.clip(rng.normal(60 * label, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{n}.jpg")
    with tarfile.open(folder / "squares.tar.xz", "w:xz") as tar:
        tar.add(folder / "squares", "squares")
    (folder / "squares").rename(folder / "unpacked")


def kept(out):
    """The items that a call has left so far."""
    file = out / "items.json"
    return json.loads(file.read_text()) if file.exists() else {}


def member(out, name):
    """A file of campaign.tar."""
    with tarfile.open(out / "campaign.tar") as tar:
        return tar.extractfile(name).read()


def test_runs_that_are_killed_go_on_and_are_recorded(campaign, tmp_path):
    archive(tmp_path)
    (tmp_path / "queue.yaml").write_text(yaml.safe_dump(QUEUE))
    words = ["accuracy", "--device", "cpu", "--data", tmp_path, "--queue", tmp_path / "queue.yaml", "--minutes", 2]

    first = campaign(*words, "--out", "first")
    while first.poll() is None and not any(tmp_path.glob("glmc-campaign-*/runs/digits/seed-*/metrics.jsonl")):
        time.sleep(0.05)
    first.terminate()
    said = first.communicate()[0]
    assert first.returncode == 0
    assert "too-long: not begun" in said
    assert {name: facts["state"] for name, facts in kept(tmp_path / "first").items()} == {
        "squares": "done",
        "digits": "stopped",
    }

    said = campaign(*words, "--out", "second", "--done", "first").communicate()[0]
    assert "squares: " not in said
    assert "digits: glmc train --resume runs/digits" in said
    assert "digits: done, epoch 20, epochs 20" in said
    assert {file.name for file in (tmp_path / "second").iterdir()} == {"campaign.tar", "items.json"}
    environment = json.loads(member(tmp_path / "second", "runs/digits/seed-0/environment.json"))
    assert len(environment["resumed"]) == 1

    assert campaign("record", "--done", "first", "--done", "second", "--out", "record").wait() == 0
    table = (tmp_path / "record" / "README.md").read_text()
    summary = json.loads((tmp_path / "record" / "digits.json").read_text())
    assert [len(run["weights_sha256"]) for run in summary["runs"]] == [64, 64]
    assert f"| digits | 2 | 20 | {summary['last']['top1']['mean']:.2f} ± " in table
    assert "| squares | 1 | 4 | " in table
    assert str(tmp_path) not in table


def test_a_check_that_is_killed_goes_on(campaign, tmp_path):
    words = ["check", "--device", "cpu", "--steps", "1", "--minutes", "3"]
    first = campaign(*words, "--out", "first")
    while first.poll() is None and kept(tmp_path / "first").get("tests", {}).get("state") != "done":
        time.sleep(0.05)
    first.kill()
    assert first.wait() == -signal.SIGKILL

    said = campaign(*words, "--out", "second", "--done", "first").communicate()[0]
    items = kept(tmp_path / "second")
    names = ["ms-resnet32-eager", "seeds", "operations"]
    assert {name: facts["state"] for name, facts in items.items()} == dict.fromkeys(names, "done"), said
    assert items["seeds"]["2"]["equal_to_alone"] == 2
    assert campaign("record", "--done", "first", "--done", "second", "--out", "record").wait() == 0
    table = (tmp_path / "record" / "README.md").read_text()
    assert "device cpu" in table
    assert "| resnet32 | eager | 4 x 2 | " in table
    assert "| 2 | " in table


def test_the_queue_is_understood():
    from glmc import recipe

    plan = yaml.safe_load((ROOT / "benchmarks" / "queue.yaml").read_text())
    for entry in plan["runs"]:
        recipe.load(entry["recipe"], [*plan["data"][entry["data"]], *entry["overrides"]])
    names = [entry["name"] for entry in plan["runs"]]
    assert len(set(names)) == len(names)
