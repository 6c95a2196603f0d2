"""Whether a data set can be trusted: every image decoded once, duplicates between its parts, what each class has."""

import json
from collections.abc import Sequence

from rich.text import Text

from glmc.errors import UserError
from glmc.screen import Screen
from glmc.stats.advice import number
from glmc.stats.facts import Facts, as_json, collect
from glmc.stats.find import scan, wanted
from glmc.stats.near import LIMIT
from glmc.stats.terminal import duplicate_rows


def verify(data: str, assignments: Sequence[str] = (), *, as_text: bool = True) -> None:
    """Print what each class has, and name everything that speaks against training on a data set.

    Args:
        data, assignments: as for `glmc.stats.stats`.
        as_text: for people; False prints JSON.

    Raises:
        UserError: there are no such data; or, after all has been printed, something speaks against them.
    """
    screen = Screen(quiet=not as_text)
    settings = wanted(data, assignments)
    facts = collect(data, settings, scan(settings.data), screen.bar, whole=True)
    found = problems(facts)
    if as_text:
        for line in [*class_lines(facts), *facts.found.remarks]:
            screen.say(line)
        if not facts.near:
            screen.say(f"more than {LIMIT:,} images are not compared for near duplicates")
        for heading, names in found.items():
            screen.console.print(Text(heading, style="yellow"), soft_wrap=True)
            for name in names:
                screen.say(f"  {name}")
    else:
        print(json.dumps({**as_json(facts), "problems": found}, indent=1))
    if found:
        raise UserError(f"{data}: {'; '.join(found)}; mend what is listed above, or leave it out")
    screen.say(f"{sum(map(len, facts.found.parts.values())):,} images decoded, nothing wrong")


def class_lines(facts: Facts) -> list[str]:
    """A line for each class, the largest first: how many images it has in each part."""
    parts = facts.found.parts
    return [
        f"{facts.train.classes[c]}: " + ", ".join(f"{split.counts[c]:,} {part}" for part, split in parts.items())
        for c in facts.order.tolist()
    ]


def problems(facts: Facts) -> dict[str, list[str]]:
    """Sentence -> every file that it is about."""
    found: dict[str, list[str]] = {}
    if facts.found.refusal is not None:
        found[f"training refuses these data: {facts.found.refusal}"] = []
    if broken := facts.odd["broken"]:
        found[f"{number(len(broken), 'image')} cannot be read"] = broken
    for kind, copies, names in duplicate_rows(facts):
        # Those within the training images do no harm if groups keep them on one side; "held" tells of the others.
        beside = kind == "nearly the same" and facts.settings.data.groups is not None and "held" in facts.near
        if copies.images and kind != "the same bytes within a class" and not beside:
            found[f"{number(copies.images, 'image')}: {kind}"] = names
    return found
