"""Loader for what does not fit on the device: workers decode, the device does the rest.

The loader draws the same tables as any other, hands out the rows and boxes of some images as a task, and finds their
pixels in a ring that it shares with the workers (`glmc.batches.worker`), so that the memory is bounded whatever the
length of the run. Workers keep no state and know no randomness: they may be many or few without changing a pixel.
"""

import atexit
import contextlib
import multiprocessing
import os
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from glmc import ranks, runtime
from glmc.batches.augment import View
from glmc.batches.resident import ALL, Loader, Stream
from glmc.batches.worker import TASK, Boxes, Damage, Task, Workshop
from glmc.data import many, pictures
from glmc.data.split import Paths
from glmc.errors import UserError
from glmc.step import Batch

AHEAD = 2**28  # bytes decoded in advance, at most, unless two tasks a worker are more
MOST_WORKERS = 16
STAGES = 4  # batches on their way to a GPU at a time
SHARED = "/dev/shm"  # where Linux keeps memory that processes share

HostTable = tuple[NDArray[np.int64], Sequence[Boxes | None]]  # rows [N], and for each kind of pixels boxes [N, 4]


class Agenda:
    """The tasks of the epoch that is running, for the workers to take."""

    def __init__(self) -> None:
        self.tasks: Iterator[Task] = iter(())

    def __iter__(self) -> Iterator[Task]:
        return self.tasks


