"""Which recipe to start from, and why; what to mend before."""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glmc import recipe
from glmc.stats.facts import Facts

BALANCED = 3.0  # imbalance below which re-weighting has hardly anything to correct
SMALL = 64  # pixels of the shorter side up to which a network for small images takes them as they are
FEW = 20  # images of the middle class below which hardly anything is learnt from scratch
TAIL = 10  # the same of the smallest class
PLENTY = 50_000  # images from which training large images from scratch is worth a comparison


SCRATCH = ("folder/ce", "folder/glmc")  # recipes of small networks, to which the network is named


class Advice(NamedTuple):
    """What to do next.

    Args:
        mend: sentences; what to put right first.
        recipe: to start from.
        command: of a shell, to train it.
        why: sentences.
        also: another command worth comparing with; "" if there is none.
        when: for which purpose.
    """

    mend: tuple[str, ...]
    recipe: str
    command: str
    why: tuple[str, ...]
    also: str
    when: str


def advise(facts: Facts, assignments: Sequence[str] = ()) -> Advice:
    """The recipe to start from.

    Args:
        facts: of the data set.
        assignments: key=value of the command line, which the command to train repeats.
    """
    data = facts.settings.data
    if data.name not in ("folder", "list"):
        packaged = _packaged(data.name)
        reason = f"it is the package's recipe for {data.name}"
        return Advice(mend(facts), packaged, command(packaged, assignments), (reason,), "", "")
    given = list(assignments)
    if data.name == "list":
        listed = [word for word in assignments if word.startswith("data.train_list=")]
        given = ["data.name=list", *(() if listed else (f"data.train_list={data.train_list}",)), *given]
    if not any(word.startswith("data.root=") for word in assignments):
        given.insert(0, f"data.root={data.root}")
    name, extra, why, other, when = choose(facts)
    also = command(other, [*given, *(extra if other in SCRATCH else ())]) if other else ""
    return Advice(mend(facts), name, command(name, [*given, *extra]), tuple(why), also, when)


def choose(facts: Facts) -> tuple[str, list[str], list[str], str, str]:
    """(recipe, its assignments, reasons, another recipe or "", when that one)."""
    counts = facts.trained[facts.trained > 0]
    median, smallest, total = int(np.median(counts)), int(counts.min()), int(counts.sum())
    even = facts.imbalance < BALANCED
    balance = f"the largest class has {facts.imbalance:,.0f} times the images of the smallest"
    if even:
        balance = f"an imbalance factor of {facts.imbalance:.1f} is no long tail: methods for one will not help"
    tail = f"the smallest class has {number(smallest, 'image')} to learn from"
    if median < FEW:
        scarce = (
            f"half of the classes have at most {number(median, 'image')} to train on: that takes pretrained features, "
            "and a linear classifier on them learns least by heart"
        )
        return "folder/linear", [], [scarce, balance], "folder/finetune", "adapts the features too, slower"
    if facts.short_side <= SMALL:
        side = 32 if facts.short_side <= 40 else 64
        extra = ["model.name=resnet32", f"data.size={side}"]
        small = f"images of about {facts.short_side} pixels suit resnet32, trained from scratch in minutes to hours"
        if even:
            return "folder/ce", extra, [balance, small], "", ""
        if smallest < TAIL:
            return "folder/glmc", extra, [small, balance], "folder/finetune", f"{tail}; pretrained features may help it"
        return "folder/glmc", extra, [small, balance], "folder/ce", "plain cross entropy, to see what GLMC gains"
    large = f"images of about {facts.short_side} pixels suit a pretrained network, fine-tuned in a few epochs"
    why = [large, balance, tail] if smallest < TAIL and not even else [large, balance]
    if total >= PLENTY and not even:
        return "folder/finetune", [], why, "folder/glmc", f"from scratch, for which {total:,} images may be enough"
    return "folder/finetune", [], why, "folder/linear", "frozen features: minutes, and a good first figure"


def mend(facts: Facts) -> tuple[str, ...]:
    """What to put right before training, the gravest first."""
    found, twins = facts.found, facts.twins
    sentences = []
    if found.refusal:
        sentences.append(f"training refuses these data: {found.refusal}")
    if facts.odd["broken"]:
        sentences.append(
            f"{number(len(facts.odd['broken']), 'image')} cannot be read, which stops the training: replace or remove "
            "them"
        )
    if twins.across.images:
        sentences.append(
            f"{number(twins.across.images, 'image')} with the same bytes as one of another class: the labels "
            "contradict each other; keep the right one"
        )
    for part, copies in (("test", twins.test), ("validation", twins.val)):
        if copies.images:
            sentences.append(
                f"{number(copies.images, f'{part} image')} with the same bytes as a training image: the figures would "
                "flatter; remove them from one side"
            )
    if twins.within.images and "test" not in found.parts:
        sentences.append(
            f"{number(twins.within.images, 'image')} with the same bytes as another of the class, and no test set: of "
            "the images held out for it, some would have been trained on; remove the copies"
        )
    if "test" in found.parts:
        sentences += _test_set(found.parts["test"].counts)
    return tuple(sentences)


def _test_set(counts: NDArray[np.int64]) -> list[str]:
    """What a test set cannot tell."""
    there = counts[counts > 0]
    if len(there) < len(counts):
        return [f"the test set has no image of {number(len(counts) - len(there), 'class')}: nothing is known of them"]
    if there.max() > BALANCED * there.min():
        return [
            f"the test set has {there.max():,} to {there.min():,} images a class: read the balanced accuracy rather "
            "than top-1"
        ]
    return []


def command(name: str, assignments: Sequence[str]) -> str:
    """The line of a shell that trains a recipe."""
    return " ".join(["glmc train", name, *map(shlex.quote, assignments)])


def number(count: int, noun: str) -> str:
    """A count with its noun.

    >>> number(1, "class"), number(2000, "class")
    ('1 class', '2,000 classes')
    """
    plural = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{plural}"


def _packaged(source: str) -> str:
    """The recipe that comes with the package for a named set: GLMC with our defaults if there is one."""
    names = recipe.names()
    best = [f"{source}_lt/glmc", f"{source}/glmc", f"{source}/glmc_bs", f"{source}/glmc_published"]
    return next(name for name in best if name in names)
