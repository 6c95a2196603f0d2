"""The facts of a finished run -> `figures/*.png` and inline SVG for its page. Needs no torch.

Every figure is drawn once, in the light colours of `PALETTE`. The PNG files keep them; in the page the figure stands as
inline SVG with CSS variables in place of the colours, so that one drawing suits a light screen, a dark one and paper.
"""

import io
import itertools
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from glmc.metrics import groups

# Name -> (light, dark). Blue, green and vermilion stay apart in the common kinds of colour blindness (after Okabe and
# Ito, "Color universal design", 2008); marker and line style tell the groups apart once more. All light values differ,
# because the page finds the CSS variable by the value.
PALETTE = {
    "ink": ("#1b2230", "#e4e8ef"),
    "muted": ("#5a6372", "#9ba5b6"),
    "rule": ("#dadee5", "#333b48"),
    "paper": ("#fffffe", "#171b22"),
    "heat": ("#14578f", "#7cc0f5"),
    "many": ("#0072b2", "#5bb8ee"),
    "medium": ("#00805c", "#3ccf9f"),
    "few": ("#c45100", "#ff9650"),
    "term1": ("#5a4fb0", "#a9a1ff"),
    "term2": ("#9a6b00", "#e9b949"),
    "term3": ("#a2346e", "#f08cc0"),
    "term4": ("#3f7385", "#86c5d8"),
}
COLOUR = {name: light for name, (light, _) in PALETTE.items()}

GROUPS = ("many", "medium", "few")
MARKERS = ("o", "s", "^")
DASHES = ("-", (0, (5, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (1, 1.2)))

NAMED = 20  # up to so many classes a figure carries their names and numbers
BLOCKS = 250  # a larger confusion matrix is summed to about so many rows, else single pixels vanish on the screen


@dataclass(frozen=True)
class Run:
    """What the files of one run folder say.

    Attributes:
        recipe: the text of recipe.yaml, complete.
        few: the rule of the rarest group, "<20" or "<=20" training images.
        epochs: the lines of metrics.jsonl, in order.
        counts: int64 [C], training images per class.
        confusion: int64 [C, C], row = true class, column = predicted class, test images of the last epoch.
    """

    folder: Path
    recipe: str
    few: Literal["<20", "<=20"]
    environment: dict[str, Any]
    epochs: list[dict[str, Any]]
    result: dict[str, Any]
    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    confusion: NDArray[np.int64]

    @property
    def order(self) -> NDArray[np.int64]:
        """int64 [C]: class numbers from the most to the least frequent; equal counts stay in label order."""
        return np.argsort(-self.counts, kind="stable")

    @property
    def group(self) -> NDArray[np.int64]:
        """int64 [C]: index into `GROUPS` of every class."""
        members = groups(self.counts, self.few)
        return np.argmax([members[name] for name in GROUPS], axis=0)

    @property
    def shares(self) -> NDArray[np.float64]:
        """float64 [C, C] in [0, 1]: the confusion matrix, each row divided by its sum; rows without images are 0."""
        return self.confusion / np.maximum(self.confusion.sum(1, keepdims=True), 1)

    @property
    def recall(self) -> NDArray[np.float64]:
        """float64 [C] in percent; NaN where a class has no test image (matplotlib leaves such points out)."""
        return np.where(self.confusion.sum(1) > 0, 100 * self.shares.diagonal(), np.nan)


# --------------------------------------------------------------------------------------------------------- figures


def clean(axes: Axes) -> None:
    """Calm axes: no frame but the lower line, a faint grid behind the data, short ticks."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(axis="y", linewidth=0.6)
    axes.set_axisbelow(True)


def legend(figure: Figure, axes: Axes, columns: int, scale: float = 1.0) -> None:
    """One legend above the figure, where it can cover no data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=columns, markerscale=scale, handlelength=1.8, columnspacing=1.4
    )


def whole_epochs(axes: Axes, epochs: Sequence[dict[str, Any]]) -> None:
    """An epoch axis with whole numbers; a single epoch stands in the middle."""
    first, last = epochs[0]["epoch"], epochs[-1]["epoch"]
    room = 0.5 if first == last else min(0.02 * (last - first), 0.9)
    axes.set_xlim(first - room, last + room)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")


