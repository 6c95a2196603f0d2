"""Remix: MixUp whose labels lean to the rarer class. Chou et al., ECCV workshops 2020, arXiv:2007.03943, eq. 10."""

from typing import Any

import torch
from torch import Tensor

from glmc.mixtures.base import Mixed, Row
from glmc.mixtures.mixup import MixUp, mixup
from glmc.step import Batch


class Remix(MixUp):
    """Images are mixed as by MixUp; where one class is much rarer, the label may be all of it.

    An image of a class with n_i, mixed as lambda to 1 - lambda with one of a class with n_j, is labelled

        as the second  if n_i >= kappa n_j and lambda < tau
        as the first   if n_j >= kappa n_i and 1 - lambda < tau
        as mixed       otherwise

    Args:
        kappa: how many times as many images make a majority, at least 1.
        tau: largest share of the majority that the label leaves out, in [0, 1]; 0 is MixUp.
    """

    def __init__(self, counts: Tensor, *, kappa: float = 3.0, tau: float = 0.5, **rest: Any) -> None:
        super().__init__(counts, **rest)
        if kappa < 1:
            raise ValueError(f"kappa must be at least 1, not {kappa}")
        if not 0 <= tau <= 1:
            raise ValueError(f"tau must lie in [0, 1], not {tau}")
        self.kappa, self.tau = kappa, tau
        self.counts: Tensor
        self.register_buffer("counts", counts.float(), persistent=False)  # [C]

    def forward(self, first: Batch, second: Batch | None, draws: Row, view: int = 0) -> Mixed:  # noqa: D102
        images, labels = self.partner(first, second, draws, view)
        lam = self.drawn("lam", draws, first)  # float [], or [B] with per_image
        ours, theirs = self.counts[first.labels], self.counts[labels]  # [B] each
        share = torch.where((ours >= self.kappa * theirs) & (lam < self.tau), 0.0, lam)  # [B], of the first label
        share = torch.where((theirs >= self.kappa * ours) & (1 - lam < self.tau), 1.0, share)
        return mixup(first.views[view], images, self.here(lam)), self.blend(first.labels, labels, share)
