"""One loss, one file; tensors in, tensors out, nothing else of the package needed."""

from glmc.losses.negative_cosine import negative_cosine
from glmc.losses.soft_cross_entropy import class_weights, soft_cross_entropy

__all__ = ["class_weights", "negative_cosine", "soft_cross_entropy"]
