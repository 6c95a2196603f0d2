"""What every mixture is; by itself it mixes nothing."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glmc import ranks
from glmc.random import Draws, grown
from glmc.step import Batch

Row = dict[str, Tensor]  # one step's row of each table
# Images float [B / W, ch, H, W], those of this rank, and targets of the whole batch: float [B, C], or int64 [B] if
# nothing is mixed.
Mixed = tuple[Tensor, Tensor]


class Mixture(nn.Module):
    """No mixture: every image by itself, with its own label.

    Subclasses take their settings as keyword-only arguments with annotations and defaults: these are the keys that a
    recipe may write under `mixture`. What follows from `counts` is a buffer with `persistent=False`.

    Args:
        counts: int64 [C], training images per class.

    Raises:
        ValueError: a setting is out of its range.
    """

    stream: float | None = None  # r of a second stream, P(class c) ~ n_c ** (1 - r); None: there is none
    views = 1  # augmentations of each image that it wants
    mixes = False  # whether targets are distributions

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        self.classes = len(counts)

    def tables(self, rng: Draws, *, epoch: int, epochs: int, steps: int, batch: int) -> dict[str, NDArray[Any]]:
        """Random numbers of an epoch by name: [steps, ...], of any dtype. A step sees its row as `draws[name]`.

        Args:
            rng: the same numbers for the same seed and epoch; the order of calls counts.
            epoch, epochs: 0-based, of how many.
            steps, batch: of the epoch, and images of a step; the last step may have fewer.
        """
        return {}

    def forward(self, first: Batch, second: Batch | None, draws: Row, view: int = 0) -> Mixed:
        """One view of a batch, mixed.

        Args:
            first: of the first stream; views float [B / W, ch, H, W], labels int64 [B].
            second: of the second stream, or none.
            draws: a row of each table.
            view: which of the views to mix.

        Returns:
            Images, and targets whose rows sum to 1, or labels if nothing is mixed.
        """
        return first.views[view], first.labels


class Pairs(Mixture):
    """What MixUp and CutMix share: each image has a partner and a share lambda.

    Args:
        alpha: lambda ~ Beta(alpha, alpha); 1 is uniform.
        probability: share of the steps that are mixed.
        growing: two lengths of a run in epochs, between which the probability grows from 0 to its value: only long runs
            learn images by heart. Null: it is the same in all of them.
        early, late: parts of the run, in [0, 0.5), at its beginning and at its end in which nothing is mixed.
        per_image: a lambda for each image instead of one for the batch.
        sampling: r of the stream of partners, P(class c) ~ n_c ** (1 - r); null takes them from the same batch.
    """

    mixes = True

    def __init__(
        self,
        counts: Tensor,
        *,
        alpha: float = 1.0,
        probability: float = 1.0,
        growing: list[int] | None = None,
        early: float = 0.0,
        late: float = 0.0,
        per_image: bool = False,
        sampling: float | None = None,
    ) -> None:
        super().__init__(counts)
        if alpha <= 0:
            raise ValueError(f"alpha must be above 0, not {alpha}")
        if sampling is not None and abs(sampling) > 10:
            raise ValueError(f"sampling must lie in [-10, 10], not {sampling}")
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must lie in [0, 1], not {probability}")
        grown(0, growing)  # refuses what is no such pair
        for name, value in (("early", early), ("late", late)):
            if not 0 <= value < 0.5:
                raise ValueError(f"{name} must lie in [0, 0.5), not {value}")
        self.alpha, self.probability, self.growing = alpha, probability, growing
        self.early, self.late = early, late
        self.per_image, self.stream = per_image, sampling

    def tables(self, rng: Draws, *, epoch: int, epochs: int, steps: int, batch: int) -> dict[str, NDArray[Any]]:  # noqa: D102
        shape = (steps, batch) if self.per_image else (steps,)
        lam = rng.beta(self.alpha, self.alpha, *shape)
        centre = rng.uniform(*shape, 2)  # of a box, in fractions of the sides
        probability = self.probability * grown(epochs, self.growing)
        if probability < 1:
            kept = rng.uniform(steps) >= probability
            lam[kept] = 1.0  # all of the first image
        if not round(self.early * epochs) <= epoch < epochs - round(self.late * epochs):
            lam[:] = 1.0
        if self.stream is None:
            order = np.argsort(rng.uniform(steps, batch), axis=1)  # the last, smaller batch uses the first of a row
            return {"lam": lam, "centre": centre, "order": order}
        return {"lam": lam, "centre": centre}

    def partner(self, first: Batch, second: Batch | None, draws: Row, view: int) -> tuple[Tensor, Tensor]:
        """Images and labels to mix with: of the second stream, or the batch itself in another order."""
        if second is not None:
            return second.views[view], second.labels
        order = draws["order"][: len(first.labels)].argsort()  # a permutation, for a shorter last batch, too
        return ranks.gathered_images(first.views[view])[order[ranks.own()]], first.labels[order]

    def drawn(self, name: str, draws: Row, first: Batch) -> Tensor:
        """A row of a table: one value for the batch, or as many as there are images."""
        return draws[name][: len(first.labels)] if self.per_image else draws[name]

    def here(self, drawn: Tensor) -> Tensor:
        """Of what was drawn for each image, that of the images here."""
        return drawn[ranks.own()] if self.per_image else drawn

    def everywhere(self, share: Tensor) -> Tensor:
        """The other way round: of the images here, float [B / W] -> [B]; what is one for the batch stays as it is."""
        return ranks.gathered(share[:, None])[:, 0] if self.per_image else share

    def blend(self, first: Tensor, second: Tensor, share: Tensor) -> Tensor:
        """Labels int64 [B] of both -> float32 [B, C]; share: float [] or [B], of the first."""
        share = share.view(-1, 1) if share.ndim else share
        return share * one_hot(first, self.classes) + (1 - share) * one_hot(second, self.classes)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """int64 [B] -> float32 [B, C]."""
    rows = torch.zeros(len(labels), classes, device=labels.device)
    return rows.scatter_(1, labels[:, None], 1.0)  # unlike F.one_hot, this never looks at the values
