"""Disks, memory, handles and folders that fail under a run: a sentence, or the run survives; then it goes on."""

import ctypes
import errno
import os
import pwd
import resource
import shutil
import signal
from itertools import product
from pathlib import Path

import pytest

from faults.small_runs import (
    OWN_ERRORS,
    STREAMING,
    Operations,
    after,
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

pytestmark = pytest.mark.usefixtures("no_report")
FULL, READ_ONLY = (errno.ENOSPC, errno.EDQUOT), (errno.EROFS, errno.EACCES, errno.EIO)
MS_REMOUNT, MS_REC, MS_PRIVATE, MS_RDONLY = 32, 16384, 1 << 18, 1
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000


def told(code, said):
    """What is wrong with how a fault was told: nothing, where the run survived or ended in one sentence."""
    if any(word in said for word in OWN_ERRORS) or code not in (0, 2):
        return f"silent: exit code {code}, {said}"
    return "" if code == 0 or said.count("\n") == 1 else f"silent: {said}"


def tried(fault, run, whole, *words):
    """A run in a process with a fault, and then without one: what came of it."""
    ill = told(*struck(fault, run, *words))
    outcome = after(run, whole, *words)
    shutil.rmtree(run, ignore_errors=True)
    return ill if ill and outcome == "survived" else outcome


# --------------------------------------------------------------------------------------------------------------- disks


def fails_from(below, number, kinds):
    """From an operation on, every one that writes raises an error, as on a disk that is full or read-only."""

    def before(operation):
        gives_room = operation.what in ("os.remove", "os.rmdir", "os.rename") and kinds is FULL
        if operation.number >= number and not gives_room:
            raise OSError(kinds[number % len(kinds)], os.strerror(kinds[number % len(kinds)]), operation.path)

    Operations(below, before)


@pytest.mark.parametrize(
    ("kinds", "every"),
    [
        pytest.param(FULL, 100, id="full, some"),
        pytest.param(FULL, 1, id="full, all", marks=pytest.mark.faults),
        pytest.param(READ_ONLY, 3, id="read-only, many", marks=pytest.mark.faults),
    ],
)
def test_a_disk_that_takes_nothing_more(place, whole, noted, monkeypatch, every, kinds):
    """From each operation on files on: no more can be written, the cache of decoded images included."""
    short, kind = "train.epochs=1", "full" if kinds is FULL else "read-only"
    wanted, outcomes = whole(short), {}
    monkeypatch.setenv("GLMC_CACHE", str(place / f"cache-{kind}"))
    for number in points(operations(place, place / f"counted-{kind}-{every}", short), every):
        shutil.rmtree(place / f"cache-{kind}")
        run = place / f"{kind}-{every}-{number}"
        outcomes[number] = tried(lambda number=number: fails_from(place, number, kinds), run, wanted, short)
    note_all(noted, f"a {kind} disk", outcomes)


def mount(target, options, flags=0, fresh=True):
    """A small file system of this process alone, in the place of a folder; OSError where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(function, *arguments):
        if getattr(libc, function)(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    if fresh:
        call("unshare", CLONE_NEWNS | (0 if os.geteuid() == 0 else CLONE_NEWUSER))
        call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    call("mount", b"none", bytes(Path(target)), b"tmpfs", flags, options.encode())


@pytest.fixture(scope="module")
def may_mount(place):
    (place / "try").mkdir()
    if forked(lambda: mount(place / "try", "size=64k") or 0, place / "try.errors").wait():
        pytest.skip("may not mount a small disk here")


@pytest.mark.faults
def test_a_small_disk(place, whole, noted, may_mount):
    """A real file system of so many KiB, which cuts a write short; with room again, the run goes on."""
    short, wanted, outcomes = "train.epochs=1", whole("train.epochs=1"), {}
    for size in range(8, 400, 8):
        disk, kept = place / f"disk-{size}", place / f"kept-{size}"
        disk.mkdir()

        def work(disk=disk, kept=kept, size=size):
            mount(disk, f"size={size}k")
            os.environ["GLMC_CACHE"] = str(disk / "cache")
            run = disk / "run"
            code = forked(lambda: glmc("train", *settled(run, short), "--quiet"), errors_of(kept)).wait()
            mount(disk, "size=8m", MS_REMOUNT, fresh=False)
            again = forked(lambda: glmc("train", *settled(run, short), "--quiet"), kept.with_suffix(".again")).wait()
            shutil.copytree(run, kept)
            return 100 + code if again == 0 else 1

        code = forked(work, disk.with_suffix(".errors")).wait()
        if code < 100:
            outcomes[size] = f"lost: {errors_of(disk).read_text()} {errors_of(kept).with_suffix('.again').read_text()}"
        elif ill := told(code - 100, errors_of(kept).read_text()):
            outcomes[size] = ill
        else:
            differ = finished_alike(kept, wanted)
            outcomes[size] = f"silent: {differ}" if differ else "survived"
    note_all(noted, "a disk of some KiB", outcomes)


@pytest.mark.parametrize("every", [pytest.param(90, id="some"), pytest.param(6, id="many", marks=pytest.mark.faults)])
def test_a_run_folder_that_vanishes(place, whole, noted, every):
    """Moved away in the middle of training; put back, the run goes on."""
    short, wanted, outcomes = "train.epochs=1", whole("train.epochs=1"), {}
    for number in points(operations(place, place / f"counted-gone-{every}", short), every)[1:]:
        run = place / f"vanishing-{every}-{number}"
        gone = run.with_suffix(".gone")

        def fault(number=number, run=run, gone=gone):
            def before(operation):
                if operation.number == number:
                    os.rename(run, gone)

            Operations(place, before)

        ill = told(*struck(fault, run, short))
        if gone.exists():
            shutil.rmtree(run, ignore_errors=True)
            gone.rename(run)
        outcome = after(run, wanted, short)
        outcomes[number] = ill if ill and outcome == "survived" else outcome
        shutil.rmtree(run, ignore_errors=True)
    note_all(noted, "a vanished run folder", outcomes)


# -------------------------------------------------------------------------------------------- memory, handles and home


SHARED = [f"size={number}k" for number in (4, 16, 24, 32, 48, 96)]
# With none at all, CPython may wait for ever for a thread that has ended before it began (its issue 140746).
MEGABYTES = (1, 2, 3, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)


@pytest.mark.faults
@pytest.mark.parametrize("flags", [0, MS_RDONLY], ids=["little", "read-only"])
def test_shared_memory(place, whole, noted, may_mount, flags):
    """What the workers of the streaming loader share lies in a file system of few KiB, or of none."""
    wanted, outcomes = whole(*STREAMING), {}
    for size in SHARED:
        run = place / f"shared-{flags}-{size}"
        outcomes[size] = tried(lambda size=size: mount("/dev/shm", size, flags), run, wanted, *STREAMING)
    note_all(noted, "little or no shared memory", outcomes)


@pytest.mark.faults
@pytest.mark.parametrize("words", [("train.epochs=1",), STREAMING], ids=["resident", "streaming"])
def test_few_file_handles(place, whole, noted, words):
    wanted, outcomes = whole(*words), {}
    for number in range(0, 40, 2):
        run = place / f"handles-{len(words)}-{number}"

        def fault(number=number):
            limit = max(map(int, os.listdir("/proc/self/fd"))) + number
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

        outcomes[number] = tried(fault, run, wanted, *words)
    note_all(noted, "few file handles", outcomes)


@pytest.mark.faults
@pytest.mark.parametrize("words", [("train.epochs=1",), STREAMING], ids=["resident", "streaming"])
def test_little_memory(place, whole, noted, words):
    """So many MiB of address space beside what is taken already."""
    wanted, outcomes = whole(*words), {}
    for number in MEGABYTES:
        run = place / f"memory-{len(words)}-{number}"

        def fault(number=number):
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (taken + number * 2**20,) * 2)

        outcomes[number] = tried(fault, run, wanted, *words)
    note_all(noted, "little memory", outcomes)


def nobody(_):
    raise KeyError("getpwuid(): uid not found")


@pytest.mark.parametrize(
    ("home", "known"),
    [(None, False)]
    + [
        pytest.param(home, known, marks=pytest.mark.faults)
        for home, known in [(None, True), *product(["/nowhere/to/be/found", "/dev/null"], [True, False])]
    ],
)
def test_no_home(place, whole, noted, home, known):
    """As in a container whose user has no name and no folder."""

    def fault():
        for name in ("HOME", "GLMC_CACHE", "XDG_CACHE_HOME"):
            os.environ.pop(name, None)
        if home is not None:
            os.environ["HOME"] = home
        if not known:
            pwd.getpwuid = nobody

    run = place / f"home-{known}-{str(home).replace('/', '-')}"
    note_all(noted, "no home", {home: tried(fault, run, whole("train.epochs=1"), "train.epochs=1")})


@pytest.mark.faults
def test_two_processes_fill_one_cache(place, whole, noted, monkeypatch):
    wanted, outcomes = whole(), {}
    for number in range(10):
        monkeypatch.setenv("GLMC_CACHE", str(place / f"cache-of-two-{number}"))
        runs = [place / f"of-two-{number}-{which}" for which in "ab"]
        pair = [forked(lambda run=run: glmc("train", *settled(run), "--quiet"), errors_of(run)) for run in runs]
        codes = [child.wait() for child in pair]
        differ = [finished_alike(run, wanted) for run in runs] if codes == [0, 0] else codes
        outcomes[number] = "survived" if differ == [[], []] else f"lost: {differ} {[each.said() for each in pair]}"
    note_all(noted, "two processes and one cache", outcomes)


@pytest.mark.parametrize("number", [1, pytest.param(20, marks=pytest.mark.faults)])
def test_two_processes_in_one_run_folder(place, whole, noted, number):
    """Started together, one of them trains and the other one says so; the same when both go on with it."""
    wanted, outcomes = whole(), {}
    for trial in range(number):
        run = place / f"shared-run-{number}-{trial}"
        codes, told = [], []
        for words in (["tiny.yaml", "--out", run], ["--resume", run]):
            pair = [
                forked(lambda words=words: glmc("train", *words, "--quiet"), run.with_suffix(f".{len(codes) + which}"))
                for which in (0, 1)
            ]
            wait_until(lambda run=run: list(run.glob("checkpoints/step-*")))
            if not codes:
                pair[0].kill(signal.SIGTERM)
                pair[1].kill(signal.SIGTERM)
            codes.append({child.wait() for child in pair})
            told += [child.said() for child in pair]
        ill = any(word in text for word in OWN_ERRORS for text in told) or any(text.count("\n") > 1 for text in told)
        sound = codes[0] <= {2, 143} and 143 in codes[0] and codes[1] <= {0, 2} and 0 in codes[1] and not ill
        differ = finished_alike(run, wanted) if sound else [codes, told]
        outcomes[trial] = f"silent: {differ}" if differ else "survived"
    note_all(noted, "two processes and one run folder", outcomes)
