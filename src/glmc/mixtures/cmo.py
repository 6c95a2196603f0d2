"""CMO: rare objects on frequent backgrounds. Park et al., CVPR 2022, arXiv:2112.00412."""

from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from glmc.mixtures.cutmix import CutMix
from glmc.random import Draws


class CMO(CutMix):
    """CutMix with boxes from a re-sampled stream, pasted into the images of the first; not in every step or epoch.

    Args:
        sampling: r of the stream of boxes, P(class c) ~ n_c ** (1 - r); 1 draws every class equally often.
        probability: share of the steps that are mixed.
        early, late: parts of the run, in [0, 0.5), at its beginning and at its end in which nothing is mixed; the
            published code leaves out 4 and 3 of 200 epochs.
    """

    def __init__(
        self,
        counts: Tensor,
        *,
        sampling: float = 1.0,
        probability: float = 0.5,
        early: float = 0.02,
        late: float = 0.015,
        **rest: Any,
    ) -> None:
        super().__init__(counts, sampling=sampling, probability=probability, **rest)
        for name, value in (("early", early), ("late", late)):
            if not 0 <= value < 0.5:
                raise ValueError(f"{name} must lie in [0, 0.5), not {value}")
        self.early, self.late = early, late

    def tables(self, rng: Draws, *, epoch: int, epochs: int, steps: int, batch: int) -> dict[str, NDArray[Any]]:  # noqa: D102
        tables = super().tables(rng, epoch=epoch, epochs=epochs, steps=steps, batch=batch)
        if not round(self.early * epochs) <= epoch < epochs - round(self.late * epochs):
            tables["lam"][:] = 1.0  # all of the first image
        return tables
