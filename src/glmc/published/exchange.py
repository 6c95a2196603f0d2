"""Weights from and for the published GLMC code: evaluate its checkpoints, write ours in its format."""

from pathlib import Path
from typing import Any

import torch

from glmc import runtime
from glmc.data.parts import find, long_tailed
from glmc.data.prepare import test_split
from glmc.errors import UserError
from glmc.metrics import doubts, intervals, rows_of
from glmc.published import weights as published
from glmc.recipe import Recipe, load, parse_settled
from glmc.runs.result import finished, read
from glmc.runs.trained import Trained, build_method, find_checkpoint, load_trained, score
from glmc.screen import Screen
from glmc.train.build import settle

BASES = {  # the recipe that a published checkpoint is evaluated with, unless its values are given
    "cifar10": "cifar10_lt/glmc_published",
    "cifar100": "cifar100_lt/glmc_published",
    "imagenet_lt": "imagenet_lt/glmc_published",
    "inaturalist2018": "inaturalist2018/glmc_published",
}


def test_published(file: Path, overrides: tuple[str, ...], *, quiet: bool) -> dict[str, Any]:
    """Evaluate a published checkpoint on the test images of a data set.

    Args:
        file: `.pth.tar` of the published code; nothing in it is executed.
        overrides: "key=value"; `data.name` chooses the data set, the file tells the network.
        quiet: nothing on the terminal.

    Returns:
        {"checkpoint", "recipe", "epoch", "best_acc1", "test": scores, "flip_tta": scores}.

    Raises:
        UserError: no data set is named, the file is damaged, or the data have another number of classes.
    """
    found = published.read(file)
    screen = Screen(quiet=quiet)
    recipe = recipe_for(file, found, overrides)
    device = runtime.pick_device(recipe.train.device)
    if recipe.data.mean is None or recipe.data.size is None:
        settled, prepared, _ = settle(recipe, screen)  # both may depend on the training images
        train, images = prepared.train, prepared.test
    else:
        precision = runtime.pick_precision(recipe.train.precision, device, screen.say)
        settled = recipe.settle({}, {"precision": precision})
        train, _ = long_tailed(find(recipe.data), recipe.data)  # only counted
        images = test_split(recipe.data, screen)
    if len(images.classes) != found.classes:
        raise UserError(
            f"{file} was trained on {found.classes} classes and data.name={recipe.data.name} has "
            f"{len(images.classes)}; give the data it belongs to"
        )
    method = build_method(settled, torch.from_numpy(train.counts), device, initial=False)
    method.load_state_dict(found.weights)
    trained = Trained(method, images.classes, train.counts)
    result: dict[str, Any] = {"checkpoint": str(file), "recipe": recipe.name}
    result |= {"epoch": found.epoch, "best_acc1": found.best_acc1}
    result["test"], confusion = score(trained, images, settled)
    sure = intervals(confusion.diagonal(), confusion.sum(1), trained.counts, recipe.eval.few)
    rows = {"single view": result["test"], **rows_of(sure)}
    if recipe.eval.flip_tta:
        rows["flip TTA"] = result["flip_tta"] = score(trained, images, settled, how="flip")[0]
    screen.table(f"{file}, {found.backbone}, epoch {found.epoch}, accuracy in percent", rows)
    if doubt := doubts(result["test"], sure):
        screen.say(doubt)
    return result


def recipe_for(file: Path, found: published.Published, overrides: tuple[str, ...]) -> Recipe:
    """The recipe to evaluate a published checkpoint with."""
    given = dict(assignment.partition("=")[::2] for assignment in overrides)
    if "data.name" not in given:
        raise UserError(f"{file} does not say what it was trained on; add data.name=cifar10 (or another) and data.root")
    channels = found.weights["backbone.net.conv1.weight"].shape[1]
    own = {"model.name": found.backbone, "method.embedding": str(found.embedding), "data.channels": str(channels)}
    if given["data.name"] not in BASES:  # nothing of CIFAR-10's may leak into other data
        own |= {"data.imbalance": "null", "data.n_max": "null", "data.mean": "null", "data.std": "null"}
    values = [f"{key}={value}" for key, value in own.items() if key not in given]
    return load(BASES.get(given["data.name"], "cifar10_lt/glmc_published"), [*overrides, *values])


def export(run: Path, out: Path | None) -> Path:
    """Write the last checkpoint of a GLMC run as a file that the published code reads; returns the file.

    Raises:
        UserError: another method or network, or the file is there already.
    """
    point = find_checkpoint(run)
    recipe = parse_settled(point.state["recipe"])
    if recipe.method.name != "glmc":
        raise UserError(f"{run}: the published format holds GLMC only, and this is a run of {recipe.method.name}")
    if not recipe.method.params["rebalance"]:
        raise UserError(
            f"{run}: it predicts with the conventional classifier, and the published code reads the other one"
        )
    file = out or run / "published.pth.tar"
    if file.exists():
        raise UserError(f"{file} is there already, and nothing is overwritten; name another file with --out")
    found = read(run) if finished(run) else None
    top1 = (found.best_on_test or found.last)["top1"] if found else float("nan")
    weights = load_trained(point, recipe).method.state_dict()
    epoch = point.state["state"]["epoch"]
    published.write(file, weights, recipe.model.name, epoch=epoch, best_acc1=top1)
    return file
