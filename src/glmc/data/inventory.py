"""Which files a run trains on, validates on and is tested on, and whether they still are what they were.

A run writes this down as split.csv when it begins, and everything that comes later reads it instead of looking through
the folder again: a photograph that arrives in between must not move another from the training to the test images.
"""

import csv
import hashlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glmc.data.cells import CsvWriter, plain
from glmc.data.split import Paths, Split, spelling
from glmc.errors import UserError

COLUMNS = ("part", "image", "label", "class", "bytes", "blake2b")
SHOWN = 5  # names in a sentence

Digests = Callable[[Paths], NDArray[np.int64]]  # of the content of N files


@dataclass(frozen=True, eq=False)
class Listed:
    """One part of a run.

    Args:
        split: whose images are paths from the data's root.
        bytes: int64 [N], size of each file.
        digests: int64 [N], of each file's content (`files.digest_of`); 0 where it has not been read yet.
    """

    split: Split
    bytes: NDArray[np.int64]
    digests: NDArray[np.int64]

    def rows(self) -> list[tuple[str, int, str, int, str]]:
        """Lines of the table, without the part."""
        classes = self.split.classes
        return [
            (name, label, classes[label], size, f"{digest:016x}" if digest else "")
            for name, label, size, digest in zip(
                names(self.split), self.split.labels.tolist(), self.bytes.tolist(), self.digests.tolist(), strict=True
            )
        ]


Inventory = Mapping[str, Listed]  # "train", "test" and perhaps "val"


def listed(split: Split, root: str | Path, digests: Digests | None) -> Listed:
    """A part as it is on the disk now.

    Args:
        split: of paths, wherever these start.
        root: of the data.
        digests: reads the files; none leaves their content open.
    """
    paths = rebased(split, root).images
    assert isinstance(paths, Paths)
    sizes = np.array([os.stat(paths[row]).st_size for row in range(len(paths))], dtype=np.int64)
    content = np.zeros(len(paths), dtype=np.int64) if digests is None else digests(paths)
    return Listed(Split(paths, split.labels, split.classes), sizes, content)


def rebased(split: Split, root: str | Path) -> Split:
    """The same files, their paths from `root` on."""
    assert isinstance(split.images, Paths)
    start = os.path.relpath(split.images.root, root)
    if start == ".":
        return split
    images = Paths.from_list(root, (os.path.join(start, name) for name in names(split)))
    return Split(images, split.labels, split.classes)


def names(split: Split) -> list[str]:
    """The paths of a split, from their root."""
    assert isinstance(split.images, Paths)
    return [split.images.relative(row) for row in range(len(split))]


def to_csv(inventory: Inventory) -> bytes:
    """The table as it is written; names that are not valid Unicode survive as the file system gave them."""
    text = io.StringIO()
    writer = CsvWriter(text, lineterminator="\r\n")  # or a name that holds one of these would not be quoted
    writer.writerow(COLUMNS)
    for part, files in inventory.items():
        writer.writerows((part, *row) for row in files.rows())
    return text.getvalue().encode("utf-8", "surrogateescape")


def from_csv(content: bytes, file: Path, root: Path) -> Inventory:
    """The table of `to_csv`.

    Args:
        content: of the file.
        file: for the error.
        root: where the images lie now.

    Raises:
        UserError: it is damaged; names the line.
    """
    reader = csv.reader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline=""))
    columns: dict[str, list[tuple[str, int, int, int]]] = {"train": [], "test": []}  # there may be no test images
    classes: dict[int, str] = {}
    try:
        if tuple(next(reader, ())) != COLUMNS:
            raise ValueError(f"the first line is not {','.join(COLUMNS)}")
        for part, image, label, name, size, digest in reader:
            columns.setdefault(part, []).append((plain(image), int(label), int(size), int(digest or "0", 16)))
            classes[int(label)] = plain(name)
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{file}:{reader.line_num}: not a line of {','.join(COLUMNS)} ({error}); put the file back as it was"
        ) from error
    all_classes = tuple(classes.get(label, str(label)) for label in range(max(classes, default=-1) + 1))
    inventory = {}
    for part, rows in columns.items():
        labels, sizes = (np.array([row[column] for row in rows], dtype=np.int64) for column in (1, 2))
        split = Split(Paths.from_list(root, [row[0] for row in rows]), labels, all_classes)
        inventory[part] = Listed(split, sizes, np.array([row[3] for row in rows], dtype=np.int64))
    return inventory


