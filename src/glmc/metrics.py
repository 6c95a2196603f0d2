"""From a confusion matrix to metrics, and what each of them is called.

A metric that is not defined (an empty group, a class without test images) is absent; it is never 0 or NaN.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

QUANTILE = 1.959964  # of the normal distribution, for intervals of 95 %
WIDE = 20.0  # points between the ends of an interval, from which on a figure is called doubtful
BINS = 15  # of the calibration error, as in Guo et al., ICML 2017, arXiv:1706.04599
Few = Literal["<20", "<=20"]
"""The border of the few-shot group, in training images: < 20 in most papers, <= 20 in the published GLMC code."""


class Metric(NamedTuple):
    """A metric in words."""

    word: str
    meaning: str  # "" for a group, which `group_rules` explains
    unit: str = "%"
    digits: int = 1  # that a page shows

    @property
    def heading(self) -> str:
        """The word with its unit: "top-1, %"."""
        return f"{self.word}, {self.unit}"

    @property
    def title(self) -> str:
        """The same at the beginning of a line: "Top-1, %"."""
        return self.heading[0].upper() + self.heading[1:]


METRICS = {  # in the order in which tables show them
    "top1": Metric("top-1", "right answers among all test images"),
    "top5": Metric("top-5", "the right class is among the first five"),
    "balanced": Metric("balanced", "mean recall over the classes"),
    "macro_f1": Metric("macro F1", "mean F1 over the classes"),
    "worst_class": Metric("worst class", "the lowest recall of any class"),
    "many": Metric("many", ""),
    "medium": Metric("medium", ""),
    "few": Metric("few", ""),
    "ece": Metric("ECE", f"expected calibration error, {BINS} bins; lower is better"),
    "nll": Metric("NLL", "negative log-likelihood; lower is better", "nats", 3),
}
GROUPS = ("many", "medium", "few")
MAIN = ("top1", "balanced", *GROUPS)  # what short tables show


def scores(
    confusion: NDArray[np.int64],
    counts: NDArray[np.int64],
    *,
    few: Few = "<20",
    extras: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """The `METRICS` of one evaluation that are defined, in their order.

    The score of a group is the mean recall of its classes. Classes without test images take part in none.

    Args:
        confusion: int64 [C, C], row = true class, column = predicted class.
        counts: int64 [C], training images per class.
        few: the border of the few-shot group.
        extras: `top5`, `ece`, `nll` as `Tally.compute` gives them.

    Returns:
        Metric -> value, in percent, nll in nats.
    """
    extras = extras or {}
    counts = np.asarray(counts)
    tested = confusion.sum(1) > 0
    if not tested.any():
        return {}
    hits, true, predicted = confusion.diagonal()[tested], confusion.sum(1)[tested], confusion.sum(0)[tested]
    recall = 100 * hits / true
    found = {
        **extras,
        "top1": float(100 * hits.sum() / true.sum()),
        "balanced": float(recall.mean()),
        "macro_f1": float((200 * hits / (true + predicted)).mean()),
        "worst_class": float(recall.min()),
    }
    for name, members in groups(counts[tested], few).items():
        if members.any():
            found[name] = float(recall[members].mean())
    return {name: found[name] for name in METRICS if name in found}


def group_of(counts: NDArray[np.int64], few: Few) -> NDArray[np.int64]:
    """int64 [C]: place in `GROUPS` of each class. Liu et al., CVPR 2019, arXiv:1904.05160.

    Args:
        counts: int64 [C], training images per class.
        few: the border of the few-shot group.
    """
    return np.select([counts > 100, counts > {"<20": 19, "<=20": 20}[few]], [0, 1], 2)


def groups(counts: NDArray[np.int64], few: Few) -> dict[str, NDArray[np.bool_]]:
    """Group -> which classes are in it, bool [C]; arguments as for `group_of`."""
    place = group_of(counts, few)
    return {name: place == i for i, name in enumerate(GROUPS)}


def group_rules(few: Few) -> dict[str, str]:
    """Group -> how many training images its classes have, in words."""
    medium, fewest = {"<20": ("20 to 100", "fewer than 20"), "<=20": ("21 to 100", "at most 20")}[few]
    return dict(zip(GROUPS, ("more than 100", medium, fewest), strict=True))


class Interval(NamedTuple):
    """How surely a metric is known: from how many test images, and its 95 % interval in percent."""

    images: int
    low: float
    high: float

    @property
    def text(self) -> str:
        """The ends: "12.1–29.9"."""
        return f"{self.low:.1f}–{self.high:.1f}"


def intervals(
    hits: NDArray[np.int64], images: NDArray[np.int64], counts: NDArray[np.int64], few: Few
) -> dict[str, Interval]:
    """The `Interval` of each accuracy in `MAIN` that is defined. It is about other test images, not other seeds.

    Args:
        hits: int64 [C], test images of each class that are recognised.
        images: int64 [C], test images of each class; classes without any take part in none.
        counts: int64 [C], training images per class.
        few: the border of the few-shot group.
    """
    tested = images > 0
    if not tested.any():
        return {}
    hits, images = hits[tested], images[tested]
    low, high = wilson(float(hits.sum() / images.sum()), float(images.sum()))
    found = {"top1": Interval(int(images.sum()), low, high)}
    parts = {"balanced": np.ones(len(images), dtype=np.bool_), **groups(np.asarray(counts)[tested], few)}
    for name, inside in parts.items():
        if inside.any():
            low, high = wilson(float(np.mean(hits[inside] / images[inside])), effective(images[inside]))
            found[name] = Interval(int(images[inside].sum()), low, high)
    return found


def wilson(share: float, images: float) -> tuple[float, float]:
    """95 % interval, in percent, of a share in [0, 1] of some images. Wilson, J. Amer. Stat. Assoc. 1927."""
    spread = QUANTILE**2 / images
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4)
    low, high = (share + spread / 2 - half) / (1 + spread), (share + spread / 2 + half) / (1 + spread)
    return 100 * max(low, 0.0), 100 * min(high, 1.0)


def effective(images: NDArray[np.int64]) -> float:
    """How many images of equal weight tell as much as these, int64 [S] >= 1, of a mean over S classes.

    Kish, Survey Sampling, 1965: (sum of the weights)**2 / sum of their squares, where an image of a class with n images
    weighs 1 / n. For classes of equal size it is the sum.
    """
    return float(len(images) ** 2 / np.sum(1 / images))


def rows_of(sure: Mapping[str, Interval], *, ends: bool = True) -> dict[str, dict[str, str]]:
    """The intervals as rows of a table; without their `ends` only the numbers of images."""
    spread = {"95 % interval": {name: each.text for name, each in sure.items()}} if ends else {}
    return spread | {"test images": {name: f"{each.images:,}" for name, each in sure.items()}}


def doubts(found: Mapping[str, Any], sure: Mapping[str, Interval]) -> str:
    """A sentence on the accuracies that rest on so few test images that they tell little; empty where none does."""
    told = [
        f"{METRICS[name].word} {found[name]:.1f} % on {each.images} image{'s' if each.images > 1 else ''}, "
        f"where {each.low:.1f} to {each.high:.1f} % would fit as well"
        for name, each in sure.items()
        if name in found and each.high - each.low > WIDE
    ]
    return f"So few test images tell little: {'; '.join(told)}." if told else ""


def of_several_groups(counts: NDArray[np.int64], classes: Sequence[str], few: Few) -> str:
    """A sentence on the classes that are of one group in some folds and of another in others; empty where none is.

    Args:
        counts: int64 [folds, C], training images per class.
        classes: C names.
        few: the border of the few-shot group.
    """
    moving = np.flatnonzero(np.ptp(group_of(counts, few), axis=0)).tolist()
    if not moving:
        return ""
    seen, more = counts[:, moving[0]], f" (and {len(moving) - 1} others)" if len(moving) > 1 else ""
    return (
        f"The class {classes[moving[0]]!r}{more} has {seen.min()} to {seen.max()} training images in the folds, and so "
        "is not of the same group (many, medium, few) in all; in the figures of all images together the mean decides."
    )


def per_class(confusion: NDArray[np.int64], counts: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row per class, in label order: class, train, test (images), recall and precision in percent.

    `recall` is absent for a class without test images, `precision` for one that was never predicted.

    Args:
        confusion: int64 [C, C], row = true class, column = predicted class.
        counts: int64 [C], training images per class.
        classes: C names.
    """
    rows: list[dict[str, Any]] = []
    for c, name in enumerate(classes):
        hits, true, predicted = int(confusion[c, c]), int(confusion[c].sum()), int(confusion[:, c].sum())
        row: dict[str, Any] = {"class": name, "train": int(counts[c]), "test": true}
        row |= {"recall": 100 * hits / true} if true else {}
        row |= {"precision": 100 * hits / predicted} if predicted else {}
        rows.append(row)
    return rows


