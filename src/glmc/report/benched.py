"""What a bench has found: its table, bench.json's outcome, and index.html. Reads files only; needs no torch."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from glmc.report import compare
from glmc.report.entries import Entry, gather
from glmc.report.entries import remarks as remarks_on
from glmc.report.finished import read
from glmc.report.significance import Gap
from glmc.runs.files import write_atomic
from glmc.screen import Screen

FACTS, PAGE = "bench.json", "index.html"
UNEVEN = 1.5  # times the seconds of the shortest run, from which on the longest has an advantage
BY = "balanced"  # what ranks: held-out images have much of the tail of the training images


def ranked(runs: Mapping[str, Sequence[Path]]) -> list[Entry]:
    """The systems as entries of a comparison under their own names, the best first; of each its finished runs."""
    of = {read(run).folder: name for name, several in runs.items() for run in several}
    entries = gather([read(run) for run in of])
    best = sorted(entries, key=lambda entry: -entry.scores[BY]["mean"])
    ordered = gather([run for entry in best for run in entry.runs])
    return [replace(entry, label=of[entry.first.folder]) for entry in ordered]


def evidence(a: Entry, b: Entry, metric: str) -> Gap | None:
    """How far B is from A.

    Two seeds that happen to agree say little of so few held-out images: the wider of two intervals counts, over the
    seeds and, of the first run of each, over the images.
    """
    one, other = (replace(entry, runs=entry.runs[:1]) for entry in (a, b))
    gaps = [compare.gap(a, b, metric), compare.gap(one, other, metric)]
    return max(filter(None, gaps), key=lambda gap: gap.high - gap.low, default=None)


def lead(best: Entry, other: Entry) -> tuple[float, Gap | None, bool]:
    """How many points the best is ahead, the evidence for it, and whether that may be noise."""
    found = evidence(other, best, BY)
    return best.scores[BY]["mean"] - other.scores[BY]["mean"], found, found is None or found.low <= 0 <= found.high


def close(runs: Mapping[str, Sequence[Path]]) -> list[str]:
    """The best system, the next one, and all others whose distance to it may be noise; the best first."""
    if not runs:
        return []
    best, *others = ranked(runs)
    return [best.label] + [each.label for place, each in enumerate(others) if place == 0 or lead(best, each)[2]]


def conclude(
    target: Path,
    runs: Mapping[str, Sequence[Path]],
    commands: Mapping[str, str],
    left_out: Mapping[str, str],
    screen: Screen,
) -> dict[str, Any]:
    """Show the table and the winner, write the page, and return what bench.json says of the outcome.

    Args:
        target: the folder of the bench.
        runs: finished runs of each system.
        commands: that train each in full.
        left_out: systems that took no part, and why.
        screen: for the table.
    """
    best, *others = entries = ranked(runs)
    rows = [row(entry) for entry in entries]
    winner, second = best.label, others[0].label if others else None
    outcome: dict[str, Any] = {"winner": winner, "ranked_by": BY, "command": commands[winner]}
    told = f"{winner} won, with a balanced accuracy of {best.scores[BY]['mean']:.1f} % on held-out images."
    if others:
        points, found, noise = lead(best, others[0])
        outcome |= {"second": second, "lead": points, "noise": noise}
        measured = "there is nothing to judge that by"
        if found is not None:
            outcome |= {"interval": [found.low, found.high], "how": found.how.replace("test images", "held-out images")}
            ends = f"{compare.signed(found.low)} to {compare.signed(found.high)}"
            measured = (
                f"between the runs compared {compare.signed(found.points)}, 95 % interval {ends}; {outcome['how']}"
            )
        alone = min(len(best.runs), len(others[0].runs)) == 1
        word = "noise, either of the two may be the better one" if noise else "more than noise"
        told = f"{told} It is {points:.1f} points ahead of {second} ({measured}): {word}."
        told += " These are single runs, and another seed may reverse their order." if alone and not noise else ""
    times = [each["seconds"] for each in rows]
    if max(times) > UNEVEN * min(times):
        told += (
            f" The runs took {min(times):.0f} to {max(times):.0f} s, as the machine was busy with other things or with "
            "its first steps: that is not a fair comparison."
        )
    outcome |= {"systems": rows, "left_out": dict(left_out)}
    screen.table(
        "accuracy in percent on the held-out images, last epoch",
        {
            f"{place}  {each['system']}: {each['epochs']} epochs, {each['seconds']:.0f} s"
            + (f", {each['seeds']} seeds" if each["seeds"] > 1 else ""): each
            for place, each in enumerate(rows, 1)
        },
    )
    screen.say(told)
    screen.say(f"to train it in full:\n{commands[winner]}")
    words = {"told": told, "rows": rows, "command": commands[winner], "left_out": left_out}
    remarks = remarks_on(entries) + list(filter(None, map(compare.doubt_of, entries)))
    page = compare.html(entries, remarks, words, BY, evidence)
    for ours, theirs in (("test image", "held-out image"), ("test set", "held-out images")):
        page = page.replace(ours, theirs)  # to its runs they are test images; those of the data set nobody has seen
    write_atomic(target / PAGE, page)
    return outcome


def row(entry: Entry) -> dict[str, Any]:
    """A system's line: its scores, epochs and seconds of training, mean of its runs."""
    from glmc import report

    seconds = statistics.fmean((run.result.seconds or {})["train"] for run in entry.runs)
    head = {"system": entry.label, "seeds": len(entry.runs), "epochs": entry.first.result.epochs, "seconds": seconds}
    return head | report.in_one_row(entry.scores) | {"folders": [run.folder.name for run in entry.runs]}
