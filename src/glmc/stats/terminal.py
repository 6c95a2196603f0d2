"""The facts on the terminal: a table, the falling curve of class sizes, what is odd, what to do."""

import itertools
from typing import Literal, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from glmc.data.split import Paths
from glmc.metrics import GROUPS, group_rules
from glmc.stats.advice import Advice, number
from glmc.stats.duplicates import Copies
from glmc.stats.facts import ODD, Facts, size_facts
from glmc.stats.near import LIMIT

STYLES = {"many": "bright_blue", "medium": "green", "few": "dark_orange"}
NAMED = 20  # up to so many classes each has a bar; of more, neighbours on the curve share one
EIGHTHS = " ▏▎▍▌▋▊▉█"
SHOWN = 3  # examples of each kind; --json and --out tell more


class Bar(NamedTuple):
    """One line of the curve.

    Args:
        label: class, or places of the classes it stands for.
        size: mean images of these classes.
        text: their images in words.
        group: of the middle one.
    """

    label: str
    size: float
    text: str
    group: str


def rows(facts: Facts) -> list[tuple[str, str]]:
    """(what, value) of every line of the table."""
    parts, counts, classes = facts.found.parts, facts.counts, facts.train.classes
    order = facts.order
    images = ", ".join(f"{len(split):,} {part}" for part, split in parts.items())
    held = int(counts.sum() - facts.trained.sum())
    if held:
        images += f" ({held:,} of them held out, for there is no test set)"
    largest, smallest = int(order[0]), int(order[-1])
    lines = [
        ("images", images),
        ("classes", f"{len(classes):,}"),
        ("largest class", f"{number(int(counts[largest]), 'image')} ({classes[largest]})"),
        ("median class", f"{np.median(counts):,.0f} images"),
        ("smallest class", f"{number(int(counts[smallest]), 'image')} ({classes[smallest]})"),
        ("imbalance factor", f"{facts.imbalance:,.1f}"),
        *group_rows(facts),
    ]
    if "test" in parts:
        tested = parts["test"].counts
        lines.append(("test images a class", span(int(tested.min()), int(tested.max()))))
    return lines + picture_rows(facts)


def group_rows(facts: Facts) -> list[tuple[str, str]]:
    """The groups of the recipes, by the images that are trained on."""
    lines = []
    for i, (name, rule) in enumerate(group_rules(facts.settings.eval.few).items()):
        members = facts.group == i
        share = facts.trained[members].sum() / max(facts.trained.sum(), 1)
        lines.append((f"{name} ({rule})", f"{number(int(members.sum()), 'class')}, {share:.1%} of the training images"))
    return lines


def picture_rows(facts: Facts) -> list[tuple[str, str]]:
    """Sizes, formats and modes."""
    sizes = size_facts(facts.sizes)
    if not sizes:
        return []
    names = ("smallest", "median", "largest")
    smallest, median, largest = (f"{sizes[name][0]:,} x {sizes[name][1]:,}" for name in names)
    low, middle, high = (f"{value:.2f}" for value in sizes["aspect"])
    shape = f"width / height {low}" if low == high else f"width / height {low} to {high}, median {middle}"
    size = f"all {smallest}" if smallest == largest and low == high else f"{smallest} to {largest}, median {median}"
    return [
        ("sizes in pixels", f"{size}; {shape}"),
        *([("formats", counted(facts.kinds(0)))] if isinstance(facts.train.images, Paths) else []),
        ("modes", counted(facts.kinds(1))),
    ]


def counted(kinds: dict[str, int]) -> str:
    """Names with counts; of a single one, its name."""
    return next(iter(kinds)) if len(kinds) == 1 else ", ".join(f"{name} {count:,}" for name, count in kinds.items())


def span(low: int, high: int) -> str:
    """Two ends, or the one number that both are."""
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def duplicate_rows(facts: Facts) -> list[tuple[str, Copies, list[str]]]:
    """(kind, how many, examples) of each kind of duplicates that there could be."""
    found, parts = facts.duplicates, facts.found.parts
    kinds = [
        ("the same bytes within a class", found.within, False),
        ("the same bytes in several classes", found.across, True),
    ]
    for part, word, copies in (("test", "test", found.test), ("val", "validation", found.val)):
        kinds += [(f"the same bytes in train and {word}", copies, False)] if part in parts else []
    kinds += [("nearly the same", facts.near["train"], True)] if "train" in facts.near else []
    for part, word in (("test", "test"), ("val", "validation"), ("held", "what is held out of it")):
        kinds += [(f"nearly the same in train and {word}", facts.near[part], False)] if part in facts.near else []
    return [
        (kind, copies, [" = ".join(facts.name(place, label=label) for place in group) for group in copies.examples])
        for kind, copies, label in kinds
    ]


