"""What a run begins with beside random weights: the network of another run, and means or names of classes as rows."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glmc.data.prepare import decoded, pixels
from glmc.data.split import Split
from glmc.errors import UserError
from glmc.methods.base import Method
from glmc.methods.supervised import Supervised
from glmc.models.heads import Cosine, with_rows
from glmc.models.text import class_names
from glmc.recipe import Settled, parse_settled
from glmc.runs.trained import build_views, find_checkpoint, load_trained, refuse_other_classes
from glmc.runtime import autocast
from glmc.screen import Screen

MOST = 100  # images of a class that its mean is taken over


def adopt(method: Method, recipe: Settled, train: Split, device: torch.device, screen: Screen) -> None:
    """Let a method start from the network of its parent run, if it has one.

    Args:
        method: on the device.
        recipe: of the run.
        train: its training images.
        device: of the run.
        screen: for the progress of looking at new classes.

    Raises:
        UserError: there is no such run, its network or classes are others, or method and parent do not go together.
    """
    if recipe.parent is None or recipe.starts_from is None:
        if method.second_stage:
            raise UserError(f"method.name={recipe.method.name} is a second stage: start it with glmc finetune RUN")
        return
    if method.second_stage and recipe.starts_from != "all":
        raise UserError(
            f"starts_from={recipe.starts_from}: {recipe.method.name} goes on with a classifier; set it to all"
        )
    parent = Path(recipe.parent)
    point = find_checkpoint(parent)
    if recipe.starts_from != "rows":
        refuse_other_classes(recipe, train.classes, point.state["classes"])
    machine = [f"train.device={device.type}", f"train.threads={recipe.train.threads or 'null'}"]
    first = parse_settled(point.state["recipe"], machine)
    try:
        trained = load_trained(point, first)
        method.adopt(trained.method, "all" if recipe.starts_from == "all" else "backbone")
    except ValueError as error:
        raise UserError(f"parent={parent}: {error}") from error
    except RuntimeError as error:
        raise UserError(
            f"model.name={recipe.model.name}: not the network of parent={parent}, which is {first.model.name}"
        ) from error
    if recipe.starts_from == "rows":
        means, row_of = class_means(method, train, recipe, screen), {name: r for r, name in enumerate(trained.classes)}
        try:
            head = with_rows(classifier_of(trained.method), [row_of.get(name) for name in train.classes], means)
            method.adopt_head(head)
        except ValueError as error:
            raise UserError(f"parent={parent}: {error}") from error


def classifier_of(method: Method) -> nn.Linear | Cosine:
    """The classifier that answers on features of the backbone: linear, or of cosines.

    Raises:
        ValueError: the method answers in another way.
    """
    head = method.head()
    if head is None and isinstance(method, Supervised) and isinstance(method.classifier, Cosine):
        return method.classifier
    if head is None:
        raise ValueError(f"{type(method).__name__} has no linear classifier whose rows could be kept")
    return head


@torch.inference_mode()
def class_means(method: Method, train: Split, recipe: Settled, screen: Screen) -> Tensor:
    """Mean features of every class, of at most `MOST` images each, as at test time: float32 [C, D].

    Args:
        method: whose backbone is trained already, on its device.
        train: training images, decoded or not.
        recipe: of the run.
        screen: for the progress of decoding.
    """
    device, training = next(method.parameters()).device, method.training
    (view,) = build_views(recipe, ("test",), device)
    data, batch = recipe.data.model_copy(update={"cache": False}), recipe.eval.batch_size
    order = np.argsort(train.labels, kind="stable")
    place = np.arange(len(order)) - (np.cumsum(train.counts) - train.counts)[train.labels[order]]  # within its class
    rows = order[place < MOST]
    means = torch.zeros(len(train.classes), method.backbone.out_dim, device=device)
    method.eval()
    for start in range(0, len(rows), batch):
        some = decoded(train.select(rows[start : start + batch]), "images of each class", data, screen)
        with autocast(device, recipe.train.precision):
            features = method.backbone(view(torch.from_numpy(pixels(some)).to(device), {}))
        means.index_add_(0, torch.from_numpy(some.labels).to(device), features.float())
    method.train(training)
    return means / torch.from_numpy(train.counts).clamp(max=MOST).to(device)[:, None]


@torch.no_grad()
def start_rows(method: Method, train: Split, recipe: Settled, screen: Screen) -> None:
    """Let each row of a method's cosine classifiers begin as a feature of its class, if `model.heads` says so.

    Shi et al., ICML 2024, arXiv:2309.10019.

    Args:
        method: on its device.
        train: training images, decoded or not, and the names of their classes.
        recipe: of the run.
        screen: for the progress of decoding.

    Raises:
        UserError: the method has no cosine classifier on the features of its backbone, or there is no text encoder for
            these features.
    """
    how, size = recipe.model.heads, method.backbone.out_dim
    if how not in ("class_means", "class_names"):
        return
    heads = [each for each in method.modules() if isinstance(each, Cosine) and each.weight.shape[1] == size]
    if not heads:
        raise UserError(
            f"model.heads={how} is for cosine classifiers, and this method has none: set method.head=cosine with "
            "the method supervised, or model.heads=he_zero"
        )
    if how == "class_means":
        rows = class_means(method, train, recipe, screen)
    else:
        rows = class_names(train.classes, recipe.model.name, recipe.model.text)
    if rows.shape[1] != size:
        raise UserError(
            f"model.text: the images beside this text encoder have features of {rows.shape[1]} numbers, those of "
            f"{recipe.model.name} have {size}; give the encoder that was trained beside its weights"
        )
    for head in heads:
        head.weight.copy_(F.normalize(rows))
