"""Images with the same bytes: within a class, across classes, between the parts of a data set."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

EXAMPLES = 10  # groups
SHOWN = 4  # images of a group

Place = tuple[str, int]  # part and row


class Copies(NamedTuple):
    """How many images are concerned, in how many groups of equal ones, and a few images of the first few groups."""

    images: int
    groups: int
    examples: list[list[Place]]


class Duplicates(NamedTuple):
    """Exact duplicates; one group of equal images may count in each.

    Args:
        within: images beyond the first in their part and class.
        across: images whose equals have another label.
        test, val: test and validation images that are training images as well.
    """

    within: Copies
    across: Copies
    test: Copies
    val: Copies


def duplicates(
    digests: dict[str, NDArray[np.uint64]],
    labels: dict[str, NDArray[np.int64]],
    readable: dict[str, NDArray[np.bool_]],
    limit: int | None = EXAMPLES,
) -> Duplicates:
    """Groups the images of all parts by their bytes.

    Args:
        digests: part -> uint64 [N, 2], equal for equal bytes.
        labels: part -> int64 [N].
        readable: part -> bool [N]; the others are left out.
        limit: groups to give as examples; None gives all.
    """
    found = {name: Copies(0, 0, []) for name in Duplicates._fields}
    for group in _groups(digests, readable):
        places = Counter((part, int(labels[part][row])) for part, row in group)
        parts = Counter(part for part, _ in group)
        first = {(part, int(labels[part][row])): (part, row) for part, row in reversed(group)}
        telling = [*sorted(first.values()), *(place for place in group if place not in first.values())][:SHOWN]
        concerned = {
            "within": sum(count - 1 for count in places.values()),
            "across": len(group) if len({label for _, label in places}) > 1 else 0,
            "test": parts["test"] if parts["train"] else 0,
            "val": parts["val"] if parts["train"] else 0,
        }
        for name, images in concerned.items():
            if images:
                total, number, examples = found[name]
                found[name] = Copies(total + images, number + 1, [*examples, telling][:limit])
    return Duplicates(**found)


def _groups(digests: dict[str, NDArray[np.uint64]], readable: dict[str, NDArray[np.bool_]]) -> Iterator[list[Place]]:
    """The places of two or more equal images, in the order in which the first of them stands."""
    names = list(digests)
    rows = {part: np.flatnonzero(readable[part]) for part in names}
    starts = np.cumsum([0, *(len(rows[part]) for part in names)])  # of each part among all keys

    def place(key: int) -> Place:
        part = int(np.searchsorted(starts, key, side="right")) - 1
        return names[part], int(rows[names[part]][key - starts[part]])

    keys = np.concatenate([digests[part][rows[part]] for part in names])
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: equal keys stay in the order of their places
    borders = np.flatnonzero((keys[order[1:]] != keys[order[:-1]]).any(1)) + 1
    stretches = zip([0, *borders.tolist()], [*borders.tolist(), len(order)], strict=True)
    groups = [order[start:stop].tolist() for start, stop in stretches if stop > start + 1]
    for group in sorted(groups):
        yield [place(key) for key in group]
