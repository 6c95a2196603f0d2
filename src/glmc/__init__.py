"""Long-tailed image classification: GLMC and the systems it is compared with.

The names below are at hand as `from glmc import ...`. They are imported when they are first asked for, because torch
takes a second to load and the command must not wait for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmc.losses.base import Loss
    from glmc.losses.class_weighted import ClassWeighted, class_weights
    from glmc.losses.contrastive import (
        balanced_contrastive,
        instance_contrastive,
        parametric_contrastive,
        supervised_contrastive,
    )
    from glmc.losses.cross_entropy import CrossEntropy, soft_cross_entropy
    from glmc.losses.deferred import Deferred
    from glmc.losses.distillation import distillation
    from glmc.losses.focal import ClassBalancedFocal, Focal
    from glmc.losses.label_aware_smoothing import LabelAwareSmoothing
    from glmc.losses.ldam import LDAM
    from glmc.losses.logit_adjusted import BalancedSoftmax, LogitAdjusted
    from glmc.losses.negative_cosine import negative_cosine
    from glmc.losses.softmax_bce import SoftmaxBCE
    from glmc.losses.vector_scaling import VectorScaling
    from glmc.methods.base import Method
    from glmc.methods.bcl import BCL
    from glmc.methods.distillation import Distillation
    from glmc.methods.glmc import GLMC
    from glmc.methods.gpaco import GPaCo
    from glmc.methods.kcl import KCL
    from glmc.methods.lws import LWS
    from glmc.methods.maxnorm import MaxNorm
    from glmc.methods.paco import PaCo
    from glmc.methods.risda import RISDA
    from glmc.methods.ssd import SSD
    from glmc.methods.supcon import SupCon
    from glmc.methods.supervised import Supervised
    from glmc.methods.tsc import TSC
    from glmc.mixtures.base import Mixture
    from glmc.mixtures.cmo import CMO
    from glmc.mixtures.cutmix import CutMix, cutmix
    from glmc.mixtures.mixup import MixUp, mixup
    from glmc.mixtures.mixup_cutmix import MixUpCutMix
    from glmc.mixtures.remix import Remix
    from glmc.models import Backbone, build_backbone
    from glmc.posthoc import logit_adjustment, max_norm, norm_limit, tau_norm
    from glmc.step import Batch, Step

__version__ = "0.1.0"

_HOME = {
    "glmc.losses.base": ("Loss",),
    "glmc.losses.class_weighted": (
        "ClassWeighted",
        "class_weights",
    ),
    "glmc.losses.contrastive": (
        "balanced_contrastive",
        "instance_contrastive",
        "parametric_contrastive",
        "supervised_contrastive",
    ),
    "glmc.losses.cross_entropy": (
        "CrossEntropy",
        "soft_cross_entropy",
    ),
    "glmc.losses.deferred": ("Deferred",),
    "glmc.losses.distillation": ("distillation",),
    "glmc.losses.focal": (
        "ClassBalancedFocal",
        "Focal",
    ),
    "glmc.losses.label_aware_smoothing": ("LabelAwareSmoothing",),
    "glmc.losses.ldam": ("LDAM",),
    "glmc.losses.logit_adjusted": (
        "BalancedSoftmax",
        "LogitAdjusted",
    ),
    "glmc.losses.negative_cosine": ("negative_cosine",),
    "glmc.losses.softmax_bce": ("SoftmaxBCE",),
    "glmc.losses.vector_scaling": ("VectorScaling",),
    "glmc.methods.base": ("Method",),
    "glmc.methods.bcl": ("BCL",),
    "glmc.methods.distillation": ("Distillation",),
    "glmc.methods.glmc": ("GLMC",),
    "glmc.methods.gpaco": ("GPaCo",),
    "glmc.methods.kcl": ("KCL",),
    "glmc.methods.lws": ("LWS",),
    "glmc.methods.maxnorm": ("MaxNorm",),
    "glmc.methods.paco": ("PaCo",),
    "glmc.methods.risda": ("RISDA",),
    "glmc.methods.ssd": ("SSD",),
    "glmc.methods.supcon": ("SupCon",),
    "glmc.methods.supervised": ("Supervised",),
    "glmc.methods.tsc": ("TSC",),
    "glmc.mixtures.base": ("Mixture",),
    "glmc.mixtures.cmo": ("CMO",),
    "glmc.mixtures.cutmix": (
        "CutMix",
        "cutmix",
    ),
    "glmc.mixtures.mixup": (
        "MixUp",
        "mixup",
    ),
    "glmc.mixtures.mixup_cutmix": ("MixUpCutMix",),
    "glmc.mixtures.remix": ("Remix",),
    "glmc.models": (
        "Backbone",
        "build_backbone",
    ),
    "glmc.posthoc": (
        "logit_adjustment",
        "max_norm",
        "norm_limit",
        "tau_norm",
    ),
    "glmc.step": (
        "Batch",
        "Step",
    ),
}

__all__ = [
    "BCL",
    "CMO",
    "GLMC",
    "KCL",
    "LDAM",
    "LWS",
    "RISDA",
    "SSD",
    "TSC",
    "Backbone",
    "BalancedSoftmax",
    "Batch",
    "ClassBalancedFocal",
    "ClassWeighted",
    "CrossEntropy",
    "CutMix",
    "Deferred",
    "Distillation",
    "Focal",
    "GPaCo",
    "LabelAwareSmoothing",
    "LogitAdjusted",
    "Loss",
    "MaxNorm",
    "Method",
    "MixUp",
    "MixUpCutMix",
    "Mixture",
    "PaCo",
    "Remix",
    "SoftmaxBCE",
    "Step",
    "SupCon",
    "Supervised",
    "VectorScaling",
    "__version__",
    "balanced_contrastive",
    "build_backbone",
    "class_weights",
    "cutmix",
    "distillation",
    "instance_contrastive",
    "logit_adjustment",
    "max_norm",
    "mixup",
    "negative_cosine",
    "norm_limit",
    "parametric_contrastive",
    "soft_cross_entropy",
    "supervised_contrastive",
    "tau_norm",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOME.items():
        if name in names:
            value = getattr(importlib.import_module(home), name)
            globals()[name] = value  # asked for once
            return value
    raise AttributeError(f"module 'glmc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
