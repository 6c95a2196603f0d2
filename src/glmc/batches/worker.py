"""What a worker process of the streaming loader does: image files in, the pixels of all their views out.

An image is decoded once for all views of its place in a stream. For a view that begins with `resized_crop` its box is
cut out and resized; all other views share the stored square. What comes after is for whole batches on the device.
"""

import os
import signal
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from glmc.batches.resize import cut_out
from glmc.data import files, pictures
from glmc.data.split import Paths

TASK = 8  # images of a task: few enough to share out a batch, enough that handing them over costs nothing

Boxes = NDArray[np.float32]  # [..., 4]: top, left, height, width in pixels, whole numbers


class Task(NamedTuple):
    """Some images of one stream, of one step."""

    slot: int  # where in the ring their pixels go
    rows: NDArray[np.int64]  # [n], n <= TASK
    boxes: tuple[Boxes | None, ...]  # for each kind of pixels [n, 4], or none for the stored square


class Damage(NamedTuple):
    """An image that could not be read."""

    row: int
    reason: str


class Workshop(Dataset[Damage | None]):
    """What a worker does: a task in, pixels in the ring.

    Args:
        paths: N image files.
        size: side of the stored squares.
        channels: 1 or 3.
        sizes: int [N, 2], height and width of the whole images; none if boxes lie in the stored squares.
        resize, exif, bits, max_pixels: as `decode.materialise` takes them.
        digests: int64 [N], shared: of the contents, see `files.digest_of`; 0 until a worker has read the file.
        rings: for each kind of pixels uint8 [slots, TASK, side, side, channels], shared.
        at: int64 [workers, 2], shared: process, and the row it works on.
    """

    def __init__(
        self,
        paths: Paths,
        size: int,
        channels: int,
        sizes: NDArray[np.integer] | None,
        resize: pictures.Resize,
        exif: bool,
        bits: int,
        max_pixels: int,
        digests: Tensor,
        rings: Sequence[Tensor],
        at: Tensor,
    ) -> None:
        self.paths, self.size, self.channels, self.sizes = paths, size, channels, sizes
        self.resize, self.exif, self.bits, self.max_pixels = resize, exif, bits, max_pixels
        self.digests, self.rings, self.at = digests, rings, at

    def __getitem__(self, task: Task) -> Damage | None:
        """Does a task; None if all went well."""
        worker = get_worker_info()
        for place, row in enumerate(task.rows.tolist()):
            self.at[worker.id if worker else 0, 1] = row
            try:
                self._fill(task, place, row)
            except Exception as error:  # decoders raise nearly anything on a damaged file
                return Damage(row, pictures.reason(error))
        return None

    def _fill(self, task: Task, place: int, row: int) -> None:
        content = pictures.content_of(self.paths[row])
        digest = files.digest_of(content)
        if int(self.digests[row]) not in (0, digest):
            raise ValueError("it has changed since the run began")
        self.digests[row] = digest
        picture = pictures.picture_of(content, self.channels, self.exif, self.bits, self.max_pixels)
        if self.sizes is None:
            picture = pictures.centre_square(picture, self.size, self.resize)
        elif picture.shape[:2] != tuple(self.sizes[row]):
            height, width = self.sizes[row]
            raise ValueError(f"its size has changed from {width} x {height} to {picture.shape[1]} x {picture.shape[0]}")
        pixels = torch.from_numpy(picture)
        for ring, boxes in zip(self.rings, task.boxes, strict=True):
            if boxes is None:
                ring[task.slot, place] = pixels
            else:
                ring[task.slot, place] = cut_out(pixels, boxes[place].astype(int).tolist(), ring.shape[2])

    def begin(self, worker: int) -> None:
        """The first thing in a worker: it leaves it to the loader's process what an interruption means."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.at[worker, 0] = os.getpid()
