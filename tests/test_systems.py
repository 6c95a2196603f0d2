"""Every system on the embedded digits: what it loses, what it learns, and that it goes on after an interruption."""

import json
import shutil
import time
from pathlib import Path

import pytest

from glmc import recipe
from glmc.recipe.systems import rows
from glmc.runs import result
from glmc.train import run, stages

HOME = Path(__file__).parent
GOLDEN = json.loads((HOME / "golden" / "systems.json").read_text())  # terms of the loss in 4 epochs of 6 steps
QUIET = {"command": "glmc", "quiet": True, "since": time.perf_counter()}
SMALL = ["data.n_max=40", "data.imbalance=8", "train.epochs=8", "eval.every=8", "eval.flip_tta=false"]
LEARNT = 40.0  # top-1 after 48 steps; a guess is right in 10 of 100


def terms(folder):
    """The terms of the loss by epoch."""
    return [json.loads(line)["terms"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("system", rows())
def test_a_system_loses_what_it_lost_learns_and_goes_on_to_the_same_bits(system, tmp_path):
    wanted = recipe.load(f"digits_lt/{system}", SMALL)
    folder = run.train(wanted, tmp_path / "run", **QUIET)
    for got, golden in zip(terms(folder), GOLDEN[system], strict=False):
        assert got == pytest.approx(golden, rel=5e-3, abs=1e-3)
    whole = result.read(folder)
    shutil.rmtree(max(folder.glob("checkpoints/step-*")))  # as if it had been killed before the last epoch
    (folder / result.FILE).unlink()
    run.resume(folder, (), **QUIET)
    assert result.read(folder).weights_sha256 == whole.weights_sha256
    stages.go_on(folder, **QUIET)
    last = stages.last(folder, wanted)
    assert result.read(last).last["top1"] > LEARNT
    assert (last / "report.html").stat().st_size > 10_000
