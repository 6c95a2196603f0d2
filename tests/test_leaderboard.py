"""benchmarks/leaderboard.py and study.py on four classes of small squares."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent


def squares(folder):
    """Four classes of 8 x 8 pixels, enough of each for an imbalance of 100."""
    rng = np.random.default_rng(0)
    for part, number in (("train", 125), ("test", 3)):
        for label in range(4):
            place = folder / part / f"class{label}"
            place.mkdir(parents=True)
            for n in range(number):
                pixels = np.clip(rng.normal(60 * label, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{n}.png")


def test_a_shared_first_stage_is_trained_once_and_the_page_tells_what_is_missing(tmp_path, monkeypatch):
    squares(tmp_path / "cifar10-jpeg")
    (tmp_path / "work" / "cifar10-jpeg-1").mkdir(parents=True)
    rate = tmp_path / "work" / "cifar10-jpeg-1" / "rate.json"
    rate.write_text('{"rate": 0.1, "tried": {"0.1": 50.0}}')  # as if it had been tuned
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, ROOT / "benchmarks" / "leaderboard.py", "--epochs", "1", "--systems", "ce,tau_norm"]
    command += ["--columns", "common", "--root", tmp_path, "--work", tmp_path / "work", "--record", tmp_path / "record"]
    for _ in range(2):  # the second time nothing is left to do
        done = subprocess.run([*command, "--docs", tmp_path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1  # the learning rate
    board = json.loads((tmp_path / "record" / "cifar10-jpeg-1.json").read_text())
    assert [(row["system"], row["then"]) for row in board["rows"]] == [("ce", []), ("tau_norm", ["tau_norm"])]
    assert len(list((tmp_path / "work" / "cifar10-jpeg-1" / "runs").glob("*/result.json"))) == 2
    text = (tmp_path / "leaderboard.md").read_text()
    assert f"| ce | {board['rows'][0]['last']['top1']:.2f} | - | - |" in text
    assert "Not measured: focal," in text


def test_what_is_set_aside_is_balanced_and_no_part_of_the_training_list(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import leaderboard

    squares(tmp_path / "cifar10-jpeg")
    leaderboard.Board("cifar10-jpeg", 1, tmp_path, "cpu").set_aside()
    train, aside = (
        set((tmp_path / "cifar10-jpeg-1" / f"{name}.txt").read_text().splitlines()) for name in ("train", "aside")
    )
    assert (len(train), len(aside), train & aside) == (400, 100, set())
    assert all(sum(line.endswith(f" class{label}") for line in aside) == 25 for label in range(4))


def test_a_study_goes_on_where_it_stopped_and_a_speed_run_adds_to_its_history(tmp_path, monkeypatch):
    squares(tmp_path / "cifar10-jpeg")
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "data: cifar10-jpeg\nepochs: 2\nsplit: aside\nseeds: [0]\nvalues: [data.imbalance=null]\nrows:\n"
        "  base: {system: ce, values: [optim.lr=0.02]}\n"
        "  short: {like: base, seconds: base, epochs: 1}\n"
    )
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path / "cache"))
    places = ["--root", tmp_path, "--work", tmp_path / "work", "--record"]
    for _ in range(2):  # the second time nothing is left to do
        done = subprocess.run(
            [sys.executable, ROOT / "benchmarks" / "study.py", grid, *places, tmp_path / "record"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "record" / "grid.json").read_text())["rows"]
    assert found["base"]["runs"][0]["epochs"] == 2
    assert found["short"]["runs"][0]["epochs"] >= 1  # as long as a clock says
    assert "| base | 2 | " in done.stdout
    assert len(list((tmp_path / "work" / "runs-cifar10-jpeg" / "runs").glob("*/result.json"))) == 2
    command = [sys.executable, ROOT / "benchmarks" / "time_to_accuracy.py", grid, "--row", "short", "--epochs", "1"]
    done = subprocess.run(
        [*command, "--target", "base", "--note", "half as long", *places, tmp_path / "history"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (attempt,) = json.loads((tmp_path / "history" / "grid.json").read_text())
    assert attempt["target"]["epochs"] == 2
    assert attempt["time"] > 0
    assert "half as long | 1 |" in done.stdout
