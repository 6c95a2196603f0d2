"""The figures of several runs side by side, as inline SVG. Needs no torch."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from glmc.metrics import GROUPS, METRICS
from glmc.report.drawing import COLOUR, DASHES, clean, curve, legend, whole_epochs
from glmc.report.entries import Entry
from glmc.report.figures import NAMED, neighbours
from glmc.report.finished import Run

MOST = 8  # lines in one picture; more cannot be told apart
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*")


def look(place: int) -> dict[str, Any]:
    """Colour, line and marker of an entry."""
    return {"color": COLOUR[f"run{place % MOST + 1}"], "linestyle": DASHES[place % 4], "marker": SHAPES[place % MOST]}


def draw_groups(entries: Sequence[Entry], figure: Figure) -> bool:
    """All classes and each group, a bar for each entry; deviation as a line, single seeds as dots."""
    names = {"top1": "all images (top-1)"} | {name: name for name in GROUPS}
    there = [key for key in names if any(key in entry.scores for entry in entries)]
    across = len(there) if figure.get_figwidth() > 6 else min(2, len(there))
    panels = figure.subplots(-(-len(there) // across), across, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[len(there) :]:
        axes.set_visible(False)
    for key, axes in zip(there, panels, strict=False):
        draw_bars(entries, key, axes)
        axes.set_title(names[key], loc="left", fontsize=10)
    return True


def draw_bars(entries: Sequence[Entry], key: str, axes: Axes) -> None:
    """One panel: metric `key` of every entry, the first entry on top."""
    for place, entry in enumerate(entries):
        score = entry.scores.get(key)
        if score is None:
            continue
        axes.barh(place, score["mean"], height=0.66, color=look(place)["color"], alpha=0.85, linewidth=0)
        if "sd" in score:
            ends = [score["mean"] - score["sd"], score["mean"] + score["sd"]]
            axes.plot(ends, [place, place], color=COLOUR["ink"], linewidth=1.4)
        axes.text(103, place, f"{score['mean']:.1f}", va="center", ha="left", fontsize=9)
    axes.set_yticks(range(len(entries)), [entry.letter for entry in entries])
    axes.set(ylim=(len(entries) - 0.5, -0.5), xlim=(0, 122), xticks=(0, 50, 100))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_axisbelow(True)


def mean_recall(entry: Entry) -> NDArray[np.float64]:
    """float64 [C] in percent: mean over the seeds; NaN where a class has no test image."""
    mean: NDArray[np.float64] = np.mean([run.recall for run in entry.runs], axis=0)
    return mean


def draw_frequency(entries: Sequence[Entry], figure: Figure) -> bool:
    """Accuracy of each class, most frequent first; with many classes, the mean of neighbours."""
    first = entries[0].first
    if any(not np.array_equal(entry.first.counts, first.counts) for entry in entries):
        return False
    axes, number = figure.subplots(), len(first.classes)
    for place, entry in enumerate(entries[:MOST]):
        recall, style = mean_recall(entry)[first.order], look(place)
        if number <= 2 * NAMED:
            axes.plot(np.arange(number), recall, label=entry.letter, markersize=4.5, **style)
        else:
            axes.plot(*neighbours(recall), label=entry.letter, **style | {"marker": None})
    for stop in group_borders(first):
        axes.axvline(stop - 0.5, color=COLOUR["muted"], linewidth=0.8)
    counts = first.counts[first.order]
    places = np.unique(
        np.linspace(0, number - 1, min(number, 10 if figure.get_figwidth() > 6 else 6)).round().astype(int)
    )
    axes.set_xticks(places, [f"{counts[place]:,}" for place in places])
    axes.set(xlim=(-0.5, number - 0.5), ylim=(-3, 103), ylabel="accuracy, %")
    axes.set_xlabel("training images of the class, falling")
    clean(axes)
    legend(figure, axes, MOST if figure.get_figwidth() > 6 else 4)
    return True


def group_borders(run: Run) -> list[int]:
    """Places of `run.order` where another group begins."""
    sizes = [int(size) for size in np.bincount(run.group, minlength=len(GROUPS)) if size]
    return [int(end) for end in np.cumsum(sizes)[:-1]]


def draw_epochs(metric: str, entries: Sequence[Entry], figure: Figure) -> bool:
    """A metric on the test set by epoch: mean over the seeds, lowest and highest seed as a band."""
    axes, drawn, last = figure.subplots(), False, [run.epochs[-1] for e in entries for run in e.runs if run.epochs]
    for place, entry in enumerate(entries[:MOST]):
        rows: dict[int, list[float]] = {}
        for epoch in (epoch for run in entry.runs for epoch in run.epochs):
            if (epoch.get("test") or {}).get(metric) is not None:
                rows.setdefault(epoch["epoch"], []).append(epoch["test"][metric])
        rows = {epoch: values for epoch, values in sorted(rows.items()) if len(values) == len(entry.runs)}
        if not rows:
            continue
        drawn, style = True, look(place)
        points = [(epoch, float(np.mean(values))) for epoch, values in rows.items()]
        if len(entry.runs) > 1:
            low, high = [min(v) for v in rows.values()], [max(v) for v in rows.values()]
            axes.fill_between(list(rows), low, high, color=style["color"], alpha=0.16, linewidth=0)
        curve(axes, points, entry.letter, **style)
    if not drawn:
        return False
    clean(axes)
    whole_epochs(axes, [{"epoch": 1}, max(last, key=lambda epoch: epoch["epoch"])])
    axes.set_ylabel(METRICS[metric].heading)
    legend(figure, axes, 4)
    return True


def draw_top1(entries: Sequence[Entry], figure: Figure) -> bool:
    """Top-1 by epoch."""
    return draw_epochs("top1", entries, figure)


def draw_rarest(entries: Sequence[Entry], figure: Figure) -> bool:
    """The rarest group that all entries have, by epoch."""
    names = [name for name in GROUPS if all(name in entry.scores for entry in entries)]
    return bool(names) and draw_epochs(names[-1], entries, figure)


def size_of_groups(number: int) -> tuple[tuple[float, float], ...]:
    """Inches of `draw_groups` on a narrow and on a wide screen, for so many entries."""
    return (4.8, 1.2 + 0.52 * number + 0.6), (10.0, 0.9 + 0.3 * number)


Size = Callable[[int], tuple[tuple[float, float], ...]]
FIGURES: dict[str, tuple[Callable[[Sequence[Entry], Figure], bool], Size]] = {
    "groups": (draw_groups, size_of_groups),
    "frequency": (draw_frequency, lambda _: ((4.8, 3.6), (10.0, 3.6))),
    "top1": (draw_top1, lambda _: ((4.8, 3.4),)),
    "rarest": (draw_rarest, lambda _: ((4.8, 3.4),)),
}
