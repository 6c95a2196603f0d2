"""A recipe becomes objects: data on the device, method, loader, optimizer."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from glmc import models, runtime
from glmc.augment import View
from glmc.data.resident import ResidentLoader
from glmc.engine import evaluate
from glmc.errors import UserError
from glmc.methods import METHODS
from glmc.methods.base import Method, Step
from glmc.metrics import scores
from glmc.prepare import Prepared, pixels, prepare, test_split
from glmc.random import Draws
from glmc.recipe import Recipe
from glmc.schedule import factor
from glmc.screen import Screen


@dataclass(frozen=True)
class Parts:
    """Everything that a run is made of."""

    recipe: Recipe  # settled
    data: Prepared
    device: torch.device
    method: Method
    judged: Method  # what is evaluated: the method, or its moving average
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    loader: ResidentLoader
    test_view: View
    sets: dict[str, tuple[Tensor, Tensor]]  # "test" and perhaps "val": uint8 [N, side, side, ch], int64 [N]
    factors: list[float]  # learning rate of each epoch as a fraction of its peak
    counts: Tensor  # int64 [C], training images per class

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        steps = self.recipe.train.epochs * self.loader.steps
        return min(steps, self.recipe.train.max_steps or steps)

    def judge(self, name: str, flip: bool = False) -> tuple[dict[str, float], np.ndarray]:
        """Scores and confusion matrix (int64 [C, C]) on the set of that name."""
        return judge(self.judged, *self.sets[name], self.test_view, self.recipe, self.data.train.counts, flip)


def judge(
    method: Method,
    images: Tensor,
    labels: Tensor,
    view: View,
    recipe: Recipe,
    counts: NDArray[np.int64],
    flip: bool,
) -> tuple[dict[str, float], np.ndarray]:
    """Scores and confusion matrix of a method on images (uint8 [N, side, side, ch]) with labels (int64 [N])."""
    tally = evaluate(
        method, images, labels, view, batch_size=recipe.eval.batch_size, precision=recipe.train.precision, flip=flip
    )
    confusion, extras = tally.compute()
    return scores(confusion, counts, few=recipe.eval.few, extras=extras), confusion


def build_judge(
    recipe: Recipe, classes: list[str], counts: list[int], weights: dict[str, Tensor], screen: Screen
) -> Callable[[bool], tuple[dict[str, float], np.ndarray]]:
    """What scores a trained method on its test images, given whether to average with mirrored ones.

    Args:
        recipe: settled.
        classes, counts: [C] each, names and training images of the classes it was trained on.
        weights: of the method.
        screen: for remarks and progress.

    Raises:
        UserError: the images have other classes.
    """
    device = runtime.pick_device(recipe.train.device)
    split = test_split(recipe.data, screen)
    if list(split.classes) != classes:
        number = f"{len(split.classes)} classes, and the checkpoint was trained on {len(classes)}"
        names = "classes of other names than those that the checkpoint was trained on"
        what = number if len(split.classes) != len(classes) else names
        raise UserError(f"data.root={recipe.data.root}: these images have {what}; give the data it belongs to")
    trained = np.array(counts, dtype=np.int64)
    method = build_method(recipe, torch.from_numpy(trained), device, initial=False)
    method.load_state_dict(weights)
    images, labels = torch.from_numpy(pixels(split)).to(device), torch.from_numpy(split.labels).to(device)
    (view,) = build_views(recipe, ("test",), device)
    return lambda flip: judge(method, images, labels, view, recipe, trained, flip)


def build(recipe: Recipe, screen: Screen) -> Parts:
    """All the objects of a run, at its beginning.

    Raises:
        UserError: something about the recipe, the data or the machine does not go together.
    """
    recipe, data, device = settle(recipe, screen)
    counts = torch.from_numpy(data.train.counts)
    method = build_method(recipe, counts, device)
    loader = ResidentLoader(
        pixels(data.train),
        data.train.labels,
        build_views(recipe, method.views, device),
        method.streams,
        batch_size=recipe.data.batch_size,
        seed=recipe.train.seed,
        device=device,
    )
    sets = {"test": data.test} if data.val is None else {"test": data.test, "val": data.val}
    if recipe.eval.select == "val" and "val" not in sets:
        raise UserError(
            "eval.select=val: there is no validation split; give data.val_fraction, data.val_list or a val folder"
        )
    average = None
    if recipe.train.ema is not None:
        average = AveragedModel(method, multi_avg_fn=get_ema_multi_avg_fn(recipe.train.ema), use_buffers=True)
    plan = recipe.train
    return Parts(
        recipe=recipe,
        data=data,
        device=device,
        method=method,
        judged=method if average is None else average.module,  # type: ignore[arg-type]
        average=average,
        optimizer=build_optimizer(method, recipe),
        loader=loader,
        test_view=build_views(recipe, ("test",), device)[0],
        sets={
            name: (torch.from_numpy(pixels(split)).to(device), torch.from_numpy(split.labels).to(device))
            for name, split in sets.items()
        },
        factors=[
            factor(
                epoch,
                plan.epochs,
                schedule=plan.schedule,
                warmup=plan.warmup,
                milestones=plan.milestones,
                decay=plan.decay,
            )
            for epoch in range(plan.epochs)
        ],
        counts=counts,
    )


def settle(recipe: Recipe, screen: Screen) -> tuple[Recipe, Prepared, torch.device]:
    """Prepare the data, and write into the recipe what it had left open: size, channels, normalisation, precision."""
    device = runtime.pick_device(recipe.train.device)
    wants = models.pretrained_input(recipe.model.name) if recipe.model.pretrained else {}
    prepared = prepare(recipe.data, screen, **wants)
    recipe = recipe.override(
        f"data.size={prepared.size}",
        f"data.channels={prepared.channels}",
        f"data.mean={list(prepared.mean)}",
        f"data.std={list(prepared.std)}",
        f"train.precision={runtime.pick_precision(recipe.train.precision, device)}",
    )
    return recipe, prepared, device


def build_method(recipe: Recipe, counts: Tensor, device: torch.device, *, initial: bool = True) -> Method:
    """Backbone, heads and loss of a settled recipe, with the initial weights of its seed.

    `initial=False` is for those who load other weights at once: pretrained ones are not fetched for them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(Draws(recipe.train.seed, "weights").bits(1)[0] >> np.uint64(1)))
        backbone = models.build_backbone(
            recipe.model.name,
            channels=recipe.data.channels or 3,
            pretrained=initial and recipe.model.pretrained,
            batch_norm=recipe.model.batch_norm,
        )
        module, _, name = METHODS.get(recipe.method.name, recipe.method.name).partition(":")
        method: Method = getattr(importlib.import_module(module), name)(backbone, counts, **recipe.method.params)
    if recipe.model.freeze:
        method.freeze_backbone()
    return method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_optimizer(method: Method, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD or AdamW with one group for the heads and one for the backbone; "peak" is a group's largest learning rate."""
    optim = recipe.optim
    backbone = {id(parameter) for parameter in method.backbone.parameters()}
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in backbone], "peak": optim.backbone_lr or optim.lr},
        {"params": [p for p in trained if id(p) not in backbone], "peak": optim.lr},
    ]
    groups = [group for group in groups if group["params"]]
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, lr=optim.lr, weight_decay=optim.weight_decay, fused=True)
    return torch.optim.SGD(
        groups,
        lr=optim.lr,
        momentum=optim.momentum,
        nesterov=optim.nesterov,
        weight_decay=optim.weight_decay,
        fused=True,
    )


