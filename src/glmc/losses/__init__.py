"""One loss, one file; tensors in, tensors out, nothing else of the package needed."""

from glmc.losses.balanced_softmax import balanced_softmax, log_counts
from glmc.losses.negative_cosine import negative_cosine
from glmc.losses.soft_cross_entropy import class_weights, soft_cross_entropy
from glmc.losses.weighted_bce import softmax_bce

__all__ = [
    "balanced_softmax",
    "class_weights",
    "log_counts",
    "negative_cosine",
    "soft_cross_entropy",
    "softmax_bce",
]
