"""The loader of what does not fit on the device: the same batches, whatever happens to its workers."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from glmc.batches.augment import View
from glmc.batches.resident import ResidentLoader
from glmc.batches.resize import cut_out
from glmc.batches.streaming import StreamingLoader
from glmc.batches.worker import TASK
from glmc.data import decode, files, pictures
from glmc.data.split import Paths
from glmc.errors import UserError

CPU = torch.device("cpu")
STREAMS = {"instance": None, "rebalanced": 1.0}
N, SIZE = 23, 24
LABELS = np.random.default_rng(1).integers(0, 4, N)
BOX = {"resized_crop": {"size": 12, "scale": [0.08, 1.0]}}
JITTER = {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 1.0}}
BLUR = {"blur": {"sigma": [0.1, 2.0], "p": 0.5}}
RANDOM = {"randaugment": {"n": 2, "m": 9, "fill": 128}}
LEARNT = {"autoaugment": {"policy": "cifar10", "fill": 128}}
VIEWS = {
    "two boxes": [[BOX, JITTER, {"grayscale": 0.2}, BLUR, "flip"], [BOX, "flip"]],
    "box and square": [[BOX, RANDOM, "flip"], [{"crop": {"border": 2, "padding": "reflect"}}, LEARNT, {"cutout": 8}]],
    "two squares": [[{"center_crop": 16}, BOX], ["flip"]],
    "nothing": [[]],
    "large boxes": [[{"resized_crop": {"size": 128, "scale": [0.08, 1.0]}}]],
    "boxes of two sizes": [[BOX], [{"resized_crop": {"size": 20, "scale": [0.5, 1.0]}}, {"center_crop": 12}], [BOX]],
}


def photograph(number):
    """uint8 [H, W, 3], smooth, and of another shape for each number."""
    random = np.random.default_rng(number)
    shape = (30 + 3 * number % 17, 30 + 7 * number % 19)
    return np.array(
        Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(shape, Image.Resampling.BICUBIC)
    )


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """JPEGs, some of them turned, a grey one, and one PNG."""
    folder = tmp_path_factory.mktemp("images")
    names = [f"{number}.png" if number == 5 else f"{number}.jpg" for number in range(N)]
    for number, name in enumerate(names):
        image, exif = Image.fromarray(photograph(number)), Image.Exif()
        if number % 4 == 1:
            exif[0x0112] = 1 + number % 8
        (image.convert("L") if number == 7 else image).save(folder / name, exif=exif)
    return Paths.from_list(folder, names)


def views(name, channels=3):
    return [View(operations, (0.5,) * channels, (0.2,) * channels, CPU) for operations in VIEWS[name]]


@pytest.fixture
def stream(paths):
    """Streaming loaders, closed at the end."""
    loaders = []

    def make(kind="two boxes", files=paths, channels=3, sizes=None, **options):
        options = {"batch_size": 7, "seed": 0, "workers": 2, "size": SIZE, "device": CPU} | options
        loader = StreamingLoader(
            files, LABELS[: len(files)], views(kind, channels), STREAMS, channels=channels, sizes=sizes,
            **options,
        )  # fmt: skip
        loaders.append(loader)
        return loader

    yield make
    for loader in loaders:
        loader.close()


def batches(of, epoch=0, first=0):
    """The steps of an epoch: stream -> batch."""
    return [{n: of.batch(p) for n, p in part.items()} for part in of.parts(of.epoch(epoch), first)]


def same(these, those):
    for ours, theirs in zip(these, those, strict=True):
        for name in ("instance", "rebalanced"):
            assert torch.equal(ours[name].rows, theirs[name].rows)
            assert torch.equal(ours[name].labels, theirs[name].labels)
            for a, b in zip(ours[name].views, theirs[name].views, strict=True):
                assert torch.equal(a, b)
                assert a.stride() == b.stride()


# --------------------------------------------------------------------------------------------------- the same pixels


def test_pictures_that_are_read_as_in_the_published_code_are_the_same_in_both_loaders(stream, paths):
    reading = {"resize": "short_side", "exif": False}
    pixels = decode.materialise(paths, size=SIZE, channels=3, cache_dir=None, **reading)
    assert (pixels != decode.materialise(paths, size=SIZE, channels=3, cache_dir=None)).any((1, 2, 3)).sum() > N / 2
    resident = ResidentLoader(pixels, LABELS, views("two squares"), STREAMS, batch_size=7, seed=0, device=CPU)
    same(batches(stream("two squares", **reading)), batches(resident))
    sizes, _ = files.headers(paths, exif=False, cache_dir=None)
    assert len(batches(stream("two boxes", sizes=sizes, **reading))) == 4  # a turned picture would be refused


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", VIEWS)
def test_the_batches_are_those_of_the_resident_loader_to_the_last_bit(stream, paths, kind, channels):
    pixels = decode.materialise(paths, size=SIZE, channels=channels, cache_dir=None)
    resident = ResidentLoader(pixels, LABELS, views(kind, channels), STREAMS, batch_size=7, seed=0, device=CPU)
    streaming = stream(kind, channels=channels)
    for epoch, first in ((0, 0), (1, 2), (2, 0), (3, 3)):
        steps = batches(streaming, epoch, first)
        assert [len(step["instance"].rows) for step in steps] == [7, 7, 7, 2][first:]
        same(steps, batches(resident, epoch, first))


@pytest.mark.parametrize("kind", ["box and square", "two boxes"])
def test_each_of_several_ranks_loads_its_images_of_each_batch(stream, paths, kind):
    pixels = decode.materialise(paths, size=SIZE, channels=3, cache_dir=None)
    resident = ResidentLoader(pixels, LABELS, views(kind), STREAMS, batch_size=7, seed=0, device=CPU)
    whole = batches(resident)
    for loader in (resident, stream(kind)):
        for rank in range(3):  # of the last batch, two images are left
            own = slice(rank, None, 3)
            for part, step in zip(loader.parts(loader.epoch(0), own=own), whole, strict=True):
                for name, wanted in step.items():
                    found = loader.batch(part[name])
                    assert torch.equal(found.labels, wanted.labels)  # all ranks know the whole batch
                    for ours, theirs in zip(found.views, wanted.views, strict=True):
                        assert torch.equal(ours, theirs[own])


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("batch_size", [1, 8, 16, 23, 50])
@pytest.mark.parametrize("workers", [1, 3])
def test_neither_workers_nor_batches_change_a_pixel(stream, batch_size, workers):
    def images(loader):
        return torch.cat([step["instance"].views[0] for step in batches(loader)])

    assert torch.equal(images(stream(batch_size=batch_size, workers=workers)), images(stream()))


def test_an_epoch_left_in_the_middle_does_not_reach_into_the_next(stream):
    loader = stream(batch_size=2)
    whole = batches(loader, epoch=1)
    for taken in range(3):
        parts = loader.parts(loader.epoch(0))
        for _ in range(taken):
            next(parts)
        same(batches(loader, epoch=1), whole)


def test_the_boxes_lie_in_the_whole_upright_image(stream, paths):
    sizes, _ = files.headers(paths, cache_dir=None)
    assert len(np.unique(sizes, axis=0)) > 10
    loader = stream("two boxes", sizes=sizes)
    outside = exact = 0
    for part in loader.parts(loader.epoch(0)):
        for table in part.values():
            for row, box, got in zip(
                table.rows.tolist(), table.views[1]["resized_crop"], table.views[1]["pixels"], strict=True
            ):
                with Image.open(paths[row]) as image:
                    upright = ImageOps.exif_transpose(image).convert("RGB")
                assert upright.size == (sizes[row][1], sizes[row][0])
                top, left, height, width = box.int().tolist()
                cut = upright.crop((left, top, left + width, top + height))
                theirs = np.asarray(cut.resize((12, 12), Image.Resampling.BILINEAR)).astype(int)
                assert np.abs(got.numpy() - theirs).max() <= 1
                ours = cut_out(torch.from_numpy(np.array(upright)), (top, left, height, width), 12)
                assert torch.equal(got, ours)
                exact += 1
                outside += max(top + height, left + width) > min(upright.size)
    assert exact == 2 * N
    assert outside > 5  # beyond what a square could hold


def test_the_tables_of_whole_images_are_a_function_of_seed_stream_and_epoch(stream, paths):
    sizes, _ = files.headers(paths, cache_dir=None)
    same(batches(stream(sizes=sizes), epoch=4), batches(stream(sizes=sizes, workers=1), epoch=4))


def test_the_generator_of_torch_is_left_alone(stream):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    batches(stream())
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------------------------------------------------ trouble


def test_whole_images_need_views_that_cut(stream, paths):
    sizes, _ = files.headers(paths, cache_dir=None)
    with pytest.raises(UserError, match=r"data.area=whole: a training view must begin with resized_crop"):
        stream("box and square", sizes=sizes)


def broken(paths, folder, row, content):
    """The same images, one of them with another content, in a new folder."""
    names = [paths.relative(number) for number in range(N)]
    for number, name in enumerate(names):
        whole = Path(paths[number]).read_bytes()
        (folder / name).write_bytes(content(whole) if number == row else whole)
    return Paths.from_list(folder, names)


@pytest.mark.parametrize(
    "content", [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"<html></html>"]
)
def test_a_damaged_file_is_named(stream, paths, tmp_path, content):
    loader = stream(files=broken(paths, tmp_path, 11, content))
    with pytest.raises(UserError, match=r"11\.jpg cannot be read \(.+\): restore or replace it"):
        batches(loader)
    assert workers_of(loader) == []


def test_a_missing_file_is_named(stream, paths, tmp_path):
    files = broken(paths, tmp_path, 0, lambda whole: whole)
    os.remove(files[3])
    with pytest.raises(UserError, match=r"3\.jpg cannot be read \(.*No such file"):
        batches(stream(files=files))


def test_an_image_that_has_changed_its_size_is_named(stream, paths):
    sizes, _ = files.headers(paths, cache_dir=None)
    sizes[9] += 1
    with pytest.raises(UserError, match=r"9\.jpg cannot be read \(its size has changed from \d+ x \d+ to \d+ x \d+\)"):
        batches(stream(sizes=sizes))


def workers_of(loader):
    """The living workers of a loader."""
    pids = loader._at[:, 0].tolist()
    return [child for child in multiprocessing.active_children() if child.pid in pids]


def test_a_killed_worker_is_an_error_that_names_its_file(stream, paths):
    loader = stream(batch_size=1)
    parts = loader.parts(loader.epoch(0))
    next(parts)
    victim = int(loader._at[1, 0])
    (worker,) = (one for one in workers_of(loader) if one.pid == victim)
    worker.kill()
    time.sleep(0.2)  # and nothing is raised here, between two steps
    name = paths.relative(int(loader._at[1, 1]))
    with pytest.raises(UserError, match=rf"{name}: the worker that read it has died.* set data.workers to less than 2"):
        for _ in parts:
            pass
    assert workers_of(loader) == []
    assert len(batches(loader, first=20)) == 3  # new ones can be had


def test_workers_leave_interruptions_to_the_loader(stream):
    loader = stream(batch_size=1)
    parts = loader.parts(loader.epoch(0))
    next(parts)
    for worker in workers_of(loader):
        os.kill(worker.pid, signal.SIGINT)
        os.kill(worker.pid, signal.SIGTERM)
    assert len(list(parts)) == N - 1
    assert len(workers_of(loader)) == 2


def test_workers_stay_for_the_next_epoch_and_go_when_closed(stream):
    loader = stream()
    assert workers_of(loader) == []  # nobody works before the first epoch
    batches(loader)
    first = {worker.pid for worker in workers_of(loader)}
    batches(loader, epoch=1)
    assert {worker.pid for worker in workers_of(loader)} == first
    assert len(first) == 2
    loader.close()
    loader.close()
    assert workers_of(loader) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in first)


def test_a_forgotten_loader_takes_its_workers_along(paths):
    loader = StreamingLoader(
        paths,
        LABELS,
        views("two boxes"),
        {"instance": None},
        size=SIZE,
        channels=3,
        workers=2,
        batch_size=7,
        seed=0,
        device=CPU,
    )
    batches_of = list(loader.parts(loader.epoch(0)))
    pids = loader._at[:, 0].tolist()
    assert len(batches_of) == 4
    del loader, batches_of
    gc.collect()
    assert not {child.pid for child in multiprocessing.active_children()} & set(pids)


SCRIPT = """
import sys
import numpy as np, torch
from glmc.batches.augment import View
from glmc.data.split import Paths
from glmc.batches.streaming import StreamingLoader
from glmc.batches.worker import TASK

