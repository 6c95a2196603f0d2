"""What one training step consumes."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Some images, augmented V times; of a batch that is spread over W ranks the images here, and all the labels."""

    views: tuple[Tensor, ...]  # V x float32 [B / W, ch, H, W], normalised: the same images
    labels: Tensor  # int64 [B]
    rows: Tensor  # int64 [B], their rows in the split


class Step(NamedTuple):
    """Everything one training step consumes. All tensors, so that nothing in a step waits for the host."""

    streams: dict[str, Batch]  # by the names of `Method.streams`
    draws: dict[str, Tensor]  # one row of each table of `Method.tables`
    progress: Tensor  # float [], epoch / epochs, in [0, 1)
