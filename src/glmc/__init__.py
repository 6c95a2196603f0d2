"""Long-tailed image classification: GLMC and the systems it is compared with.

The names below are at hand as `from glmc import ...`. They are imported when they are first asked for, because torch
takes a second to load and the command must not wait for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmc.losses import (
        balanced_softmax,
        class_weights,
        log_counts,
        negative_cosine,
        soft_cross_entropy,
        softmax_bce,
    )
    from glmc.methods.balanced_softmax import BalancedSoftmax
    from glmc.methods.base import Method
    from glmc.methods.cross_entropy import CrossEntropy
    from glmc.methods.crt import CRT
    from glmc.methods.glmc import GLMC
    from glmc.methods.lws import LWS
    from glmc.methods.maxnorm import MaxNorm
    from glmc.mixtures.mixing import cutmix, mixup
    from glmc.models import Backbone, build_backbone
    from glmc.posthoc import logit_adjustment, max_norm, norm_limit, tau_norm
    from glmc.step import Batch, Step

__version__ = "0.1.0"

__all__ = [
    "CRT",
    "GLMC",
    "LWS",
    "Backbone",
    "BalancedSoftmax",
    "Batch",
    "CrossEntropy",
    "MaxNorm",
    "Method",
    "Step",
    "__version__",
    "balanced_softmax",
    "build_backbone",
    "class_weights",
    "cutmix",
    "log_counts",
    "logit_adjustment",
    "max_norm",
    "mixup",
    "negative_cosine",
    "norm_limit",
    "soft_cross_entropy",
    "softmax_bce",
    "tau_norm",
]

_HOME = {
    "glmc.step": ("Batch", "Step"),
    "glmc.losses": (
        "balanced_softmax",
        "class_weights",
        "log_counts",
        "negative_cosine",
        "soft_cross_entropy",
        "softmax_bce",
    ),
    "glmc.methods.balanced_softmax": ("BalancedSoftmax",),
    "glmc.methods.base": ("Method",),
    "glmc.methods.cross_entropy": ("CrossEntropy",),
    "glmc.methods.crt": ("CRT",),
    "glmc.methods.glmc": ("GLMC",),
    "glmc.methods.lws": ("LWS",),
    "glmc.methods.maxnorm": ("MaxNorm",),
    "glmc.mixtures.mixing": ("cutmix", "mixup"),
    "glmc.models": ("Backbone", "build_backbone"),
    "glmc.posthoc": ("logit_adjustment", "max_norm", "norm_limit", "tau_norm"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOME.items():
        if name in names:
            value = getattr(importlib.import_module(home), name)
            globals()[name] = value  # asked for once
            return value
    raise AttributeError(f"module 'glmc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
