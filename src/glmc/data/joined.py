"""The images of a trained run, and those that come to it later, as one inventory."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from glmc.data.inventory import Inventory, Listed, listed, names, rebased
from glmc.data.parts import WORDS, digests, find, long_tailed
from glmc.data.split import Paths, Split, spelling
from glmc.errors import UserError
from glmc.recipe import Data
from glmc.screen import Screen


class Joined(NamedTuple):
    """What a run goes on with."""

    inventory: Inventory  # in each part the run's own images first; its classes keep their numbers, new ones follow
    tests: int  # how many test images are the run's own


class Row(NamedTuple):
    """An image of an inventory."""

    name: str  # path from the root of the new images
    label: str  # the class's name
    bytes: int
    digest: int


def join(known: Inventory, classes: Sequence[str], data: Data, screen: Screen) -> Joined:
    """The images of a run that are still there, and those of a data set beside them.

    An image with the content of one of the run's is no new one: it stays in its part, so that nothing that is tested on
    comes to be trained on, and takes the place of a file that has been moved.

    Args:
        known: the files of the run, wherever they lie; {} if nothing says which they were.
        classes: of the run, in label order.
        data: recipe section of the new images; its root is free of symbolic links.
        screen: for remarks.

    Raises:
        UserError: nothing is new, a class has no training image left, or whatever is wrong with the new images.
    """
    own = {spelling(name): name for name in classes}
    found = _found(data, screen)
    for label in sorted({row.label for rows in found.values() for row in rows}):
        if label != own.setdefault(spelling(label), label):
            screen.say(f"the class {label!r} is taken for {own[spelling(label)]!r}, as the run spells it")
    kept = {part: rows_of(files, data.root) for part, files in known.items()}
    before = [row for rows in kept.values() for row in rows]
    seen = {row.name for row in before} | {row.digest for row in before}
    places = {row.digest: row.name for rows in found.values() for row in rows}
    fresh = {
        part: [row._replace(label=own[spelling(row.label)]) for row in rows if seen.isdisjoint((row.name, row.digest))]
        for part, rows in found.items()
    }
    if not any(fresh.values()):
        raise UserError(f"data.root={data.root}: no new class and no new image, only what the run has already")
    new = ", ".join(f"{len(rows)} {WORDS[part]}" for part, rows in fresh.items())
    screen.say(f"images that are new to the run: {new}; its own keep the part that they had")
    still = {part: list(_still(rows, data.root, places)) for part, rows in kept.items()}
    for part, rows in still.items():
        if lost := len(kept[part]) - len(rows):
            forgets = ": it may forget what they showed" if part == "train" else ""
            screen.warn(
                f"{lost} of the run's {len(kept[part])} {WORDS[part]} images are not there any more, and it goes on "
                f"without them{forgets}"
            )
    inventory = {
        part: _listed([*still.get(part, ()), *fresh.get(part, ())], data.root, tuple(own.values()))
        for part in dict.fromkeys([*still, *fresh])
    }
    counts = inventory["train"].split.counts
    if not counts.all():
        empty = inventory["train"].split.classes[int(counts.argmin())]
        raise UserError(
            f"the run's class {empty!r} has no training image left: put its images back to where they were, or some of "
            f"it into {data.root}"
        )
    return Joined(inventory, len(still.get("test", ())))


def _found(data: Data, screen: Screen) -> dict[str, list[Row]]:
    """The new images of each part."""
    source = find(data, screen, fewest=1)
    for remark in source.remarks:
        screen.say(remark)
    train, val = long_tailed(source, data)
    splits = {"train": train, "test": source.test} | ({} if val is None else {"val": val})
    files = {
        part: listed(split, data.root, lambda paths: digests(paths, data, screen)) for part, split in splits.items()
    }
    return {part: rows_of(each, data.root) for part, each in files.items()}


def rows_of(files: Listed, root: str | Path) -> list[Row]:
    """The images of a part, their paths from a root."""
    split = rebased(files.split, root)
    labels = [split.classes[label] for label in split.labels.tolist()]
    return [Row(*row) for row in zip(names(split), labels, files.bytes.tolist(), files.digests.tolist(), strict=True)]


def _still(rows: Iterable[Row], root: str, places: dict[int, str]) -> Iterable[Row]:
    """Those whose file is there, or by now in another place."""
    for row in rows:
        if os.path.exists(os.path.join(root, row.name)):
            yield row
        elif row.digest in places:
            yield row._replace(name=places[row.digest])


def _listed(rows: Sequence[Row], root: str, classes: tuple[str, ...]) -> Listed:
    """A part of these images."""
    label_of = {name: label for label, name in enumerate(classes)}
    paths = Paths.from_list(root, [row.name for row in rows])
    labels, sizes, content = (
        np.array(column, dtype=np.int64)
        for column in (
            [label_of[row.label] for row in rows],
            [row.bytes for row in rows],
            [row.digest for row in rows],
        )
    )
    return Listed(Split(paths, labels, classes), sizes, content)
