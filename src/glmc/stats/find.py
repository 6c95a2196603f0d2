"""What DATA on a command line stands for, and which images lie there, even where training would refuse them."""

import difflib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glmc import recipe
from glmc.data import folders, holdout, lists
from glmc.data.parts import columns_of, find, long_tailed
from glmc.data.sources import SOURCES
from glmc.data.split import Paths, Split
from glmc.errors import UserError
from glmc.recipe import Recipe

PARTS = ("train", "test", "val")


class Found(NamedTuple):
    """The images of a data set.

    Args:
        parts: "train", and "test" and "val" where there are such; the classes are those of all parts together.
        trained: int64 [C], images of each class that training would see, after the hold-out for a missing test set.
        odd: what is wrong, by kind -> the places.
        remarks: sentences of the loader.
        refusal: why training would refuse this data set; None if it would not.
        held: bool [N], of the training images those that are held out for a missing test set; None where there is one,
            or that is not known.
    """

    parts: dict[str, Split]
    trained: NDArray[np.int64]
    odd: dict[str, list[str]]
    remarks: tuple[str, ...]
    refusal: str | None
    held: NDArray[np.bool_] | None = None

    @property
    def imbalance(self) -> float:
        """Training images of the largest class over those of the smallest that has any, before a hold-out."""
        counts = self.parts["train"].counts
        return float(counts.max() / counts[counts > 0].min())


def wanted(data: str, assignments: Sequence[str] = ()) -> Recipe:
    """A recipe whose `data` is what the word DATA and key=value name; its other sections mean nothing but `eval.few`.

    Args:
        data: folder of images, list file, or a key of `SOURCES`, which wins over a folder of that name.
        assignments: data.KEY=VALUE or eval.few=VALUE. Without data.root, the paths of a list start from the folder of
            the list or from the working directory, wherever its first image is. Nothing is downloaded unless
            data.download=true.

    Raises:
        UserError: no such data, or an assignment that does not fit.
    """
    keys = [assignment.partition("=")[0] for assignment in assignments]
    for key, assignment in zip(keys, assignments, strict=True):
        if "=" not in assignment or not (key.startswith("data.") or key == "eval.few") or key == "data.name":
            raise UserError(f"{assignment!r} does not describe data: give data.KEY=VALUE or eval.few='<=20'")
    found = _named(data)
    settings = recipe.load("digits_lt/ce", [f"data={{name: {found['name']}}}", *assignments])
    if "data.root" in keys:
        found.pop("root", None)
    elif found["name"] == "list":
        found["root"] = str(_root_of(Path(str(found["train_list"])), columns_of(settings.data)))
    quiet = {} if "data.download" in keys else {"download": False}
    return settings.model_copy(update={"data": settings.data.model_copy(update=found | quiet)})