class StreamingLoader(Loader):
    """Batches of images that are decoded while they are needed.

    Args:
        paths: N image files.
        labels, views, streams, batch_size, seed, device: of `Loader`.
        size: side of the stored squares in pixels.
        channels: 1 or 3.
        sizes: int [N, 2], height and width of every image, to cut out of whole images; none: out of stored squares.
        resize, exif, bits, max_pixels: as `decode.materialise` takes them.
        digests: int64 [N], of the contents of the files, 0 where unknown; one that has another is refused. Workers add
            to it, see `self.digests`.
        workers: processes; none: one a core, at most 16. The pixels do not depend on it.

    Raises:
        UserError: whole images, and a view does not begin with resized_crop; or too little memory to share.
    """

    waited: float  # seconds spent on waiting for workers since the beginning

    def __init__(
        self,
        paths: Paths,
        labels: NDArray[np.int64],
        views: Sequence[View],
        streams: Mapping[str, float | None],
        *,
        size: int,
        channels: int,
        sizes: NDArray[np.integer] | None = None,
        resize: pictures.Resize = "square",
        exif: bool = True,
        bits: int = 16,
        max_pixels: int = pictures.MAX_PIXELS,
        digests: NDArray[np.int64] | None = None,
        workers: int | None = None,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__(
            labels, size if sizes is None else sizes, views, streams, batch_size=batch_size, seed=seed, device=device
        )
        self.size, self.channels = size, channels
        cuts = [view.cut for view in views]
        if sizes is not None and None in cuts:
            raise UserError(
                "data.area=whole: a training view must begin with resized_crop, which is what cuts the whole image; "
                "put it first, or set data.area=square"
            )
        here = ranks.here()
        self.paths, self.waited = paths, 0.0
        self.workers = workers or max(1, min(many.cores() // here.local, MOST_WORKERS))
        # Kinds of pixels: one for each view that cuts its own, one for all the others.
        self.kinds: list[int | None] = [index for index, cut in enumerate(cuts) if cut is not None]
        self.kinds += [None] if None in cuts else []
        shapes = [(size if kind is None else cuts[kind] or 0, channels) for kind in self.kinds]
        each = sum(side * side * depth for side, depth in shapes)
        step = here.images_of(batch_size, 0) * len(streams)
        ahead = max(2, -(-min(2 * step, AHEAD // each) // (self.workers * TASK)))
        self.slots = ahead * self.workers + 1  # a task is given out before the one before it has been copied
        _check_shared(here.local * self.slots * TASK * each, self.workers)
        self._rings = [
            torch.empty(self.slots, TASK, side, side, depth, dtype=torch.uint8).share_memory_()
            for side, depth in shapes
        ]
        self._at = torch.full((self.workers, 2), -1).share_memory_()
        known = torch.zeros(len(paths), dtype=torch.int64) if digests is None else torch.from_numpy(digests.copy())
        self.digests = known.share_memory_()
        self._shop = Workshop(
            paths, size, channels, sizes, resize, exif, bits, max_pixels, known, self._rings, self._at
        )
        self._ahead, self._agenda, self._staged = ahead, Agenda(), 0
        self._stages: list[tuple[list[Tensor], torch.cuda.Event]] = []
        self._crew: DataLoader[Any] | None = None
        self._done: Iterator[Damage | None] = iter(())
        _OPEN.add(self)
        # A loader that nobody holds any more takes its workers with it: they do not listen to what asks others to end.
        weakref.finalize(self, _end_workers, self._at).atexit = False

    def parts(self, tables: Mapping[str, Stream], first: int = 0, own: slice = ALL) -> Iterator[dict[str, Stream]]:
        """What each step of an epoch works on, with its "pixels" in every view: uint8 [B / W, side, side, ch].

        Workers decode the images at the positions in `own` of each batch, and no others. One epoch at a time: a new
        call ends the last one.

        Raises:
            UserError: a file is damaged, or the worker that read it has died.
        """
        host = [
            (
                table.rows.cpu().numpy(),
                [None if kind is None else table.views[kind]["resized_crop"].cpu().numpy() for kind in self.kinds],
            )
            for table in tables.values()
        ]
        self._agenda.tasks, tasks = self._tasks(host, first, own), self._tasks(host, first, own)
        self._begin()
        for part in super().parts(tables, first, own):
            yield {name: self._with_pixels(stream, tasks) for name, stream in part.items()}

    def batch(self, part: Stream) -> Batch:
        """The pixels of a part, augmented. A function of tensors on the device alone."""
        views = tuple(
            view(parameters["pixels"], parameters, cut=view.cut is not None)
            for view, parameters in zip(self.views, part.views, strict=True)
        )
        return Batch(views=views, labels=self.labels[part.rows], rows=part.rows)

    def look(self, view: View) -> Iterator[Batch]:
        """All images in order, in one view without anything random, `batch_size` at a time; workers decode them."""
        eye = StreamingLoader(
            self.paths, self.host_labels, [view], {"instance": None}, size=self.size, channels=self.channels,
            resize=self._shop.resize, exif=self._shop.exif, bits=self._shop.bits,
            max_pixels=self._shop.max_pixels, workers=self.workers, batch_size=self.batch_size, seed=self.seed,
            device=self.device,
        )  # fmt: skip
        rows = torch.arange(len(self.labels), device=self.device)
        table = Stream(rows, rows, ({},))
        try:
            for part in eye.parts({"instance": table}):
                yield eye.batch(part["instance"])
        finally:
            eye.close()

    def close(self) -> None:
        """End the workers. `parts` starts new ones."""
        _end_workers(self._at)
        self._crew, self._done = None, iter(())

    def _tasks(self, tables: Sequence[HostTable], first: int, own: slice) -> Iterator[Task]:
        """The tasks of an epoch: step by step, in each step stream by stream."""
        number = 0
        for step in range(first, self.steps):
            batch = slice(step * self.batch_size, (step + 1) * self.batch_size)
            for rows, boxes in tables:
                here, cuts = rows[batch][own], [None if b is None else b[batch][own] for b in boxes]
                for start in range(0, len(here), TASK):
                    part = slice(start, start + TASK)
                    yield Task(number % self.slots, here[part], tuple(None if b is None else b[part] for b in cuts))
                    number += 1

    def _begin(self) -> None:
        """Let the workers begin with the agenda; start them if there are none."""
        if self._crew is None:
            self._crew = DataLoader(
                self._shop,
                batch_size=None,
                sampler=self._agenda,
                num_workers=self.workers,
                prefetch_factor=self._ahead,
                worker_init_fn=self._shop.begin,
                persistent_workers=True,
                generator=torch.Generator(),  # it draws a seed for its workers: not from the run's numbers
            )
        with self._a_lost_worker_named(), runtime.same_child_signal():
            self._done = iter(self._crew)

    def _with_pixels(self, stream: Stream, tasks: Iterator[Task]) -> Stream:
        images = len(stream.here)
        pixels, event = self._stage(images)
        for start in range(0, images, TASK):
            task = next(tasks)
            self._wait()
            stop = start + len(task.rows)
            for target, ring in zip(pixels, self._rings, strict=True):
                target[start:stop] = ring[task.slot, : stop - start]
        if event is not None:
            pixels = [each.to(self.device, non_blocking=True) for each in pixels]
            event.record()
        elif self.device.type != "cpu":
            pixels = [each.to(self.device) for each in pixels]
        views = [
            view | {"pixels": pixels[self.kinds.index(None if self.views[index].cut is None else index)]}
            for index, view in enumerate(stream.views)
        ]
        return Stream(stream.rows, stream.here, tuple(views))

    def _stage(self, images: int) -> tuple[list[Tensor], torch.cuda.Event | None]:
        """Where to put the pixels of so many images: new memory, or on the way to a GPU one of a few pinned pieces."""
        if self.device.type != "cuda":
            return [torch.empty(images, *ring.shape[2:], dtype=torch.uint8) for ring in self._rings], None
        if len(self._stages) < STAGES:
            pinned = [
                torch.empty(self.batch_size, *ring.shape[2:], dtype=torch.uint8, pin_memory=True)
                for ring in self._rings
            ]
            self._stages.append((pinned, torch.cuda.Event()))
        pinned, event = self._stages[self._staged % STAGES]
        self._staged += 1
        event.synchronize()  # its last copy must have been made
        return [each[:images] for each in pinned], event

    def _wait(self) -> None:
        """Until the next task is done."""
        began = time.perf_counter()
        with self._a_lost_worker_named():
            damage = next(self._done)
        self.waited += time.perf_counter() - began
        if damage is not None:
            self.close()
            raise UserError(
                f"{self.paths[damage.row]} cannot be read ({damage.reason}): restore or replace it; with "
                "data.on_bad_image=skip, a new run reads all files once before training and leaves out such ones"
            )

    @contextlib.contextmanager
    def _a_lost_worker_named(self) -> Iterator[None]:
        """Turns PyTorch's error, raised here or where an epoch begins, into a sentence."""
        try:
            yield
        except RuntimeError as error:
            lost = self._lost_rows()
            self.close()
            if not lost and "DataLoader worker" not in str(error):
                raise
            files = ", ".join(self.paths[row] if row >= 0 else "no file yet" for row in lost or [-1])
            raise UserError(
                f"{files}: the worker that read it has died, most likely ended by the system for lack of memory; "
                f"set data.workers to less than {self.workers}, or remove the file if it happens again"
            ) from error

    def _lost_rows(self) -> list[int]:
        """The rows that workers which live no more have worked on."""
        alive = {child.pid for child in multiprocessing.active_children()}
        return [row for pid, row in self._at.tolist() if pid >= 0 and pid not in alive]


def _end_workers(at: Tensor) -> None:
    """Kill the processes in the first column, which have nothing to lose."""
    pids = set(at[:, 0].tolist())
    for child in multiprocessing.active_children():
        if child.pid in pids:
            child.kill()
            child.join()
    at.fill_(-1)


_OPEN: weakref.WeakSet[StreamingLoader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before multiprocessing waits for processes that do not listen to SIGTERM."""
    for loader in list(_OPEN):
        loader.close()


def _check_shared(needed: int, workers: int) -> None:
    """Raise a `UserError` if the system has not so many bytes of shared memory: to use them would be fatal."""
    if not os.path.isdir(SHARED):
        return
    if not os.access(SHARED, os.W_OK):
        raise UserError(
            f"{SHARED} cannot be written to, and the workers of the streaming loader share memory there: make it "
            "writable, or set data.loader=resident"
        )
    facts = os.statvfs(SHARED)
    free = facts.f_bavail * facts.f_frsize
    if needed > 0.9 * free:
        raise UserError(
            f"data.workers={workers}: the workers need {needed / 2**20:.0f} MiB of shared memory, and {SHARED} has "
            f"{free / 2**20:.0f} MiB left; set data.workers lower, or enlarge it (Docker: --shm-size)"
        )
