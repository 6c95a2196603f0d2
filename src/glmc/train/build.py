"""A recipe becomes objects: data on the device, method, loader, optimizer."""

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glmc import models, ranks, runtime
from glmc.batches.augment import View
from glmc.batches.resident import Loader, ResidentLoader
from glmc.batches.streaming import StreamingLoader
from glmc.data.inventory import Inventory
from glmc.data.prepare import Prepared, pixels, prepare
from glmc.data.split import Paths
from glmc.errors import UserError
from glmc.methods.base import Method
from glmc.metrics import scores
from glmc.recipe import Recipe, Settled
from glmc.runs.tally import Tally
from glmc.runs.trained import (
    How,
    build_method,
    build_views,
    evaluate,
    logits_of,
)
from glmc.screen import Screen
from glmc.step import Batch
from glmc.train import features
from glmc.train.beginning import adopt, start_rows
from glmc.train.engine import Inputs, Terms, state_of, training_step
from glmc.train.execution import Fallback, Graphed, Makers, Mode
from glmc.train.muon import Muon
from glmc.train.schedule import factor, side_in


@dataclass(frozen=True)
class Parts:
    """Everything that a run is made of."""

    recipe: Settled  # settled
    data: Prepared
    device: torch.device
    method: Method
    tested: Method  # what is evaluated: the method, or its moving average
    average: Method | None
    optimizer: torch.optim.Optimizer
    loader: Loader
    before_epoch: Callable[[int], None]  # gathers what the method wants to know of the training set; 0-based
    step: Fallback  # `Inputs` -> terms of the loss, in the fastest way that works
    logits: dict[How, Callable[[Tensor], Tensor]]  # how images are looked at -> images to logits
    sets: dict[str, tuple[Tensor, Tensor]]  # "test", "val", if there: images or their features [N, ...], int64 [N]
    factors: list[float]  # learning rate of each epoch as a fraction of its peak
    sides: list[int]  # in pixels, that the images are brought to in each epoch; 0: they stay as they are
    counts: Tensor  # int64 [C], training images per class
    number: int = 0  # by which other ranks know the run

    @property
    def areas(self) -> list[float]:
        """Pixels of the images of each epoch, as a part of those that they have when nothing shrinks them."""
        full = self.loader.views[0].side(self.data.size)
        return [((side or full) / full) ** 2 for side in self.sides]

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        steps = self.recipe.train.epochs * self.loader.steps
        return min(steps, self.recipe.train.max_steps or steps)

    def tally(self, name: str, how: How = "plain") -> Tally:
        """The predictions for the set of that name; each rank makes its own, and all of them have all."""
        here, (images, labels) = ranks.here(), self.sets[name]
        if here.world > 1 and here.rank == 0:
            ranks.say("evaluate", self.number, name, how)
        own = images[here.own], labels[here.own]
        with ranks.common():
            tally = evaluate(self.tested, self.logits[how], *own, batch_size=self.recipe.eval.batch_size)
            if here.world > 1:
                tally.gather(len(labels))
        return tally

    def score(self, name: str, how: How = "plain") -> tuple[dict[str, float], np.ndarray]:
        """Scores and confusion matrix (int64 [C, C]) on the set of that name."""
        return self.scored(self.tally(name, how))

    def scored(self, tally: Tally) -> tuple[dict[str, float], np.ndarray]:
        """Scores and confusion matrix (int64 [C, C]) of predictions."""
        confusion, extras = tally.compute()
        return scores(confusion, self.data.train.counts, few=self.recipe.eval.few, extras=extras), confusion


