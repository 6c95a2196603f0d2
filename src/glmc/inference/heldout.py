"""Images that a run has not seen: its own validation images, or others that are given with their classes."""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from glmc.data import folders, lists
from glmc.data.prepare import find, long_tailed
from glmc.data.split import Paths, Split
from glmc.errors import UserError
from glmc.recipe import Recipe
from glmc.runs import checkpoint
from glmc.runs.trained import Trained, refuse_other_classes
from glmc.screen import Screen


def own_images(point: checkpoint.Checkpoint, recipe: Recipe, trained: Trained) -> Split:
    """The validation images of a run, not decoded.

    Raises:
        UserError: it has none, or the data are not those that it was trained on.
    """
    train, val = long_tailed(find(recipe.data), recipe.data)
    refuse_other_classes(recipe, train.classes, trained.classes)
    if train.counts.tolist() != trained.counts.tolist():
        raise UserError(
            f"data.root={recipe.data.root}: not the images that {point.path} was trained on, so some that are held out "
            f"now may have been seen; give the data it belongs to, or others with --images"
        )
    if val is None or not len(val):
        raise UserError(
            f"{point.path}: this run has no validation images, and test images are not for fitting; give images that "
            f"it has not seen with --images FOLDER, or train with data.val_fraction=0.1"
        )
    return val


def given_images(path: Path, recipe: Recipe, classes: Sequence[str], screen: Screen) -> Split:
    """The images of a folder of classes or of a list, not decoded, with the classes of a run.

    Raises:
        UserError: no such file, a class that the run does not know, or images that it was trained or is tested on.
    """
    images, names, places = in_folder(path, screen) if path.is_dir() else in_list(path, Path(recipe.data.root))
    label_of = {name: label for label, name in enumerate(classes)}
    for name, place in places.items():
        if name not in label_of:
            some = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
            raise UserError(f"{place}: the run has no class {name!r}; rename or remove it (its classes: {some})")
    split = Split(images, np.array([label_of[name] for name in names], dtype=np.int64), tuple(classes))
    refuse_known_images(path, split, recipe, screen)
    return split


def in_folder(path: Path, screen: Screen) -> tuple[Paths, list[str], dict[str, str]]:
    """The images of a folder of classes, the class of each, and the folder of each class."""
    parts, remarks = folders.read(path)
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
    try:
        for line, path, name in lists.pairs(file):
            paths.append(path)
            names.append(name)
            places.setdefault(name, f"{file}:{line}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} is not a list in UTF-8 text ({error}): save it again as UTF-8") from error
    beside = bool(paths) and os.path.exists(file.parent / paths[0])
    return Paths.from_list(file.parent if beside else root.expanduser(), paths), names, places


def refuse_known_images(path: Path, split: Split, recipe: Recipe, screen: Screen) -> None:
    """Raise a `UserError` if the run was trained or is tested on some of these images, as far as their paths tell."""
    try:
        source = find(recipe.data.model_copy(update={"download": False}))
    except UserError as error:
        screen.say(f"whether the run has seen some of these images is not known ({error})")
        return
    ours = set(files_of(split))
    for what, other in (("was trained", long_tailed(source, recipe.data)[0]), ("is tested", source.test)):
        shared = len(ours.intersection(files_of(other)))
        if shared:
            raise UserError(f"--images {path}: the run {what} on {shared} of these {len(ours)} images; give others")


def files_of(split: Split) -> Iterator[str]:
    """The absolute paths of a split's images; none of images that come as an array."""
    if isinstance(split.images, Paths):
        root = os.path.realpath(split.images.root)
        for row in range(len(split)):
            yield os.path.normpath(os.path.join(root, split.images.relative(row)))
