"""Row numbers of one epoch of a stream: a permutation, or draws with P(class c) ~ n_c ** (1 - r).

One exponent covers the samplers of the field: r = 0 draws images evenly (bootstrap), 0.5 is square-root sampling, 1
draws classes evenly, 2 is the reversed sampler of BBN (Zhou et al., CVPR 2020). The inverse sampler of the GLMC
documents, w_i = N_max / N_i normalised over the classes, is r = 2; the published commands use r = 0 and r = 0.2.
"""

import numpy as np
from numpy.typing import NDArray

from glmc.random import Draws


def shuffled_rows(draws: Draws, images: int) -> NDArray[np.int64]:
    """int64 [N]: every row once, in random order."""
    return draws.permutation(images)


def resampled_rows(draws: Draws, labels: NDArray[np.int64], exponent: float, length: int) -> NDArray[np.int64]:
    """Rows drawn with replacement: first the class with P(c) ~ n_c ** (1 - exponent), then one of its images evenly.

    Args:
        draws: where the numbers come from.
        labels: int64 [N], the label of each row; classes without a row are never drawn.
        exponent: r of the module's text.
        length: how many rows to draw.

    Returns:
        int64 [length], in [0, N).
    """
    counts = np.bincount(labels)
    by_class = np.argsort(labels, kind="stable")  # rows of class 0, then of class 1, ...
    first = np.cumsum(counts) - counts  # where each class starts in `by_class`
    weights = np.zeros(len(counts))
    weights[counts > 0] = counts[counts > 0].astype(np.float64) ** (1.0 - exponent)
    edges = np.cumsum(weights) / weights.sum()
    edges[np.flatnonzero(counts)[-1] :] = 1.0  # rounding must not leave a gap above the last class
    drawn = np.searchsorted(edges, draws.uniform(length), side="right")
    within = np.floor(draws.uniform(length) * counts[drawn]).astype(np.int64)
    return by_class[first[drawn] + within]
