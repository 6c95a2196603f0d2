"""A finished run's folder -> `figures/*.png` and one self-contained `report.html`. Reads files only; needs no torch.

Every figure is drawn once, in the light colours of `PALETTE`. The PNG files keep them; in the page the figure stands as
inline SVG with CSS variables in place of the colours, so that one drawing suits a light screen, a dark one and paper.
"""

import csv
import io
import itertools
import json
import math
import re
import shlex
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import jinja2
import matplotlib
import numpy as np
import yaml
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from glmc.errors import UserError
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

# Metric -> (label, digits, explanation); the groups' explanation depends on the rule and is made by `groups`.
METRICS = {
    "top1": ("Top-1, %", 1, "right answers among all test images"),
    "top5": ("Top-5, %", 1, "the right class is among the first five"),
    "balanced": ("Balanced, %", 1, "mean recall over the classes"),
    "macro_f1": ("Macro F1, %", 1, "mean F1 over the classes"),
    "worst_class": ("Worst class, %", 1, "the lowest recall of any class"),
    "many": ("Many, %", 1, ""),
    "medium": ("Medium, %", 1, ""),
    "few": ("Few, %", 1, ""),
    "ece": ("ECE, %", 1, "expected calibration error, 15 bins; lower is better"),
    "nll": ("NLL, nats", 3, "negative log-likelihood; lower is better"),
}


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


# ---------------------------------------------------------------------------------------------------------- reading


def read(run: Path) -> Run:
    """The facts of a finished run.

    Raises:
        UserError: a file is missing or damaged, or the files belong to different runs.
    """
    recipe = text_of(run, "recipe.yaml")
    try:
        settings = dict(yaml.safe_load(recipe) or {})
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise UserError(f"{run / 'recipe.yaml'} is not a recipe ({error}); train again into an empty folder.") from None
    result = json_of(run, "result.json", text_of(run, "result.json"))
    lines = [line for line in text_of(run, "metrics.jsonl").split("\n") if line.strip()]
    classes, confusion = confusion_of(run)
    if len(result["counts"]) != len(classes):
        raise UserError(
            f"{run / 'confusion.csv'} has {len(classes)} classes but result.json has {len(result['counts'])}: "
            "the files belong to different runs; train again into an empty folder."
        )
    return Run(
        folder=run,
        recipe=recipe,
        few="<=20" if (settings.get("eval") or {}).get("few") == "<=20" else "<20",
        environment=json_of(run, "environment.json", text_of(run, "environment.json")),
        epochs=[json_of(run, f"metrics.jsonl line {i}", line) for i, line in enumerate(lines, 1)],
        result=result,
        classes=classes,
        counts=np.array(result["counts"], dtype=np.int64),
        confusion=confusion,
    )


def text_of(run: Path, name: str) -> str:
    """The text of one file of the run folder; UserError where it is absent."""
    try:
        return (run / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{run} is not the folder of a finished run: it has no {name}; finish it with `glmc train --resume {run}`."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{run / name} cannot be read ({error}); train again into an empty folder.") from None


def json_of(run: Path, name: str, text: str) -> dict[str, Any]:
    """One JSON object. A value that is not a finite number counts as absent, as everywhere in the run folder."""
    try:
        return dict(json.loads(text, parse_constant=lambda _: None))
    except (ValueError, TypeError) as error:
        raise UserError(f"{run / name} is not a JSON object ({error}); train again into an empty folder.") from None


