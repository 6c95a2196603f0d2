"""Whether a gap between two accuracies is more than noise: over seeds, over test images, or over classes.

Every function returns a `Gap` in percentage points, B minus A. Bootstrap and sign flips draw from a fixed seed, so
the same numbers give the same words.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glmc.metrics import QUANTILE, effective

DRAWS = 4000
LEVEL = 0.05
FEWEST_CLASSES = 10  # a bootstrap over fewer classes tells nothing


class Gap(NamedTuple):
    """B minus A, in percentage points.

    Attributes:
        points: the gap.
        low, high: 95 % interval.
        p: probability of a gap at least this large if there were no difference; two-sided, in (0, 1].
        how: the test and its numbers, in words.
    """

    points: float
    low: float
    high: float
    p: float
    how: str


def over_seeds(a: Sequence[float], b: Sequence[float]) -> Gap | None:
    """Welch's t-test (Biometrika 1947) between the runs of two recipes; None where neither varies.

    Args:
        a, b: a metric in percent for each seed, at least two each.
    """
    from scipy.stats import ttest_ind

    points = float(np.mean(b) - np.mean(a))
    how = f"Welch's t-test over {len(a)} and {len(b)} seeds"
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # runs of one recipe that agree to the last digit
        found = ttest_ind(b, a, equal_var=False)
    interval = found.confidence_interval(1 - LEVEL)
    return Gap(points, float(interval.low), float(interval.high), float(found.pvalue), how)


def over_images(a: NDArray[np.bool_], b: NDArray[np.bool_], strata: NDArray[np.int64] | None = None) -> Gap:
    """Two runs on the same test images: who is right where the other is not.

    Without strata the p-value is the mid-p of McNemar's exact test, which agrees with the interval (Fagerland, Lydersen
    and Laake, BMC Medical Research Methodology 2013). With strata the metric is the mean over classes, and under "no
    difference" each image on which the two disagree is a coin thrown for its class: exact where these classes are of
    one size, from `DRAWS` throws elsewhere. The interval is `paired`, of the shares of images that only one of the two
    has right; where classes differ in size, of as many images as `effective` says.

    Args:
        a, b: bool [N], which images each run has right.
        strata: int64 [N], class of each image; every class counts the same. None: every image does.
    """
    strata = np.zeros(len(a), dtype=np.int64) if strata is None else strata
    _, place = np.unique(strata, return_inverse=True)
    size = np.bincount(place)  # [S] images of each stratum
    gained, lost = np.bincount(place[b & ~a], minlength=len(size)), np.bincount(place[a & ~b], minlength=len(size))
    apart, number = int((gained + lost).sum()), effective(size)
    won, forgone = float(np.mean(gained / size)), float(np.mean(lost / size))
    low, high = paired(won * number, forgone * number, number)
    how = f"paired over {len(a):,} test images, {apart:,} of which only one of the two has right"
    return Gap(100 * (won - forgone), 100 * float(low), 100 * float(high), coins(gained, lost, size), how)


def paired(gained: ArrayLike, lost: ArrayLike, images: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % score interval of the difference of two paired shares. Tango, Statistics in Medicine 1998.

    The share of disagreements is fitted to each difference that is tried, not taken from these images as if others had
    to show as many: so a large gap is not told too surely, nor the lack of one where no image tells the two apart.

    Args:
        gained, lost: images that only B, and only A, has right; any shape, whole numbers or not.
        images: of both, the agreements among them.

    Returns:
        Lower and upper end, each in [-1, 1].
    """
    gained, lost, images = (np.asarray(value, dtype=np.float64) for value in (gained, lost, images))
    difference = (gained - lost) / images

    def distance(tried: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many standard errors the difference is from the one that is tried."""
        b = (2 * images - gained + lost) * tried - gained - lost
        c = -lost * tried * (1 - tried)
        forgone = (np.sqrt(np.maximum(b * b - 8 * images * c, 0)) - b) / (4 * images)  # likeliest share that B loses
        variance = (2 * forgone + tried * (1 - tried)) / images
        return np.abs(difference - tried) / np.sqrt(np.maximum(variance, 1e-12))

    ends = []
    for border in (-1.0, 1.0):
        inside, outside = difference, np.full_like(difference, border)
        for _ in range(40):  # halvings, to 1e-12
            middle = (inside + outside) / 2
            held = distance(middle) <= QUANTILE
            inside, outside = np.where(held, middle, inside), np.where(held, outside, middle)
        ends.append(inside)
    return ends[0], ends[1]


def coins(gained: NDArray[np.int64], lost: NDArray[np.int64], size: NDArray[np.int64]) -> float:
    """Two-sided mid-p of sum((gained - lost) / size) when each of the gained + lost images is a fair coin; [S] each.

    An outcome as large as the one seen counts half.
    """
    from scipy.stats import binom

    apart = gained + lost
    if not apart.any():
        return 1.0
    if len(set(size[apart > 0].tolist())) == 1:
        more, coin = max(gained.sum(), lost.sum()), binom(apart.sum(), 0.5)
        return float(2 * coin.sf(more) + coin.pmf(more))
    random, thrown = np.random.default_rng(1), np.zeros(DRAWS)
    for n in np.unique(size):  # coins of equal weight are thrown together
        number = int(apart[size == n].sum())
        thrown += (2 * random.binomial(number, 0.5, DRAWS) - number) / n
    seen = abs(float(np.sum((gained - lost) / size)))
    larger, equal = np.abs(thrown) > seen + 1e-9, np.isclose(np.abs(thrown), seen, rtol=0, atol=1e-9)
    return float(1 + larger.sum() + equal.sum() / 2) / (DRAWS + 1)


def over_classes(a: NDArray[np.float64], b: NDArray[np.float64]) -> Gap | None:
    """Two runs of which only the recalls are known; None for fewer than ten classes.

    Sign flips of the classes' differences, and a bootstrap over the classes.

    Args:
        a, b: float64 [C] in percent, NaN where a class has no test image.
    """
    difference = (b - a)[np.isfinite(a) & np.isfinite(b)]
    if len(difference) < FEWEST_CLASSES:
        return None
    random = np.random.default_rng(0)
    thrown, resampled = np.empty(DRAWS), np.empty(DRAWS)
    for i in range(DRAWS):
        thrown[i] = np.mean(difference * random.choice((-1, 1), len(difference)))
        resampled[i] = np.mean(random.choice(difference, len(difference)))
    points = float(difference.mean())
    p = float(1 + np.sum(np.abs(thrown) >= abs(points) - 1e-9)) / (DRAWS + 1)
    low, high = np.quantile(resampled, [LEVEL / 2, 1 - LEVEL / 2])
    return Gap(points, float(low), float(high), p, f"over {len(difference):,} classes")


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in the order given. Holm, Scandinavian Journal of Statistics 1979."""
    order = np.argsort(values, kind="stable").tolist()
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = highest
    return adjusted


def chance(p: float) -> str:
    """A p-value in words: "about 3 of 100 comparisons"."""
    if p >= 0.995:
        return "practically every comparison"
    if p >= 0.01:
        return f"about {round(100 * p)} of 100 comparisons"
    if p >= 0.001:
        return f"about {round(1000 * p)} of 1,000 comparisons"
    return "fewer than 1 of 1,000 comparisons"
