"""Loader for what fits on the device: images are decoded once, stay there as uint8, and are augmented there in batches.

Whatever is random about an epoch is drawn on the host before it begins, as tables with one row an image or a step, and
lies on the device while the epoch runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glmc.augment import View
from glmc.data.sampling import resampled_rows, shuffled_rows
from glmc.random import Draws


class Batch(NamedTuple):
    """Some images, augmented V times."""

    views: tuple[Tensor, ...]  # V x float32 [B, ch, H, W], normalised: the same B images
    labels: Tensor  # int64 [B]
    rows: Tensor  # int64 [B], their rows in the split


class Stream(NamedTuple):
    """Tables of one epoch of one stream."""

    rows: Tensor  # int64 [N]
    views: tuple[dict[str, Tensor], ...]  # V x (operation -> [N, ...])


class ResidentLoader:
    """Batches of several streams over the same images.

    Args:
        images: uint8 [N, side, side, ch].
        labels: int64 [N].
        views: one augmentation for each view of a batch.
        streams: extra streams beside "instance": name -> r, drawn with P(class c) ~ n_c ** (1 - r).
        batch_size: images of a batch; the last one of an epoch holds what is left.
        seed: the run's seed.
        device: where the images live.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        views: Sequence[View],
        streams: Mapping[str, float],
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.images = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        self.labels = torch.from_numpy(labels).to(device)
        self.host_labels = labels
        self.views, self.streams = tuple(views), dict(streams)
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.steps = -(-len(labels) // batch_size)

    def epoch(self, epoch: int) -> dict[str, Stream]:
        """The tables of an epoch (0-based), on the device: a function of (seed, stream, epoch) alone."""
        tables = {}
        for stream in ("instance", *self.streams):
            rows = self._rows(stream, Draws(self.seed, "rows", stream, epoch))
            tables[stream] = Stream(
                rows=torch.from_numpy(rows).to(self.device),
                views=tuple(
                    {
                        name: torch.from_numpy(table).to(self.device)
                        for name, table in view.draw(
                            Draws(self.seed, "view", stream, index, epoch), len(rows), self.images.shape[1]
                        ).items()
                    }
                    for index, view in enumerate(self.views)
                ),
            )
        return tables

    def batches(self, tables: Mapping[str, Stream], first: int = 0) -> Iterator[dict[str, Batch]]:
        """The steps of an epoch from step `first` on: stream -> `Batch`."""
        for step in range(first, self.steps):
            part = slice(step * self.batch_size, (step + 1) * self.batch_size)
            yield {stream: self.batch(table, part) for stream, table in tables.items()}

    def _rows(self, stream: str, draws: Draws) -> NDArray[np.int64]:
        if stream == "instance":
            return shuffled_rows(draws, len(self.host_labels))
        return resampled_rows(draws, self.host_labels, self.streams[stream], len(self.host_labels))

    def batch(self, table: Stream, part: slice) -> Batch:
        """The images of some positions of an epoch."""
        rows = table.rows[part]
        images = self.images[rows]  # uint8 [B, side, side, ch]
        views = tuple(
            view(images, {name: values[part] for name, values in parameters.items()})
            for view, parameters in zip(self.views, table.views, strict=True)
        )
        return Batch(views=views, labels=self.labels[rows], rows=rows)
