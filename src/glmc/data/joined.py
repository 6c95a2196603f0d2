"""The images of a trained run, and those that come to it later, as one inventory."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from glmc.data import holdout, lists
from glmc.data.holdout import HoldOut
from glmc.data.inventory import Inventory, Listed, listed, names, rebased
from glmc.data.parts import WORDS, columns_of, digests, find, long_tailed
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


def join(known: Inventory, classes: Sequence[str], data: Data, screen: Screen, sections: Sequence[Data] = ()) -> Joined:
    """The images of a run that are still there, and those of a data set beside them.

    An image with the content of one of the run's is no new one: it stays in its part, so that nothing that is tested on
    comes to be trained on, and takes the place of a file that has been moved. With data.groups, a new image goes
    where the run has others of its group, and only new groups are drawn.

    Args:
        known: the files of the run, wherever they lie; {} if nothing says which they were.
        classes: of the run, in label order.
        data: recipe section of the new images; its root is free of symbolic links.
        screen: for remarks.
        sections: recipe sections of the run's images, its own and those of the runs that it extends.

    Raises:
        UserError: nothing is new, a class has no training image left, or whatever is wrong with the new images.
    """
    own = {spelling(name): name for name in classes}
    found = _found(data, {} if data.groups is None else _homes(known, sections, data.groups), screen)
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
        if empty not in classes:
            raise UserError(
                f"data.groups={data.groups}: all images of the new class {empty!r} are of groups that the run tests or "
                "validates on, and none could be trained on; add some of other groups, or set data.groups=null"
            )
        raise UserError(
            f"the run's class {empty!r} has no training image left: put its images back to where they were, or some of "
            f"it into {data.root}"
        )
    return Joined(inventory, len(still.get("test", ())))


def _found(data: Data, homes: Mapping[str, str], screen: Screen) -> dict[str, list[Row]]:
    """The new images of each part; `homes`: group -> the part where the run has it."""
    whole = data if data.groups is None else data.model_copy(update={"test_fraction": 0.0, "val_fraction": 0.0})
    source = find(whole, screen, fewest=1)
    train, val = long_tailed(source, whole)
    splits = [("train", train)]
    untrue = set[str]()  # of groups that are dealt out only now
    if data.groups is not None:
        untrue = {holdout.NOTHING, *holdout.whole_classes(source.train)}
        splits = _dealt(
            train, data.model_copy(update={"test_fraction": 0.0}) if len(source.test) else data, homes, screen
        )
    for remark in source.remarks:
        if remark not in untrue:
            screen.say(remark)
    found: dict[str, list[Row]] = {"train": [], "test": []}
    for part, split in [*splits, ("test", source.test), *([] if val is None else [("val", val)])]:
        files = listed(split, data.root, lambda paths: digests(paths, data, screen))
        found.setdefault(part, []).extend(rows_of(files, data.root))
    return found


def _dealt(pool: Split, data: Data, homes: Mapping[str, str], screen: Screen) -> list[tuple[str, Split]]:
    """Images of groups that the run knows, where these are; and new groups, as data.test_fraction and others say."""
    assert data.groups is not None
    places = np.array([homes.get(name, "") for name in _groups(pool, data, data.groups)], dtype=str)
    dealt = [(part, pool.select(np.flatnonzero(places == part))) for part in WORDS]
    rest, told = pool.select(np.flatnonzero(places == "")), list[str]()
    for part, fraction in (("test", data.test_fraction), ("val", data.val_fraction)):
        assert rest.groups is not None
        if fraction and len(np.unique(rest.groups)) > 1:  # a single group is trained on
            kept, held, _ = holdout.divide(rest, HoldOut(fraction))
            dealt.append((part, rest.select(held)))
            rest = rest.select(kept)
            told.append(f"{len(held)} are held out as {WORDS[part]} images")
    dealt.append(("train", rest))
    screen.say(
        f"data.groups={data.groups}: {np.sum(places != '')} of the {len(pool)} images found are of groups that the run "
        f"knows, and go where these are; of the others, {' and '.join(told) or 'none is held out'}"
    )
    return [(part, split) for part, split in dealt if len(split)]


def _homes(known: Inventory, sections: Sequence[Data], rule: str) -> dict[str, str]:
    """Group -> the part of the run that it is in, training first: what was trained on cannot be undone."""
    homes: dict[str, str] = {}
    for part in ("train", "val", "test"):
        for section in sections if part in known else ():
            split = rebased(known[part].split, Path(section.root).expanduser().resolve())
            for name in _groups(split, section, section.groups or rule):
                homes.setdefault(name, part)
    homes.pop("", None)
    return homes


def _groups(split: Split, data: Data, rule: str) -> list[str]:
    """The name of each image's group, "" of one that is alone, by the rule and the list of a recipe's section."""
    paths = list(map(os.path.normpath, names(split)))
    before, column, heading = rule.partition(holdout.COLUMN)
    if before or not column:
        flat = Split(Paths.from_list("", paths), split.labels, split.classes)
        return [name.strip("/") for name in holdout.names_of(flat, rule, of_classes=data.name == "folder")]
    if data.train_list is None:  # a folder has no columns
        return [""] * len(paths)
    values = lists.column_by_path(Path(data.root).expanduser(), data.train_list, columns_of(data), heading)
    return [values.get(path, "") for path in paths]


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
