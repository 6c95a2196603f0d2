"""benchmarks/leaderboard.py and study.py on four classes of small squares."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faults.small_runs import forked, glmc
from glmc import report

ROOT = Path(__file__).parent.parent


@pytest.fixture
def squares(tmp_path, monkeypatch):
    """Four classes of 8 x 8 pixels, enough of each for an imbalance of 100."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for part, number in (("train", 125), ("test", 3)):
        for label in range(4):
            place = tmp_path / "cifar10-jpeg" / part / f"class{label}"
            place.mkdir(parents=True)
            for n in range(number):
                pixels = np.clip(rng.normal(60 * label, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{n}.png")


@pytest.fixture
def script(squares, tmp_path, monkeypatch, capsys):
    """A script of the benchmarks in this process, where steps are hardly timed: name, words -> what it prints."""
    running = importlib.import_module("running")
    measured = running.measured
    monkeypatch.setattr(running, "measured", lambda recipe, timed: measured(recipe, timed=0.01))

    def carried_out(name, *words):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        importlib.import_module(name).main()
        return capsys.readouterr().out

    return carried_out


def test_a_shared_first_stage_is_trained_once_and_the_page_tells_what_is_missing(script, tmp_path):
    (tmp_path / "work" / "cifar10-jpeg-1").mkdir(parents=True)
    rate = tmp_path / "work" / "cifar10-jpeg-1" / "rate.json"
    rate.write_text('{"rate": 0.1, "tried": {"0.1": 50.0}}')  # as if it had been tuned
    words = ["--epochs", "1", "--systems", "ce,tau_norm", "--columns", "common", "--root", tmp_path, "--docs", tmp_path]
    for _ in range(2):  # the second time nothing is left to do
        said = script("leaderboard", *words, "--work", tmp_path / "work", "--record", tmp_path / "record")
    assert said.count("\n") == 1  # the learning rate
    board = json.loads((tmp_path / "record" / "cifar10-jpeg-1.json").read_text())
    assert [(row["system"], row["then"]) for row in board["rows"]] == [("ce", []), ("tau_norm", ["tau_norm"])]
    assert len(list((tmp_path / "work" / "cifar10-jpeg-1" / "runs").glob("*/result.json"))) == 2
    text = (tmp_path / "leaderboard.md").read_text()
    assert f"| ce | {board['rows'][0]['last']['top1']:.2f} | - | - |" in text
    assert "Not measured: focal," in text


def test_what_is_set_aside_is_balanced_and_no_part_of_the_training_list(squares, tmp_path):
    leaderboard = importlib.import_module("leaderboard")
    leaderboard.Board("cifar10-jpeg", 1, tmp_path, "cpu").set_aside()
    train, aside = (
        set((tmp_path / "cifar10-jpeg-1" / f"{name}.txt").read_text().splitlines()) for name in ("train", "aside")
    )
    assert (len(train), len(aside), train & aside) == (400, 100, set())
    assert all(sum(line.endswith(f" class{label}") for line in aside) == 25 for label in range(4))


def test_a_study_goes_on_where_it_stopped_and_a_speed_run_adds_to_its_history(script, tmp_path, monkeypatch):
    calls = []

    def trained(self, run, *words):
        """In a process that has everything imported already; forked while no other thread computes: --jobs 1."""
        calls.append(run)
        assert forked(lambda: glmc(*words, "--quiet"), run.with_suffix(".log")).wait() == 0
        run.with_suffix(".memory").write_text("1\n")

    monkeypatch.setattr("running.Runs.glmc", trained)
    monkeypatch.setattr(report, "write", lambda run: None)
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "data: cifar10-jpeg\nepochs: 2\nsplit: aside\nseeds: [0]\nvalues: [data.imbalance=null]\nrows:\n"
        "  base: {system: ce, values: [optim.lr=0.02]}\n"
        "  short: {like: base, seconds: base, epochs: 1}\n"
    )
    places = ["--jobs", "1", "--root", tmp_path, "--work", tmp_path / "work", "--record"]
    record = tmp_path / "record" / "grid.json"
    for lost in (record, tmp_path / "work", None):  # what is left has all that was trained
        said = script("study", grid, *places, tmp_path / "record")
        assert len(calls) == 2
        if lost == record:
            assert len(list((tmp_path / "work" / "runs-cifar10-jpeg" / "runs").glob("*/result.json"))) == 2
            record.unlink()
        elif lost:
            shutil.rmtree(lost)
    found = json.loads(record.read_text())["rows"]
    assert found["base"]["runs"][0]["epochs"] == 2
    assert found["short"]["runs"][0]["epochs"] >= 1  # as long as a clock says
    assert "| base | 2 | " in said
    whole = grid.read_text()
    for ours, theirs, sentence in (("lr=0.02", "lr=0.03", "2 of its runs are of"), ("hs: 2", "hs: 3", "is 2, not 3")):
        grid.write_text(whole.replace(ours, theirs))
        with pytest.raises(SystemExit, match=sentence):
            script("study", grid, *places, tmp_path / "record")
    grid.write_text(whole)
    attempt = ["--row", "short", "--epochs", "1", "--target", "base", "--note", "half as long"]
    said = script("time_to_accuracy", grid, *attempt, "--known", record, *places, tmp_path / "history")
    assert len(calls) <= 3  # what the record has is not trained again
    (attempt,) = json.loads((tmp_path / "history" / "grid.json").read_text())
    assert attempt["target"]["epochs"] == 2
    assert attempt["time"] > 0
    assert "half as long | 1 |" in said
