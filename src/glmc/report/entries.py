"""Runs as entries of a comparison: found, grouped by recipe, and refused where they were not tested alike.

Runs whose recipes differ in nothing but the seed count as one entry, with mean and deviation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glmc.errors import UserError
from glmc.metrics import Interval
from glmc.recipe import essence
from glmc.report import ranking, summary
from glmc.report.finished import Run
from glmc.report.page import parameters
from glmc.runs.folder import later_stages
from glmc.runs.result import finished, intervals_of


@dataclass(frozen=True)
class Entry:
    """Runs of one recipe that differ in the seed.

    Attributes:
        letter: "A", "B", ...: its name in figures and sentences.
        label: its name in tables.
        scores: metric -> {"mean", "n"} and, for several seeds, "sd".
    """

    letter: str
    label: str
    runs: list[Run]
    scores: dict[str, dict[str, float]]

    @property
    def first(self) -> Run:
        """The run that stands for what all share."""
        return self.runs[0]

    @property
    def sure(self) -> dict[str, Interval]:
        """How surely its mean accuracies are known."""
        return intervals_of([run.result for run in self.runs], self.first.few)


# --------------------------------------------------------------------------------------------------------- reading


def find(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The finished runs in some folders, each a run or a folder of runs (several seeds, a sweep), and remarks.

    Raises:
        UserError: a folder holds no finished run, or a run is named twice.
    """
    runs: list[Path] = []
    remarks = []
    for path in paths:
        if (path / "recipe.yaml").exists() or not path.is_dir():
            found = [path]  # `read` says what is missing
        else:
            inside = sorted(child.parent for child in path.glob("*/recipe.yaml"))
            found = [final(run) for run in inside if finished(run)]
            if not found:
                raise UserError(f"{path} is neither a finished run nor a folder of finished runs; name one of these.")
            if (path / ranking.PLAN).exists():
                remarks.append(ranking.remark(path, found))
            if len(found) < len(inside):
                remarks.append(f"{len(inside) - len(found)} of the {len(inside)} runs in {path} are not finished.")
        for run in found:
            if any(run.resolve() == other.resolve() for other in runs):
                raise UserError(f"{run} is named twice; name each run once.")
            runs.append(run)
    return runs, remarks


def final(run: Path) -> Path:
    """The last stage that a run has finished: itself, or one that it has gone on into."""
    return [run, *filter(finished, later_stages(run))][-1]


def gather(runs: Sequence[Run]) -> list[Entry]:
    """Entries in the order in which their first run is named; a second run of the same seed begins another entry."""
    kept: list[tuple[dict[str, Any], list[Run]]] = []
    for run in runs:
        key = essence(run.settings)
        key |= {"result." + name: getattr(run.result, name) for name in ("recipe", "settings", "epochs", "counts")}
        if run.result.stage1 is not None:
            key |= {"stage1.recipe": run.result.stage1.recipe, "stage1.method": run.result.stage1.method}
        for known, members in kept:
            if known == key and run.result.seed not in [member.result.seed for member in members]:
                members.append(run)
                break
        else:
            kept.append((key, [run]))
    names = [members[0].result.title for _, members in kept]
    entries = []
    for place, (name, (_, members)) in enumerate(zip(names, kept, strict=True)):
        folder = members[0].folder.parent if len(members) > 1 else members[0].folder
        label = name if names.count(name) == 1 else f"{name} ({folder.name})"
        scores = summary([member.folder for member in members])
        entries.append(Entry(letter(place), label, members, scores))
    return entries


def letter(place: int) -> str:
    """0 -> "A", 25 -> "Z", 26 -> "AA"."""
    return (letter(place // 26 - 1) if place >= 26 else "") + chr(ord("A") + place % 26)


# ------------------------------------------------------------------------------------------ what may be compared


def refuse_other_tests(entries: Sequence[Entry]) -> None:
    """Raises UserError if two runs were tested on other classes or other images."""
    runs = [run for entry in entries for run in entry.runs]
    first = runs[0]
    for run in runs[1:]:
        both = f"{first.folder} and {run.folder}"
        if run.classes != first.classes:
            raise UserError(
                f"{both} have different classes ({len(first.classes)} and {len(run.classes)}): "
                "accuracies on different data cannot be compared; name runs of one data set."
            )
        one, other = first.predictions, run.predictions
        same = np.array_equal(first.confusion.sum(1), run.confusion.sum(1))
        if same and one is not None and other is not None:
            same = one.images == other.images and np.array_equal(one.true, other.true)
        if not same:
            raise UserError(
                f"{both} were tested on different images: their accuracies cannot be compared; "
                "test both on the same images."
            )


def remarks(entries: Sequence[Entry]) -> list[str]:
    """Sentences on what makes the comparison other than like for like."""
    first, found = entries[0], []
    for entry in entries[1:]:
        a, b = first.first, entry.first
        pair = f"{first.letter} and {entry.letter}"
        if not np.array_equal(a.counts, b.counts):
            sizes = f"{a.counts.sum():,} and {b.counts.sum():,} images"
            found.append(
                f"{pair} were trained on different data ({sizes}): their many, medium and few are other classes."
            )
        elif changed := differing([first, entry], "data."):
            names = ", ".join(name for name in changed if name != "data.batch_size")
            if names:
                found.append(f"{pair} differ in {names}: their training images need not be the same.")
        if a.few != b.few:
            found.append(f"{pair} draw the border of few differently (eval.few {a.few} and {b.few} images).")
        if a.result.backbone != b.result.backbone:
            sizes = f"{network(a)}, and {network(b)}"
            found.append(f"{pair} are different networks ({sizes}): not a like-for-like comparison of methods.")
        if a.start != b.start and a.result.stage1 is None and b.result.stage1 is None:
            told = f"{first.letter}: {a.start}{a.result.partly}; {entry.letter}: {b.start}{b.result.partly}"
            found.append(f"{pair} do not begin and learn alike ({told}): a gap need not come from their methods.")
        if a.result.epochs != b.result.epochs:
            found.append(f"{pair} were trained for {a.result.epochs} and {b.result.epochs} epochs.")
    return found


def network(run: Run) -> str:
    """Name and size of a run's network."""
    return f"{run.result.backbone}, {parameters(run.result.parameters)} parameters"


def differing(entries: Sequence[Entry], prefix: str = "") -> dict[str, list[Any]]:
    """Recipe value -> what each entry has there, of values that are not the same in all; "–" where it has none."""
    settings = [essence(entry.first.settings) for entry in entries]
    names = dict.fromkeys(name for each in settings for name in each)
    rows = {name: [each.get(name, "–") for each in settings] for name in names if name.startswith(prefix)}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}
