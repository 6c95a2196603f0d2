"""Which images are held out: a share of each class, or one of several folds; groups of images stay together."""

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from glmc.data.split import Paths, Split
from glmc.errors import UserError
from glmc.random import Draws

SEED = 0  # never the run's seed: runs of several seeds are to be compared on the same test images

FOLDERS, COLUMN = "parent-folder", "column:"  # values of data.groups that are no regular expressions
FINE = 20  # parts that groups are dealt out to for a share of them

NOTHING = "nothing is held out (data.test_fraction=0): this run has no test images"
NO_PATHS = "data.groups: these images have no paths that could name their groups; leave it out"

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class HoldOut:
    """What becomes the test set of data that have none.

    Args:
        fraction: share of each class, in [0, 1); 0 holds nothing out.
        folds: parts of about equal size, of which one is held out instead; none for a share.
        fold: which of them, in [0, folds).
        groups: which images stay together: `data.groups` of a recipe, see `grouped`.
    """

    fraction: float = 0.2
    folds: int | None = None
    fold: int = 0
    groups: str | None = None


USUAL = HoldOut()


def divide(pool: Split, hold: HoldOut) -> tuple[Rows, Rows, str]:
    """The rows that stay and the rows held out, int64, ascending; and a sentence that says so."""
    if hold.folds is None and hold.fraction == 0:
        none = np.empty(0, dtype=np.int64)
        return np.arange(len(pool)), none, NOTHING
    if pool.groups is not None:
        parts = hold.folds or min(FINE, len(np.unique(pool.groups)), int(pool.counts.max()))
        first = hold.fold if hold.folds else 0
        number = 1 if hold.folds else min(max(round(parts * hold.fraction), 1), parts - 1)
        kept, held = grouped_folds(pool.labels, pool.groups, parts, range(first, first + number))
    elif hold.folds is not None:
        kept, held = fold_rows(pool.labels, hold.folds, hold.fold)
    else:
        kept, held = stratified_holdout(pool.labels, hold.fraction, SEED)
    if hold.folds is not None:
        if not len(held):
            raise UserError(f"data.folds={hold.folds}: there is nothing for fold {hold.fold + 1}; give fewer folds")
        remark = f"fold {hold.fold + 1} of {hold.folds}: {len(held)} of the {len(pool)} images are held out"
    else:
        if not len(held):
            raise UserError(
                f"data.test_fraction={hold.fraction:g}: nothing can be held out; give more images or groups"
            )
        share = "in whole groups" if pool.groups is not None else f"{hold.fraction:.0%} of each class"
        remark = f"there is no test set: {len(held)} of the {len(pool)} images are held out, {share}"
    untested = np.setdiff1d(pool.labels, pool.labels[held])
    if len(untested) and hold.folds is None:
        remark += f"; of {len(untested)} of the {len(pool.classes)} classes none, e.g. {pool.classes[untested[0]]!r}"
    return kept, held, remark


def set_aside(train: Split, val: Split) -> str:
    """How many images validate, of how many groups, and whether classes have none.

    >>> rest = Split(np.zeros(3), np.array([0, 0, 1]), ["cat", "dog"], groups=np.array([0, 1, 1]))
    >>> set_aside(rest.select([1, 2]), rest.select([0]))
    "1 image is for validation, of 1 of 2 groups; of 1 of 2 classes none, e.g. 'dog'"
    """
    said = "1 image is for validation" if len(val) == 1 else f"{len(val):,} images are for validation"
    if val.groups is not None and train.groups is not None:
        inside, all_of_them = np.unique(val.groups), np.union1d(train.groups, val.groups)
        said += f", of {len(inside)} of {len(all_of_them)} groups"
    lacking = np.flatnonzero(val.counts == 0)
    if len(lacking):
        said += f"; of {len(lacking)} of {len(val.classes)} classes none, e.g. {val.classes[lacking[0]]!r}"
    return said