def build_views(recipe: Recipe, names: tuple[str, ...], device: torch.device) -> list[View]:
    """The augmentations of a settled recipe, by name."""
    missing = [name for name in names if name not in recipe.views]
    if missing:
        raise UserError(f"views.{missing[0]}: the method {recipe.method.name} needs a view of this name in the recipe")
    return [View(recipe.views[name], recipe.data.mean or (), recipe.data.std or (), device) for name in names]


def try_one_step(parts: Parts) -> None:
    """Refuse a model that cannot take the images, or a batch that will not fit the memory, before training."""
    recipe, loader, device, method = parts.recipe, parts.loader, parts.device, parts.method
    own = method.draws(Draws(0, "trial"), loader.steps)
    draws = {name: torch.as_tensor(table[0], dtype=torch.float32, device=device) for name, table in own.items()}
    tables = loader.epoch(0)

    def loss_of(trial: torch.nn.Module, images: int) -> Tensor:
        streams = {name: loader.batch(table, slice(0, images)) for name, table in tables.items()}
        with runtime.autocast(device, recipe.train.precision):
            return torch.stack(list(trial(Step(streams, draws, torch.tensor(0.5, device=device))).values())).sum()

    try:
        runtime.check_memory(method, loss_of, recipe.data.batch_size, device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"model.name={recipe.model.name} cannot take images of {parts.data.size} x {parts.data.size} pixels ({str(error).splitlines()[0]}); "
            f"choose another data.size or model"
        ) from error
