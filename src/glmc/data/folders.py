"""Folders of images: one folder per class, in folders per part (train, val, test) or alone."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glmc.data.split import Paths, Split, check_names
from glmc.errors import UserError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".heic", ".heif")
VALIDATION_NAMES = ("val", "valid", "validation")
CLUTTER = ("__macosx", "thumbs.db", "desktop.ini")  # what systems leave behind beside hidden files, in any case


@dataclass(frozen=True)
class Tree:
    """One folder of classes: image files by class name, and the paths of what is no image of a class.

    Args:
        folder: the folder.
        files: class name -> names of its images, sorted.
        beside: images beside the class folders.
        below: images in folders below those of their class, where these are left out.
        other: files of other types in class folders.
    """

    folder: Path
    files: dict[str, list[str]]
    beside: list[str]
    below: list[str]
    other: list[str]

    @property
    def ignored(self) -> list[str]:
        """All that is no image of a class, sorted."""
        return sorted([*self.beside, *self.below, *self.other])

    def holds_nothing(self, name: str) -> bool:
        """Whether a class folder is empty, and not only without images that are found."""
        inside = os.path.join(self.folder, name, "")
        return not self.files[name] and not any(path.startswith(inside) for path in [*self.below, *self.other])


def read(root: Path, *, deep: bool = False) -> tuple[dict[str, Split], list[str]]:
    """The parts "train", "test", "val" that there are, and remarks.

    `root/train/<class>/*` goes with `root/test/<class>/*` and `root/{val,valid,validation}/<class>/*`, in any case of
    letters. With a test folder the validation folder is the validation set; alone, it is the test set. Without a train
    folder, `root/<class>/*` is the only part. Classes and files are sorted by name; hidden ones and what systems leave
    behind are left out. An empty folder is no class. Images in folders below those of their class are left out, too,
    save with `deep`.

    Raises:
        UserError: no such folder, no images, a class without training images, two spellings of a class, a class name
            that cannot be written.
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
    trees = {part: tree_of(folder, deep=deep) for part, folder in where.items()}
    classes = _classes(trees["train"], [tree for part, tree in trees.items() if part != "train"])
    for tree in trees.values():
        remarks += _left_out(tree)
        empty = [name for name in tree.files if name not in classes]
        if empty:
            some = f"{tree.folder}: {len(empty):,} empty folders are no classes, e.g. {empty[0]!r}"
            remarks.append(some)
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


def tree_of(folder: Path, *, deep: bool = False) -> Tree:
    """The images of a folder of class folders, with `deep` in folders below these, too; and what in it is not one."""
    files: dict[str, list[str]] = {}
    below: list[str] = []
    other: list[str] = []
    for entry in _folders(folder):
        visible = [file for file in os.scandir(entry.path) if _visible(file.name)]
        images = [file.name for file in visible if _is_image(file)]
        for file in visible:
            if file.is_dir() and deep:
                images += [os.path.relpath(path, entry.path) for path in _images_below(file.path)]
            elif file.is_dir():
                below += _images_below(file.path)
            elif not _is_image(file):
                other.append(file.path)
        files[entry.name] = sorted(images)
    tree = Tree(folder, files, sorted(entry.path for entry in os.scandir(folder) if _is_image(entry)), below, other)
    if not any(files.values()):
        found = f", but {tree.ignored[0]!r} lies elsewhere or is something else" if tree.ignored else ""
        if below and not deep:
            found = f", but {min(below)!r} is a folder deeper: data.groups=parent-folder takes such images, too"
        raise UserError(f"{folder} holds no images: they should be {folder}/<class>/*.jpg, .png or the like{found}")
    return tree


def _images_below(folder: str) -> list[str]:
    """The images in a folder and all folders below, but hidden ones."""
    found = []
    for place, below, names in os.walk(folder):
        below[:] = filter(_visible, below)
        images = (name for name in names if _visible(name) and name.lower().endswith(IMAGE_ENDINGS))
        found += [os.path.join(place, name) for name in images]
    return found


def _left_out(tree: Tree) -> list[str]:
    """A sentence for each kind of what is no image of a class."""
    endings = Counter(os.path.splitext(path)[1].lower() or "no ending" for path in tree.other)
    types = ", ".join(f"{ending} {count:,}" for ending, count in endings.most_common(5))
    kinds = (
        (tree.beside, "images beside the class folders", ": put each into the folder of its class"),
        (
            tree.below,
            "images in folders below the class folders",
            ": move them up into the folder of their class, or take them with data.groups=parent-folder, which holds "
            "the images of such a folder out together",
        ),
        (tree.other, f"files of other types ({types})", ""),
    )
    return [
        f"{tree.folder}: {len(found):,} {what} are left out, e.g. {min(found)!r}{remedy}"
        for found, what, remedy in kinds
        if found
    ]


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    entries = [entry for entry in os.scandir(folder) if entry.is_dir() and _visible(entry.name)]
    return sorted(entries, key=lambda entry: entry.name)


def _visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in CLUTTER


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(IMAGE_ENDINGS) and _visible(entry.name) and not entry.is_dir()


def _classes(train: Tree, others: list[Tree]) -> tuple[str, ...]:
    """The class names in label order, that is, sorted."""
    check_names({name: str(tree.folder / name) for tree in [*others, train] for name in tree.files})
    tested = {name: tree.folder for tree in others for name, files in tree.files.items() if files}
    for name, files in train.files.items():
        if not files and (name in tested or not train.holds_nothing(name)):
            place = train.folder / name
            raise UserError(f"class {name!r} has no training image: put images directly into {place}, or remove it")
    for name, folder in tested.items():
        if name not in train.files:
            raise UserError(
                f"class {name!r} is in {folder} but not in {train.folder}: add training images, or remove "
                f"{folder / name}"
            )
    return tuple(name for name, files in train.files.items() if files)


def split_of(root: Path, tree: Tree, classes: tuple[str, ...]) -> Split:
    """The images of a tree under `root`, labelled by their place in `classes`."""
    start = tree.folder.relative_to(root)
    names = (str(start / name / file) for name in classes for file in tree.files.get(name, ()))
    counts = [len(tree.files.get(name, ())) for name in classes]
    return Split(Paths.from_list(root, names), np.repeat(np.arange(len(classes)), counts), classes)
