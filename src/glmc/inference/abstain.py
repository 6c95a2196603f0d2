"""When to answer "unknown", and sets of classes that hold the true one as often as is asked: functions of arrays.

Both are chosen on held-out images and hold for images like these, of classes as frequent as there:

- *unknown*: an image is answered if the probability of its most probable class exceeds a threshold (El-Yaniv and
  Wiener, JMLR 2010; Geifman and El-Yaniv, NeurIPS 2017, arXiv:1705.08500). For a stated error, it is that one of
  `STEPS` fixed coverages which answers most while its exact upper bound (Clopper and Pearson, Biometrika 1934) stays
  within the stated error. The bounds are taken at `UNSURE / STEPS`, so that all of them hold at once, whichever is
  chosen (Bonferroni).
- *sets*: every class whose probability reaches a threshold, the smallest sets on average (Sadinle et al., JASA 2019,
  arXiv:1609.00451), split-conformal (Vovk et al., 2005). One threshold for each group of classes, as in Ding et al.,
  NeurIPS 2023, arXiv:2306.09335, with clusters set beforehand by training images: the true class of an image is in its
  set with the probability asked for, for the images of each group by themselves. A class with six images cannot have
  a threshold of its own. A group with too few held-out images shares that of the next more frequent one; if its own
  lowest score is lower, it takes that, which covers n / (n + 1) of its images by itself.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from glmc.errors import UserError
from glmc.metrics import GROUPS, risk_coverage

UNSURE = 0.05  # how often a promise on the error may fail, over drawings of the held-out images
STEPS = 20  # coverages that are looked at
STATED = ("error=0.02", "error=0.05", "error=0.1", "error=0.2", "coverage=0.9", "coverage=0.7")  # for reports
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # of sets, for reports
MORE = "run glmc calibrate with more --images"


class Kept(NamedTuple):
    """What is kept of N images with known classes."""

    labels: NDArray[np.int64]  # [N], in [0, C)
    true: NDArray[np.float64]  # [N] in [0, 1], probability of the true class
    first: NDArray[np.float64]  # [N] in [0, 1], probability of the most probable class

    @property
    def right(self) -> NDArray[np.bool_]:
        """bool [N]: the most probable class is the true one."""
        return self.true == self.first


def kept(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> Kept:
    """Of float64 [N, C] and int64 [N]."""
    return Kept(labels, probabilities[np.arange(len(labels)), labels], probabilities.max(1))


def rank(images: int, share: float) -> int:
    """The place k, counted from 1, of the smallest of so many scores that a new one exceeds with probability `share`.

    It does so with probability 1 - k / (images + 1), or reaches it more often where scores are equal; 0: even the
    smallest score is too high.
    """
    return images + 1 - math.ceil(round((images + 1) * share, 9))


# --------------------------------------------------------------------------------------------------------- unknown


class Threshold(NamedTuple):
    """Images are answered above `value`; of the held-out ones `answered` are, `wrong` of them wrongly."""

    value: float
    answered: int
    wrong: int

    def bound(self, unsure: float) -> float:
        """What the error among the answered exceeds in a share `unsure` of all drawings of the held-out images."""
        if self.wrong == self.answered:
            return 1.0
        return float(beta.ppf(1 - unsure, self.wrong + 1, self.answered - self.wrong))


def threshold_at(held: Kept, value: float) -> Threshold:
    """The threshold of this value in [0, 1)."""
    above = held.first > value
    return Threshold(value, int(above.sum()), int((above & ~held.right).sum()))


def for_coverage(held: Kept, share: float) -> Threshold:
    """The highest threshold above which at least this share of images lies, in (0, 1); conformal, see `rank`."""
    number = rank(len(held.first), share)
    return threshold_at(held, float(np.sort(held.first)[number - 1]) if number else 0.0)


def candidates(held: Kept) -> list[Threshold]:
    """The thresholds for coverages 1, ..., `STEPS` of `STEPS`. Each is the probability of the first image left out."""
    falling = [*np.sort(held.first)[::-1].tolist(), 0.0]
    return [threshold_at(held, falling[len(held.first) * step // STEPS]) for step in range(1, STEPS + 1)]


def for_error(held: Kept, most: float) -> Threshold | None:
    """The threshold that answers most images with an error of at most `most`; None where none can be promised."""
    fitting = [each for each in candidates(held) if each.bound(UNSURE / STEPS) <= most]
    return max(fitting, key=lambda each: each.answered, default=None)


def asked(text: str) -> tuple[str, float]:
    """("error", 0.05) of "error=0.05"; a `UserError` if it is not of this kind."""
    name, _, number = text.partition("=")
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if name not in ("error", "coverage") or not 0 < share < 1:
        raise UserError(f"--unknown {text}: write error=0.05 or coverage=0.9, a share between 0 and 1")
    return name, share


def threshold_for(text: str, held: Kept) -> tuple[Threshold, str]:
    """The threshold that is asked for, and a sentence on what it promises.

    Args:
        text: "error=0.05" or "coverage=0.9".
        held: of the held-out images, at least one.

    Raises:
        UserError: neither of the two, or more than so many images can promise.
    """
    name, share = asked(text)
    found = for_coverage(held, share) if name == "coverage" else for_error(held, share)
    if found is None:
        least = math.ceil(1000 * min(each.bound(UNSURE / STEPS) for each in candidates(held))) / 1000
        raise UserError(
            f"--unknown {text}: the least error that these {len(held.first)} held-out images can promise is {least:g}; "
            f"allow more, or {MORE}"
        )
    most = 100 * promised(name, found)
    what = f"unknown up to a probability of {found.value:.3g}" if found.value else "no image is unknown"
    return found, (
        f"{what}: {found.answered} of {len(held.first)} held-out images are "
        f"answered, {found.wrong} of them wrongly; of images like these, with classes as frequent as here, at most "
        f"{most:.1f} % of the answers are wrong ({100 * (1 - UNSURE):.0f} % confidence)"
    )


def promised(name: str, found: Threshold) -> float:
    """What the error is promised not to exceed; `name` as `asked` gives it: an error is chosen among `STEPS`."""
    return found.bound(UNSURE if name == "coverage" else UNSURE / STEPS)


# ------------------------------------------------------------------------------------------------------------ sets


class Sets(NamedTuple):
    """A class is in the set of an image if its probability is at least `least`, or if it is the most probable one."""

    least: NDArray[np.float64]  # [C]
    parts: list[tuple[tuple[str, ...], int]]  # groups that share a threshold, and their held-out images

    def of(self, probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
        """bool [B, C]: the classes in the sets, of float64 [B, C]."""
        return (probabilities >= self.least) | (probabilities == probabilities.max(1, keepdims=True))


def refuse_no_share(share: float) -> None:
    """Raise a `UserError` unless sets can hold the true class so often."""
    if not 0 < share < 1:
        raise UserError(f"--sets {share:g}: give a share between 0 and 1, e.g. 0.9")


def sets_for(share: float, held: Kept, group: NDArray[np.int64]) -> Sets:
    """The thresholds with which sets hold the true class of so many images of each group.

    Args:
        share: in (0, 1).
        held: of the held-out images.
        group: int64 [C], place in `GROUPS` of each class.

    Raises:
        UserError: more than so many images can promise.
    """
    least, parts = np.zeros(len(group)), []
    of_image = group[held.labels]
    for places in together(of_image, set(group.tolist()), fewest(share)):
        scores = np.sort(held.true[np.isin(of_image, places)])
        for place in places:
            own = np.sort(held.true[of_image == place])
            at = max(rank(len(own), share), 1)
            least[group == place] = min(scores[rank(len(scores), share) - 1], *own[at - 1 : at])
        parts.append((tuple(GROUPS[place] for place in places), len(scores)))
    if not parts:
        raise UserError(
            f"--sets {share:g}: takes {fewest(share)} held-out images, and there are {len(held.labels)}; ask for less, "
            f"or {MORE}"
        )
    return Sets(least, parts[::-1])


def fewest(share: float) -> int:
    """The number of held-out images below which sets would have to hold all classes."""
    return math.ceil(round(share / (1 - share), 9))


def together(groups: NDArray[np.int64], there: set[int], images: int) -> list[list[int]]:
    """Places in `GROUPS`, rarest first, that share a threshold, each with at least so many held-out images; or none.

    Args:
        groups: int64 [N], of the held-out images.
        there: groups that have classes.
        images: at least 1.
    """
    found: list[list[int]] = []
    waiting: list[int] = []
    for place in sorted(there, reverse=True):
        waiting = [place, *waiting]
        if np.isin(groups, waiting).sum() >= images:
            found.append(waiting)
            waiting = []
    if found:
        found[-1] = waiting + found[-1]
    return found


def promise(found: Sets, share: float) -> str:
    """What sets cover, in words."""
    parts = [
        f"{' and '.join(names)}{' together' if len(names) > 1 else ''} ({images} held-out images)"
        for names, images in found.parts
    ]
    what = f"sets hold the true class of at least {100 * share:g} % of images like the held-out ones"
    return f"{what}, by group of classes: {'; '.join(parts)}"


# -------------------------------------------------------------------------------------------------------- measured


def measured(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], held: Kept, group: NDArray[np.int64]
) -> dict[str, Any]:
    """What thresholds and sets chosen on held-out images do on test images; see `runs.shapes.Measured`.

    Args:
        probabilities: float64 [N, C], of the test images, N > 0.
        labels: int64 [N].
        held: of the held-out images.
        group: int64 [C], place in `GROUPS` of each class.
    """
    test, of_image = kept(probabilities, labels), group[labels]
    members = {"all": np.ones(len(labels), dtype=np.bool_)}
    members |= {name: of_image == place for place, name in enumerate(GROUPS) if place in of_image}
    there, here = (np.bincount(each, minlength=len(group)) / len(each) for each in (held.labels, labels))
    alike = (there / np.where(here > 0, here, 1))[labels]  # makes classes as frequent as in the held-out images
    chosen = {}
    for text in STATED:
        name, share = asked(text)
        chosen[text] = for_coverage(held, share) if name == "coverage" else for_error(held, share)
    return {
        "images": len(labels),
        "curves": {name: risk_coverage(test.first[of], test.right[of]).tolist() for name, of in members.items()},
        "unknown": [
            {"asked": text, "images": int((test.first > each.value).sum()), "promised": promised(asked(text)[0], each)}
            | answers(test, each.value, np.ones(len(labels)))
            | {"alike": answers(test, each.value, alike)}
            for text, each in chosen.items()
            if each is not None
        ],
        "sets": [
            {"asked": share, "groups": covered(sets_for(share, held, group).of(probabilities), labels, members)}
            for share in LEVELS
            if fewest(share) <= len(held.labels)
        ],
    }


def answers(test: Kept, value: float, weights: NDArray[np.float64]) -> dict[str, float]:
    """The share of test images that a threshold answers, and of these the wrong ones; images have weights [N]."""
    above = test.first > value
    answered, wrong = float(weights[above].sum()), float(weights[above & ~test.right].sum())
    whole = float(weights.sum())
    return {"answered": answered / whole if whole else 0.0, "wrong": wrong / answered if answered else 0.0}


def covered(
    sets: NDArray[np.bool_], labels: NDArray[np.int64], members: dict[str, NDArray[np.bool_]]
) -> dict[str, dict[str, Any]]:
    """Images, those whose set (bool [N, C]) holds the true class, and mean size of a set, by group (bool [N])."""
    held, sizes = sets[np.arange(len(labels)), labels], sets.sum(1)
    return {
        name: {"images": int(of.sum()), "covered": float(held[of].mean()), "size": float(sizes[of].mean())}
        for name, of in members.items()
    }
