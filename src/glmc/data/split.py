"""What the images are: pixels or paths, with labels and class names. No randomness, no device."""

import os
import re
import unicodedata
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glmc.errors import UserError


@dataclass(frozen=True, eq=False)
class Paths:
    """N image paths in one piece of memory: half a million take some 30 MB instead of hundreds.

    Args:
        root: folder that the paths start from; an absolute path among them stands for itself.
        blob: the relative paths in UTF-8, one after the other without separator.
        offsets: int64 [N + 1], where each path starts in `blob`; the last is its length.
    """

    root: str
    blob: bytes
    offsets: NDArray[np.int64]

    @classmethod
    def from_list(cls, root: str | os.PathLike[str], names: Iterable[str]) -> "Paths":
        """Packs relative paths; names that are not valid Unicode survive as the file system gave them."""
        blob, ends = bytearray(), array("q", [0])
        for name in names:
            blob += os.fsencode(name)
            ends.append(len(blob))
        return cls(os.fspath(root), bytes(blob), np.array(ends, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def relative(self, row: int) -> str:
        """The path of a row as it was given, without the root."""
        row = range(len(self))[row]  # negative rows count from the end; others raise IndexError
        return os.fsdecode(self.blob[self.offsets[row] : self.offsets[row + 1]])

    def __getitem__(self, row: int) -> str:
        return os.path.join(self.root, self.relative(row))

    def select(self, rows: NDArray[np.int64]) -> "Paths":
        """The paths of some rows (int64 [M]), in that order."""
        starts, ends = self.offsets[:-1][rows], self.offsets[1:][rows]
        blob = bytearray()
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            blob += self.blob[start:end]
        return Paths(self.root, bytes(blob), np.concatenate([[0], np.cumsum(ends - starts)]).astype(np.int64))


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images.

    Args:
        images: uint8 [N, H, W, channels], or N paths that are decoded later.
        labels: int64 [N], in [0, C).
        classes: C names, in label order.
        groups: int64 [N], the same number for images that a hold-out must not part; none: each is alone.

    Raises:
        ValueError: images and labels differ in number, or a label is outside [0, C).
    """

    images: NDArray[np.uint8] | Paths
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    groups: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise ValueError(f"labels must lie in [0, {len(self.classes)})")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def counts(self) -> NDArray[np.int64]:
        """int64 [C]: images of each class."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)

    def select(self, rows: NDArray[np.int64]) -> "Split":
        """The images of some rows (int64 [M]), in that order, with all the class names."""
        images = self.images.select(rows) if isinstance(self.images, Paths) else self.images[rows]
        return Split(images, self.labels[rows], self.classes, None if self.groups is None else self.groups[rows])


def check_names(places: Mapping[str, str]) -> None:
    """Refuses class names that no table or page can show, and those that differ only in case, spaces, underscores or
    Unicode form: one class written twice.

    Args:
        places: class name -> where it stands, for the error.

    Raises:
        UserError: names the class, or both spellings, and the places.
    """
    seen: dict[str, str] = {}
    for name in sorted(places):
        kinds = {unicodedata.category(letter) for letter in name}
        if kinds & {"Cc", "Cs"}:
            what = "a control character" if "Cc" in kinds else "bytes that are no UTF-8"
            raise UserError(f"class {name!r} ({places[name]!r}) has {what} in its name: rename it")
        key = spelling(name)
        if key in seen:
            raise UserError(
                f"two spellings of a class: {seen[key]!r} ({places[seen[key]]}) and {name!r} ({places[name]}); "
                "rename one of them"
            )
        seen[key] = name


def spelling(name: str) -> str:
    """What the spellings of a class name have in common, whatever their case, spaces, underscores or Unicode form."""
    return re.sub(r"[\s_]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()
