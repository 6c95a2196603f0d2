"""A long tail cut out of any labelled set: how many images each class keeps, and which.

The exponential profile and the `cao` rows are those of Cao et al., NeurIPS 2019, arXiv:1906.07413, which most papers
use; the `du` rows are those of the published GLMC code (Du et al., CVPR 2023). Both come from numpy's legacy generator,
whose streams numpy keeps for ever, so that the same images are chosen on every machine.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from glmc.errors import UserError

Profile = Literal["exponential", "step"]
Rule = Literal["cao", "du"]
SEEDS = {"cao": 0, "du": 3407}  # of the authors; the published GLMC code takes another one with --seed


def profile_counts(n_max: int, classes: int, imbalance: float, profile: Profile) -> NDArray[np.int64]:
    """Images per class, from the largest class to the smallest.

    "exponential": int(n_max * rate ** (i / (C - 1))) for i = 0 .. C-1, see `rate_of`.
    "step": n_max in the first C // 2 classes, int(n_max / imbalance) in the others.

    Args:
        n_max: images of the largest class, >= 1.
        classes: C, >= 1.
        imbalance: n_max / n_min, >= 1.
        profile: the shape of the tail.

    Returns:
        int64 [C], not increasing; 0 where n_max is too small for the imbalance.

    Raises:
        UserError: imbalance below 1 or not finite, or n_max below 1.
    """
    if not 1 <= imbalance < float("inf"):
        raise UserError(
            f"data.imbalance={imbalance:g} is not possible: it is n_max / n_min, the size of the largest class over "
            "that of the smallest, so give a number of at least 1, e.g. data.imbalance=100"
        )
    if n_max < 1:
        raise UserError(f"data.n_max={n_max} is not possible: the largest class needs at least one image")
    if profile == "step":
        head = classes // 2
        return np.array([n_max] * head + [int(n_max / imbalance)] * (classes - head), dtype=np.int64)
    last, rate = max(classes - 1, 1), rate_of(imbalance)  # a single class keeps n_max
    return np.array([int(n_max * rate ** (i / last)) for i in range(classes)], dtype=np.int64)


def rate_of(imbalance: float) -> float:
    """Smallest class / largest class, in (0, 1]: the decimal that was meant, if its reciprocal is the imbalance.

    Nine digits are tried. In floating point 1 / (1 / 0.055) is less than 0.055, and one image of 275 would be lost.
    """
    decimal = float(f"{1 / imbalance:.9g}")
    return decimal if 1 / decimal == imbalance else 1 / imbalance


def subset(
    labels: NDArray[np.int64],
    counts_wanted: NDArray[np.int64],
    split: Rule,
    classes: Sequence[str],
    seed: int | None = None,
) -> NDArray[np.int64]:
    """The rows that each class keeps.

    "cao": numpy's legacy generator shuffles the row list of each class in label order; the first n_c stay.
    "du": it draws `choice(n_class, n_c, replace=False)` of each class's rows in file order.

    Args:
        labels: int64 [N], in [0, C).
        counts_wanted: int64 [C], images that each class keeps.
        split: the rule of choice.
        classes: C names, for the error.
        seed: of the generator, in [0, 2**32); None takes the authors', 0 for "cao" and 3407 for "du".

    Returns:
        int64 [sum of counts_wanted], rows of class 0, then of class 1, ..., each in the order of choice.

    Raises:
        UserError: a class has fewer images than it should keep.
    """
    # The bits of np.random.seed, without the global state.
    generator = np.random.RandomState(SEEDS[split] if seed is None else seed)
    kept = []
    for label, wanted in enumerate(counts_wanted.tolist()):
        rows = np.flatnonzero(labels == label)
        if len(rows) < wanted:
            raise UserError(f"class {classes[label]!r} has {len(rows)} training images but should keep {wanted}")
        if split == "cao":
            generator.shuffle(rows)
            kept.append(rows[:wanted])
        else:
            kept.append(rows[generator.choice(len(rows), wanted, replace=False)])
    return np.concatenate(kept).astype(np.int64)


def class_order(classes: int, order: Literal["given"] | int) -> NDArray[np.int64]:
    """The place of each class in the profile: 0 is the largest class.

    Args:
        classes: C.
        order: "given" keeps the label order; a whole number >= 0 is the seed of a random order.

    Returns:
        int64 [C], a permutation of 0 .. C-1.

    Raises:
        UserError: a negative seed.
    """
    if order == "given":
        return np.arange(classes, dtype=np.int64)
    if order < 0:
        raise UserError(f'data.class_order={order} is not possible: give "given" or a whole number from 0 as the seed')
    return np.argsort(np.random.Philox(order).random_raw(classes), kind="stable").astype(np.int64)


def longtail_rows(
    labels: NDArray[np.int64],
    classes: Sequence[str],
    *,
    imbalance: float,
    profile: Profile,
    n_max: int | None,
    order: Literal["given"] | int,
    split: Rule,
    seed: int | None = None,
) -> NDArray[np.int64]:
    """The rows of the long-tailed training set.

    Args:
        labels: int64 [N], in [0, C).
        classes: C names, in label order.
        imbalance: n_max / n_min, >= 1.
        profile: the shape of the tail, see `profile_counts`.
        n_max: images of the largest class; None takes the size of the largest class there is.
        order: which class is how large, see `class_order`.
        split, seed: which images stay, see `subset`.

    Returns:
        int64 [M], rows of class 0, then of class 1, ...

    Raises:
        UserError: a class has too few images for the profile, or the profile leaves a class without any.
    """
    available = np.bincount(labels, minlength=len(classes))
    place = class_order(len(classes), order)
    largest = int(available.max()) if n_max is None else n_max
    wanted = profile_counts(largest, len(classes), imbalance, profile)[place]
    short = np.flatnonzero(wanted > available)
    if len(short):
        worst = int(short[np.argmin(available[short] / wanted[short])])
        remedy = _remedy(available, place, largest, imbalance, profile)
        raise UserError(
            f"class {classes[worst]!r} has {available[worst]} training images but needs {wanted[worst]} for "
            f"data.imbalance={imbalance:g} with data.n_max={largest}: {remedy}"
        )
    if wanted.min() < 1:
        raise UserError(
            f"class {classes[int(wanted.argmin())]!r} would keep no image with data.n_max={largest} and "
            f"data.imbalance={imbalance:g}; lower data.imbalance to at most {largest}, or raise data.n_max"
        )
    return subset(labels, wanted, split, classes, seed)


def _remedy(
    available: NDArray[np.int64], place: NDArray[np.int64], too_large: int, imbalance: float, profile: Profile
) -> str:
    """Says the largest n_max that every class can meet, by bisection: the profile grows with n_max."""

    def fails(n_max: int) -> bool:
        return bool((profile_counts(n_max, len(place), imbalance, profile)[place] > available).any())

    works = bisect_left(range(1, too_large + 1), True, key=fails)
    if works < 1 or profile_counts(works, len(place), imbalance, profile).min() < 1:
        return "no data.n_max works here: lower data.imbalance, or choose another data.class_order"
    return f"the largest that works is data.n_max={works}"
