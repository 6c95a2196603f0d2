"""The curve of class sizes as a picture, and all facts as one self-contained page."""

from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from glmc.metrics import GROUPS
from glmc.report import render
from glmc.report.drawing import COLOUR, clean, draw, legend, runs_of, short
from glmc.report.figures import NAMED, draw_counts
from glmc.stats import terminal
from glmc.stats.advice import Advice, number
from glmc.stats.facts import ODD, Facts, as_json

NARROW, WIDE = (4.8, 3.6), (10.0, 4.0)  # inches


def curve(facts: Facts, figure: Figure) -> bool:
    """Training images of every class, falling, on a logarithmic axis, one colour a group."""
    axes = figure.subplots()
    order = facts.order
    counts, group = facts.counts[order], facts.group[order]
    for value, start, stop in runs_of(group):
        colour, members = COLOUR[GROUPS[value]], facts.group == value
        axes.axvspan(start - 0.5, stop - 0.5, color=colour, alpha=0.08, linewidth=0)
        draw_counts(axes, counts, start, stop, colour, bars=len(order) <= NAMED)
        label = f"{GROUPS[value]}: {number(int(members.sum()), 'class')}, {int(facts.counts[members].sum()):,} images"
        axes.plot([], [], color=colour, linewidth=6, label=label)
    axes.set(yscale="log", ylim=(max(0.5, counts.min() / 2), counts.max() * 1.4), ylabel="training images")
    axes.set_xlim(-0.5, len(order) - 0.5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else ""))
    axes.minorticks_off()
    if len(order) <= NAMED:
        names = [short(facts.train.classes[c]) for c in order]
        crowded = max(map(len, names)) * len(names) > 11 * figure.get_figwidth()
        axes.set_xticks(np.arange(len(order)), names, rotation=90 if crowded else 0)
    else:
        axes.set_xlabel("classes, from the most to the least frequent")
    clean(axes)
    legend(figure, axes, 3 if figure.get_figwidth() > 6 else 1)
    return True


def write(facts: Facts, advice: Advice, out: Path) -> None:
    """Writes the picture of the curve (.png), or everything that the terminal gets and more examples (.html)."""
    if out.suffix == ".png":
        draw({out.stem: (partial(curve, facts), (WIDE,))}, out.parent)
        return
    words = {
        "facts": facts,
        "rows": terminal.rows(facts),
        "duplicates": terminal.duplicate_rows(facts),
        "odd": [(what, facts.odd[kind]) for kind, what in ODD.items()],
        "classes": as_json(facts)["per_class"],
        "advice": advice,
        "curve": draw({"stats": (partial(curve, facts), (NARROW, WIDE))})["stats"],
    }
    # File names need not be Unicode.
    out.write_text(render("stats.html", words), encoding="utf-8", errors="replace")