def build(
    recipe: Recipe,
    screen: Screen,
    *,
    initial: bool = True,
    known: Inventory | None = None,
    trained: Mapping[str, Tensor] | None = None,
) -> Parts:
    """All the objects of a run, at its beginning.

    Args:
        recipe: of the run.
        screen: for remarks and progress.
        initial: False if other weights are loaded at once.
        known: the files of each part of the data, if that was decided before.
        trained: weights to go on with, which features of a frozen backbone are computed with.

    Raises:
        UserError: something about the recipe, the data or the machine does not go together.
    """
    if recipe.model.cached:
        features.refuse(recipe)
    settled, data, device = settle(recipe, screen, known)
    counts = torch.from_numpy(data.train.counts)
    method = build_method(settled, counts, device, initial=initial)
    sharpness = settled.optim.sharpness
    if sharpness is not None and sharpness.direction == "uphill" and not method.takes_sharpness:
        raise UserError(f"optim.sharpness: {settled.method.name} measures each batch once; set it to null")
    if initial:
        adopt(method, settled, data.train, device, screen)
        if settled.starts_from in (None, "backbone"):
            start_rows(method, data.train, settled, screen)
    if trained is not None:
        method.load_state_dict(trained)
    adapter = settled.model.adapter
    if adapter is not None and adapter.width is None and method.backbone.adapter_width:
        settled = settled.override(f"model.adapter.width={method.backbone.adapter_width}")
    sets = {name: split for name, split in (("test", data.test), ("val", data.val)) if split is not None and len(split)}
    loader = build_loader(settled, data, method, device)
    (seen,) = build_views(settled, ("test",), device)
    inputs: Mapping[str, NDArray[Any]] = {name: pixels(split) for name, split in sets.items()}
    if settled.model.cached:
        inputs, loader = features.instead_of_images(method, data, settled, loader, seen, screen)
        seen = features.AsItIs(device)
    home = runtime.home_of(sum(inputs[name].nbytes for name in sets), device)
    if recipe.eval.select == "val" and "val" not in sets:
        raise UserError(
            "eval.select=val: there is no validation split; give data.val_fraction, data.val_list or a val folder"
        )
    if recipe.eval.stop_after is not None and "val" not in sets:
        raise UserError(
            f"eval.stop_after={recipe.eval.stop_after}: there is no validation split, and the test images must not say "
            "when to stop; give data.val_fraction, data.val_list or a val folder"
        )
    average = None if recipe.train.ema is None else copy.deepcopy(method).requires_grad_(False)
    tested = method if average is None else average
    optimizer = build_optimizer(method, settled)
    strangers = set(method.rates(0.0)) - {"heads", *dict(method.named_children())}
    if strangers:
        raise UserError(
            f"method.name={recipe.method.name}: its rates name {min(strangers)}, which is neither backbone nor "
            "heads nor a module of it"
        )
    plan, full = recipe.train, loader.views[0].side(data.size)
    steps = min(plan.epochs * loader.steps, plan.max_steps or sys.maxsize)
    mode = recipe.train.step
    alone = ranks.here().world == 1
    if mode == "auto":
        flops = 0.0 if settled.model.cached else steps * step_flops(method, loader, data)
        mode = runtime.pick_mode(device, flops) if alone else "eager"
        settled = settled.settle({}, {"step": mode})
    if mode != "eager" and not alone:  # exchanges cannot be compiled, and one rank must not fall back by itself
        screen.say(f"train.step={mode} is for a single process; the steps of several are carried out eagerly")
        mode = "eager"
    if mode.startswith("graph") and device.type != "cuda":  # a run that was begun on a GPU may go on elsewhere
        screen.say(f"train.step={mode} needs a CUDA device, and this is {device.type}: steps are carried out eagerly")
        mode = "eager"
    return Parts(
        recipe=settled,
        data=data,
        device=device,
        method=method,
        tested=tested,
        average=average,
        optimizer=optimizer,
        loader=loader,
        before_epoch=build_before_epoch(method, average, loader, settled),
        step=build_step(mode, method, loader, optimizer, average, settled, screen),
        logits=build_logits(mode, tested, seen, settled, screen),
        sets={
            name: (torch.from_numpy(inputs[name]).to(home), torch.from_numpy(split.labels).to(home))
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
        sides=[side_in(epoch, plan.epochs, full, plan.progressive) for epoch in range(plan.epochs)],
        counts=counts,
    )


def build_before_epoch(
    method: Method, average: Method | None, loader: Loader, recipe: Settled
) -> Callable[[int], None]:
    """What a method, and its moving average, gather from the training set before an epoch (0-based)."""

    def look(name: str) -> Iterator[Batch]:
        (view,) = build_views(recipe, (name,), loader.device)
        if set(view.names) - {"center_crop"}:
            raise UserError(f"views.{name}: {recipe.method.name} looks at the images without anything random")
        return loader.look(view)

    @torch.no_grad()
    def before_epoch(epoch: int) -> None:
        for each in (method,) if average is None else (method, average):
            each.eval()
            with runtime.autocast(loader.device, recipe.train.precision):
                each.before_epoch(epoch, recipe.train.epochs, look)

    return before_epoch


def build_loader(recipe: Settled, data: Prepared, method: Method, device: torch.device) -> Loader:
    """Batches of the training images: from the device's memory, or from files while the run goes on."""
    views = build_views(recipe, method.views, device)
    batch_size, seed = recipe.data.batch_size, recipe.train.seed
    if isinstance(data.train.images, Paths):
        return StreamingLoader(
            data.train.images, data.train.labels, views, method.streams, size=data.size, channels=data.channels,
            sizes=data.sizes, resize=recipe.data.resize, exif=recipe.data.exif, bits=recipe.data.bits or 16,
            max_pixels=recipe.data.max_pixels,
            digests=None if data.inventory is None else data.inventory["train"].digests, workers=recipe.data.workers,
            batch_size=batch_size, seed=seed, device=device,
        )  # fmt: skip
    runtime.check_pixels(data.train.images.nbytes, device)
    return ResidentLoader(
        pixels(data.train), data.train.labels, views, method.streams, batch_size=batch_size, seed=seed, device=device
    )


def build_step(
    mode: Mode,
    method: Method,
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    average: Method | None,
    recipe: Settled,
    screen: Screen,
) -> Fallback:
    """The training step of a settled recipe, `mode` or the next slower one that works."""
    beside = recipe.optim.sharpness
    uphill = beside is not None and beside.direction == "uphill"

    def written(compiled: bool = False) -> Callable[[Inputs], Terms]:
        return training_step(
            method,
            loader,
            optimizer,
            precision=recipe.train.precision,
            clip=recipe.optim.clip,
            sharpness={"rho": beside.rho, "adaptive": beside.adaptive} if beside and uphill else None,
            noise=beside.rho if beside and not uphill else None,
            average=average,
            ema=recipe.train.ema or 0.0,
            compiled=compiled,
        )

    return Fallback(
        mode,
        {
            "graph_compile": lambda: Graphed(written(compiled=True), lambda: state_of(method, optimizer, average)),
            "graph": lambda: Graphed(written(), lambda: state_of(method, optimizer, average)),
            "compile": lambda: written(compiled=True),
            "eager": written,
        },
        screen.say,
    )


def build_logits(
    mode: Mode, method: Method, view: View, recipe: Settled, screen: Screen
) -> dict[How, Callable[[Tensor], Tensor]]:
    """What turns test images into logits, however they are looked at; recorded as a graph if the step is."""

    def of(how: How) -> Fallback:
        logits = logits_of(method, view, precision=recipe.train.precision, how=how)
        makers: Makers = {"graph": lambda: Graphed(logits), "compile": lambda: logits, "eager": lambda: logits}
        return Fallback("graph" if mode.startswith("graph") else "eager", makers, screen.say, "evaluation")

    wanted: tuple[How, ...] = ("plain", "flip", "crops") if recipe.eval.crops == 5 else ("plain", "flip")
    return {how: of(how) for how in wanted}


@torch.no_grad()
def step_flops(method: Method, loader: Loader, data: Prepared) -> float:
    """Floating-point operations of one training step: three times those of the backbone's forward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    side = loader.views[0].side(data.size)
    with FlopCounterMode(display=False) as counter:
        try:
            copy.deepcopy(method.backbone).eval()(torch.zeros(1, data.channels, side, side, device=loader.device))
        except (RuntimeError, AssertionError, ValueError):
            return 0.0  # a network for other images: `trial.try_one_step` is about to say so
    return 3.0 * counter.get_total_flops() * loader.batch_size * len(loader.views)


def settle(recipe: Recipe, screen: Screen, known: Inventory | None = None) -> tuple[Settled, Prepared, torch.device]:
    """Prepare the data, and write into the recipe what it left open: size, normalisation, precision and the like."""
    device = runtime.pick_device(recipe.train.device)
    runtime.use_threads(recipe.train.threads)
    left_open = None in (recipe.data.mean, recipe.data.std, recipe.data.size)
    wants = models.pretrained_input(recipe.model.name, recipe.model.pretrained) if left_open else {}
    prepared = prepare(recipe.data, screen, room=runtime.room_for_images(device), known=known, **wants)
    precision = runtime.pick_precision(recipe.train.precision, device, screen.say)
    facts = {"mean": list(prepared.mean), "std": list(prepared.std), "loader": prepared.loader, "bits": prepared.bits}
    settled = recipe.settle({"size": prepared.size, "channels": prepared.channels, **facts}, {"precision": precision})
    return settled, prepared, device


def build_optimizer(method: Method, recipe: Settled) -> torch.optim.Optimizer:
    """SGD, AdamW or Muon with groups for the heads, the backbone, and each module with a rate of its own.

    "peak" is a group's largest learning rate; the present one, "lr", is a tensor: a recorded step sees it change.
    """
    optim = recipe.optim
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    apart = ["backbone", *(name for name in method.rates(0.0) if name not in ("backbone", "heads"))]
    home = {id(parameter): name for name in apart for parameter in method.get_submodule(name).parameters()}
    groups = [
        {
            "name": name,
            "params": [p for p in trained if home.get(id(p), "heads") == name],
            "peak": (name == "backbone" and optim.backbone_lr) or optim.lr,
        }
        for name in (*apart, "heads")
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise UserError("model.freeze=true: nothing else is trained by this method; set it to false")
    device = trained[0].device
    for group in groups:
        group["lr"] = torch.tensor(group["peak"], device=device)
    if optim.name == "adamw":
        recordable = device.type == "cuda"
        return torch.optim.AdamW(groups, weight_decay=optim.weight_decay, fused=True, capturable=recordable)
    if optim.name == "muon":
        for group in groups:
            group["orthogonal"] = group["name"] == "backbone"
        return Muon(groups, momentum=optim.momentum, weight_decay=optim.weight_decay)
    return torch.optim.SGD(
        groups,
        momentum=optim.momentum,
        nesterov=optim.nesterov,
        weight_decay=optim.weight_decay,
        fused=True,
    )
