"""Runs of seconds that faults are tried on: three classes of noise, a network of three blocks, a process to lose."""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from glmc import __main__
from glmc.runs import checkpoint

TINY = """
# Three classes of noise.
data:    {name: folder, root: photos, size: 8, batch_size: 6}
views:   {train: [{crop: 1}], test: []}
model:   {name: resnet20}
method:  {name: supervised}
loss:    {name: balanced_softmax}
mixture: {name: none}
optim:   {name: sgd, lr: 0.01, weight_decay: 5e-4}
train:   {epochs: 3, precision: float32, device: cpu, threads: 1, save_minutes: 1.0e-6}
"""
STEPS = 3  # an epoch, and a checkpoint after each
STREAMING = ("data.loader=streaming", "data.workers=2")
TWO_STAGES = ("train.epochs=1", "then=crt train.epochs=1")
OWN_ERRORS = ("Traceback", "a defect of glmc")


def photographs(place: Path) -> None:
    """Eighteen images to train on, nine to test, all of them noise."""
    rng = np.random.default_rng(0)
    for part, counts in (("train", (9, 6, 3)), ("test", (3, 3, 3))):
        for label, number in enumerate(counts):
            folder = place / "photos" / part / "abc"[label]
            folder.mkdir(parents=True)
            for image in range(number):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{image}.png")


def glmc(*words: object) -> int:
    """The command, in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["glmc", *map(str, words)])
        patch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as ended:
            __main__.main()
    return ended.value.code or 0


class Child(NamedTuple):
    """A process that has been forked from this one, and the file that its stderr goes to."""

    pid: int
    errors: Path

    def wait(self) -> int:
        """Its exit code, or a signal's number below zero."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def said(self) -> str:
        return self.errors.read_text()


def forked(work: Callable[[], int], errors: Path) -> Child:
    """`work` in a process of its own, with everything imported already; its result is the exit code."""
    pid = os.fork()
    if pid:
        return Child(pid, errors)
    code = 1
    try:
        with errors.open("wb") as file:
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = open(os.devnull, "w"), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def settled(run: Path, *words: object) -> list[object]:
    """The words that go on with a run, or begin it where a fault has come before it was one."""
    return ["--resume", run] if (run / "recipe.yaml").exists() else ["tiny.yaml", "--out", run, *words]


def finished_alike(run: Path, whole: Path) -> list[str]:
    """What differs between two finished runs beside seconds, addresses and circumstances; nothing if all is well."""
    names = ["confusion.csv", "predictions.csv", "split.csv", "recipe.yaml", "examples/examples.json"]
    names += [f"examples/{file.name}" for file in whole.glob("examples/*.png")]
    differ = [name for name in names if _content(run, name) != _content(whole, name)]
    if not (_content(run, "report.html") or b"").rstrip().endswith(b"</html>"):
        differ.append("report.html")
    if _without_seconds(run) != _without_seconds(whole):
        differ.append("result.json or metrics.jsonl")
    ours, theirs = (checkpoint.latest(each / "checkpoints") for each in (run, whole))
    for name in theirs.names:
        a, b = ours.tensors(name), theirs.tensors(name)
        if a.keys() != b.keys() or not all(torch.equal(a[key], b[key]) for key in a):
            differ.append(name)
    if left := [str(path) for path in run.rglob(".tmp-*")]:
        differ.append(f"left behind: {left}")
    return differ


def _content(run: Path, name: str) -> bytes | None:
    """Of a file, if it is there, as if its run's first stage lay elsewhere."""
    file = run / name
    return file.read_bytes().replace(bytes(run.parent), b"PARENT") if file.exists() else None


def _without_seconds(run: Path) -> list[dict]:
    files = [_content(run, "result.json") or b"{}", *(_content(run, "metrics.jsonl") or b"").splitlines()]
    clocks = {"seconds", "files", "seal"}  # and what is made of them
    return [{key: value for key, value in json.loads(text).items() if key not in clocks} for text in files]


def wait_until(come: Callable[[], bool], seconds: float = 100) -> None:
    until = time.monotonic() + seconds
    while not come():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.002)


def errors_of(run: Path) -> Path:
    """Where the words of a run's process go."""
    return run.with_suffix(".errors")


def struck(fault: Callable[[], object], run: Path, *words: object) -> tuple[int, str]:
    """Train in a process in which a fault has been prepared: its exit code, and what it says."""

    def work() -> int:
        fault()
        return glmc("train", *settled(run, *words), "--quiet")

    child = forked(work, errors_of(run))
    return child.wait(), child.said()


def after(run: Path, whole: Path, *words: object) -> str:
    """What becomes of a run that goes on after a fault: survived, or why not."""
    code, said = struck(int, run, *words)
    if code:
        return f"lost: {code} {said}"
    differ = finished_alike(run, whole)
    return f"silent: {differ}" if differ else "survived"


def note_all(noted: Callable[[str, str], None], fault: str, outcomes: dict[object, str]) -> None:
    """A line for each trial; the test fails with those that did not survive."""
    for outcome in outcomes.values():
        noted(fault, outcome.partition(":")[0])
    failed = {trial: outcome for trial, outcome in outcomes.items() if outcome != "survived"}
    assert not failed, failed


def points(number: int, every: int) -> Sequence[int]:
    """Of 1 to number, so many apart, and the last one."""
    return sorted({*range(1, number + 1, every), number})


class Operation(NamedTuple):
    """Something that is about to be done to a file.

    Attributes:
        number: from 1.
        what: "open" to write, "fsync", "os.rename" and so on.
        path: of the file, if that is known.
        last: the file that the operation before has opened, and its bytes then.
    """

    number: int
    what: str
    path: str | None
    last: tuple[str, int] | None


class Operations:
    """What this process does to files below a folder: `before` is told of each, and may raise an OSError."""

    def __init__(self, below: Path, before: Callable[[Operation], object]) -> None:
        self.below, self.before, self.number, self.busy = str(below), before, 0, False
        self.last: tuple[str, int] | None = None
        sync = os.fsync

        def fsync(handle: int) -> None:
            self.come("fsync", os.readlink(f"/proc/self/fd/{handle}"))
            sync(handle)

        os.fsync = fsync
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple) -> None:
        to_write = event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if to_write or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.utime"):
            self.come(event, os.fspath(arguments[0]))

    def come(self, event: str, path: str) -> None:
        if self.busy or (os.path.isabs(path) and not path.startswith(self.below)):
            return
        self.busy, last = True, self.last
        self.number += 1
        self.last = (path, os.path.getsize(path) if os.path.exists(path) else 0) if event == "open" else None
        try:
            self.before(Operation(self.number, event, path, last))
        finally:
            self.busy = False


def torn(last: tuple[str, int] | None) -> None:
    """Leave a part of what has been written to a file since it was opened, as a kill in the middle of it would."""
    if last is not None and os.path.exists(last[0]):
        before, now = last[1], os.path.getsize(last[0])
        os.truncate(last[0], (before + now) // 2 if now > before else now // 2)


def dies_at(below: Path, number: int) -> None:
    """End this process before its operation of that number, which leaves a part of what is being written."""

    def before(operation: Operation) -> None:
        if operation.number == number:
            torn(operation.last)
            os._exit(9)

    Operations(below, before)


def operations(below: Path, run: Path, *words: object) -> int:
    """How often a run does something to a file."""
    made = run.with_suffix(".number")
    code, said = struck(lambda: Operations(below, lambda each: made.write_text(str(each.number))), run, *words)
    assert code == 0, said
    return int(made.read_text())