def stratified_holdout(labels: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Splits rows so that each class gives about the same share.

    Args:
        labels: int64 [N].
        fraction: share of each class to hold out, in (0, 1). Halves are rounded up; a class of two or more images gives
            at least one and keeps at least one, a class of one image keeps it.
        seed: other seeds hold out other images. The images of one class do not depend on the other classes.

    Returns:
        The rows that stay and the rows held out, int64, both ascending.

    Raises:
        UserError: fraction outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise UserError(f"a share of {fraction:g} cannot be held out: give a number between 0 and 1, e.g. 0.2")
    counts = np.bincount(labels)
    held = np.clip(np.floor(counts * fraction + 0.5).astype(np.int64), 1, np.maximum(counts - 1, 1))
    return hold_out(labels, np.where(counts >= 2, held, 0), seed)


def even_share(counts: NDArray[np.int64], fraction: float) -> NDArray[np.int64]:
    """int64 [C]: images to hold out of each class, as evenly as the counts allow; together about a share of all.

    A class gives a third of its images at most, so one of fewer than three gives none.

    >>> even_share(np.array([300, 30, 6, 2]), 0.2)
    array([55, 10,  2,  0])
    """
    most = counts // 3
    level = 1
    while level < most.max(initial=0) and np.minimum(most, level + 1).sum() <= fraction * counts.sum():
        level += 1
    return np.minimum(most, level)


def hold_out(labels: Rows, held: NDArray[np.int64], seed: int) -> tuple[Rows, Rows]:
    """Takes held[c] random images out of class c."""
    out = np.zeros(len(labels), dtype=bool)
    for label, count in enumerate(held.tolist()):
        rows = np.flatnonzero(labels == label)
        out[rows[Draws(seed, "holdout", label).permutation(len(rows))[:count]]] = True
    return np.flatnonzero(~out), np.flatnonzero(out)


def fold_rows(labels: Rows, folds: int, fold: int) -> tuple[Rows, Rows]:
    """The rows outside and inside of one fold: every image is in exactly one; the only image of a class is in none.

    The images of a class are dealt out in random order, each class going on where the one before it has stopped, so
    that small classes are spread over all folds.
    """
    place, start = np.full(len(labels), -1), 0
    for label in range(int(labels.max(initial=-1)) + 1):
        rows = np.flatnonzero(labels == label)
        if len(rows) > 1:
            place[rows[Draws(SEED, "folds", label).permutation(len(rows))]] = (start + np.arange(len(rows))) % folds
            start += len(rows)
    return np.flatnonzero(place != fold), np.flatnonzero(place == fold)


def grouped_folds(labels: Rows, groups: NDArray[np.int64], folds: int, taken: range) -> tuple[Rows, Rows]:
    """The rows outside and inside of some folds of whole groups with about the shares of the classes.

    The groups of a class that would be left without an image to train on stay outside.

    Args:
        labels, groups: int64 [N].
        folds: number of all folds, at least 2.
        taken: those that are held out.

    Raises:
        UserError: there are fewer groups, or images of the largest class, than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    number, largest = len(np.unique(groups)), int(np.bincount(labels).max())
    if number == 1:
        raise UserError(
            f"data.groups: all {len(labels)} images are one group, so none can be held out; name smaller ones"
        )
    if not 2 <= folds <= min(number, largest):
        raise UserError(
            f"data.groups: {number} groups, and {largest} images of the largest class, cannot be dealt out to {folds} "
            f"parts; give fewer folds, or no groups"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that some classes have fewer images than there are folds
        dealt = list(StratifiedGroupKFold(folds, shuffle=True, random_state=SEED).split(labels, labels, groups))
    inside = np.zeros(len(labels), dtype=bool)
    for fold in taken:
        inside[dealt[fold][1]] = True
    lacking = np.setdiff1d(labels, labels[~inside])
    inside &= ~np.isin(groups, groups[np.isin(labels, lacking)])
    return np.flatnonzero(~inside), np.flatnonzero(inside)


def refuse_column(rule: str | None, name: str) -> None:
    """Raise a `UserError` if the groups are to be a column of images that come as no list."""
    if rule is not None and rule.startswith(COLUMN) and name != "list":
        raise UserError(f"data.groups={rule} needs data.name=list, but data.name is {name}: change one of them")


def grouped(pool: Split, rule: str, *, of_classes: bool) -> Split:
    """The images with their groups as `data.groups` names them, if it is not by a column.

    Args:
        pool: images, N.
        rule: "parent-folder": the folder that an image lies in, from the folder of its class on; one that lies in that
            folder itself is alone. Or a regular expression: what its first group, or else all of it, finds in the path;
            an image in whose path it is not found is alone.
        of_classes: whether there are folders of classes; those of a list count from the first on.

    Raises:
        UserError: the images have no paths, or the rule finds a group for none of them.
    """
    if not isinstance(pool.images, Paths):
        raise UserError(NO_PATHS)
    found = names_of(pool, rule, of_classes=of_classes)
    lacking, remedy = "has it in its path", "correct the pattern"
    if rule == FOLDERS:
        lacking = "lies in a folder" + " below that of its class" * of_classes
        remedy = "put each group into such a folder, or name the groups otherwise"
    if not any(found):
        raise UserError(
            f"data.groups={rule}: none of the {len(pool)} images {lacking}, e.g. {pool.images.relative(0)!r}; {remedy}"
        )
    return replace(pool, groups=numbered([name or f"\0{row}" for row, name in enumerate(found)]))


def names_of(pool: Split, rule: str, *, of_classes: bool) -> list[str]:
    """The name of each image's group, "" of one that is alone; arguments as for `grouped`, of paths."""
    assert isinstance(pool.images, Paths)
    paths = [pool.images.relative(row) for row in range(len(pool))]
    if rule != FOLDERS:
        matches = [re.search(rule, path) for path in paths]
        return [match[1 if match.re.groups else 0] or "" if match else "" for match in matches]
    folders = map(os.path.dirname, paths)
    if not of_classes:
        return list(folders)
    classes = [pool.classes[label] for label in pool.labels.tolist()]
    return [f"/{folder}/".partition(f"/{name}/")[2] for folder, name in zip(folders, classes, strict=True)]


def numbered(names: Sequence[str]) -> NDArray[np.int64]:
    """int64 [N]: a number for each name, in the order of the names."""
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def whole_classes(pool: Split) -> list[str]:
    """A remark, if classes of two or more images are one group each, which `divide` always leaves in training."""
    assert pool.groups is not None
    pairs = np.unique(np.stack([pool.labels, pool.groups]), axis=1)
    whole = np.flatnonzero((np.bincount(pairs[0], minlength=len(pool.classes)) == 1) & (pool.counts > 1)).tolist()
    if not whole:
        return []
    more = f" (and of {len(whole) - 1} other classes)" if len(whole) > 1 else ""
    return [
        f"data.groups: all images of class {pool.classes[whole[0]]!r}{more} are one group, which stays on the training "
        "side: nothing can be said about such a class without a second group"
    ]
