"""What all figures share: colours, calm axes, and inline SVG for a page. Needs no torch.

Every figure is drawn once, in the light colours of `PALETTE`. In a page it stands as inline SVG with CSS variables in
place of the colours, so that one drawing suits a light screen, a dark one and paper.
"""

import io
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

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
    "run1": ("#1f5fa8", "#6db1f2"),
    "run2": ("#c2480a", "#ff9a5c"),
    "run3": ("#0b7a5a", "#45cfa2"),
    "run4": ("#9c2f6b", "#ee8abd"),
    "run5": ("#8a6200", "#e3b548"),
    "run6": ("#5b4db3", "#aba3ff"),
    "run7": ("#3a7080", "#84c3d5"),
    "run8": ("#6b5a4e", "#c9b5a6"),
}
COLOUR = {name: light for name, (light, _) in PALETTE.items()}

MARKERS = ("o", "s", "^")
DASHES = ("-", (0, (5, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (1, 1.2)))

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


def runs_of(values: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """(value, start, stop) of each stretch of equal neighbours."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for start, stop in itertools.pairwise(edges):
        yield int(values[start]), start, stop


def short(name: str, limit: int = 14) -> str:
    """A name that fits beside a tick: start and end, because names in a row often begin alike."""
    return name if len(name) <= limit else f"{name[: limit - 6]}…{name[-5:]}"


Drawing = tuple[Callable[[Figure], bool], tuple[tuple[float, float], ...]]
"""What draws a figure, or returns False when there is nothing to draw; and its sizes in inches. With two sizes the page
shows the first on a narrow screen and the second on a wide one. Text of 10 pt becomes about 10 px on a phone, 14 px on
a desk."""


def draw(figures: Mapping[str, Drawing], folder: Path | None = None) -> dict[str, Markup]:
    """Name -> inline SVG, without the figures for which there is no data; with a folder, also <name>.png in there."""
    page: dict[str, Markup] = {}
    with warnings.catch_warnings():
        # Names in a script that the built-in font lacks: boxes in the PNG, right in the page with the system's fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        for name, (function, sizes) in figures.items():
            drawings = []
            for size, width in zip(sizes, ("narrow", "wide"), strict=False):
                # Ids inside an SVG are hashes with this salt: equal for equal runs, never the same in two figures.
                with matplotlib.rc_context({**STYLE, "svg.hashsalt": f"{name} {width}"}):
                    figure = Figure(figsize=size, layout="constrained")
                    FigureCanvasAgg(figure)
                    if not function(figure):
                        break
                    drawings.append(inline(figure, width if len(sizes) > 1 else ""))
                    if folder is not None and len(drawings) == len(sizes):
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
