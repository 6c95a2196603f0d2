"""`glmc labels RUNS`: the labels that a cross-validation contradicts most, as a list to correct and a page to look at.

Each image is judged by the network that has not seen it. Confident learning (Northcutt, Jiang and Chuang, JAIR 2021)
holds each class against a threshold of its own, the mean probability of its label, for a network is less sure of some
classes than of others. So does this, but the threshold is the median, and the ratio to it ranks: of mistakes planted
into long-tailed data, that finds more than the probability of the label alone, and flags fewer right labels than the
published rule (tests/inference/test_labels.py). The label of a rare class, which is seldom predicted, has a low
threshold, so that the class is not flagged as a whole. Probabilities are for the class frequencies of the training
images.
"""

import io
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from glmc import report
from glmc.data import parts, sources
from glmc.data.cells import CsvWriter
from glmc.data.inventory import Inventory, names
from glmc.errors import UserError
from glmc.inference import sheet
from glmc.inference.calibrate import assumed_prior, logits_of_split, recipe_of
from glmc.inference.predict import seen_by
from glmc.inference.temperature import reweighted
from glmc.recipe import Settled, parse
from glmc.report.page import render
from glmc.runs import folder, result
from glmc.runs.files import write_atomic
from glmc.runs.shapes import read_json
from glmc.runs.trained import find_checkpoint, load_trained, test_images
from glmc.screen import Screen
from glmc.train.seeds import run_of
from glmc.train.stages import last

LIST, PAGE = "labels.csv", "labels.html"
TIMES = 10  # so many times less probable than is usual in its class is a label that is contradicted