def confusion_of(run: Path) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names in label order and int64 [C, C] of confusion.csv."""
    header, *rows = list(csv.reader(io.StringIO(text_of(run, "confusion.csv"), newline=""))) or [[]]
    classes = tuple(header[1:])
    try:
        matrix = np.array([row[1:] for row in rows if row], dtype=np.int64)
    except ValueError as error:
        raise UserError(f"{run / 'confusion.csv'} does not hold whole numbers in equal rows ({error}).") from None
    if matrix.shape != (len(classes), len(classes)):
        raise UserError(f"{run / 'confusion.csv'} is not square: {len(classes)} columns, {len(matrix)} rows.")
    return classes, matrix


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


# -------------------------------------------------------------------------------------------------------- the page


def group_words(run: Run) -> dict[str, dict[str, str]]:
    """Group -> its rule and size in words; empty groups are absent."""
    rules = ("> 100", "20–100", "< 20") if run.few == "<20" else ("> 100", "21–100", "≤ 20")
    sizes = np.bincount(run.group, minlength=len(GROUPS)).tolist()
    return {
        name: {"rule": f"n {rule}", "size": f"{size} class{'es' if size > 1 else ''}"}
        for name, rule, size in zip(GROUPS, rules, sizes, strict=True)
        if size
    }


def columns(run: Run) -> list[dict[str, Any]]:
    """The columns of the headline table: name, note, scores. The last epoch comes first, whoever is better."""
    result, last = run.result, run.result["last"]
    answer = [{"name": "Last epoch", "note": f"headline, epoch {result['epochs']}", "scores": last, "unfair": False}]
    if result.get("flip_tta"):
        note = "last epoch, with the mirror image"
        answer.append({"name": "Flip TTA", "note": note, "scores": result["flip_tta"], "unfair": False})
    if result.get("selected_on_val"):
        note = f"epoch {result['selected_on_val'].get('epoch')}"
        scores = result["selected_on_val"]
        answer.append({"name": "Selected on validation", "note": note, "scores": scores, "unfair": False})
    if result.get("best_on_test"):
        note = f"epoch {result['best_on_test'].get('epoch')}; selected on the test set: not a fair figure"
        answer.append({"name": "Best on test", "note": note, "scores": result["best_on_test"], "unfair": True})
    return answer


def metric_rows(run: Run, table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per metric that any column has: label, meaning and the values as text."""
    holds = group_words(run)
    return [
        {
            "key": key,
            "label": label,
            "meaning": "{rule}, {size}".format(**holds[key]) if key in holds else meaning,
            "values": [number(column["scores"].get(key), digits) for column in table],
        }
        for key, (label, digits, meaning) in METRICS.items()
        if any(column["scores"].get(key) is not None for column in table)
    ]


def beside(run: Run) -> list[dict[str, str]]:
    """This run, our stored expectation and the published figure, each with its network; only what is there."""
    result, rows = run.result, []
    network = f"{result['backbone']}, {parameters(result['parameters'])} parameters with the heads"
    rows.append(
        {"who": "This run", "top1": number(result["last"].get("top1")), "network": network, "source": "last epoch"}
    )
    if expect := result.get("expect"):
        spread = "" if expect.get("sd") is None else f" ± {number(expect['sd'])}"
        source = f"mean ± standard deviation of {expect.get('seeds')} seeds, {expect.get('record')}"
        network = "that of the recipe as shipped"
        rows.append(
            {"who": "Ours, measured", "top1": number(expect["top1"]) + spread, "network": network, "source": source}
        )
    if published := result.get("published"):
        network, source = str(published.get("network")), str(published.get("source"))
        rows.append({"who": "Published", "top1": number(published["top1"]), "network": network, "source": source})
    return rows


def remarks(run: Run) -> list[str]:
    """Plain sentences on how this run compares with its expectation and the published figure."""
    result, sentences = run.result, []
    top1, expect, published = result["last"].get("top1"), result.get("expect"), result.get("published")
    if expect and top1 is not None:
        gap = top1 - expect["top1"]
        side = "above" if gap >= 0 else "below"
        spread = f" ({number(abs(gap) / expect['sd'])} standard deviations)" if expect.get("sd") else ""
        sentences.append(f"This run ends {number(abs(gap))} points {side} the recipe's stored mean{spread}.")
    if published and published.get("network") != result["backbone"]:
        text = (
            f"The published figure belongs to another network ({published.get('network')}, here {result['backbone']})"
        )
        sentences.append(f"{text}: the two accuracies are not a like-for-like comparison.")
    return sentences


def confused_pairs(run: Run, limit: int = 10) -> list[dict[str, Any]]:
    """The most frequent mistakes: true class, predicted class, images, share of the true class in percent."""
    wrong = run.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [
        {
            "true": class_facts(run, int(i)),
            "predicted": class_facts(run, int(j)),
            "images": int(wrong[i, j]),
            "share": number(100 * float(run.shares[i, j])),
        }
        for i, j in pairs
        if wrong[i, j] > 0
    ]


def class_facts(run: Run, index: int) -> dict[str, Any]:
    """Name, training images, group, test images, recall, precision and the commonest mistake of one class."""
    row = run.result["per_class"][index]
    wrong = run.confusion[index].copy()
    wrong[index] = 0
    return {
        "name": run.classes[index],
        "train": int(run.counts[index]),
        "group": GROUPS[run.group[index]],
        "test": int(run.confusion[index].sum()),
        "recall": number(row.get("recall")),
        "precision": number(row.get("precision")),
        "taken_for": run.classes[int(wrong.argmax())] if wrong.any() else "–",
    }


