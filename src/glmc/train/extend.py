"""`glmc extend RUN data.root=more`: new classes, or more images, for a trained run."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from glmc.data.inventory import to_csv
from glmc.data.joined import Joined, join
from glmc.data.prepare import decoded
from glmc.data.split import Split
from glmc.errors import UserError
from glmc.metrics import per_class
from glmc.recipe import Data, Recipe, Settled, parse_settled
from glmc.runs import checkpoint, folder, result
from glmc.runs.files import write_atomic
from glmc.runs.trained import find_checkpoint, load_trained, score
from glmc.screen import Screen
from glmc.train.beginning import classifier_of
from glmc.train.run import begin, carry_out

SHORTER, SLOWER = 5, 3  # times fewer epochs than the run had, at a learning rate so many times smaller
ANEW = {  # what belonged to the images or to the course of the run before
    "starts_from": "rows",
    "then": "null",
    "published": "null",
    "expect": "null",
    "data.name": "folder",
    "data.loader": "auto",
    **dict.fromkeys(("data.imbalance", "data.n_max", "data.columns", "data.fold", "data.folds"), "null"),
    **dict.fromkeys(("data.train_list", "data.test_list", "data.val_list"), "null"),
    "model.pretrained": "false",
    "train.ema": "null",
    "train.max_steps": "null",
    "train.progressive": "null",
    "train.warmup": "0",
    "train.schedule": "cosine",
    "train.milestones": "[]",
}


def extend(run: Path, overrides: tuple[str, ...], out: Path | None, *, command: str, quiet: bool, since: float) -> Path:
    """Go on with a trained run on its own images and new ones, in a new run folder, and return the folder.

    The classifier keeps the rows of its classes; those of new ones start from the mean features of at most 100 images a
    class (`models.heads.with_rows`). What the run trained is then trained on for a fifth of its epochs, one at least,
    at a third of its learning rate, by supervised learning with the run's loss. Its rate falls as a cosine.

    Args:
        run: the folder.
        overrides: "key=value" of the new recipe; data.root at least.
        out: the folder; none takes the next free one under runs/.
        command, quiet, since: as for `run.train`.

    Raises:
        UserError: no such run, nothing new, or what does not go together.
    """
    remarks = Screen(quiet=quiet)
    point = find_checkpoint(run, remarks.warn)
    if later := folder.later_stages(run):
        remarks.say(f"this is the first stage of the run; the last one is extended with glmc extend {later[-1]}")
    first = parse_settled(point.state["recipe"])
    recipe = extended(first, run, overrides)
    with folder.claimed(out, recipe.name) as target:
        screen = Screen(target / "log.txt", quiet)
        try:
            joined = gathered(point, first, recipe, screen)
            write_atomic(target / folder.SPLIT, to_csv(joined.inventory))
            before(point, run, first, recipe, joined, screen).write(target / result.STAGE_ONE)
        except BaseException:
            folder.release(target)
            raise
        carry_out([begin(recipe, target, screen, command, since)], target, Screen(quiet=quiet))
    return target


def extended(first: Settled, run: Path, overrides: tuple[str, ...]) -> Settled:
    """The recipe of an extension.

    Raises:
        UserError: an override that does not fit.
    """
    values = ANEW | {"name": f"{first.name}+extend", "parent": json.dumps(str(run.resolve()))}
    if first.starts_from != "rows":  # an extension that is extended was short enough
        optim = first.optim
        values |= {
            "train.epochs": str(max(1, round(first.train.epochs / SHORTER))),
            "optim.lr": str(optim.lr / SLOWER),
        }
        values["optim.backbone_lr"] = json.dumps(optim.backbone_lr and optim.backbone_lr / SLOWER)
    if first.method.name != "supervised":
        values |= {"method": "{name: supervised}", "mixture": "{name: none}"}
    recipe = first.override(*[f"{key}={value}" for key, value in values.items()]).override(*overrides)
    if recipe.data.name not in ("folder", "list"):
        raise UserError(f"data.name={recipe.data.name}: new images come as a folder or a list; leave it out")
    for key in ("size", "channels", "mean", "std", "bits"):
        ours, theirs = getattr(first.data, key), getattr(recipe.data, key)
        if ours != theirs:
            raise UserError(f"data.{key}={theirs}: the run was trained with {ours} and goes on so; leave it out")
    root = json.dumps(str(Path(recipe.data.root).expanduser().resolve()))  # the run's own images start from there, too
    return recipe.override(f"data.root={root}")


def gathered(point: checkpoint.Checkpoint, first: Settled, recipe: Settled, screen: Screen) -> Joined:
    """The images of the run and the new ones."""
    known = folder.inventory_of(point.home, str(Path(first.data.root).expanduser().resolve()))
    if known is None:
        screen.warn(
            f"which files {point.home} was trained on is not known ({folder.SPLIT}): it goes on with the new images "
            "alone and may forget the others, and may be tested on images that it was trained on"
        )
    return join(known or {}, point.state["classes"], recipe.data, screen, list(sections(first)))


def sections(recipe: Recipe) -> Iterator[Data]:
    """The sections of the images that a run was trained on: its own, and those of the runs that it extends."""
    yield recipe.data
    parent = Path(recipe.parent or "")
    if recipe.starts_from == "rows" and (parent / "recipe.yaml").exists():
        yield from sections(folder.recipe_of(parent))


def before(
    point: checkpoint.Checkpoint, run: Path, first: Settled, recipe: Settled, joined: Joined, screen: Screen
) -> result.StageOne:
    """What the run is before it is extended, scored on those of its test images that are still there."""
    trained = load_trained(point, first.override(f"train.device={recipe.train.device}"))
    try:
        classifier_of(trained.method)
    except ValueError as error:
        raise UserError(f"{run}: {error}") from error
    about = result.stage_one(run)
    if not joined.tests:
        return about
    test = joined.inventory["test"].split
    rows = np.arange(joined.tests)
    own = Split(test.select(rows).images, test.labels[rows], trained.classes)
    scores, confusion = score(trained, decoded(own, "test images", first.data, screen), first)
    tests = per_class(confusion, trained.counts, trained.classes)
    return about.model_copy(update={"last": scores, "tests": tests})
