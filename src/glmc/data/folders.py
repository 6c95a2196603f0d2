"""Folders of images: one folder per class, in folders per part (train, val, test) or alone."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glmc.data.split import Paths, Split, check_spelling
from glmc.errors import UserError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
VALIDATION_NAMES = ("val", "valid", "validation")


@dataclass(frozen=True)
class Tree:
    """One folder of classes: image files by class name, and the entries that are no image of a class."""

    folder: Path
    files: dict[str, list[str]]
    ignored: list[str]


def read(root: Path) -> tuple[dict[str, Split], list[str]]:
    """The parts "train", "test", "val" that there are, and remarks.

    `root/train/<class>/*` goes with `root/test/<class>/*` and `root/{val,valid,validation}/<class>/*`, in any case of
    letters. With a test folder the validation folder is the validation set; alone, it is the test set. Without a train
    folder, `root/<class>/*` is the only part. Classes and files are sorted by name; hidden ones are left out.

    Raises:
        UserError: no such folder, no images, a class without training images, two spellings of a class.
    """
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder: set data.root to the folder of your images")
    where = parts_of(root) or {"train": root}
    if "train" not in where:
        raise UserError(f"{root} has {next(iter(where.values())).name!r} but no folder 'train': add {root / 'train'}")
    remarks = []
    if "test" not in where and "val" in where:
        where["test"] = where.pop("val")
        remarks.append(f"{where['test']} is the test set")
    trees = {part: tree_of(folder) for part, folder in where.items()}
    classes = _classes(trees["train"], [tree for part, tree in trees.items() if part != "train"])
    for tree in trees.values():
        if tree.ignored:
            some = f"{tree.folder}: {len(tree.ignored)} entries that are no image of a class are left out, e.g. "
            remarks.append(some + repr(tree.ignored[0]))
        lacking = [name for name in classes if not tree.files.get(name)]
        if lacking:
            remarks.append(f"{tree.folder} has no image of {len(lacking)} classes, e.g. {lacking[0]!r}")
    return {part: split_of(root, tree, classes) for part, tree in trees.items()}, remarks


def parts_of(root: Path) -> dict[str, Path]:
    """Folders of `root` that are parts of a data set; {} if its folders are classes."""
    parts: dict[str, Path] = {}
    for entry in _folders(root):
        name = entry.name.lower()
        part = "val" if name in VALIDATION_NAMES else name
        if part not in ("train", "test", "val"):
            continue
        if part in parts:
            raise UserError(
                f"{parts[part]} and {entry.path} would both be the {part} set: rename or remove one of them"
            )
        parts[part] = Path(entry.path)
    # A folder named `train` may also be the class of trains: it then stands alone and holds images directly.
    if len(parts) == 1 and any(_is_image(entry) for entry in os.scandir(next(iter(parts.values())))):
        return {}
    return parts


def tree_of(folder: Path) -> Tree:
    """The images of a folder of class folders, and what in it is not one."""
    files: dict[str, list[str]] = {}
    ignored = [entry.path for entry in os.scandir(folder) if _is_image(entry)]
    for entry in _folders(folder):
        visible = [file for file in os.scandir(entry.path) if not file.name.startswith(".")]
        files[entry.name] = sorted(file.name for file in visible if _is_image(file))
        ignored += [file.path for file in visible if not _is_image(file)]
    if not any(files.values()):
        found = f", but {min(ignored)!r} lies elsewhere or is something else" if ignored else ""
        raise UserError(f"{folder} holds no images: they should be {folder}/<class>/*.jpg, .png or the like{found}")
    return Tree(folder, files, sorted(ignored))


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    entries = [entry for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(entries, key=lambda entry: entry.name)


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(IMAGE_ENDINGS) and not entry.name.startswith(".") and not entry.is_dir()


def _classes(train: Tree, others: list[Tree]) -> tuple[str, ...]:
    """The class names in label order, that is, sorted."""
    check_spelling({name: str(tree.folder / name) for tree in [*others, train] for name in tree.files})
    for name, files in train.files.items():
        if not files:
            place = train.folder / name
            raise UserError(f"class {name!r} has no training image: put images directly into {place}, or remove it")
    for tree in others:
        for name, files in tree.files.items():
            if files and name not in train.files:
                raise UserError(
                    f"class {name!r} is in {tree.folder} but not in {train.folder}: add training images, or remove "
                    f"{tree.folder / name}"
                )
    return tuple(train.files)


def split_of(root: Path, tree: Tree, classes: tuple[str, ...]) -> Split:
    """The images of a tree under `root`, labelled by their place in `classes`."""
    start = tree.folder.relative_to(root)
    names = (str(start / name / file) for name in classes for file in tree.files.get(name, ()))
    counts = [len(tree.files.get(name, ())) for name in classes]
    return Split(Paths.from_list(root, names), np.repeat(np.arange(len(classes)), counts), classes)
