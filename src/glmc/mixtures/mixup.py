"""MixUp: the global mixture. Zhang et al., ICLR 2018, arXiv:1710.09412."""

from torch import Tensor

from glmc.mixtures.base import Mixed, Pairs, Row
from glmc.step import Batch


def mixup(first: Tensor, second: Tensor, lam: Tensor) -> Tensor:
    """lam * first + (1 - lam) * second.

    Args:
        first, second: float [B, ...], same shape; of images or anything else.
        lam: float [] or [B], the share of `first`, in [0, 1].
    """
    lam = lam.view(-1, *[1] * (first.ndim - 1)) if lam.ndim else lam
    return second.lerp(first, lam.to(first.dtype))


class MixUp(Pairs):
    """Weighted means of two images, and of their labels."""

    def forward(self, first: Batch, second: Batch | None, draws: Row, view: int = 0) -> Mixed:  # noqa: D102
        images, labels = self.partner(first, second, draws, view)
        lam = self.drawn("lam", draws, first)
        return mixup(first.views[view], images, self.here(lam)), self.blend(first.labels, labels, lam)
