"""Which recipe to start from and why, and what to fix first."""

import shlex
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from glmc import recipe
from glmc.data.split import Paths
from glmc.recipe.systems import onto, packaged
from glmc.stats.facts import Facts
from glmc.stats.files import usual_size
from glmc.stats.find import Found

BALANCED = 3.0  # below this imbalance, re-weighting has little to correct
SMALL = 64  # pixels; images with a shorter side of up to this suit a network for small images
FEW = 20  # with fewer images in the median class, little can be learnt from scratch
TAIL = 10  # with fewer images, the smallest class is mentioned
PLENTY = 50_000  # with this many large images, training from scratch is worth a comparison
CROP = 0.875  # what the recipes for pretrained networks keep of data.size
SCRATCH = ("folder/ce", "folder/glmc_plus")  # recipes that train a network from scratch


class Advice(NamedTuple):
    """What to do next.

    Args:
        mend: sentences; what to fix first.
        recipe: to start from.
        command: the shell command that trains it.
        why: sentences.
        also: another command worth comparing with; "" if there is none.
        when: what that one is for.
    """

    mend: tuple[str, ...]
    recipe: str
    command: str
    why: tuple[str, ...]
    also: str
    when: str


class Choice(NamedTuple):
    """A recipe for your own images.

    Args:
        recipe: to start from.
        overrides: key=value that these images need.
        why: sentences.
        other: a recipe worth comparing with; "" if there is none.
        when: what that one is for.
    """

    recipe: str
    overrides: tuple[str, ...]
    why: tuple[str, ...]
    other: str = ""
    when: str = ""

    def overrides_for(self, scratch: str) -> tuple[str, ...]:
        """The overrides for another recipe that trains from scratch, which has augmentation of its own."""
        return tuple(_shifted(scratch) if word.startswith("views.") else word for word in self.overrides)


def advise(facts: Facts, assignments: Sequence[str] = ()) -> Advice:
    """The recipe to start from.

    Args:
        facts: of the data set.
        assignments: key=value of the command line; the training command repeats them.
    """
    data = facts.settings.data
    if data.name not in ("folder", "list"):
        name = _packaged(data.name)
        reason = f"it is the package's recipe for {data.name}"
        return Advice(mend(facts), name, command(name, assignments), (reason,), "", "")
    given = list(assignments)
    if data.name == "list":
        listed = [word for word in assignments if word.startswith("data.train_list=")]
        given = ["data.name=list", *(() if listed else (f"data.train_list={data.train_list}",)), *given]
    if not any(word.startswith("data.root=") for word in assignments):
        given.insert(0, f"data.root={data.root}")
    choice = choose(facts.found, given)
    extra = choice.overrides_for(choice.other) if choice.other in SCRATCH else ()
    also = command(choice.other, [*given, *extra]) if choice.other else ""
    start = command(choice.recipe, [*given, *choice.overrides])
    return Advice(mend(facts), choice.recipe, start, choice.why, also, choice.when)


