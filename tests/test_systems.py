"""Every system on the embedded digits: what it loses, what it learns, and that it goes on after an interruption."""

import json
import shutil
import time
from pathlib import Path

import pytest

from glmc import recipe, report
from glmc.deploy.export import export
from glmc.errors import UserError
from glmc.recipe.systems import rows
from glmc.runs import result
from glmc.train import run, stages

GOLDEN = json.loads((Path(__file__).parent / "golden" / "systems.json").read_text())
QUIET = {"command": "glmc", "quiet": True, "since": time.perf_counter()}
SMALL = ["data.n_max=40", "data.imbalance=8", "eval.every=30", "eval.flip_tta=false"]
EPOCHS = {"bbn": 30}  # its branches are each other's rivals for most of a run
LEARNT = 20.0  # top-1; a guess is right in 10 of 100
EXPORTED = {"ldam", "bbn", "ride", "paco", "mislas", "ssd"}  # one for each way to answer


def shorter(stage):
    """A later stage of 20 epochs."""
    values = [value for value in stage.overrides if not value.startswith("train.epochs=")]
    return " ".join([stage.name, *values, *([] if stage.name in stages.POSTHOC else ["train.epochs=20"])])


@pytest.mark.parametrize("system", rows())
def test_a_system_loses_what_it_lost_learns_and_goes_on_to_the_same_bits(system, tmp_path, monkeypatch):
    wanted = recipe.load(f"digits_lt/{system}", [*SMALL, f"train.epochs={EPOCHS.get(system, 8)}"])
    wanted = wanted.override(f"then={json.dumps([shorter(stage) for stage in stages.following(wanted)] or None)}")
    write = report.write
    monkeypatch.setattr(report, "write", lambda run: None)  # it takes longer than such a run
    folder = run.train(wanted, tmp_path / "run", **QUIET)
    epochs = [json.loads(line)["terms"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for got, golden in zip(epochs[:4], GOLDEN[system], strict=True):  # of 24 steps, on a CPU in float32
        assert got == pytest.approx(golden, rel=5e-3, abs=1e-3)
    whole = result.read(folder)
    shutil.rmtree(max(folder.glob("checkpoints/step-*")))  # as if it had been killed before the last epoch
    (folder / result.FILE).unlink()
    run.resume(folder, (), **QUIET)
    assert result.read(folder).weights_sha256 == whole.weights_sha256
    stages.go_on(folder, **QUIET)
    last = stages.last(folder, wanted)
    assert result.read(last).last["top1"] > LEARNT
    if system in EXPORTED:  # refuses to leave a file that predicts otherwise than the run does
        assert (export(str(last), "onnx", tmp_path / "onnx", quiet=True) / "model.onnx").exists()
        assert write(folder).stat().st_size > 10_000


def test_a_method_that_measures_each_batch_once_takes_no_sam(tmp_path):
    wanted = recipe.load("digits_lt/risda", ["optim.sharpness={rho: 0.05}"])
    with pytest.raises(UserError, match="risda measures each batch once"):
        run.train(wanted, tmp_path / "run", **QUIET)
    assert not (tmp_path / "run").exists()