def curve(axes: Axes, points: Sequence[tuple[int, float]], label: str, marker: str = "o", **style: Any) -> None:
    """One line; points are marked where they are so few that a line alone would hide how few."""
    shown = marker if len(points) <= 12 else None
    axes.plot(*zip(*points, strict=True), label=label, marker=shown, markersize=3.5, **style)


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
    lines = [("test", "top1", "top-1", ink)]
    for i, name in enumerate(GROUPS):
        lines.append(("test", name, name, {"color": COLOUR[name], "linestyle": DASHES[i], "marker": MARKERS[i]}))
    lines.append(("val", "top1", "validation", {"color": COLOUR["muted"], "linestyle": DASHES[3], "marker": "D"}))
    for split, metric, label, style in lines:
        points = [(e["epoch"], e[split][metric]) for e in run.epochs if (e.get(split) or {}).get(metric) is not None]
        if points:
            curve(axes, points, f"{label} {points[-1][1]:.1f}", **style)
    best = run.result.get("best_on_test") or {}
    if best.get("epoch") and best.get("top1") is not None:
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


def runs_of(values: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """(value, start, stop) of each stretch of equal neighbours."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for start, stop in itertools.pairwise(edges):
        yield int(values[start]), start, stop


def short(name: str, limit: int = 14) -> str:
    """A name that fits beside a tick: start and end, because names in a row often begin alike."""
    return name if len(name) <= limit else f"{name[: limit - 6]}…{name[-5:]}"


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
    name, number, score = GROUPS[value], len(run.classes), run.result["last"].get(GROUPS[value])
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
    parts = list(runs_of(run.group[run.order]))
    middle = [(start + stop) / 2 for _, start, stop in parts]
    names = [GROUPS[value] for value, _, _ in parts]
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


# Name -> (draws it or answers False when there is nothing to draw, sizes in inches). With two sizes the page shows the
# first on a narrow screen and the second on a wide one. Text of 10 pt becomes about 10 px on a phone, 14 px on a desk.
FIGURES: dict[str, tuple[Callable[[Run, Figure], bool], tuple[tuple[float, float], ...]]] = {
    "frequency": (draw_frequency, ((4.8, 4.9), (10.0, 4.6))),
    "terms": (draw_terms, ((4.8, 3.4),)),
    "accuracy": (draw_accuracy, ((4.8, 3.4),)),
    "confusion": (draw_confusion, ((4.8, 5.0),)),
}

STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib and is wide, so the page's own font always fits
    "font.size": 10,
    "text.parse_math": False,  # a class may be called "$5"
    "text.color": COLOUR["ink"],
    "axes.labelcolor": COLOUR["muted"],
    "axes.edgecolor": COLOUR["muted"],
    "axes.facecolor": "none",
    "xtick.color": COLOUR["muted"],
    "ytick.color": COLOUR["muted"],
    "xtick.labelcolor": COLOUR["ink"],
    "ytick.labelcolor": COLOUR["ink"],
    "grid.color": COLOUR["rule"],
    "figure.facecolor": COLOUR["paper"],
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


def draw(run: Run) -> dict[str, Markup]:
    """Writes figures/<name>.png; returns name -> inline SVG, without the figures for which the run has no data."""
    folder = run.folder / "figures"
    folder.mkdir(exist_ok=True)
    page: dict[str, Markup] = {}
    with warnings.catch_warnings():
        # Names in a script that the built-in font lacks: boxes in the PNG, right in the page with the system's fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        for name, (function, sizes) in FIGURES.items():
            drawings = []
            for size, width in zip(sizes, ("narrow", "wide"), strict=False):
                # Ids inside an SVG are hashes with this salt: equal for equal runs, never the same in two figures.
                with matplotlib.rc_context({**STYLE, "svg.hashsalt": f"{name} {width}"}):
                    figure = Figure(figsize=size, layout="constrained")
                    FigureCanvasAgg(figure)
                    if not function(run, figure):
                        break
                    drawings.append(inline(figure, width if len(sizes) > 1 else ""))
                    if len(drawings) == len(sizes):
                        figure.savefig(folder / f"{name}.png", dpi=160)
            if drawings:
                page[name] = Markup("").join(drawings)
    return page


def inline(figure: Figure, width: str) -> Markup:
    """The figure as <svg> for HTML: no prolog, no metadata, no fixed size, colours as CSS variables."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(
        r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", rf'<svg \1 class="{width}" aria-hidden="true">', svg, count=1
    )
    variable = {light: f"var(--{name})" for name, (light, _) in PALETTE.items()}
    return Markup(re.sub(r"#[0-9a-f]{6}\b", lambda match: variable.get(match[0], match[0]), svg))