def choose(found: Found, given: Sequence[str]) -> Choice:
    """The recipe for a folder or a list of images, as `glmc stats` advises it and `glmc train FOLDER` takes it.

    The rule reads class sizes, the headers of some training images, for a pretrained network whether its weights can be
    had, and for large images whether there is a GPU. From scratch it is glmc_plus, which won where they were compared
    (docs/glmc-plus.md) and costs about what cross entropy does.

    Args:
        found: the images.
        given: key=value of the user, which win over those of the choice.
    """
    trained = found.trained[found.trained > 0]
    median, smallest, total = int(np.median(trained)), int(trained.min()), int(trained.sum())
    images = found.parts["train"].images
    assert isinstance(images, Paths), "arrays are named sets, which have recipes of their own"
    width, height = usual_size(images)
    small, even = min(width, height) <= SMALL, found.imbalance < BALANCED
    balance = f"the largest class has {found.imbalance:,.0f} times the images of the smallest"
    if even:
        balance = f"an imbalance factor of {found.imbalance:.1f} is no long tail: methods for one will not help"
    tail = f"the smallest class has {number(smallest, 'image')} to learn from"
    scratch = "folder/ce" if even else "folder/glmc_plus"
    usual = f"images of about {width} x {height} pixels"

    def chosen(name: str, extra: Sequence[str], why: Sequence[str], other: str = "", when: str = "") -> Choice:
        return Choice(name, tuple(extra), (*why, *_resized(name, (*extra, *given), width, height)), other, when)

    named = dict(word.partition("=")[::2] for word in given)
    weights = named.get("model.pretrained", "true")
    own = weights not in ("true", "false")  # a file
    if small and median >= FEW and not own:
        why = f"{usual} suit resnet32, trained from scratch in minutes to hours"
        extra = _left_open(_small_network(scratch, min(width, height)), given)
        if even:
            return chosen(scratch, extra, (balance, why))
        if smallest < TAIL:
            return chosen(scratch, extra, (why, balance), "folder/finetune", f"{tail}; pretrained features may help it")
        when = "plain cross entropy, to see what the class frequencies in the loss gain"
        return chosen(scratch, extra, (why, balance), "folder/ce", when)

    from glmc import runtime  # loads torch
    from glmc.models import SMALL_IMAGE
    from glmc.models.pretrained import told
    from glmc.models.weights import obstacle

    fast = runtime.pick_device(named.get("train.device", "auto")).type != "cpu"
    known = told(weights) if own else None
    network = named.get("model.name", known.network if known else recipe.load("folder/finetune").model.name)
    missing = None if own else obstacle(network)
    if missing is not None:
        why = (
            f"the weights of {network} cannot be had ({missing}), so a network is trained from scratch; "
            "folder/finetune model.pretrained=FILE takes weights that you have"
        )
        extra = _small_network(scratch, min(width, height)) if small else ("data.size=128",) if fast else ()
        return chosen(scratch, _left_open(extra, given), (why, balance))
    if own and network in SMALL_IMAGE:
        why = f"weights of your own, of a small network, are a better start than random ones; all of {network} learns"
        extra = _small_network(scratch, known.size if known else 32, network)
        return chosen(scratch, _left_open(extra, given), (why, balance))
    told_so = (f"model.name={network}", f"data.size={round(known.size / CROP)}") if known else ()
    probe = _left_open(told_so, given)
    if median < FEW:
        why = (
            f"half of the classes have at most {number(median, 'image')} to train on: that takes pretrained features, "
            "and a linear classifier on them overfits least"
        )
        return chosen(
            "folder/linear", probe, (why, balance), "folder/finetune", "adapts the features too, but takes longer"
        )
    if not fast:
        why = "without a GPU a large pretrained network is best left as it is, with a linear classifier trained on it"
        return chosen("folder/linear", probe, (why, balance), "folder/finetune", "adapts the features too: on a GPU")
    why = f"{usual} suit a pretrained network, fine-tuned in a few epochs"
    reasons = (why, balance, tail) if smallest < TAIL and not even else (why, balance)
    named_one = own or "model.name" in named
    transformer = _is_transformer(network) if named_one else obstacle(recipe.load("folder/lift").model.name) is None
    if transformer and not even:
        why = "a pretrained transformer in which few weights learn keeps what it knows of rare classes"
        return chosen("folder/lift", probe, (why, *reasons[1:]), "folder/linear", "frozen features: minutes")
    if total >= PLENTY and not even:
        when = f"from scratch, for which {total:,} images may be enough"
        return chosen("folder/finetune", probe, reasons, scratch, when)
    when = "frozen features: minutes, and a good first figure"
    return chosen("folder/finetune", probe, reasons, "folder/linear", when)


def _is_transformer(name: str) -> bool:
    """Whether adapters can be put into a network."""
    import timm
    import torch

    from glmc.models.adapters import blocks

    if not timm.is_model(name):
        return False
    with torch.device("meta"):
        return bool(blocks(timm.create_model(name, num_classes=0)))


def _small_network(scratch: str, side: int, network: str = "resnet32") -> tuple[str, ...]:
    """What a recipe that trains from scratch needs for small images."""
    if side > 40:
        return (f"model.name={network}", "data.size=64")
    return (f"model.name={network}", "data.size=32", _shifted(scratch))


def _shifted(scratch: str) -> str:
    """The training view of a recipe that trains from scratch, with tiny images shifted instead of cropped."""
    base, _, system = scratch.partition("/")
    tree = packaged(scratch) if scratch in recipe.names() else onto(f"{base}/ce", system)[0].tree
    rest = [operation for operation in tree["views"]["train"] if "resized_crop" not in operation]
    view = yaml.safe_dump([{"crop": 4}, *rest], default_flow_style=True, sort_keys=False, width=1000)
    return f"views.train={view.strip()}"


