"""Checkpoints under kills, damage, forged files and full disks, all of them real."""

import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from glmc.errors import UserError
from glmc.runs import checkpoint, files
from glmc.runs.checkpoint import latest, read, save, weights_sha256
from glmc.runs.files import remove_temporary, write_atomic

STATE = {"epoch": 3, "best": 71.3, "history": [0.1, 1 / 3, 5e-324, 1.7976931348623157e308], "name": "Grüße", "no": None}


def groups(value=1.0):
    return {
        "model": {"weight": torch.full((3, 4), value), "steps": torch.tensor(7)},
        "optimizer": {"momentum": torch.full((5,), -value, dtype=torch.float64)},
    }


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------------------------------------------- what comes back


def test_round_trip(tmp_path):
    path = save(tmp_path / "run" / "checkpoints", 1700, groups(), STATE)
    assert path == tmp_path / "run" / "checkpoints" / "step-00001700"
    assert names(path) == ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    for found in (latest(path.parent), read(path)):
        assert (found.path, found.step, found.state, found.remarks) == (path, 1700, STATE, ())
        for name, group in groups().items():
            back = found.tensors(name)
            assert back.keys() == group.keys()
            assert all(torch.equal(back[key], group[key]) and back[key].dtype == group[key].dtype for key in group)


def test_floats_come_back_exactly(tmp_path):
    rng = random.Random(0)
    floats = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(2000)]
    floats = [x for x in floats if math.isfinite(x)] + [0.1 + 0.2, -0.0, math.inf, -math.inf]
    back = read(save(tmp_path, 0, {}, {"floats": floats, "nan": math.nan})).state
    assert [x.hex() for x in back["floats"]] == [x.hex() for x in floats]
    assert math.isnan(back["nan"])


def test_every_kind_of_tensor_is_saved_right(tmp_path):
    base = torch.arange(24.0).reshape(2, 3, 4)
    kinds = {
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "transposed": base.transpose(0, 2),
        "every second": base.flatten()[::2],
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        "whole": base,
        "part of whole": base[1],
        "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "bool": torch.tensor([True, False]),
        "bfloat16": torch.tensor([1.5, -0.0, math.nan]).bfloat16(),
        "int64": torch.tensor([-(2**63), 2**63 - 1]),
    }
    back = read(save(tmp_path, 1, {"model": kinds}, {})).tensors("model")
    assert back.keys() == kinds.keys()
    assert all(back[key].is_contiguous() for key in kinds)
    assert weights_sha256(back) == weights_sha256(kinds)
    back["whole"].add_(1)  # memory of its own, and writable
    assert base[0, 0, 0] == 0


def test_a_group_that_was_not_saved_is_named(tmp_path):
    with pytest.raises(UserError, match=r"step-00000001 holds no ema\.safetensors"):
        read(save(tmp_path, 1, groups(), {})).tensors("ema")


def test_no_checkpoint_is_none(tmp_path):
    assert latest(tmp_path) is None
    assert latest(tmp_path / "absent") is None


# ------------------------------------------------------------------------------------------------- pruning, same step


def test_the_last_two_are_kept(tmp_path):
    for step in (1, 2, 10, 100, 123456789):
        save(tmp_path, step, groups(step), {})
    assert names(tmp_path) == ["step-00000100", "step-123456789"]
    save(tmp_path, 123456790, groups(), {}, keep=1)
    assert names(tmp_path) == ["step-123456790"]


def test_a_damaged_one_does_not_count_among_the_kept(tmp_path):
    for step in (1, 2):
        save(tmp_path, step, groups(), {})
    (tmp_path / "step-00000002" / "state.json").unlink()
    save(tmp_path, 3, groups(), {})
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def test_what_this_process_has_written_is_read_again_only_if_it_was_touched(tmp_path, monkeypatch):
    read_again = []
    real = checkpoint._bytes
    monkeypatch.setattr(checkpoint, "_bytes", lambda path, limit: (read_again.append(path.name), real(path, limit))[1])
    for step in (1, 2, 3):
        path = save(tmp_path, step, groups(), {})
    assert not read_again
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes())  # the same, as far as one can tell without reading
    save(tmp_path, 4, groups(), {})
    assert set(read_again) == {"manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"}
    assert names(tmp_path) == ["step-00000003", "step-00000004"]


def test_the_new_one_is_kept_even_behind_later_steps(tmp_path):
    for step in (8, 9, 5):
        save(tmp_path, step, groups(), {})
    assert names(tmp_path) == ["step-00000005", "step-00000009"]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path, damaged):
    for step in (6, 7):
        path = save(tmp_path, step, groups(), {"try": 1})
    if damaged:
        (path / "model.safetensors").write_bytes(b"")
    save(tmp_path, 7, groups(), {"try": 2})
    assert names(tmp_path) == ["step-00000006", "step-00000007"]
    assert latest(tmp_path).state == {"try": 2}


