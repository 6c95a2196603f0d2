"""The figures of one finished run: `figures/*.png` and inline SVG for its page. Needs no torch."""

import math
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from glmc.metrics import BINS, GROUPS, METRICS, reliability, risk_coverage, wilson
from glmc.report.drawing import COLOUR, DASHES, MARKERS, clean, curve, draw, legend, runs_of, short, whole_epochs
from glmc.report.finished import Run

NAMED = 20  # up to so many classes a figure carries their names and numbers
BLOCKS = 250  # a larger confusion matrix is summed to about so many rows, else single pixels vanish on the screen


def draw_terms(run: Run, figure: Figure) -> bool:
    """Loss terms over the epochs, and their sum when there are several."""
    logged = [e for e in run.epochs if e.get("terms")]
    if not logged:
        return False
    axes = figure.subplots()
    names = list(dict.fromkeys(name for e in logged for name in e["terms"]))
    for i, name in enumerate(names):
        points = [(e["epoch"], e["terms"][name]) for e in logged if e["terms"].get(name) is not None]
        if points:
            colour = COLOUR[f"term{i % 4 + 1}"]
            curve(axes, points, name, color=colour, linestyle=DASHES[(i + i // 4) % 4], marker=(*MARKERS, "D")[i % 4])
    whole = [e for e in logged if all(e["terms"].get(name) is not None for name in names)]
    if len(names) > 1 and whole:
        curve(axes, [(e["epoch"], sum(e["terms"].values())) for e in whole], "sum", color=COLOUR["ink"], linewidth=0.9)
    clean(axes)
    whole_epochs(axes, logged)
    axes.set_ylabel("loss (training)")
    legend(figure, axes, 3)
    return True


def draw_accuracy(run: Run, figure: Figure) -> bool:
    """Top-1 and the groups over the epochs that were evaluated; the best epoch on the test set as a ring."""
    if not any(e.get("test") for e in run.epochs):
        return False
    axes = figure.subplots()
    ink: dict[str, Any] = {"color": COLOUR["ink"], "linewidth": 2.2}
    lines = [("test", "top1", METRICS["top1"].word, ink)]
    for i, name in enumerate(GROUPS):
        lines.append(("test", name, name, {"color": COLOUR[name], "linestyle": DASHES[i], "marker": MARKERS[i]}))
    lines.append(("val", "top1", "validation", {"color": COLOUR["muted"], "linestyle": DASHES[3], "marker": "D"}))
    for split, metric, label, style in lines:
        points = [(e["epoch"], e[split][metric]) for e in run.epochs if (e.get(split) or {}).get(metric) is not None]
        if points:
            curve(axes, points, f"{label} {points[-1][1]:.1f}", **style)
    best = run.result.best_on_test
    if best:
        ring: dict[str, Any] = {
            "markerfacecolor": "none",
            "markeredgecolor": COLOUR["ink"],
            "markersize": 9,
            "linestyle": "none",
        }
        axes.plot([best["epoch"]], [best["top1"]], marker="o", label="best on test", **ring)
    clean(axes)
    whole_epochs(axes, run.epochs)
    axes.set_ylabel("accuracy, %")
    legend(figure, axes, 3)
    return True


def draw_frequency(run: Run, figure: Figure) -> bool:
    """Above: training images per class, falling, logarithmic. Below: the accuracy of the same classes."""
    number, counts = len(run.classes), run.counts[run.order]
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    for value, start, stop in runs_of(run.group[run.order]):
        for axes in (above, below):
            axes.axvspan(start - 0.5, stop - 0.5, color=COLOUR[GROUPS[value]], alpha=0.08, linewidth=0)
        draw_counts(above, counts, start, stop, COLOUR[GROUPS[value]], bars=number <= NAMED)
        draw_recall(below, run, value, start, stop)
    if number > 5 * NAMED:
        below.plot(*neighbours(run.recall[run.order]), color=COLOUR["ink"], linewidth=1.3, label="mean of neighbours")
    above.set(yscale="log", ylim=(max(0.5, counts.min() / 2), counts.max() * 1.4), ylabel="training images")
    above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else ""))
    above.minorticks_off()
    below.set(ylim=(-3, 103), yticks=range(0, 101, 25), ylabel="accuracy, %", xlim=(-0.5, number - 0.5))
    if number <= NAMED:
        below.set_xticks(np.arange(number), [short(run.classes[c]) for c in run.order])
        crowded = max(len(short(name)) for name in run.classes) * number > 11 * figure.get_figwidth()
        below.tick_params(axis="x", rotation=90 if crowded else 0)
    else:
        below.set_xlabel("classes, from the most to the least frequent")
    clean(above)
    clean(below)
    wide = figure.get_figwidth() > 6
    legend(figure, below, 4 if wide else 2 if number > 5 * NAMED else 3, scale=1.0 if number <= NAMED else 2.0)
    return True


def draw_counts(axes: Axes, counts: NDArray[np.int64], start: int, stop: int, colour: str, *, bars: bool) -> None:
    """Training images of the places [start, stop), as bars or as one area."""
    if bars:
        axes.bar(np.arange(start, stop), counts[start:stop], width=0.72, color=colour)
        return
    edges = np.arange(start, stop + 1) - 0.5
    axes.fill_between(edges, 0, np.append(counts[start:stop], counts[stop - 1]), step="post", color=colour, linewidth=0)


def draw_recall(axes: Axes, run: Run, value: int, start: int, stop: int) -> None:
    """Accuracy of the classes of group `value` at the places [start, stop), and of the group as a line."""
    name, number, score = GROUPS[value], len(run.classes), run.result.last.get(GROUPS[value])
    place, recall, colour = np.arange(start, stop), run.recall[run.order][start:stop], COLOUR[name]
    size, alpha = (6.0, 1.0) if number <= NAMED else (3.4, 0.8) if number <= 300 else (2.2, 0.6)
    if number <= NAMED:
        axes.vlines(place, 0, recall, color=colour, linewidth=1.2, alpha=0.55)
    label = name if score is None else f"{name} {score:.1f}"
    dots: dict[str, Any] = {"linestyle": "none", "marker": MARKERS[value], "markersize": size, "markeredgewidth": 0}
    axes.plot(place, recall, color=colour, alpha=alpha, label=label, **dots)
    if score is not None:
        axes.plot([start - 0.5, stop - 0.5], [score, score], color=colour, linewidth=1.4, linestyle="--")


def neighbours(recall: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places and means of `recall` float64 [C] over windows of a twentieth of the classes, NaN skipped."""
    known = np.flatnonzero(np.isfinite(recall))
    window = max(len(recall) // 20, 1)
    kernel = np.ones(window) / window
    if len(known) < window:
        return np.empty(0), np.empty(0)
    return np.convolve(known, kernel, "valid"), np.convolve(recall[known], kernel, "valid")


def draw_confusion(run: Run, figure: Figure) -> bool:
    """The row-normalised confusion matrix, most frequent class first."""
    group = run.group[run.order]
    number = len(group)
    if number <= NAMED:
        axes = figure.subplots()
        draw_cells(run, axes)
    else:
        axes, scale = figure.subplots(2, 1, height_ratios=(40, 1))
        draw_blocks(run, axes)
        draw_scale(scale)
    for _, _, stop in list(runs_of(group))[:-1]:
        axes.plot([stop, stop], [0, number], [0, number], [stop, stop], color=COLOUR["ink"], linewidth=0.8)
    axes.set(xlim=(0, number), ylim=(number, 0), aspect="equal", xlabel="predicted class", ylabel="true class")
    axes.tick_params(length=0)
    return True


def draw_cells(run: Run, axes: Axes) -> None:
    """Up to `NAMED` classes: one square and one number per cell from 0.5 % on, names on both sides."""
    shares = run.shares[np.ix_(run.order, run.order)]
    number = len(shares)
    size = 10.0 if number <= 10 else 10.0 * 12 / (number + 2)
    for row, column in np.argwhere(shares >= 0.005).tolist():
        share = float(shares[row, column])
        axes.add_patch(Rectangle((column, row), 1, 1, color=COLOUR["heat"], alpha=share, linewidth=0))
        # Ink on faint cells, paper on strong ones; at 0.62 both contrasts are equal.
        colour = COLOUR["paper"] if share > 0.62 else COLOUR["ink"]
        axes.text(column + 0.5, row + 0.52, f"{100 * share:.0f}", ha="center", va="center", fontsize=size, color=colour)
    names = [short(run.classes[c], 12) for c in run.order]
    middle = np.arange(number) + 0.5
    axes.set_xticks(middle, names, rotation=90 if max(map(len, names)) > 2 else 0)
    axes.set_yticks(middle, names)


def draw_blocks(run: Run, axes: Axes) -> None:
    """More classes: an image, summed to about `BLOCKS` rows and columns; groups named on both sides."""
    number = len(run.classes)
    starts = np.arange(0, number, math.ceil(number / BLOCKS))
    ordered = run.confusion[np.ix_(run.order, run.order)]
    blocks = np.add.reduceat(np.add.reduceat(ordered, starts, axis=0), starts, axis=1)
    shares = blocks / np.maximum(blocks.sum(1, keepdims=True), 1)
    axes.imshow(shaded(np.cbrt(shares)), extent=(0, number, number, 0), interpolation="none")
    stretches = list(runs_of(run.group[run.order]))
    middle = [(start + stop) / 2 for _, start, stop in stretches]
    names = [GROUPS[value] for value, _, _ in stretches]
    tight = min(np.diff(middle), default=number) < 0.15 * number
    axes.set_xticks(middle, names, rotation=90 if tight else 0)
    axes.set_yticks(middle, names)


def draw_scale(axes: Axes) -> None:
    """What the shades of `draw_blocks` mean."""
    marks = (0.01, 0.1, 0.4, 1.0)
    axes.imshow(shaded(np.linspace(0, 1, 200)[None]), extent=(0, 1, 0, 1), aspect="auto", interpolation="none")
    axes.set_xticks(np.cbrt(marks), [f"{100 * mark:g} %" for mark in marks])
    axes.set_yticks([])
    axes.set_xlabel("share of the true class's test images")
    axes.tick_params(length=0)


def shaded(strength: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 [H, W] in [0, 1] -> RGBA [H, W, 4]: one colour, `strength` as opacity, for any background."""
    red, green, blue = to_rgb(COLOUR["heat"])
    return np.stack(
        [np.full_like(strength, red), np.full_like(strength, green), np.full_like(strength, blue), strength], -1
    )


def draw_reliability(run: Run, figure: Figure) -> bool:
    """Accuracy against confidence in bins, above how many images each bin holds."""
    found = run.predictions
    if found is None:
        return False
    bins, error = reliability(found.confidence, found.true == found.predicted)
    images, confidence, accuracy = bins.T
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    above.plot([0, 100], [0, 100], color=COLOUR["muted"], linewidth=1.0, linestyle=DASHES[1], label="as it should be")
    middle, width = (np.arange(BINS) + 0.5) * 100 / BINS, 100 / BINS
    above.bar(middle, np.nan_to_num(100 * accuracy), width=0.86 * width, color=COLOUR["heat"], alpha=0.3, linewidth=0)
    dots: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 5, "color": COLOUR["heat"]}
    above.plot(100 * confidence, 100 * accuracy, label=f"accuracy of a bin (ECE {error:.1f} %)", **dots)
    above.set(xlim=(0, 100), ylim=(0, 103), ylabel="accuracy, %")
    below.bar(middle, 100 * images / max(images.sum(), 1), width=0.86 * width, color=COLOUR["muted"], linewidth=0)
    below.set(ylabel="images, %", xlabel="confidence, %")
    below.yaxis.set_major_locator(MaxNLocator(nbins=2, integer=True))
    clean(above)
    clean(below)
    legend(figure, above, 2)
    return True


def curves_of(run: Run) -> dict[str, NDArray[np.float64]]:
    """Of all test images ("all") and of each group: `metrics.risk_coverage`, with calibrated confidence if there is."""
    if run.measured is not None:
        return {name: np.array(curve) for name, curve in run.measured.curves.items()}
    found = run.predictions
    if found is None:
        return {}
    right, group = found.predicted == found.true, run.group[found.true]
    members = {"all": np.ones(len(right), dtype=np.bool_)} | {name: group == i for i, name in enumerate(GROUPS)}
    return {name: risk_coverage(found.confidence[of], right[of]) for name, of in members.items() if of.any()}


def style_of(name: str) -> dict[str, Any]:
    """How the line of a group, or of all images, looks."""
    if name not in GROUPS:
        return {"color": COLOUR["ink"], "linewidth": 2.2}
    return {"color": COLOUR[name], "linestyle": DASHES[GROUPS.index(name)]}


def draw_risk(run: Run, figure: Figure) -> bool:
    """Wrong answers against how many images are answered, the surest first; where the stated errors come to lie."""
    curves = curves_of(run)
    if not curves:
        return False
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot(*(100 * points).T, label=name, **style_of(name))
    highest = max(float(100 * points[len(points) // 20 :, 1].max()) for points in curves.values())
    for each in run.measured.unknown if run.measured is not None else ():
        kind, share = each["asked"].split("=")
        if kind == "error" and each["images"]:
            place, words = (100 * each["answered"], 100 * each["wrong"]), f"≤ {100 * float(share):g} %"
            axes.plot(*place, marker="o", color=COLOUR["heat"], markersize=7, linestyle="none")
            axes.annotate(words, place, (-6, 6), textcoords="offset points", ha="right", fontsize=9)
    axes.set(xlim=(0, 101), ylim=(0, min(max(1.1 * highest, 5), 103)), xlabel="images answered, %")
    axes.set_ylabel("wrong among them, %")
    clean(axes)
    legend(figure, axes, 4)
    return True


def draw_sets(run: Run, figure: Figure) -> bool:
    """How often sets hold the true class, against how often they should, by group."""
    if run.measured is None or not run.measured.sets:
        return False
    axes, rows = figure.subplots(), run.measured.sets
    axes.plot([0, 100], [0, 100], color=COLOUR["muted"], linewidth=1.0, linestyle=DASHES[1], label="as it should be")
    for name in ("all", *GROUPS):
        found = {100 * row["asked"]: row["groups"][name] for row in rows if name in row["groups"]}
        if found:
            shares = [100 * each["covered"] for each in found.values()]
            low, high = zip(*(wilson(each["covered"], each["images"]) for each in found.values()), strict=True)
            axes.plot(list(found), shares, label=name, marker="o", markersize=4, **style_of(name))
            band = COLOUR["ink"] if name == "all" else COLOUR[name]
            axes.fill_between(list(found), low, high, color=band, alpha=0.1, linewidth=0)
    lowest = 100 * min(row["asked"] for row in rows)
    axes.set(xlim=(lowest - 2, 100), ylim=(lowest - 2, 102), xlabel="asked for, %")
    axes.set_ylabel("true class is in the set, %")
    clean(axes)
    legend(figure, axes, 3)
    return True


FIGURES = {
    "frequency": (draw_frequency, ((4.8, 4.9), (10.0, 4.6))),
    "terms": (draw_terms, ((4.8, 3.4),)),
    "accuracy": (draw_accuracy, ((4.8, 3.4),)),
    "confusion": (draw_confusion, ((4.8, 5.0),)),
    "reliability": (draw_reliability, ((4.8, 4.4),)),
    "risk": (draw_risk, ((4.8, 3.8),)),
    "sets": (draw_sets, ((4.8, 3.8),)),
}


def draw_all(run: Run) -> dict[str, Markup]:
    """Writes figures/<name>.png; returns name -> inline SVG, without the figures for which the run has no data."""
    folder = run.folder / "figures"
    folder.mkdir(exist_ok=True)
    return draw({name: (partial(function, run), sizes) for name, (function, sizes) in FIGURES.items()}, folder)