def _resized(name: str, assignments: Sequence[str], width: int, height: int) -> tuple[str, ...]:
    """A sentence about the size that a recipe brings images to, if it is not the one they have."""
    wanted = recipe.load(name, assignments)
    size = wanted.data.size
    if size is None or (width, height) == (size, size):
        return ()
    why = (
        "what its weights are for"
        if wanted.model.pretrained
        else f"so that {wanted.model.name} trains in reasonable time"
    )
    cut = "" if width == height else "the middle square of "
    return (
        f"{cut}each image of about {width} x {height} pixels becomes {size} x {size}, {why}; data.size=N changes it",
    )


def _left_open(overrides: Iterable[str], given: Sequence[str]) -> tuple[str, ...]:
    """The overrides whose key, or the section of it, is not among those given."""
    keys = {assignment.partition("=")[0] for assignment in given}
    return tuple(word for word in overrides if keys.isdisjoint({word.partition("=")[0], word.partition(".")[0]}))


def mend(facts: Facts) -> tuple[str, ...]:
    """What to fix before training, the most serious first."""
    found, duplicates = facts.found, facts.duplicates
    sentences = []
    if found.refusal:
        sentences.append(f"training refuses these data: {found.refusal}")
    if facts.odd["broken"] and facts.settings.data.on_bad_image == "error":
        sentences.append(
            f"{number(len(facts.odd['broken']), 'image')} cannot be read, which stops the training: replace or remove "
            "them, or leave them out with data.on_bad_image=skip"
        )
    if duplicates.across.images:
        sentences.append(
            f"{number(duplicates.across.images, 'image')} with the same bytes as one of another class: the labels "
            "contradict each other; keep the right one"
        )
    for part, copies in (("test", duplicates.test), ("validation", duplicates.val)):
        if copies.images:
            sentences.append(
                f"{number(copies.images, f'{part} image')} with the same bytes as a training image, which inflates "
                "the results: remove them from one side"
            )
    sentences += _near(facts)
    if duplicates.within.images and "test" not in found.parts:
        sentences.append(
            f"{number(duplicates.within.images, 'image')} with the same bytes as another of the class, and no test "
            "set: of the images held out for it, some would have been trained on; remove the copies"
        )
    if "test" in found.parts:
        sentences += _test_set(found.parts["test"].counts)
    return tuple(sentences)


def _near(facts: Facts) -> list[str]:
    """Images that are nearly the same on both sides of a split."""
    sentences, groups = [], facts.settings.data.groups
    together = "keep them together with data.groups (parent-folder, column:NAME, or a pattern of their paths)"
    if groups is not None:
        together = f"data.groups={groups} parts them, so name larger groups"
    for part, copies in facts.near.items():
        if not copies.images or (part == "train" and "held" in facts.near):  # then only what lies across matters
            continue
        image, twin = map(facts.name, copies.examples[0])
        if part == "train":
            sentences.append(
                f"{number(copies.images, 'image')} nearly the same as another, e.g. {image} and {twin}, and no test "
                f"set: of those held out for it, some would have been trained on; {together}, or remove true copies"
            )
        elif part == "held":
            held = int(facts.counts.sum() - facts.trained.sum())
            sentences.append(
                f"{copies.images:,} of the {number(held, 'image')} held out for testing nearly the same as a training "
                f"image, e.g. {image} and {twin}, which inflates the results: {together}, or remove true copies"
            )
        else:
            sentences.append(
                f"{number(copies.images, f'{part} image')} nearly the same as a training image, e.g. {image} and "
                f"{twin}: look at them, and remove true copies from one side, or let data.groups split both anew, from "
                "one folder"
            )
    return sentences


def _test_set(counts: NDArray[np.int64]) -> list[str]:
    """What the test set cannot tell."""
    there = counts[counts > 0]
    if len(there) < len(counts):
        return [
            f"the test set has no image of {number(len(counts) - len(there), 'class')}: nothing can be said about these"
        ]
    if there.max() > BALANCED * there.min():
        return [
            f"the test set has {there.max():,} to {there.min():,} images a class: read the balanced accuracy rather "
            "than top-1"
        ]
    return []


def command(name: str, assignments: Sequence[str]) -> str:
    """The shell command that trains a recipe."""
    return " ".join(["glmc train", name, *map(shlex.quote, assignments)])


def number(count: int, noun: str) -> str:
    """A count with its noun.

    >>> number(1, "class"), number(2000, "class")
    ('1 class', '2,000 classes')
    """
    plural = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{plural}"


def _packaged(source: str) -> str:
    """The package's recipe for a named set: GLMC with our defaults if there is one."""
    names = recipe.names()
    best = [f"{source}_lt/glmc", f"{source}/glmc", f"{source}/glmc_bs", f"{source}/glmc_published"]
    return next(name for name in best if name in names)
