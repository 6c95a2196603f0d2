"""When a run is saved, what of it, and by whom."""

import json
import math
import threading
from types import SimpleNamespace

import pytest
import torch

from glmc import recipe
from glmc.errors import NonFiniteLoss, UserError
from glmc.runs import checkpoint
from glmc.screen import Screen
from glmc.train import build, saving
from glmc.train.engine import State, fit
from glmc.train.saving import Saver

SETTINGS = ["data.val_fraction=0.3", "eval.select=val", "train.ema=0.9", "train.save_minutes=10", "train.threads=1"]


@pytest.fixture
def parts():
    """A run after its first step."""
    built = build.build(recipe.load("digits_lt/ce", [*SETTINGS, "optim.momentum=0.9"]), Screen(quiet=True))
    epochs = built.recipe.train.epochs
    factors = [1.0] * epochs
    next(fit(built.method, built.loader, built.optimizer, built.step, State(), epochs=epochs, factors=factors))
    return built


@pytest.fixture
def run(tmp_path):
    """A run folder."""
    (tmp_path / "metrics.jsonl").touch()
    return tmp_path


@pytest.fixture
def clock(monkeypatch):
    """Seconds, to be set."""
    now = [1000.0]
    monkeypatch.setattr(saving, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def gate(monkeypatch):
    """An event that every writing waits for."""
    opened, real = threading.Event(), checkpoint.write

    def write(*arguments):
        assert threading.current_thread() is not threading.main_thread()
        assert opened.wait(60)
        return real(*arguments)

    monkeypatch.setattr(checkpoint, "write", write)
    yield opened
    opened.set()


def test_the_end_of_an_epoch_saves_if_that_is_cheap(parts, run, clock, gate):
    with Saver(parts, run) as saver:
        assert saver.due(epoch_over=True)  # what the first save costs is not known
        assert not saver.due(epoch_over=False)
        saver.save(State(epoch=1, steps=7))
        clock[0] += 1.5
        assert not saver.due(epoch_over=True)  # it is being written still
        clock[0] += 0.5
        gate.set()
        saver.wait()  # it took 2 seconds
        clock[0] += 37
        assert not saver.due(epoch_over=True)
        clock[0] += 1
        assert saver.due(epoch_over=True)
        assert not saver.due(epoch_over=False)


def test_at_the_latest_a_run_is_saved_after_so_many_minutes(parts, run, clock):
    with Saver(parts, run) as saver:
        clock[0] += 600
        assert not saver.due(epoch_over=False)
        clock[0] += 1
        assert saver.due(epoch_over=False)
        saver.save(State(steps=7))
        assert not saver.due(epoch_over=False)


def test_what_is_written_is_what_there_was_at_the_save(parts, run, gate):
    """Though training goes on before the first byte is written, and over the same memory thereafter."""
    state = State(epoch=1, steps=7)
    with Saver(parts, run) as saver:
        for _ in range(2):
            wanted = {name: tensor.clone() for name, tensor in parts.method.state_dict().items()}
            momenta = {name: tensor.clone() for name, tensor in saving.momenta(parts).items()}
            saver.save(state)
            with torch.no_grad():
                for tensor in [*parts.method.parameters(), *saving.momenta(parts).values()]:
                    tensor.add_(1.0)
            state.steps += 1
            gate.set()
        saver.wait()
        found = checkpoint.latest(run / "checkpoints")
        assert (found.step, found.state["state"]["steps"]) == (8, 8)
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.tensors("weights").items())
        assert momenta
        assert all(torch.equal(tensor, momenta[name]) for name, tensor in found.tensors("optimizer").items())


def save_and(parts, run, do):
    with Saver(parts, run) as saver:
        saver.save(State(steps=7))
        do(saver)


def stop(_):
    raise NonFiniteLoss("a term")


def test_leaving_waits_for_what_is_being_written(parts, run):
    for name in "ab":
        (run / name).mkdir()
        (run / name / "metrics.jsonl").touch()
    save_and(parts, run / "a", lambda saver: None)
    with pytest.raises(NonFiniteLoss, match="a term"):
        save_and(parts, run / "b", stop)
    assert [checkpoint.latest(run / name / "checkpoints").step for name in "ab"] == [7, 7]


def until_due(saver):
    while not saver.due(epoch_over=False):
        pass


@pytest.mark.parametrize("do", [until_due, lambda saver: saver.save(State(steps=8)), lambda saver: None])
def test_an_error_of_the_writer_is_told(parts, run, do):
    (run / "checkpoints").touch()
    with pytest.raises(UserError, match="the checkpoint of step 7 could not be saved"):
        save_and(parts, run, do)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize(
    ("group", "what", "called"),
    [
        ("weights", "weight", "{}.weight"),
        ("weights", "running_var", "{}.running_var"),
        ("optimizer", "momentum_buffer", "momentum_buffer of {}.weight"),
        ("average", "running_mean", "{}.running_mean"),
    ],
)
def test_what_is_not_finite_is_named_and_never_written(parts, run, group, what, called, value):
    home = parts.average if group == "average" else parts.method
    name, norm = next((name, each) for name, each in home.named_modules() if hasattr(each, "running_var"))
    tensor = parts.optimizer.state[norm.weight][what] if group == "optimizer" else getattr(norm, what)
    with Saver(parts, run) as saver:
        saver.save(State(steps=7))
        tensor.data[1] = value
        with pytest.raises(NonFiniteLoss, match=rf"^{group}: {called.format(name)} became non-finite; .*optim\.lr"):
            saver.save(State(steps=8))
    assert checkpoint.latest(run / "checkpoints").step == 7


def test_large_values_whose_sum_is_beyond_the_type_are_written(parts, run):
    with Saver(parts, run) as saver:
        next(parts.method.parameters()).data.fill_(3e38)
        saver.save(State(steps=7))
    assert checkpoint.latest(run / "checkpoints").step == 7


def test_the_best_epoch_on_validation_images_is_written_with_the_next_checkpoint(parts, run):
    records = []
    with Saver(parts, run) as saver:
        for epoch, top1 in enumerate([10.0, 30.0, 20.0], 1):
            records.append({"epoch": epoch, "val": {"top1": top1}})
            saver.select(State(epoch=epoch, steps=epoch), records)
            if epoch == 2:
                best = {name: tensor.clone() for name, tensor in parts.average.state_dict().items()}
            next(parts.average.parameters()).data.add_(1.0)
        assert not (run / "selected").exists()
        saver.save(State(epoch=3, steps=3))
    found = checkpoint.latest(run / "selected")
    assert (found.step, found.state["state"]["epoch"], found.names) == (2, 2, ("weights",))
    assert all(torch.equal(tensor, best[name]) for name, tensor in found.tensors("weights").items())
    assert checkpoint.latest(run / "checkpoints").step == 3
    assert json.loads((found.path / "state.json").read_text())["name"] == "digits_lt/ce"