names = sys.argv[2:]
view = View([], (0.5,) * 3, (0.2,) * 3, torch.device("cpu"))
labels, streams = np.zeros(len(names), np.int64), {"instance": None}
loader = StreamingLoader(Paths.from_list(sys.argv[1], names), labels, [view], streams, size=9,
                         channels=3, workers=2, batch_size=2, seed=0, device=torch.device("cpu"))
parts = loader.parts(loader.epoch(0))
next(parts)
print(*loader._at[:, 0].tolist(), flush=True)
"""


def test_a_program_that_ends_in_the_middle_of_an_epoch_leaves_no_process(paths):
    words = [sys.executable, "-c", SCRIPT, paths.root, *[paths.relative(row) for row in range(N)]]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    pids = [int(word) for word in ended.stdout.split()]
    assert len(pids) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert ended.stderr == ""


# ------------------------------------------------------------------------------------------------------------- memory


def resident_bytes(pid):
    """Memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_does_not_grow_over_the_epochs(stream):
    loader = stream("large boxes", batch_size=4)

    def held():
        return sum(resident_bytes(pid) for pid in (os.getpid(), *loader._at[:, 0].tolist()))

    for epoch in range(3):
        batches(loader, epoch)
    before = held()
    for epoch in range(3, 23):
        batches(loader, epoch)
    assert held() - before < 6 * 2**20  # of pixels, over 40 MiB have come in between


