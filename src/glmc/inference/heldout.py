"""Images that a run has not seen: its own validation images, or others that are given with their classes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from glmc.data import folders, holdout, lists
from glmc.data.inventory import listed, shared_images
from glmc.data.parts import WORDS, digests, identity, images_of
from glmc.data.prepare import decoded
from glmc.data.split import Paths, Split
from glmc.errors import UserError
from glmc.recipe import Recipe, parse_settled
from glmc.runs import checkpoint, folder
from glmc.runs.trained import find_checkpoint, load_trained, scored
from glmc.screen import Screen


def own_images(
    point: checkpoint.Checkpoint, recipe: Recipe, screen: Screen, part: Literal["val", "test"] = "val"
) -> Split:
    """The validation ("val") or the test images of a run, not decoded.

    Raises:
        UserError: it has none, or they are not what they were.
    """
    if part == "val" and "val" not in point.state["data"]:
        raise UserError(
            f"{point.path}: this run has no validation images, and test images are not for fitting; give images that "
            f"it has not seen with --images FOLDER, or train with data.val_fraction=0.1"
        )
    splits = images_of(recipe.data, screen, folder.inventory_of(point.home, recipe.data.root), needed=(part,)).splits
    _, prints = identity({part: splits[part]}, recipe.data, "resident", screen)
    if prints[part] != point.state["data"][part]:
        raise UserError(
            f"data.root={recipe.data.root}: other {WORDS[part]} images than those of {point.path}, so the run may have "
            f"seen some of them; give the data it belongs to{', or others with --images' if part == 'val' else ''}"
        )
    return splits[part]


def given_images(path: Path, recipe: Recipe, classes: Sequence[str], screen: Screen) -> Split:
    """The images of a folder of classes or of a list, not decoded, with the classes of a run.

    Raises:
        UserError: no such file, or a class that the run does not know.
    """
    images, names, places = in_folder(path, recipe, screen) if path.is_dir() else in_list(path, Path(recipe.data.root))
    label_of = {name: label for label, name in enumerate(classes)}
    for name, place in places.items():
        if name not in label_of:
            some = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
            raise UserError(f"{place}: the run has no class {name!r}; rename or remove it (its classes: {some})")
    return Split(images, np.array([label_of[name] for name in names], dtype=np.int64), tuple(classes))


def in_folder(path: Path, recipe: Recipe, screen: Screen) -> tuple[Paths, list[str], dict[str, str]]:
    """The images of a folder of classes, the class of each, and the folder of each class."""
    parts, remarks = folders.read(path, deep=recipe.data.groups == holdout.FOLDERS)
    for remark in remarks:
        screen.say(remark)
    split = parts["train"]
    if len(parts) > 1 or not isinstance(split.images, Paths):
        raise UserError(
            f"--images {path}: it holds the sets {', '.join(sorted(parts))}; name the folder of one of them"
        )
    names = [split.classes[label] for label in split.labels]
    return split.images, names, {name: str(path / name) for name in split.classes}


def in_list(file: Path, root: Path) -> tuple[Paths, list[str], dict[str, str]]:
    """The images of a list, the class of each as it is written, and where each class stands first.

    Relative paths start from the list's own folder or, if the first is not there, from `root`.
    """
    if not file.is_file():
        raise UserError(f"--images {file}: neither a folder nor a list; give a folder of classes or a list of images")
    paths, names = [], []
    places: dict[str, str] = {}
    for line, path, name in lists.pairs(file):
        paths.append(path)
        names.append(name)
        places.setdefault(name, f"{file}:{line}")
    beside = bool(paths) and os.path.exists(file.parent / paths[0])
    return Paths.from_list(file.parent if beside else root.expanduser(), paths), names, places


def known_images(point: checkpoint.Checkpoint, split: Split, recipe: Recipe, screen: Screen) -> dict[str, int] | None:
    """How many of some images (not decoded) are among the training, and among the test images of a run.

    Returns:
        {"train": number, "test": number}; None if the run has no split.csv, which is said.
    """
    known = folder.inventory_of(point.home, recipe.data.root)
    if known is None:
        screen.say(f"whether the run has seen some of these images is not known: there is no {folder.SPLIT} beside it")
        return None
    assert isinstance(split.images, Paths)
    now = listed(split, split.images.root, lambda paths: digests(paths, recipe.data, screen))
    return {part: shared_images(known[part], now) for part in ("train", "test")}


def refuse_known_images(path: Path, point: checkpoint.Checkpoint, split: Split, recipe: Recipe, screen: Screen) -> None:
    """Raise a `UserError` if a run was trained or is tested on some of the images of `path`."""
    for part, shared in (known_images(point, split, recipe, screen) or {}).items():
        if shared:
            what = "was trained" if part == "train" else "is tested"
            raise UserError(f"--images {path}: the run {what} on {shared} of these {len(split)} images; give others")


def score_given(path: Path, images: Path, overrides: tuple[str, ...], *, quiet: bool) -> dict[str, Any]:
    """Score a run, or one checkpoint, on all images of a folder of classes or of a list.

    Args:
        path: a run folder, or one checkpoint.
        images: the folder or list.
        overrides: of the recipe that the checkpoint carries.
        quiet: nothing on the terminal.

    Returns:
        {"checkpoint", "recipe", "images", "trained_on": how many of them the run was trained on, none if unknown,
        "test": scores, "flip_tta": scores}; the last one if the recipe wants it.

    Raises:
        UserError: no such run, image or class.
    """
    screen = Screen(quiet=quiet)
    point = find_checkpoint(path, screen.warn)
    recipe = parse_settled(point.state["recipe"], overrides)
    trained = load_trained(point, recipe)
    split = given_images(images, recipe, trained.classes, screen)
    seen = known_images(point, split, recipe, screen)
    if seen is not None and seen["train"]:
        screen.say(f"the run was trained on {seen['train']} of these {len(split)} images: the figures flatter it")
    found = scored(
        trained,
        decoded(split, "images", recipe.data, screen),
        recipe,
        f"{recipe.title}, {point.path}, {len(split)} images of {images}",
        screen,
    )
    trained_on = None if seen is None else seen["train"]
    about = {"checkpoint": str(point.path), "recipe": recipe.name, "images": str(images), "trained_on": trained_on}
    return about | found
