"""Cosine classifiers that begin as the class means of what the backbone makes of some training images."""

import numpy as np
import torch

from glmc.batches.augment import View
from glmc.batches.resident import Loader
from glmc.data.holdout import SEED, hold_out
from glmc.data.prepare import Prepared
from glmc.errors import UserError
from glmc.methods.base import Method
from glmc.models.heads import Cosine, start_from_means
from glmc.runtime import autocast

MOST = 100  # images of a class


def some_of_each_class(data: Prepared) -> Prepared:
    """The same with up to `MOST` training images of each class."""
    some = hold_out(data.train.labels, np.minimum(data.train.counts, MOST), SEED)[1]
    sizes = None if data.sizes is None else data.sizes[some]
    return data._replace(train=data.train.select(some), sizes=sizes, inventory=None)


@torch.no_grad()
def start_heads(method: Method, loader: Loader, view: View, precision: str) -> None:
    """Let the cosine classifiers of a method begin as the mean features of a loader's images.

    Args:
        method: on its device.
        loader: of some images of each class; closed here.
        view: the augmentation of the test images.
        precision: "float32" or "bfloat16".

    Raises:
        UserError: the method has no cosine classifier on the features of its backbone.
    """
    shape = (method.classes, method.backbone.out_dim)
    heads = [module for module in method.modules() if isinstance(module, Cosine) and module.weight.shape == shape]
    if not heads:
        raise UserError(
            "model.heads=class_means is for cosine classifiers, and this method has none: set method.head=cosine with "
            "the method supervised, or model.heads=he_zero"
        )
    features, labels = [], []
    method.eval()
    with autocast(loader.device, precision):
        for batch in loader.look(view):
            features.append(method.backbone(batch.views[0]).float())
            labels.append(batch.labels)
    method.train()
    loader.close()
    start_from_means(heads, torch.cat(features), torch.cat(labels))
