"""Loader for what fits on the device: images are decoded once, stay there as uint8, and are augmented there in batches.

Whatever is random about an epoch is drawn on the host before it begins, as tables with one row an image or a step, and
lies on the device while the epoch runs. The tables do not depend on where the pixels come from.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glmc.batches.augment import Parameters, View
from glmc.batches.sampling import resampled_rows, shuffled_rows
from glmc.random import Draws
from glmc.step import Batch

ALL = slice(None)


class HostStream(NamedTuple):
    """Tables of one epoch of one stream as they were drawn."""

    rows: NDArray[np.int64]  # [N]
    views: tuple[Parameters, ...]  # V x (operation -> [N, ...])


class Stream(NamedTuple):
    """Tables of one epoch of one stream, on the device."""

    rows: Tensor  # int64 [N]
    here: Tensor  # int64 [N / W], those whose images this rank loads
    views: tuple[dict[str, Tensor], ...]  # V x (operation -> [N / W, ...])

    def part(self, part: slice, own: slice = ALL) -> "Stream":
        """Some positions of the tables, and of their images those in `own`."""
        views = tuple({name: v[part][own] for name, v in view.items()} for view in self.views)
        return Stream(self.rows[part], self.rows[part][own], views)


class Loader:
    """Tables of several streams over the same images, wherever these are.

    Args:
        labels: int64 [N].
        sizes: side of all images in pixels, or height and width of each: int [N, 2].
        views: one augmentation for each view of a batch.
        streams: by name: r, drawn with P(class c) ~ n_c ** (1 - r); or none, every image once an epoch.
        batch_size: images of a batch; the last one of an epoch holds what is left.
        seed: the run's seed.
        device: where the tables and the labels live.
    """

    waited = 0.0  # seconds spent on waiting for images since the beginning

    def __init__(
        self,
        labels: NDArray[np.int64],
        sizes: int | NDArray[np.integer],
        views: Sequence[View],
        streams: Mapping[str, float | None],
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.labels, self.host_labels = torch.from_numpy(labels).to(device), labels
        self.sizes = np.broadcast_to(sizes, (len(labels), 2))
        self.views, self.streams = tuple(views), dict(streams)
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.steps = -(-len(labels) // batch_size)

    def draw(self, epoch: int) -> dict[str, HostStream]:
        """The tables of an epoch (0-based): a function of (seed, stream, epoch) alone. Any thread may call it."""
        tables = {}
        for stream in self.streams:
            rows = self._rows(stream, Draws(self.seed, "rows", stream, epoch))
            heights, widths = self.sizes[rows].T
            views = tuple(
                view.draw(Draws(self.seed, "view", stream, index, epoch), heights, widths)
                for index, view in enumerate(self.views)
            )
            tables[stream] = HostStream(rows, views)
        return tables

    def move(self, tables: Mapping[str, HostStream]) -> dict[str, Stream]:
        """The same tables on the device."""
        return {
            stream: Stream(
                rows=(rows := torch.from_numpy(table.rows).to(self.device)),
                here=rows,
                views=tuple(
                    {name: torch.from_numpy(v).to(self.device) for name, v in view.items()} for view in table.views
                ),
            )
            for stream, table in tables.items()
        }

    def epoch(self, epoch: int) -> dict[str, Stream]:
        """The tables of an epoch (0-based), on the device."""
        return self.move(self.draw(epoch))

    def _rows(self, stream: str, draws: Draws) -> NDArray[np.int64]:
        exponent = self.streams[stream]
        if exponent is None:
            return shuffled_rows(draws, len(self.host_labels))
        return resampled_rows(draws, self.host_labels, exponent, len(self.host_labels))

    def parts(self, tables: Mapping[str, Stream], first: int = 0, own: slice = ALL) -> Iterator[dict[str, Stream]]:
        """What each step of an epoch works on, from step `first` on: stream -> its rows of the tables.

        `own` are the positions of each batch whose images are loaded here.
        """
        for step in range(first, self.steps):
            part = slice(step * self.batch_size, (step + 1) * self.batch_size)
            yield {stream: table.part(part, own) for stream, table in tables.items()}

    def batch(self, part: Stream) -> Batch:
        """The images of some positions of an epoch, augmented. A function of tensors on the device alone."""
        raise NotImplementedError

    def look(self, view: View) -> Iterator[Batch]:
        """All images in order, in one view without anything random, `batch_size` at a time."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what was held beside memory; nothing by default."""


class ResidentLoader(Loader):
    """Batches of images that live on the device.

    Args:
        images: uint8 [N, side, side, ch].
        labels, views, streams, batch_size, seed, device: of `Loader`.
    """

    def __init__(
        self,
        images: NDArray[Any],
        labels: NDArray[np.int64],
        views: Sequence[View],
        streams: Mapping[str, float | None],
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__(labels, images.shape[1], views, streams, batch_size=batch_size, seed=seed, device=device)
        self.images = torch.from_numpy(np.ascontiguousarray(images)).to(device)

    def batch(self, part: Stream) -> Batch:
        """The images of some positions of an epoch, augmented. A function of tensors on the device alone."""
        images = self.images[part.here]  # uint8 [B / W, side, side, ch]
        views = tuple(view(images, parameters) for view, parameters in zip(self.views, part.views, strict=True))
        return Batch(views=views, labels=self.labels[part.rows], rows=part.rows)

    def look(self, view: View) -> Iterator[Batch]:
        """All images in order, in one view without anything random, `batch_size` at a time."""
        for rows in torch.arange(len(self.images), device=self.device).split(self.batch_size):
            yield Batch(views=(view(self.images[rows], {}),), labels=self.labels[rows], rows=rows)