def _named(word: str) -> dict[str, str | bool]:
    """Values of the `data` section, of a list without its root."""
    path = Path(word).expanduser()
    if word in SOURCES:
        return {"name": word}
    if path.is_dir():
        return {"name": "folder", "root": str(path)}
    if path.is_file():
        if word.lower().endswith((*folders.IMAGE_ENDINGS, ".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".7z")):
            raise UserError(f"{word} is a single file: unpack it if need be, and give the folder of the images")
        return {"name": "list", "train_list": str(path)}
    beside = sorted(os.listdir(path.parent)) if path.parent.is_dir() else []
    near = difflib.get_close_matches(word, [*SOURCES, *(str(path.parent / name) for name in beside)], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(
        f"{word!r} is neither a folder, nor a list file, nor a named set: {hint}`glmc list datasets` shows the names"
    )


def _root_of(file: Path, columns: Mapping[str, str]) -> Path:
    """The folder that the paths of a list start from: the one where the first of them is found."""
    first = lists.first_path(file, columns)
    return next((folder for folder in (file.parent, Path()) if (folder / first).is_file()), file.parent)


def scan(data: recipe.Data) -> Found:
    """The images of a recipe's `data`, all of them where it says nothing of a long tail or a hold-out.

    Raises:
        UserError: there is nothing to look at.
    """
    holdout.refuse_column(data.groups, data.name)
    refusal, source = None, None
    try:
        source = find(data)
    except UserError as error:
        refusal = str(error)
    cut = data.imbalance is not None or data.val_fraction > 0
    if data.name not in ("folder", "list") or cut:
        if source is None:
            raise UserError(refusal)
        train, val = long_tailed(source, data)
        drawn = {"train": train, "test": source.test} | ({} if val is None else {"val": val})
        return Found(drawn, train.counts, {}, source.remarks, None)
    root = Path(data.root).expanduser()
    parts, odd = _folder(root, refusal, data) if data.name == "folder" else _list(root, data)
    trained = parts["train"].counts
    remarks: tuple[str, ...] = ()
    held = None
    if source is not None:
        trained = source.train.counts
        # The loader's remarks on what is left out or empty stand by kind in `odd`.
        told = ("left out", "has no image of", "are no classes")
        remarks = tuple(said for said in source.remarks if not any(part in said for part in told))
        if "test" not in parts and len(source.test):
            tested = set(map(partial(where, source.test), range(len(source.test))))
            held = np.array([where(parts["train"], row) in tested for row in range(len(parts["train"]))])
    return Found(parts, trained, odd, remarks, refusal, held)


def _folder(root: Path, refusal: str | None, data: recipe.Data) -> tuple[dict[str, Split], dict[str, list[str]]]:
    places = folders.parts_of(root) if root.is_dir() else {}
    places = places or {"train": root}
    if not root.is_dir() or "train" not in places:
        raise UserError(refusal)
    if "test" not in places and "val" in places:
        places["test"] = places.pop("val")
    deep = data.groups == holdout.FOLDERS
    trees = {part: folders.tree_of(places[part], deep=deep) for part in PARTS if part in places}
    train = trees["train"]
    filled = {name for tree in trees.values() for name, files in tree.files.items() if files}
    classes = tuple(sorted(filled | {name for name in train.files if not train.holds_nothing(name)}))
    named = sorted({*classes, *train.files})
    odd = {
        "spelling": same_spelling(named),
        "empty": [str(tree.folder / name) for tree in trees.values() for name in named if not tree.files.get(name)],
        "other": [entry for tree in trees.values() for entry in tree.ignored],
    }
    return {part: folders.split_of(root, tree, classes) for part, tree in trees.items()}, odd


def _list(root: Path, data: recipe.Data) -> tuple[dict[str, Split], dict[str, list[str]]]:
    files = {"train": data.train_list, "test": data.test_list, "val": data.val_list}
    columns = columns_of(data)
    listings = {part: lists.listing(root, part, file, columns) for part, file in files.items() if file is not None}
    texts = {text for listing in listings.values() for text in listing.first_line}
    numbers = all(re.fullmatch(r"-?[0-9]{1,18}", text) for text in texts)
    classes = tuple(sorted(texts, key=int) if numbers else sorted(texts))
    label_of = {text: label for label, text in enumerate(classes)}
    parts = {}
    for part, listing in listings.items():
        labels = np.fromiter((label_of[text] for text in listing.labels), np.int64, len(listing.labels))
        parts[part] = Split(listing.images, labels, classes)
    empty = [
        f"{listings[part].file}: {classes[label]}"
        for part, split in parts.items()
        for label in np.flatnonzero(split.counts == 0).tolist()
    ]
    return parts, {"spelling": same_spelling(classes), "empty": empty}


def same_spelling(names: Iterable[str]) -> list[str]:
    """Names that differ only in case, spaces, underscores or Unicode form, those of one class joined by "=".

    >>> same_spelling(["cat", "dog", "Cat"])
    ['Cat = cat']
    """
    kin = defaultdict(list)
    for name in sorted(names):
        kin[re.sub(r"[\s_]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()].append(name)
    return [" = ".join(same) for same in kin.values() if len(same) > 1]


def where(split: Split, row: int) -> str:
    """The path of an image below the root, or its number in an array."""
    return split.images.relative(row) if isinstance(split.images, Paths) else f"image {row}"