def bars(facts: Facts, lines: int = NAMED) -> list[Bar]:
    """The curve in at most about `lines` lines; none crosses the border of a group."""
    order, classes = facts.order, facts.train.classes
    counts, group = facts.counts[order], facts.group[order]
    if len(order) <= lines:
        return [
            Bar(classes[c], float(n), f"{n:,}", GROUPS[g])
            for c, n, g in zip(order.tolist(), counts.tolist(), group.tolist(), strict=True)
        ]
    edges = {0, len(order), *(np.flatnonzero(np.diff(group)) + 1).tolist()}
    edges |= set(np.linspace(0, len(order), lines + 1).round().astype(int).tolist())
    stops = sorted(edges)
    found = []
    for start, stop in itertools.pairwise(stops):
        here = counts[start:stop]
        label = f"{start + 1:,}" if stop == start + 1 else f"{start + 1:,}-{stop:,}"
        found.append(Bar(label, float(here.mean()), span(int(here.min()), int(here.max())), GROUPS[group[start]]))
    return found


def bar(share: float, width: int, plain: bool) -> str:
    """A bar of `share` in [0, 1] of the width; anything above 0 is seen.

    >>> bar(0.5, 4, True), bar(0.55, 4, False), bar(0.001, 4, False)
    ('##', '██▎', '▏')
    """
    if plain:
        return "#" * max(round(share * width), 1 if share > 0 else 0)
    eighths = max(round(share * width * 8), 1 if share > 0 else 0)
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def draw(console: Console, facts: Facts) -> None:
    """The falling curve of class sizes, one colour a group."""
    found = bars(facts)
    longest = max(one.size for one in found)
    names = len(facts.train.classes) <= NAMED
    # What is not printed in UTF-8 can show neither blocks nor an ellipsis.
    plain = not console.encoding.lower().startswith("utf")
    table = Table.grid(padding=(0, 2))
    overflow: Literal["crop", "ellipsis"] = "crop" if plain else "ellipsis"
    table.add_column(justify="left" if names else "right", max_width=24, no_wrap=True, overflow=overflow)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    width = max(12, min(console.width, 100) - min(24, max(len(one.label) for one in found)) - 30)
    before = ""
    for one in found:
        line = Text(bar(one.size / longest, width, plain), style=STYLES[one.group])
        line.append(f" {one.group}" if one.group != before else "", style="default")
        table.add_row(Text(one.label), Text(one.text), line)
        before = one.group
    what = "images of each class" if names else "images a class, from the most to the least frequent class"
    what += "" if (facts.counts == facts.trained).all() else "; grouped by the images that stay for training"
    console.print(Text(what, style="bold"))
    console.print(table)


def show(console: Console, facts: Facts, advice: Advice) -> None:
    """Everything, in the order in which one asks for it."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for what, value in rows(facts):
        table.add_row(Text(what), Text(value))
    console.print(table)
    for remark in facts.found.remarks:
        if "held out" not in remark:
            console.print(Text(remark, style="dim"), soft_wrap=True)
    console.print()
    draw(console, facts)
    console.print()
    show_oddities(console, facts)
    console.print()
    show_advice(console, advice)


def show_oddities(console: Console, facts: Facts) -> None:
    """Duplicates and odd files with a few examples; what there is none of in one line."""
    clean = []
    console.print(Text("duplicates and odd files", style="bold"))
    for what, found, examples in duplicate_rows(facts):
        if found.images:
            listing(console, f"{what}: {number(found.images, 'image')}", examples, found.groups)
        else:
            clean.append(what)
    for key, what in ODD.items():
        if facts.odd[key]:
            listing(console, f"{what}: {len(facts.odd[key]):,}", facts.odd[key], len(facts.odd[key]))
        else:
            clean.append(what)
    if not facts.near:
        console.print(Text(f"more than {LIMIT:,} images are not compared for near duplicates", style="dim"))
    if clean:
        console.print(Text(f"none: {', '.join(clean)}", style="dim"), soft_wrap=True)


def listing(console: Console, title: str, examples: list[str], number: int) -> None:
    """A heading with the first few of `number` examples."""
    console.print(Text(title, style="yellow"), soft_wrap=True)
    for example in examples[:SHOWN]:
        console.print(Text(f"  {example}"), soft_wrap=True)
    if number > SHOWN:
        console.print(Text("  ...", style="dim"))


def show_advice(console: Console, advice: Advice) -> None:
    """What to fix, where to start, and why."""
    for sentence in advice.mend:
        console.print(Text(f"fix first: {sentence}", style="red"), soft_wrap=True)
    console.print(Text("start with", style="bold"))
    console.print(Text(f"  {advice.command}"), soft_wrap=True)
    for sentence in advice.why:
        console.print(Text(f"  because {sentence}", style="dim"), soft_wrap=True)
    if advice.also:
        console.print(Text(f"compare with ({advice.when})", style="bold"))
        console.print(Text(f"  {advice.also}"), soft_wrap=True)
