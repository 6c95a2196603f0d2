"""CutMix: the local mixture. Yun et al., ICCV 2019, arXiv:1905.04899."""

import torch
from torch import Tensor

from glmc.mixtures.base import Mixed, Pairs, Row
from glmc.step import Batch


class CutMix(Pairs):
    """A box of one image pasted into another; labels by the pixels that are really pasted."""

    def forward(self, first: Batch, second: Batch | None, draws: Row, view: int = 0) -> Mixed:  # noqa: D102
        images, labels = self.partner(first, second, draws, view)
        lam, centre = self.drawn("lam", draws, first), self.drawn("centre", draws, first)
        mixed, left = cutmix(first.views[view], images, self.here(lam), self.here(centre))
        return mixed, self.blend(first.labels, labels, self.everywhere(left))


def cutmix(
    first: Tensor, second: Tensor, lam: Tensor, centre: Tensor, dims: tuple[int, ...] = (-2, -1)
) -> tuple[Tensor, Tensor]:
    """`first` with a box of `second` pasted in.

    The box takes the fraction (1 - lam) ** (1 / len(dims)) of every cut side, rounded up, around a centre that may lie
    so near the border that a part of the box falls outside and is lost; an odd side loses one more (edges are the
    centre +- side // 2). Its true share therefore differs from 1 - lam, on average a great deal: 0.32 instead of 0.5
    on 32 x 32.

    Args:
        first, second: float [B, ...], same shape.
        lam: float [], nominal share of `first`, in [0, 1], or float [B], one for each. No value of it reaches the host.
        centre: float [len(dims)], in [0, 1), the box's centre in fractions of the sides, in the order of `dims`; or
            float [B, len(dims)].
        dims: the dimensions to cut: height and width of images [B, ch, H, W], (-1,) for the time of [B, T], (1, 2, 3)
            for channels, time and joints of skeletons [B, ch, T, V].

    Returns:
        The mixture, and the share of `first` that is really left, in [0, 1]: float [], or [B] as lam.

    Raises:
        ValueError: the batch would be cut, or `centre` has not one fraction for each of `dims`.
    """
    if any(dim in (0, -first.ndim) for dim in dims):
        raise ValueError(f"dims={dims} cuts the batch of a tensor of shape {list(first.shape)}; name later dimensions")
    if centre.shape != (*lam.shape, len(dims)):
        raise ValueError(f"dims={dims} needs a centre of shape {[*lam.shape, len(dims)]}, not {list(centre.shape)}")
    ratio = (1.0 - lam) ** (1.0 / len(dims))
    inside = torch.ones((), dtype=torch.bool, device=first.device)
    share = torch.ones_like(lam)
    for fraction, dim in zip(centre.unbind(-1), dims, strict=True):
        size = first.shape[dim]
        half = torch.div(torch.ceil(size * ratio), 2, rounding_mode="floor")
        middle = torch.floor(fraction * size)
        low, high = (middle - half).clamp(0, size), (middle + half).clamp(0, size)
        at = torch.arange(size, device=first.device)
        along = [1] * first.ndim
        along[dim], along[0] = size, -1
        inside = inside & ((at >= low[..., None]) & (at < high[..., None])).view(along)
        share = share * (high - low) / size
    return torch.where(inside, second, first), (1.0 - share).to(first.dtype)
