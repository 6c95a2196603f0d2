"""GLMC's pair of mixtures, global and local. Du et al., CVPR 2023, arXiv:2305.08661."""

from typing import Literal

from torch import Tensor

from glmc.mixtures.base import Mixed, Pairs, Row
from glmc.mixtures.cutmix import cutmix
from glmc.mixtures.mixup import mixup
from glmc.step import Batch


class MixUpCutMix(Pairs):
    """The first view mixed by MixUp, the second by CutMix, both with the same partners and the same lambda.

    Args:
        sampling: r of the stream of partners, P(class c) ~ n_c ** (1 - r). The documents' inverse sampler is r = 2,
            the published commands use 0 and 0.2.
        alpha: lambda ~ Beta(alpha, alpha), one for a batch; the published code always uses 1, whatever its `--beta`.
        label_share: CutMix labels by the pixels really pasted ("box") or by lambda as drawn ("drawn", published code).
    """

    views = 2

    def __init__(
        self,
        counts: Tensor,
        *,
        sampling: float = 0.0,
        alpha: float = 1.0,
        label_share: Literal["box", "drawn"] = "box",
    ) -> None:
        super().__init__(counts, alpha=alpha, sampling=sampling)
        self.label_share = label_share

    def forward(self, first: Batch, second: Batch | None, draws: Row, view: int = 0) -> Mixed:  # noqa: D102
        images, labels = self.partner(first, second, draws, view)
        if view == 0:
            return mixup(first.views[0], images, draws["lam"]), self.blend(first.labels, labels, draws["lam"])
        mixed, left = cutmix(first.views[view], images, draws["lam"], draws["centre"])
        share = left if self.label_share == "box" else draws["lam"]
        return mixed, self.blend(first.labels, labels, share)