def worst_classes(run: Run) -> list[dict[str, Any]]:
    """The classes of lowest recall, at most ten and at most half of all; classes without test images left out."""
    worst = np.argsort(run.recall, kind="stable")[: int(np.isfinite(run.recall).sum())]
    return [class_facts(run, int(c)) for c in worst[: min(10, max(len(run.classes) // 2, 1))]]


def errors_upwards(run: Run) -> str | None:
    """Percent of the mistakes that name a class with more training images than the true one; None without any."""
    wrong = run.confusion.copy()
    np.fill_diagonal(wrong, 0)
    upwards = wrong[run.counts[:, None] < run.counts[None, :]].sum()
    return number(100 * float(upwards) / float(wrong.sum()), 0) if wrong.any() else None


def command(run: Run) -> str:
    """The command as it was typed; from the complete recipe where the environment does not hold it."""
    typed = run.environment.get("command")
    if isinstance(typed, list):
        return shlex.join(map(str, typed))
    return str(typed) if typed else "glmc train recipe.yaml"


def number(value: float | None, digits: int = 1) -> str:
    """A figure with a true minus sign; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def parameters(count: int) -> str:
    """466906 -> "0.47 M"."""
    return f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count:,}"


def duration(seconds: float | None) -> str:
    """3725.0 -> "1 h 02 min"; the two largest units only."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def write(run: Path) -> Path:
    """Writes figures/*.png and report.html into a finished run's folder; returns the path of report.html.

    The page holds its figures, needs no network and no script, and follows the reader's light or dark setting.

    Raises:
        UserError: a file of the run is missing or damaged, or the folder is not writable.
    """
    facts = read(run)
    table = columns(facts)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number, duration=duration, parameters=parameters)
    template = environment.from_string(files("glmc").joinpath("report.html").read_text(encoding="utf-8"))
    try:
        page = template.render(
            palette=PALETTE,
            run=facts,
            result=facts.result,
            groups=group_words(facts),
            columns=table,
            metrics=metric_rows(facts, table),
            beside=beside(facts),
            remarks=remarks(facts),
            figures=draw(facts),
            named=len(facts.classes) <= NAMED,
            block=math.ceil(len(facts.classes) / BLOCKS),
            pairs=confused_pairs(facts),
            worst=worst_classes(facts),
            everyone=[class_facts(facts, int(c)) for c in facts.order],
            upwards=errors_upwards(facts),
            command=command(facts),
        )
        target = run / "report.html"
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"The report cannot be written into {run} ({error.strerror}); make room or allow writing."
        ) from None
    return target


# ---------------------------------------------------------------------------------------------------- several runs


def summary(runs: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Mean and sample standard deviation (n - 1) of the last epoch's scores over runs that differ in the seed only.

    Returns:
        metric -> {"mean", "sd", "n"} in the order of result.json; n counts the runs that have the metric; "sd" is
        absent for n = 1.

    Raises:
        UserError: no run, a seed twice, or runs of different recipes, networks, lengths or data.
    """
    if not runs:
        raise UserError("A summary needs at least one run folder.")
    results = [json_of(run, "result.json", text_of(run, "result.json")) for run in runs]
    for run, result in zip(runs, results, strict=True):
        for key in ("recipe", "method", "backbone", "parameters", "epochs", "counts"):
            if result[key] != results[0][key]:
                raise UserError(
                    f"{runs[0]} and {run} differ in `{key}`: a mean needs runs that differ in the seed only."
                )
    seeds = [result["seed"] for result in results]
    for i, seed in enumerate(seeds):
        if seed in seeds[:i]:
            raise UserError(
                f"{runs[seeds.index(seed)]} and {runs[i]} have the same seed {seed}: leave one of them out."
            )
    answer: dict[str, dict[str, float]] = {}
    for key in dict.fromkeys(key for result in results for key in result["last"]):
        values = [float(r["last"][key]) for r in results if r["last"].get(key) is not None]
        if values:
            answer[key] = {"mean": statistics.fmean(values), "n": len(values)}
            if len(values) > 1:
                answer[key]["sd"] = statistics.stdev(values)
    return answer
