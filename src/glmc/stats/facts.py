"""What is said of a data set: the numbers, as one object and as JSON."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glmc.data.split import Paths, Split
from glmc.metrics import GROUPS, group_of
from glmc.recipe import Recipe
from glmc.stats import near
from glmc.stats.duplicates import EXAMPLES, Copies, Duplicates, Place, duplicates
from glmc.stats.files import Looks, look
from glmc.stats.find import Found, where

Watch = Callable[[str, int], Any]  # (what, total) -> context that gives a bar

# Kind of oddity -> what it is called, the most serious first.
ODD = {
    "broken": "unreadable images",
    "spelling": "class names that differ only in spelling",
    "empty": "classes without images",
    "disguised": "images that are not what their ending says",
    "other": "entries that are no image of a class",
}


@dataclass(frozen=True, eq=False)
class Facts:
    """Everything that is known of a data set.

    Args:
        data: the word on the command line.
        settings: the recipe whose `data` and `eval.few` it stands for.
        found: the images, part by part.
        looks: part -> what its images look like.
        duplicates: exact duplicates.
        near: "test" and "val", or without these "train" -> their images that are nearly a training image, other than
            exact duplicates; "held" -> of "train", those that are held out for testing and nearly one that is not.
            Empty where there are too many images to compare.
        odd: kind, a key of `ODD` -> places.
    """

    data: str
    settings: Recipe
    found: Found
    looks: dict[str, Looks]
    duplicates: Duplicates
    near: dict[str, Copies]
    odd: dict[str, list[str]]

    @property
    def train(self) -> Split:
        """The training images, those that will be held out included."""
        return self.found.parts["train"]

    @property
    def counts(self) -> NDArray[np.int64]:
        """int64 [C], images of each class in the training part."""
        return self.train.counts

    @property
    def trained(self) -> NDArray[np.int64]:
        """int64 [C], of these, the images that would be trained on."""
        return self.found.trained

    @property
    def order(self) -> NDArray[np.int64]:
        """int64 [C], classes from the most to the least frequent; equal ones in label order."""
        return np.argsort(-self.counts, kind="stable")

    @property
    def imbalance(self) -> float:
        """Images of the largest class over those of the smallest that has any."""
        return self.found.imbalance

    @property
    def group(self) -> NDArray[np.int64]:
        """int64 [C], place of each class in `GROUPS`, by the images trained on."""
        return group_of(self.trained, self.settings.eval.few)

    @property
    def sizes(self) -> NDArray[np.int32]:
        """int32 [M, 2], height and width of the readable images of all parts."""
        every = np.concatenate([one.sizes for one in self.looks.values()])
        return every[every[:, 0] > 0]

    def kinds(self, place: int) -> dict[str, int]:
        """Format (place 0) or mode (place 1) -> images, the most frequent first."""
        counted: Counter[str] = Counter()
        for one in self.looks.values():
            for kind, count in enumerate(np.bincount(one.kinds[one.kinds >= 0], minlength=len(one.names)).tolist()):
                counted[one.names[kind][place]] += count
        return dict(counted.most_common())

    def name(self, place: Place, *, label: bool = False) -> str:
        """The path of an image below the root, on request with its class."""
        split = self.found.parts[place[0]]
        inside = where(split, place[1])
        return f"{inside} ({split.classes[split.labels[place[1]]]})" if label else inside


def collect(data: str, settings: Recipe, found: Found, watch: Watch, *, whole: bool = False) -> Facts:
    """Looks at every image of the parts that were found.

    Args:
        data, settings, found: of `Facts`.
        watch: makes progress bars.
        whole: decode every image to its last pixel, and name every duplicate instead of a few.
    """
    looks = {}
    for part, split in found.parts.items():
        with watch(f"looking at {part} images", len(split)) as bar:
            looks[part] = look(split.images, bar.to, settings.data.max_pixels)
    small = thumbnails(found, looks, watch, settings.data.max_pixels, whole)
    labels = {part: split.labels for part, split in found.parts.items()}
    equal = duplicates(
        {part: one.digests for part, one in looks.items()},
        labels,
        {part: one.kinds >= 0 for part, one in looks.items()},
        None if whole else EXAMPLES,
    )
    odd = {kind: list(found.odd.get(kind, ())) for kind in ODD}
    for part, one in looks.items():
        split = found.parts[part]
        odd["broken"] += [f"{where(split, row)} ({why})" for row, why in one.broken.items()]
        odd["disguised"] += [f"{where(split, row)} is {form}" for row, form in one.disguised.items()]
    return Facts(data, settings, found, looks, equal, near_duplicates(looks, small, found.held, watch, whole), odd)


def thumbnails(
    found: Found, looks: dict[str, Looks], watch: Watch, max_pixels: int, whole: bool
) -> dict[str, NDArray[np.uint8]]:
    """Part -> small pictures to compare, if not too many. With `whole`, `looks` learn what cannot be decoded."""
    few = sum(len(split) for split in found.parts.values()) <= near.LIMIT
    small = {}
    for part, split in found.parts.items():
        if whole and isinstance(split.images, Paths):
            with watch(f"decoding {part} images", len(split)) as bar:
                small[part], broken = near.decoded(split.images, bar.to, max_pixels)
            for row, why in broken.items():
                looks[part].broken.setdefault(row, why)
        elif few:
            with watch(f"comparing {part} images", len(split)) as bar:
                small[part] = near.thumbnails(split.images, looks[part], bar.to, max_pixels)
    return small if few else {}


def near_duplicates(
    looks: dict[str, Looks],
    small: dict[str, NDArray[np.uint8]],
    held: NDArray[np.bool_] | None,
    watch: Watch,
    whole: bool = False,
) -> dict[str, Copies]:
    """Part -> its images that are nearly a training image, each with that one, without those that are one exactly.

    Args:
        looks: of each part.
        small: of `thumbnails`.
        held: bool [N], the training images that are held out for testing; none if that is not known.
        watch: makes progress bars.
        whole: name all of them.
    """
    if not small:
        return {}
    every = {part: np.arange(len(pictures)) for part, pictures in small.items()}
    # What is compared: rows of a part with rows of the training images, or all of these with those before them.
    compared = {part: (part, rows, every["train"]) for part, rows in every.items() if part != "train"}
    if not compared:  # there is no test set: part of the training images will be held out for one
        compared["train"] = ("train", every["train"], every["train"])
        compared |= {} if held is None else {"held": ("train", np.flatnonzero(held), np.flatnonzero(~held))}
    digests = {part: [tuple(digest) for digest in looks[part].digests.tolist()] for part in small}
    copies = {}
    for key, (part, rows, known) in compared.items():
        with watch("looking for near duplicates", len(rows)) as bar:
            others = None if key == "train" else small[part][rows]
            alike = near.alike(small["train"][known], others, bar.to)
        pairs = [(int(rows[row]), int(known[twin])) for row, twin in alike]
        if key == "train":
            pairs = [pair for pair in pairs if digests["train"][pair[0]] != digests["train"][pair[1]]]
        else:
            trained = {digests["train"][row] for row in known.tolist()}
            pairs = [pair for pair in pairs if digests[part][pair[0]] not in trained]
        named = pairs if whole else pairs[:EXAMPLES]
        examples: list[list[Place]] = [[(part, row), ("train", twin)] for row, twin in named]
        copies[key] = Copies(len(pairs), len(pairs), examples)
    return copies


def size_facts(sizes: NDArray[np.int32]) -> dict[str, Any]:
    """Smallest, median and largest picture by area as [width, height], and the spread of width / height."""
    if not len(sizes):
        return {}
    order = np.argsort(sizes.astype(np.int64).prod(1), kind="stable")
    picks = {"smallest": order[0], "median": order[(len(order) - 1) // 2], "largest": order[-1]}
    aspect = sizes[:, 1] / sizes[:, 0]
    return {
        **{name: sizes[row, ::-1].tolist() for name, row in picks.items()},
        "aspect": [round(float(value), 3) for value in (aspect.min(), np.median(aspect), aspect.max())],
    }


def as_json(facts: Facts) -> dict[str, Any]:
    """The facts as JSON takes them; keys are part of the command's interface."""
    counts, trained, classes = facts.counts, facts.trained, facts.train.classes
    copied = {}
    for name, copies in facts.duplicates._asdict().items():
        examples = [[facts.name(place, label=name == "across") for place in group] for group in copies.examples]
        copied[name] = {"images": copies.images, "groups": copies.groups, "examples": examples}
    near = {
        part: {"images": copies.images, "examples": [list(map(facts.name, group)) for group in copies.examples]}
        for part, copies in facts.near.items()
    }
    return {
        "data": facts.data,
        "images": {part: len(split) for part, split in facts.found.parts.items()},
        "classes": len(classes),
        "largest": int(counts.max()),
        "median": float(np.median(counts)),
        "smallest": int(counts.min()),
        "imbalance": round(facts.imbalance, 4),
        "groups": {
            name: {"classes": int((facts.group == i).sum()), "images": int(trained[facts.group == i].sum())}
            for i, name in enumerate(GROUPS)
        },
        "few": facts.settings.eval.few,
        "per_class": [
            {
                "class": classes[c],
                **{part: int(split.counts[c]) for part, split in facts.found.parts.items()},
                "trained": int(trained[c]),
                "group": GROUPS[facts.group[c]],
            }
            for c in facts.order.tolist()
        ],
        "sizes": size_facts(facts.sizes),
        "formats": facts.kinds(0),
        "modes": facts.kinds(1),
        "duplicates": copied,
        "near_duplicates": near,
        "odd": facts.odd,
        "remarks": list(facts.found.remarks),
        "refusal": facts.found.refusal,
    }
