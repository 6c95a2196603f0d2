"""Features of a frozen backbone, computed once, without augmentation, and kept: then a classifier takes seconds.

The features stand in the place of the images, and the backbone hands on what is a feature already.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glmc import ranks
from glmc.batches.augment import View
from glmc.batches.resident import Loader, ResidentLoader
from glmc.data import cache, parts
from glmc.data.many import fingerprint_of
from glmc.data.prepare import Prepared, pixels
from glmc.data.split import Paths, Split
from glmc.errors import UserError
from glmc.methods.base import Method
from glmc.models import Backbone
from glmc.recipe import Recipe, Settled
from glmc.runs.checkpoint import weights_sha256
from glmc.runtime import autocast
from glmc.screen import Screen
from glmc.step import Batch


class AsItIs(View):
    """The view of a feature: nothing is drawn, and nothing is done."""

    def __init__(self, device: torch.device) -> None:
        super().__init__((), (0.0,), (1.0,), device)

    def __call__(self, images: Tensor, parameters: Mapping[str, Tensor], *, cut: bool = False) -> Tensor:
        """Float32 [B, D] -> the same."""
        return images


class FeatureLoader(ResidentLoader):
    """Batches of features instead of images; arguments of `ResidentLoader`, with features float32 [N, D]."""

    def look(self, view: View) -> Iterator[Batch]:
        """All features in order; they have been computed in the view of the test images."""
        return super().look(AsItIs(self.device))


def refuse(recipe: Recipe) -> None:
    """Raise a `UserError` where something would have to happen to the images in each epoch."""
    if ranks.here().world > 1:
        raise UserError("model.cached=true is for a single process: start glmc train without torchrun")
    if recipe.model.adapter is not None and recipe.parent is None:
        raise UserError(
            "model.cached=true: an adapter learns from images, not from features; set model.adapter to null, or "
            "model.cached and model.freeze to false"
        )
    if recipe.eval.flip_tta or recipe.eval.crops > 1:
        raise UserError(
            "model.cached=true: features can be neither mirrored nor cropped; set eval.flip_tta to false and "
            "eval.crops to 1"
        )
    if recipe.train.progressive is not None:
        raise UserError("model.cached=true: features have no side; set train.progressive to null")
    if recipe.mixture.name != "none":
        raise UserError("model.cached=true: there are no images to mix; set mixture={name: none}")


def refuse_views(recipe: Settled, method: Method) -> None:
    """Raise a `UserError` if the method looks at the images in another way than features are computed."""
    for name in method.views:
        if recipe.views.get(name) != recipe.views["test"]:
            raise UserError(
                f"model.cached=true: features are computed once, without anything random; set views.{name} to what "
                "views.test is"
            )


def learn_contents(data: Prepared, recipe: Settled, screen: Screen) -> None:
    """Read what streaming workers would have learnt of the training files, by which copies of them are known."""
    if data.inventory is not None and isinstance(data.train.images, Paths):
        data.inventory["train"].digests[:] = parts.digests(data.train.images, recipe.data, screen)


def instead_of_images(
    method: Method, data: Prepared, recipe: Settled, loader: Loader, view: View, screen: Screen
) -> tuple[dict[str, NDArray[np.float32]], FeatureLoader]:
    """What `computed` gives, and a loader of the training features; arguments as there.

    Raises:
        UserError: the method looks at the images in another way than features are computed.
    """
    refuse_views(recipe, method)
    learn_contents(data, recipe, screen)
    training = method.training
    method.eval()
    found = computed(method.backbone, data, recipe, loader, view, screen)
    method.train(training)
    seed, views = recipe.train.seed, (AsItIs(loader.device),) * len(method.views)
    return found, FeatureLoader(
        found["train"], data.train.labels, views, method.streams, batch_size=recipe.data.batch_size, seed=seed,
        device=loader.device,
    )  # fmt: skip


@torch.no_grad()
def computed(
    backbone: Backbone, data: Prepared, recipe: Settled, loader: Loader, view: View, screen: Screen
) -> dict[str, NDArray[np.float32]]:
    """The features of every image, from the cache if this backbone has seen these images like this before.

    Args:
        backbone: frozen, in evaluation mode, on its device.
        data: the images.
        recipe: whose settings of images and precision count.
        loader: of the training images, wherever these are; closed here.
        view: the augmentation of the test images.
        screen: for remarks and progress.

    Returns:
        Part of the data ("train", "test", "val" if there) -> float32 [N, D].
    """
    device, batch_size = loader.device, recipe.eval.batch_size
    settings = recipe.data.model_dump(include={"mean", "std", "size", "channels", "resize", "exif", "bits"})
    weights = weights_sha256(backbone.state_dict())
    seen = {
        "network": recipe.model.name,
        "weights": weights,
        "view": recipe.views["test"],
        "precision": recipe.train.precision,
        **settings,
    }
    seen |= {"timm": version("timm"), "torch": torch.__version__}
    splits = {"train": data.train, "test": data.test, "val": data.val}

    def images(name: str, split: Split) -> Iterator[Tensor]:
        if name == "train":
            return (batch.views[0] for batch in loader.look(view))
        return (view(some.to(device), {}) for some in torch.from_numpy(pixels(split)).split(batch_size))

    found = {
        name: _kept(backbone, split, partial(images, name, split), seen, recipe, screen)
        for name, split in splits.items()
        if split is not None and len(split)
    }
    loader.close()
    return found


def _kept(
    backbone: Backbone, split: Split, images: Callable[[], Iterator[Tensor]], seen: Mapping[str, Any], recipe: Settled,
    screen: Screen,
) -> NDArray[np.float32]:  # fmt: skip
    """The features of one part, from the cache or computed and put there."""
    if isinstance(split.images, Paths):
        files = fingerprint_of(split.images)
    else:
        files = hashlib.blake2b(np.ascontiguousarray(split.images).data).hexdigest()
    key = hashlib.sha256(json.dumps({"features of": files, **seen}).encode()).hexdigest()
    folder = cache.cache_folder() if recipe.data.cache else None
    kept = None if folder is None else cache.read(folder, key, screen.say)
    if kept is not None:
        return kept
    features = []
    with screen.bar("computing features", len(split)) as bar:
        for batch in images():
            with autocast(batch.device, recipe.train.precision):
                features.append(backbone(batch).float().cpu().numpy())
            bar.to(sum(map(len, features)))
    whole = np.concatenate(features)
    if folder is not None:
        cache.write(folder, key, whole, recipe.data.root, screen.say)
    return whole
