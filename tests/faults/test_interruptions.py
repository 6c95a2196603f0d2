"""Runs that are killed and interrupted wherever that is possible, and go on as if nothing had been."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from faults.small_runs import (
    OWN_ERRORS,
    STEPS,
    STREAMING,
    TWO_STAGES,
    after,
    dies_at,
    errors_of,
    finished_alike,
    forked,
    glmc,
    note_all,
    operations,
    points,
    settled,
    struck,
    wait_until,
)  # fmt: skip
from glmc import report
from glmc.batches.streaming import StreamingLoader
from glmc.data import decode
from glmc.runs import checkpoint
from glmc.train import build, engine
from glmc.train.saving import Saver

ENDED = {signal.SIGINT: 130, signal.SIGTERM: 143}


# -------------------------------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize("kills", [2, pytest.param(100, marks=pytest.mark.faults)])
def test_kills_at_random_moments(place, whole, no_report, noted, kills):
    """SIGKILL up to five times a run, from its first moment to its last; a checkpoint is written after each step."""
    wanted, rng = whole(), random.Random(kills)
    began = time.monotonic()
    forked(lambda: glmc("train", "tiny.yaml", "--quiet", "--out", "timed"), place / "timed.errors").wait()
    lasts = time.monotonic() - began
    outcomes, inside, number = {}, 0, 0
    while len(outcomes) < kills:
        number, killed = number + 1, []
        run = place / f"killed-{kills}-{number}"
        for _ in range(min(5, kills - len(outcomes))):
            words = settled(run)
            child = forked(lambda words=words: glmc("train", *words, "--quiet"), errors_of(run))
            time.sleep(delay := rng.uniform(0, lasts))
            child.kill()
            if child.wait() == 0:
                break
            killed.append(delay)
            inside += bool(list(run.glob("checkpoints/.tmp-*")))
        found = after(run, wanted)
        outcomes |= {(number, delay): found for delay in killed}
        shutil.rmtree(run)
    assert kills < 100 or inside > 3, "hardly a kill fell into a save: the test has shown little"
    note_all(noted, "SIGKILL at a random moment", outcomes)


@pytest.mark.parametrize("every", [pytest.param(100, id="some"), pytest.param(1, id="all", marks=pytest.mark.faults)])
def test_a_kill_before_each_thing_that_is_done_to_a_file(place, whole, no_report, noted, every):
    """From claiming the folder to the page at the end; what is being written is cut to a half."""
    short = "train.epochs=1"
    wanted, outcomes = whole(short), {}
    for number in points(operations(place, place / f"counted-{every}", short), every):
        run = place / f"cut-{every}-{number}"
        assert struck(lambda number=number: dies_at(place, number), run, short)[0] == 9
        outcomes[number] = after(run, wanted, short)
        shutil.rmtree(run, ignore_errors=True)
    note_all(noted, "kill between two operations on files", outcomes)


@pytest.mark.parametrize("step", [6, 7], ids=["same step", "next step"])
def test_a_kill_at_each_system_call_of_a_save(tmp_path, noted, step):
    """Of a save alone, when another checkpoint lies there: of the same step, or of the one before."""
    import torch

    tensors = {"weights": {"weight": torch.ones(1000)}}
    number, outcomes, code = 0, {}, 9
    while code:
        number, folder = number + 1, tmp_path / f"{number}"
        checkpoint.save(folder, 6, tensors, {"try": 1}, keep=1)

        def work(folder=folder, number=number):
            dies_at(tmp_path, number)
            checkpoint.save(folder, step, tensors, {"try": 2}, keep=1)
            return 0

        code = forked(work, tmp_path / f"{number}.errors").wait()
        assert code in (0, 9)
        found = checkpoint.latest(folder)
        whole = found is not None and not found.remarks and found.state["try"] in (1, 2)
        checkpoint.save(folder, 8, tensors, {"try": 3}, keep=1)
        outcomes[number] = "survived" if whole and os.listdir(folder) == ["step-00000008"] else "lost"
    assert number >= 15
    note_all(noted, "kill between two system calls of a save", outcomes)


@pytest.mark.parametrize("setting", [[], pytest.param(["train.ema=0.9", "optim.name=muon"], marks=pytest.mark.faults)])
def test_a_run_goes_on_from_each_of_its_steps(place, whole, no_report, noted, monkeypatch, setting):
    """Interrupted after every single step of three epochs, each time with its state saved."""
    run, due = place / f"stepwise-{len(setting)}", Saver.due

    def interrupted(self, **how):
        signal.raise_signal(signal.SIGTERM)
        return due(self, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Saver, "due", interrupted)
        for step in range(1, 3 * STEPS):
            assert glmc("train", *settled(run, *setting), "--quiet") == 143
            assert checkpoint.latest(run / "checkpoints").step == step
    note_all(noted, "interrupted after every step", {3 * STEPS: after(run, whole(*setting))})


@pytest.mark.parametrize("every", [pytest.param(9, id="many", marks=pytest.mark.faults)])
def test_a_kill_in_either_of_two_stages(place, whole, no_report, noted, every):
    wanted, outcomes = whole(*TWO_STAGES), {}
    for number in points(operations(place, place / f"stages-{every}", *TWO_STAGES), every)[1:]:
        run = place / f"staged-{every}-{number}"
        assert struck(lambda number=number: dies_at(place, number), run, *TWO_STAGES)[0] == 9
        outcomes[number] = after(run, wanted, *TWO_STAGES)
        if outcomes[number] == "survived" and (differ := finished_alike(run / "stage-2", wanted / "stage-2")):
            outcomes[number] = f"silent: {differ}"
        shutil.rmtree(run)
    note_all(noted, "kill in one of two stages", outcomes)


@pytest.mark.parametrize("waits", [[4], pytest.param(range(1, 3 * STEPS + 1), marks=pytest.mark.faults)])
@pytest.mark.parametrize("worker", [0, pytest.param(1, marks=pytest.mark.faults)])
def test_a_killed_worker_of_the_streaming_loader(place, whole, no_report, noted, waits, worker):
    """One sentence, and the run goes on to the same bits."""
    outcomes, wait = {}, StreamingLoader._wait
    for number in waits:
        run = place / f"worker-{len(waits)}-{worker}-{number}"

        def work(run=run, number=number):
            calls = []

            def killing(self):
                calls.append(1)
                if len(calls) == number:
                    self._done._workers[worker].kill()
                    time.sleep(0.1)
                wait(self)

            StreamingLoader._wait = killing
            return glmc("train", *settled(run, *STREAMING), "--quiet")

        child = forked(work, errors_of(run))
        code, said = child.wait(), child.said()
        outcomes[number] = after(run, whole(*STREAMING), *STREAMING)
        if code not in (0, 2) or (code and "worker" not in said) or any(word in said for word in OWN_ERRORS):
            outcomes[number] = f"silent: {code} {said}"
    note_all(noted, "a streaming worker killed", outcomes)


@pytest.mark.faults
def test_workers_do_not_outlive_a_killed_run(place, noted):
    run = place / "orphans"
    child = forked(lambda: glmc("train", *settled(run, *STREAMING, "train.epochs=1000"), "--quiet"), errors_of(run))
    wait_until(lambda: len(list(run.glob("checkpoints/step-*"))) > 1)
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    assert len(children) >= 2
    child.kill()
    child.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 20)
    noted("SIGKILL, its workers", "survived")


# ------------------------------------------------------------------------------------------------------------- signals

PHASES = {  # what is called in the middle of it
    "decoding": (decode, "decode_image"),
    "training": (engine, "clip_grad_norm_"),
    "evaluation": (build.Parts, "tally"),
    "saving": (checkpoint, "write"),
    "report": (report, "write"),
}
NUMBERS = (signal.SIGTERM, signal.SIGINT)
WAYS = [(signal.SIGTERM,), (signal.SIGINT,), (signal.SIGTERM,) * 2, (signal.SIGINT,) * 2, (signal.SIGINT,) * 3]
WAYS += [(signal.SIGINT, signal.SIGTERM)]
SOME = {("decoding", WAYS[1]), ("saving", WAYS[3])}


@pytest.mark.parametrize(
    ("phase", "numbers"),
    [
        pytest.param(phase, way, id=f"{phase} {'+'.join(n.name for n in way)}", marks=marks)
        for phase in PHASES
        for way in WAYS
        for marks in [() if (phase, way) in SOME else (pytest.mark.faults,)]
    ],
)
def test_signals(place, whole, no_report, noted, phase, numbers):
    """One saves the state and says how to go on; another one ends at once, without a traceback."""
    owner, name = PHASES[phase]
    clip, run = "optim.clip=10", place / f"{phase}-{'-'.join(str(int(n)) for n in numbers)}"

    def work():
        real, calls = getattr(owner, name), []

        def interrupted(*arguments, **options):
            calls.append(1)
            if len(calls) == 2 or phase == "report":
                for number in numbers:
                    os.kill(os.getpid(), number)
                    time.sleep(0.05)
            return real(*arguments, **options)

        setattr(owner, name, interrupted)
        os.environ["GLMC_CACHE"] = str(run.with_suffix(".cache"))
        return glmc("train", "tiny.yaml", "--quiet", "--out", run, clip)

    child = forked(work, errors_of(run))
    code, said = child.wait(), child.said()
    assert code in (ENDED[numbers[0]], -numbers[-1], ENDED[numbers[-1]]) or (phase == "report" and code == 0), said
    outcome = after(run, whole(clip), clip)
    if any(word in said for word in OWN_ERRORS) or said.count("\n") > 2:
        outcome = f"silent: {said}"
    note_all(noted, f"signals in {phase}", {numbers: outcome})