def reliability(confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """How far confidence can be believed. Guo et al., ICML 2017, arXiv:1706.04599, equations 2 to 5.

    Args:
        confidence: float [N] in [0, 1], probability of the predicted class.
        right: bool [N], whether that is the true class.

    Returns:
        float64 [15, 3]: images, mean confidence and accuracy (both in [0, 1], NaN in an empty bin) of bins of equal
        width, the lower border inside; and the expected calibration error in percent.
    """
    place = np.clip(np.digitize(confidence, np.linspace(0, 1, BINS + 1)) - 1, 0, BINS - 1)
    images = np.bincount(place, minlength=BINS)
    with np.errstate(invalid="ignore"):
        sure = np.bincount(place, confidence, BINS) / images
        accuracy = np.bincount(place, right, BINS) / images
    error = 100 * float(np.nansum(images * np.abs(sure - accuracy))) / max(len(right), 1)
    return np.stack([images, sure, accuracy], 1), error


def risk_coverage(confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The error among the most confident images, by their share. El-Yaniv and Wiener, JMLR 2010.

    Args:
        confidence: float [N] in [0, 1], probability of the predicted class; N > 0.
        right: bool [N], whether that is the true class.

    Returns:
        float64 [M, 2], M <= 100: share of the images that are answered, rising to 1, and of wrong ones among them.
    """
    wrong = np.cumsum(~right[np.argsort(-confidence, kind="stable")])
    images = np.unique(np.ceil(np.linspace(0, len(right), 101)[1:]).astype(np.int64))
    return np.stack([images / len(right), wrong[images - 1] / images], 1)
