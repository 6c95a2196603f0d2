"""CMO: rare objects on frequent backgrounds. Park et al., CVPR 2022, arXiv:2112.00412."""

from typing import Any

from torch import Tensor

from glmc.mixtures.cutmix import CutMix


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
        super().__init__(counts, sampling=sampling, probability=probability, early=early, late=late, **rest)