def test_a_replacement_cut_short_between_its_renames_loses_nothing(tmp_path):
    path = save(tmp_path, 7, groups(), {"try": 1})
    path.rename(tmp_path / "step-00000007.old")
    assert latest(tmp_path).state == {"try": 1}
    save(tmp_path, 7, groups(), {"try": 2})
    assert names(tmp_path) == ["step-00000007"]
    assert latest(tmp_path).state == {"try": 2}


def test_order_of_fsync_rename_and_removal(tmp_path, monkeypatch):
    """The real calls, listened to: files, their folder, rename, the folder above, and only then the removal."""
    save(tmp_path, 1, groups(), {})
    done = []

    def listen(module, function, describe):
        real = getattr(module, function)
        monkeypatch.setattr(module, function, lambda *a, **k: (done.append(describe(*a)), real(*a, **k))[1])

    listen(os, "fsync", lambda handle: os.fstat(handle).st_ino)
    listen(os, "rename", lambda source, target: "rename")
    listen(shutil, "rmtree", lambda path, **_: f"remove {path.name}" if path.exists() else "")
    path = save(tmp_path, 2, groups(), {}, keep=1)
    inodes = {p.stat().st_ino: p.name for p in [*path.iterdir(), path, tmp_path]}
    assert [inodes.get(entry, entry) for entry in done if entry] == [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "manifest.json",
        "step-00000002",
        "rename",
        tmp_path.name,
        "remove step-00000001",
    ]


@pytest.mark.parametrize("step", [6, 7], ids=["same step", "next step"])
def test_a_whole_checkpoint_is_there_before_and_after_every_call(tmp_path, monkeypatch, step):
    """What a kill between two calls on the disk would leave, looked at between all of them."""
    save(tmp_path, 6, groups(), {"try": 1}, keep=1)
    seen = []

    def look_around(module, function):
        real = getattr(module, function)

        def call(*arguments, **options):
            seen.append(latest(tmp_path).state["try"])
            result = real(*arguments, **options)
            seen.append(latest(tmp_path).state["try"])
            return result

        monkeypatch.setattr(module, function, call)

    for module, function in [(os, "fsync"), (os, "rename"), (shutil, "rmtree")]:
        look_around(module, function)
    save(tmp_path, step, groups(), {"try": 2}, keep=1)
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}


# --------------------------------------------------------------------------------------------------------------- kills


def write_for_ever(folder, step, stride):
    torch.set_num_threads(1)
    while True:
        step += stride
        save(
            folder, step, {"model": {"weight": torch.full((200_000,), float(step))}}, {"step": step, "tenth": step / 10}
        )


@pytest.mark.parametrize(("stride", "kills"), [(1, 15), (0, 8)], ids=["next step", "same step"])
def test_a_killed_writer_leaves_a_whole_checkpoint(tmp_path, stride, kills):
    """SIGKILL at random moments of a loop that does nothing but save."""
    context = multiprocessing.get_context("forkserver")  # children start at once: torch is imported only there, once
    context.set_forkserver_preload(["torch", "safetensors.torch", "glmc.runs.checkpoint"])
    rng, step, inside = random.Random(), 0, 0
    save(tmp_path, 0, {"model": {"weight": torch.zeros(200_000)}}, {"step": 0, "tenth": 0.0})
    for _ in range(kills):
        writer = context.Process(target=write_for_ever, args=(tmp_path, step, stride), daemon=True)
        writer.start()
        began = time.monotonic()
        while not list(tmp_path.glob(f".tmp-{writer.pid}-*")):  # until it is writing
            assert writer.is_alive()
            assert time.monotonic() - began < 60
        time.sleep(rng.uniform(0, 0.05))
        writer.kill()
        writer.join()
        inside += bool(list(tmp_path.glob(f".tmp-{writer.pid}-*")))

        found = latest(tmp_path)
        assert found is not None
        assert found.remarks == ()
        assert found.step >= step
        step = found.step
        assert found.state == {"step": step, "tenth": step / 10}
        assert (found.tensors("model")["weight"] == step).all()
    assert inside, "no kill fell into a save: the test has shown nothing"
    save(tmp_path, step + 1, groups(), {})
    assert not list(tmp_path.glob(".tmp-*"))
    assert len(names(tmp_path)) <= 2