class Judged(NamedTuple):
    """What a network thinks of N labels that it was not trained on.

    Args:
        suggested: int64 [N], the most probable class.
        given, best: float64 [N] in [0, 1], probability of the label and of the suggested class.
        score: float64 [N], > 0: how many times less probable the label is than is usual in its class.
    """

    suggested: NDArray[np.int64]
    given: NDArray[np.float64]
    best: NDArray[np.float64]
    score: NDArray[np.float64]

    def contradicted(self, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool [N]: the labels (int64 [N]) to look at."""
        return (self.score >= TIMES) & (self.suggested != labels)


class Case(NamedTuple):
    """One image: its path from data.root, its label, the class suggested in its place or "", and as in `Judged`."""

    path: str
    label: str
    suggested: str
    p_label: float
    p_best: float
    score: float


def judge(log_probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> Judged:
    """Hold labels against predictions of networks that were not trained on them.

    Args:
        log_probabilities: float64 [N, C], for the class frequencies of the training images.
        labels: int64 [N], in [0, C).
    """
    rows = np.arange(len(labels))
    own = log_probabilities[rows, labels]
    usual = np.zeros(log_probabilities.shape[1])
    for c in np.unique(labels).tolist():
        usual[c] = np.median(own[labels == c])
    suggested = log_probabilities.argmax(1)
    return Judged(suggested, np.exp(own), np.exp(log_probabilities[rows, suggested]), np.exp(usual[labels] - own))


def labels(base: Path, overrides: tuple[str, ...] = (), *, quiet: bool = False) -> None:
    """Write labels.csv, every image of a cross-validation with its label, and labels.html into its folder.

    Args:
        base: of `glmc train --folds`.
        overrides: "key=value" of `calibrate.CHANGEABLE`.
        quiet: nothing on the terminal.

    Raises:
        UserError: no such folder, folds that are not finished, images that are no files or not what they were, or a
            labels.csv that is there already.
    """
    screen = Screen(quiet=quiet)
    runs = folds_of(base)
    with folder.held(base):
        if (base / LIST).exists():
            raise UserError(f"{base / LIST} is there already, and may hold your corrections; rename it, or delete it")
        found = held_out(runs, overrides, screen)
        cases, unjudged, groups = cases_of(found), unjudged_of(found), groups_of(found.recipe)
        title = f"{base.name}, {found.recipe.title}"
        write_atomic(base / PAGE, page(title, cases, found.recipe).encode(errors="replace"))
        report.write(base)  # which leads to the page from now on
        write_list(base / LIST, cases, unjudged, groups)
    number = sum(case.suggested != "" for case in cases)
    screen.say(
        f"{number:,} of {len(cases):,} labels are contradicted by networks that have not seen them: {base / PAGE}"
    )
    if unjudged:
        screen.say(f"{len(unjudged):,} images are in no fold, as their class is one image or one group: not judged")
    classes = found.files["train"].split.classes
    if any(map(str.isdecimal, classes)) and set(classes) != set(map(str, range(len(classes)))):
        screen.say(
            "in a list, labels that are numbers count the classes from 0 on: give the classes names before training"
        )
    screen.say(
        f"correct the column `label` of {base / LIST}, or delete lines, then: "
        + again(base, len(runs), found.recipe, grouped=bool(groups))
    )


def folds_of(base: Path) -> list[Path]:
    """The finished runs of a cross-validation."""
    texts = read_json(list[str], base, "seeds.json") if (base / "seeds.json").is_file() else []
    recipes = [parse(text) for text in texts]
    if not recipes or recipes[0].data.fold is None:
        words = ["glmc", "train", "RECIPE", "--folds", "5"]
        if (base / "recipe.yaml").is_file():
            data = folder.recipe_of(base).data
            alone = sources.training_alone(data.name, data.root, data.test_list)
            words = [*words[:2], str(base / "recipe.yaml"), *words[3:], *filter(None, [alone])]
        raise UserError(
            f"{base} is no cross-validation, and a network hardly contradicts labels that it was trained on: "
            f"{shlex.join(words)} makes a folder to name here"
        )
    runs = [last(run_of(base, each), each) for each in recipes]
    if lacking := [run for run in runs if not result.finished(run)]:
        raise UserError(f"{lacking[0]} is not finished: go on with glmc train --resume {base}")
    return runs


class HeldOut(NamedTuple):
    """What the runs of a cross-validation say of the images that they were tested on.

    Args:
        recipe, files: of the first run.
        images: N paths from data.root.
        labels: int64 [N], in [0, C).
        log_probabilities: float64 [N, C], for the class frequencies of the training images.
    """

    recipe: Settled
    files: Inventory
    images: list[str]
    labels: NDArray[np.int64]
    log_probabilities: NDArray[np.float64]


def held_out(runs: Sequence[Path], overrides: tuple[str, ...], screen: Screen) -> HeldOut:
    """Predict, with each run, the images that it was tested on."""
    found = [predicted(run, overrides, screen) for run in runs]
    images = [name for one in found for name in one.images]
    truth = np.concatenate([one.labels for one in found])
    return HeldOut(*found[0][:2], images, truth, np.concatenate([one.log_probabilities for one in found]))


def predicted(run: Path, overrides: tuple[str, ...], screen: Screen) -> HeldOut:
    """The same of a single run."""
    point = find_checkpoint(run, screen.warn)
    recipe = recipe_of(point, overrides)
    files = folder.inventory_of(point.home, recipe.data.root)
    if files is None:
        raise UserError(f"{run} has no {folder.SPLIT} that names its images, so there is no list to correct")
    trained = load_trained(point, recipe)
    split = test_images(point, recipe, screen)
    assumed = torch.from_numpy(assumed_prior(point, trained)[1])
    logits = torch.from_numpy(logits_of_split(split, recipe, trained, screen))
    shares = torch.from_numpy(trained.counts / trained.counts.sum())
    found = reweighted(logits, 1.0, assumed, shares).numpy()
    return HeldOut(recipe, files, names(files["test"].split), split.labels, found)


def cases_of(found: HeldOut) -> list[Case]:
    """Every image, those with a suggestion first, then by score."""
    judged, classes = judge(found.log_probabilities, found.labels), found.files["test"].split.classes
    doubted = judged.contradicted(found.labels)
    return [
        Case(
            found.images[row],
            classes[found.labels[row]],
            classes[judged.suggested[row]] if doubted[row] else "",
            *(float(values[row]) for values in judged[1:]),
        )
        for row in np.lexsort((-judged.score, ~doubted)).tolist()
    ]


def unjudged_of(found: HeldOut) -> list[tuple[str, str]]:
    """(path, class) of the training images that none of the runs was tested on."""
    judged, drawn = set(found.images), found.recipe.data.val_fraction > 0  # of the training images, for validation
    splits = [part.split for name, part in found.files.items() if name != "val" or drawn]
    pairs = ((name, split.classes[c]) for split in splits for name, c in zip(names(split), split.labels, strict=True))
    return [pair for pair in pairs if pair[0] not in judged]


def groups_of(recipe: Settled) -> dict[str, int]:
    """Path -> number of its group, which it keeps whatever its label becomes; empty without data.groups."""
    if recipe.data.groups is None:
        return {}
    source = parts.find(recipe.data)
    groups: dict[str, int] = {}
    paths = parts.everything(source, recipe.data)
    for part, split in (("train", source.train), ("test", source.test)):
        assert split.groups is not None, "a source refuses groups that it cannot tell"
        groups |= zip(names(paths[part]), split.groups.tolist(), strict=True)
    return groups


def write_list(file: Path, cases: Sequence[Case], unjudged: Sequence[tuple[str, str]], groups: dict[str, int]) -> None:
    """Write the table: a list that data.train_list takes, of which the column `label` is for the reader to correct."""
    rows = [[case.path, *case[1:2] * 2, *case[2:3], *(f"{value:.6g}" for value in case[3:])] for case in cases]
    rows += [[name, label, label, "", "", "", ""] for name, label in unjudged]
    header = ["path", "label", "given", "suggested", "p_given", "p_suggested", "score"]
    if groups:
        header.append("group")
        rows = [[*row, str(groups.get(row[0], ""))] for row in rows]
    text = io.StringIO()
    CsvWriter(text).writerows([header, *rows])
    write_atomic(file, text.getvalue().encode("utf-8", "surrogateescape"))


def page(title: str, cases: Sequence[Case], recipe: Settled) -> str:
    """The page: a thumbnail of each image whose label is contradicted, the worst first."""
    doubted, root, picture = [case for case in cases if case.suggested], Path(recipe.data.root), seen_by(recipe)
    shown = [
        {
            **case._asdict(),
            "file": case.path.encode(errors="surrogateescape").decode(errors="replace"),
            "picture": sheet.thumbnail(picture(str(root.expanduser() / case.path))),
        }
        for case in doubted[: sheet.SHOWN]
    ]
    counts, of_class = Counter(case.label for case in doubted), Counter(case.label for case in cases)
    classes = [(name, of_class[name], number) for name, number in counts.most_common()]
    words = {"title": title, "images": len(cases), "number": len(doubted), "times": TIMES}
    return render("labels.html", {**words, "cases": shown, "classes": classes})


def again(base: Path, folds: int, recipe: Settled, *, grouped: bool) -> str:
    """The command that trains on the corrected list."""
    words = ["data.name=list", f"data.root={recipe.data.root}", f"data.train_list={base / LIST}", "data.columns=null"]
    words += ["data.groups=column:group"] if grouped else []
    words += (
        ["data.imbalance=null", "data.n_max=null"] if recipe.data.imbalance is not None else []
    )  # it is cut already
    return shlex.join(["glmc", "train", str(base / "recipe.yaml"), "--folds", str(folds), *words])
