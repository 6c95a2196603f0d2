"""Which images each part of a recipe's data is made of: found in the data set, or as a run wrote them down."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glmc.data import bad, cache, files, holdout, hub, sources
from glmc.data.holdout import HoldOut
from glmc.data.inventory import Inventory, Listed, fingerprint, listed, news, rebased, refuse_changed
from glmc.data.longtail import longtail_rows
from glmc.data.split import Paths, Split
from glmc.errors import UserError
from glmc.recipe import Data
from glmc.screen import Screen

WORDS = {"train": "training", "test": "test", "val": "validation"}


def find(data: Data, screen: Screen | None = None, *, fewest: int = 2) -> sources.Source:
    """The splits of the recipe's source: images or paths, not decoded, not yet long-tailed.

    With data.on_bad_image=skip, every file is read once, here, so that everything after this sees the same images.

    Args:
        data: the recipe's section.
        screen: for the progress of that; none for nothing.
        fewest: classes that there must be.

    Raises:
        UserError: whatever is wrong with the data; of images, only that a class is left without any.
    """
    source = sources.load(
        data.name,
        root=str(Path(data.root).expanduser()),
        download=data.download,
        train_list=data.train_list,
        test_list=data.test_list,
        val_list=data.val_list,
        columns=columns_of(data),
        hold=HoldOut(data.test_fraction, data.folds, data.fold or 0, data.groups),
        fewest=fewest,
    )
    return bad.without(source, data, screen or Screen(quiet=True)) if data.on_bad_image == "skip" else source


def columns_of(data: Data) -> dict[str, str]:
    """The headings that the recipe gives for the columns of its lists: "path", "label" -> heading."""
    return data.columns.model_dump(exclude_none=True) if data.columns else {}


def long_tailed(source: sources.Source, data: Data) -> tuple[Split, Split | None]:
    """Training and validation split: the long tail first, then the hold-out from what is left of each class."""
    train, val = source.train, source.val
    if data.imbalance is not None:
        train = train.select(
            longtail_rows(
                train.labels,
                train.classes,
                imbalance=data.imbalance,
                profile=data.profile,
                n_max=data.n_max,
                order=data.class_order,
                split=data.split,
                seed=data.split_seed,
            )
        )
    if data.val_fraction > 0:
        rows, held, _ = holdout.divide(train, HoldOut(data.val_fraction))
        train, val = train.select(rows), train.select(held)
    return train, val


class Found(NamedTuple):
    """The images of each part, not decoded: "train", "test" and perhaps "val"."""

    splits: dict[str, Split]
    source: sources.Source | None  # none where the parts were known and the source has changed beside them


def images_of(
    data: Data, screen: Screen, known: Inventory | None, needed: Sequence[str] = ("train", "test", "val")
) -> Found:
    """The images of each part, from the data set or as they were written down.

    Args:
        data: the recipe's section.
        screen: for remarks.
        known: the files of each part, if that was decided before.
        needed: parts of these whose files must be there, and be what they were.

    Raises:
        UserError: whatever is wrong with the images.
    """
    if known is None:
        source = find(data, screen)
        for remark in source.remarks:
            screen.say(remark)
        train, val = long_tailed(source, data)
        return Found({"train": train, "test": source.test} | ({} if val is None else {"val": val}), source)
    for part in (part for part in known if part in needed):
        refuse_changed(known[part], WORDS[part], lambda paths: digests(paths, data, screen))
    splits = {part: files.split for part, files in known.items()}
    try:
        # what is held out is known, and need not be possible once more
        source = find(data.model_copy(update={"test_fraction": 0.0, "folds": None}), screen, fewest=1)
    except UserError as error:  # something has changed beside the images that count
        if data.mean is None:
            raise
        screen.say(f"{error}; the run keeps the images that it began with")
        return Found(splits, None)
    if data.imbalance is None:  # else most images of the source are no part of the run
        for sentence in news(known, everything(source, data)):
            screen.say(sentence)
    return Found(splits, source)


def everything(source: sources.Source, data: Data) -> dict[str, Split]:
    """All images of a source of files, their paths from the data's root."""
    parts = {"train": source.train, "test": source.test, "val": source.val}
    root = Path(data.root).expanduser()
    return {name: rebased(split, root) for name, split in parts.items() if split is not None}


def identity(
    splits: Mapping[str, Split], data: Data, loader: str, screen: Screen
) -> tuple[Inventory | None, dict[str, str]]:
    """The files of each part, none of a set that comes as arrays or from a hub, and a fingerprint of each part.

    The content of streamed training images is not read for it, which would be an epoch's work before the first: workers
    note it while they decode.
    """
    inventory: dict[str, Listed] = {}
    for part, split in splits.items():
        if isinstance(split.images, np.ndarray):
            return None, {part: fingerprint(split) for part, split in splits.items()}
        read = None if loader == "streaming" and part == "train" else lambda paths: digests(paths, data, screen)
        root = split.images.root if data.name.startswith(hub.PREFIX) else Path(data.root).expanduser()
        inventory[part] = listed(split, root, read)
    return None if data.name.startswith(hub.PREFIX) else inventory, prints_of(inventory)


def prints_of(inventory: Inventory) -> dict[str, str]:
    """The fingerprint of each part."""
    return {part: fingerprint(files) for part, files in inventory.items()}


def digests(paths: Paths, data: Data, screen: Screen) -> NDArray[np.int64]:
    """int64 [N]: what tells the contents of files apart; from the cache for files that have been read before."""
    cache_dir = cache.cache_folder() if data.cache else None
    with screen.bar("reading files", len(paths)) as bar:
        return files.digests(paths, cache_dir=cache_dir, progress=bar.to, say=screen.say)