def test_what_killed_writers_have_left_goes(tmp_path):
    (tmp_path / ".tmp-1-0123abcd-step-00000009").mkdir()
    (tmp_path / ".tmp-1-0123abcd-step-00000009" / "model.safetensors").touch()
    (tmp_path / ".tmp-1-0123abcd-result.json").touch()
    save(tmp_path, 1, groups(), {})
    assert names(tmp_path) == ["step-00000001"]


# -------------------------------------------------------------------------------------------------------------- damage

FILES = ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]


def flip_a_bit(rng, path, _):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(rng, path, _):
    os.truncate(path, rng.randrange(path.stat().st_size))


def append(rng, path, _):
    path.write_bytes(path.read_bytes() + rng.choice([b"\0", b"\n", b" ", b"}"]))


def zero_a_block(rng, path, _):
    content = path.read_bytes()
    start = rng.randrange(len(content) - 1)
    path.write_bytes(content[:start] + bytes(len(content) - start))


def remove(_, path, __):
    path.unlink()


def become_a_folder(_, path, __):
    path.unlink()
    path.mkdir()


def become_a_pipe(_, path, __):
    path.unlink()
    os.mkfifo(path)


def swap_with_a_neighbour(rng, path, _):
    other = path.with_name(rng.choice([name for name in FILES if name != path.name]))
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)


def take_from_the_checkpoint_before(_, path, before):
    shutil.copy(before / path.name, path)


MUTATIONS = [
    (flip_a_bit, 90),
    (truncate, 30),
    (append, 12),
    (zero_a_block, 30),
    (remove, 4),
    (become_a_folder, 4),
    (become_a_pipe, 4),
    (swap_with_a_neighbour, 22),
    (take_from_the_checkpoint_before, 4),
]


@pytest.mark.parametrize(("mutate", "times"), MUTATIONS, ids=lambda value: getattr(value, "__name__", None))
def test_damage_is_detected_and_the_checkpoint_before_is_used(tmp_path, mutate, times):
    for step in (1, 2):
        save(tmp_path / "whole", step, groups(step), STATE | {"epoch": step})
    rng = random.Random(mutate.__name__)
    for attempt in range(times):
        folder = tmp_path / str(attempt)
        shutil.copytree(tmp_path / "whole", folder)
        before, newest = folder / "step-00000001", folder / "step-00000002"
        mutate(rng, newest / FILES[attempt % len(FILES)], before)
        with pytest.raises(UserError, match=r"step-00000002/[a-z]+\.[a-z]+ .*; use another checkpoint") as caught:
            read(newest)
        found = latest(folder)
        assert (found.path, found.step, found.state["epoch"]) == (before, 1, 1)
        damage = str(caught.value).removesuffix("; use another checkpoint of the run")
        assert found.remarks == (f"{damage}; going on from step-00000001 instead.",)


def test_a_checkpoint_under_the_name_of_another_step_is_passed_over(tmp_path):
    for step in (1, 2):
        save(tmp_path, step, groups(step), {})
    (tmp_path / "step-00000002").rename(tmp_path / "step-00000003")
    found = latest(tmp_path)
    assert found.step == 1
    assert "step-00000003 holds step 2" in found.remarks[0]


def test_where_all_are_damaged_nothing_is_started_silently(tmp_path):
    for path in [save(tmp_path, step, groups(), {}) for step in (1, 2)]:
        (path / "state.json").write_text("[]")
    with pytest.raises(
        UserError, match=r"no checkpoint is whole \(.*step-00000002/state.json.*step-00000001/state.json"
    ):
        latest(tmp_path)


def test_damage_after_opening_is_detected_too(tmp_path):
    found = read(save(tmp_path, 1, groups(), {}))
    flip_a_bit(random.Random(0), found.path / "model.safetensors", None)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged \(sha256\)"):
        found.tensors("model")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000, b" " * 2_000_000, b"9" * 9999]
)
def test_strange_manifests_are_refused(tmp_path, content):
    path = save(tmp_path, 1, groups(), {})
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=r"manifest\.json is"):
        read(path)


def forge(path, change=lambda manifest: None, files=None):
    """Somebody who can compute a sha256 writes files of their own and a manifest that fits them."""
    from glmc.runs.checkpoint import _seal
    from glmc.runs.files import write_through as _write

    manifest = json.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    for name, content in (files or {}).items():
        manifest["files"][name] = _write(path / name, content)
    change(manifest)
    (path / "manifest.json").write_bytes(_seal(manifest))


def with_header(header, length=None, body=bytes(16)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def one(dtype, shape, start, end):
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}}