def test_the_ring_holds_what_is_decoded_in_advance_and_no_more(stream):
    loader = stream(batch_size=7, workers=2)
    tasks, slots = 2 * 4, loader.slots
    assert slots == 2 * 2 + 1  # two tasks a worker, and one that is being copied
    assert [ring.shape for ring in loader._rings] == [(slots, TASK, 12, 12, 3)] * 2
    parts = loader.parts(loader.epoch(0))
    next(parts)
    time.sleep(0.3)
    assert (loader._at[:, 1] >= 0).all()
    assert tasks > slots - 1  # so the workers had to wait
    assert len(list(parts)) == 3


def test_too_little_shared_memory_is_refused_before_it_is_fatal(stream, monkeypatch):
    facts = os.statvfs("/")
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 10, 10, 5, *facts[5:])))
    with pytest.raises(
        UserError, match=r"data.workers=2: the workers need .* MiB of shared memory, and /dev/shm has 0"
    ):
        stream()


def test_waiting_is_counted(stream):
    loader = stream()
    assert loader.waited == 0
    began = time.perf_counter()
    batches(loader)
    assert 0 < loader.waited <= time.perf_counter() - began


def test_the_training_set_is_seen_in_order_as_a_resident_loader_sees_it(stream, paths):
    """What a method gathers before an epoch: stored squares, one view without anything random."""
    loader = stream(batch_size=7)
    view = View([], (0.5,) * 3, (0.25,) * 3, CPU)
    seen = list(loader.look(view))
    pixels = np.stack([pictures.decode_image(path, SIZE, 3) for path in paths])
    assert torch.equal(torch.cat([batch.rows for batch in seen]), torch.arange(N))
    assert torch.equal(torch.cat([batch.views[0] for batch in seen]), view(torch.from_numpy(pixels), {}))