def fingerprint(part: Listed | Split) -> str:
    """What tells one part from another, in 32 hex digits: of files their names, labels and sizes, of arrays pixels and
    labels."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(part, Split):
        assert isinstance(part.images, np.ndarray)
        digest.update(np.ascontiguousarray(part.images).data)
        digest.update(part.labels.data)
        return digest.hexdigest()
    for row in part.rows():
        digest.update("\0".join(map(str, row[:-1])).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def refuse_changed(part: Listed, what: str, digests: Digests) -> None:
    """Raise a `UserError` unless every file is there and is what it was.

    Args:
        part: as it was written down, with the root of now.
        what: its images in a word, e.g. "test".
        digests: reads the files.
    """
    paths = part.split.images
    assert isinstance(paths, Paths)
    gone, other = [], []
    for row, size in enumerate(part.bytes.tolist()):
        try:
            if os.stat(paths[row]).st_size != size:
                other.append(row)
        except OSError:
            gone.append(row)
    if gone and len(gone) == len(paths):
        raise UserError(
            f"none of the run's {len(paths)} {what} images lie under {paths.root}: say where they are with data.root="
        )
    if not gone and not other:
        read = np.flatnonzero(part.digests)
        if len(read):
            other = read[digests(paths)[read] != part.digests[read]].tolist()
    if gone or other:
        told = [f"{len(rows)} {how}" for rows, how in ((gone, "missing"), (other, "altered")) if rows]
        some = ", ".join(repr(paths.relative(row)) for row in [*gone, *other][:SHOWN])
        raise UserError(
            f"of the run's {len(paths)} {what} images under {paths.root}, {' and '.join(told)} (first: {some}): put "
            f"them back as they were, or train anew; all names are in the run's split.csv"
        )


def news(inventory: Inventory, found: Mapping[str, Split]) -> list[str]:
    """What is in the data by now and was not, or was of another class, when the run began; sentences."""
    known = {name: c for part in inventory.values() for name, _, c, *_ in part.rows()}
    new, moved = [], []
    for split in found.values():
        for label, name in zip(split.labels.tolist(), names(split), strict=True):
            if name not in known:
                new.append(name)
            elif spelling(split.classes[label]) != spelling(known[name]):
                moved.append(name)
    said = []
    if new:
        said.append(
            f"new since the run began: {len(new)} images (first: {new[0]!r}); they take no part in it, train anew to "
            f"use them"
        )
    if moved:
        said.append(
            f"of another class than when the run began: {len(moved)} images (first: {moved[0]!r}); the run keeps the "
            f"old one, train anew to change that"
        )
    return said


def is_there(part: Listed) -> bool:
    """Whether every file of a part exists."""
    paths = part.split.images
    assert isinstance(paths, Paths)
    return all(os.path.exists(paths[row]) for row in range(len(paths)))


def shared_images(first: Listed, second: Listed) -> int:
    """How many images of the second are among those of the first, by their content, or as the same file if not read."""
    assert isinstance(first.split.images, Paths)
    assert isinstance(second.split.images, Paths)
    files = {file_of(first.split.images[row]) for row in np.flatnonzero(first.digests == 0).tolist()} - {None}
    same = np.isin(second.digests, first.digests[first.digests > 0]).tolist()
    return sum(
        content or (bool(files) and file_of(second.split.images[row]) in files) for row, content in enumerate(same)
    )


def file_of(path: str) -> tuple[int, int] | None:
    """What tells a file from all others, whatever it is called: device and inode; None if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