LIES = {
    "empty file": b"",
    "length beyond the file": with_header({}, length=10**6),
    "length beyond all memory": with_header({}, length=2**62),
    "shape larger than the data": with_header(one("F32", [10**9], 0, 16)),
    "shape that overflows": with_header(one("F32", [2**62, 8], 0, 16)),
    "empty shape that overflows": with_header(one("F32", [0, 2**63], 0, 0), body=b""),
    "offset beyond the file": with_header(one("F32", [4], 0, 10**12)),
    "offsets backwards": with_header(one("F32", [4], 16, 0)),
    "overlap": with_header(one("F32", [4], 0, 16) | {"b": one("F32", [4], 0, 16)["a"]}),
    "unknown type": with_header(one("F3", [4], 0, 16)),
    "type that torch lacks": with_header(one("F4", [32], 0, 16)),
    "deep nesting": with_header(b"[" * 200_000),
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie_are_refused(tmp_path, lie):
    path = save(tmp_path, 1, groups(), {})
    forge(path, files={"model.safetensors": LIES[lie]})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"model\.safetensors cannot be used"):
        read(path).tensors("model")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


FORGERIES = {
    "other format": (lambda m: m.update(format=1), "is of format 1, and this version of glmc reads 3"),
    "no step": (lambda m: m.pop("step"), r"manifest\.json is damaged; use"),
    "no state": (lambda m: m["files"].pop("state.json"), r"manifest\.json is damaged; use"),
    "files a list": (lambda m: m.update(files=[1]), r"manifest\.json is damaged; use"),
    "size no number": (lambda m: m["files"]["state.json"].update(bytes="x"), r"manifest\.json is damaged; use"),
    "outside": (
        lambda m: m["files"].update({"../secret": m["files"]["state.json"]}),
        "step-00000001/secret is missing",
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_manifests_are_refused(tmp_path, forgery):
    path = save(tmp_path, 1, groups(), {})
    shutil.copy(path / "state.json", tmp_path / "secret")
    change, complaint = FORGERIES[forgery]
    forge(path, change)
    with pytest.raises(UserError, match=complaint):
        read(path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff"])
def test_forged_states_are_refused(tmp_path, content):
    path = save(tmp_path, 1, groups(), {})
    forge(path, files={"state.json": content})
    with pytest.raises(UserError, match="is damaged"):
        read(path)


# ---------------------------------------------------------------------------------------------------- full, forbidden


@pytest.fixture
def small_files_only():
    """The system refuses to let any file of this process grow beyond 64 KiB (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_grow_leaves_everything_as_it_was(tmp_path, small_files_only):
    save(tmp_path, 1, groups(), {})
    write_atomic(tmp_path / "result.json", "old")
    with pytest.raises(UserError, match=r"checkpoint of step 2 could not be saved \(File too large\)"):
        save(tmp_path, 2, {"model": {"weight": torch.zeros(100_000)}}, {})
    with pytest.raises(UserError, match=r"result\.json could not be written \(File too large\)"):
        write_atomic(tmp_path / "result.json", "x" * 100_000)
    assert names(tmp_path) == ["result.json", "step-00000001"]
    assert (tmp_path / "result.json").read_text() == "old"
    assert latest(tmp_path).remarks == ()


ON_A_SMALL_DISK = """
import os, subprocess, sys, torch
from pathlib import Path
from glmc.runs.checkpoint import latest, save
from glmc.runs.files import write_atomic
from glmc.errors import UserError

def attempt(do, *arguments):
    try:
        do(*arguments)
    except UserError as error:
        print(error)
    assert sorted(os.listdir(folder)) == ["result.json", "step-00000001"], os.listdir(folder)
    assert latest(folder).step == 1
    assert (folder / "result.json").read_text() == "old"

folder = Path(sys.argv[1])
save(folder, 1, {"model": {"weight": torch.ones(1000)}}, {})
write_atomic(folder / "result.json", "old")
attempt(save, folder, 2, {"model": {"weight": torch.zeros(300_000)}}, {})
attempt(write_atomic, folder / "result.json", bytes(1_200_000))
subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
attempt(save, folder, 2, {}, {})
attempt(write_atomic, folder / "result.json", "new")
"""


def test_a_full_and_a_read_only_disk(tmp_path):
    """A real file system of 1 MiB, in a namespace of its own that ends with the process."""
    mounted = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=1m none "$0" && exec "$@"', tmp_path]
    if (
        not shutil.which("unshare")
        or subprocess.run([*mounted, sys.executable, "-c", ""], capture_output=True).returncode
    ):
        pytest.skip("may not mount a small disk here")
    ran = subprocess.run([*mounted, sys.executable, "-c", ON_A_SMALL_DISK, tmp_path], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    save_full, write_full, save_forbidden, write_forbidden = ran.stdout.splitlines()
    assert save_full.startswith(f"{tmp_path}: the checkpoint of step 2 could not be saved (No space left on device)")
    assert write_full.startswith(f"{tmp_path}/result.json could not be written (No space left on device)")
    assert "(Read-only file system)" in save_forbidden
    assert "(Read-only file system)" in write_forbidden


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission(tmp_path):
    save(tmp_path, 1, groups(), {})
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            save(tmp_path, 2, groups(), {})
        assert latest(tmp_path).step == 1
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="could not be saved"):
        save(tmp_path / "file" / "checkpoints", 1, groups(), {})
    with pytest.raises(UserError, match="could not be written"):
        write_atomic(tmp_path / "absent" / "result.json", "{}")
    with pytest.raises(UserError, match=r"metrics\.jsonl could not be written \(No such file"):
        files.append(tmp_path / "absent" / "metrics.jsonl", "{}\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl could not be written \(No such file"):
        files.settle(tmp_path / "metrics.jsonl")


# -------------------------------------------------------------------------------------------------------- write_atomic


def test_write_atomic_replaces(tmp_path):
    path = tmp_path / "result.json"
    for content, expected in [("Grüße\n", "Grüße\n".encode()), (b"\xff\r\n", b"\xff\r\n"), ("", b"")]:
        write_atomic(path, content)
        assert path.read_bytes() == expected
    assert names(tmp_path) == ["result.json"]


def write_letters(path):
    for attempt in range(10**9):
        write_atomic(path, "ab"[attempt % 2] * 1_000_000)


def test_a_killed_write_atomic_leaves_the_old_or_the_new_content(tmp_path):
    context = multiprocessing.get_context("forkserver")
    path = tmp_path / "log.txt"
    for _ in range(8):
        writer = context.Process(target=write_letters, args=(path,), daemon=True)
        writer.start()
        began = time.monotonic()
        while not list(tmp_path.glob(f".tmp-{writer.pid}-*")):
            assert time.monotonic() - began < 60
        time.sleep(random.uniform(0, 0.02))
        writer.kill()
        writer.join()
        if path.exists():
            assert path.read_text() in ("a" * 1_000_000, "b" * 1_000_000)
    write_atomic(path, "end")
    remove_temporary(tmp_path)  # as whoever holds the run folder next does
    assert names(tmp_path) == ["log.txt"]


# --------------------------------------------------------------------------------------------------------- fingerprint


def test_the_fingerprint_ignores_order_and_strides():
    torch.manual_seed(0)
    weight, bias = torch.randn(2, 3, 4, 4), torch.randn(2)
    expected = weights_sha256({"weight": weight, "bias": bias})
    assert weights_sha256({"bias": bias, "weight": weight}) == expected
    assert weights_sha256({"weight": weight.to(memory_format=torch.channels_last), "bias": bias}) == expected
    assert (
        weights_sha256({"weight": torch.nn.Parameter(weight), "bias": torch.stack([bias, bias], 1)[:, 0]}) == expected
    )


def test_the_fingerprint_sees_every_difference():
    variants = [
        {},
        {"a": torch.zeros(4)},
        {"b": torch.zeros(4)},
        {"a": torch.zeros(4), "b": torch.zeros(0)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(4, 1)},
        {"a": torch.zeros(2), "b": torch.zeros(2)},
        {"a": torch.zeros(4, dtype=torch.int32)},
        {"a": torch.zeros(2, dtype=torch.float64)},
        {"a": torch.zeros(8, dtype=torch.bfloat16)},
        {"a": torch.zeros(8, dtype=torch.float16)},
        {"a": torch.tensor([0.0, 0.0, 0.0, -0.0])},
        {"a": torch.tensor([0.0, 0.0, 0.0, 5e-45])},
        {"a": torch.tensor(0.0)},
        {"a": torch.zeros(1)},
        {"a": torch.tensor(True)},
    ]
    assert len({weights_sha256(variant) for variant in variants}) == len(variants)


def test_the_fingerprint_is_the_documented_one():
    """Pinned: stored results name it, so it must not change between versions."""
    import hashlib

    slow = hashlib.sha256()
    slow.update(b'["a", "float32", [2]]\n' + struct.pack("<2f", 1.0, -2.0))
    slow.update(b'["b", "int64", []]\n' + struct.pack("<q", 7))
    assert weights_sha256({"b": torch.tensor(7), "a": torch.tensor([1.0, -2.0])}) == slow.hexdigest()


def test_importing_does_not_import_torch():
    code = "import sys, glmc.runs.checkpoint, glmc.metrics; assert not {'torch', 'torchmetrics'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
