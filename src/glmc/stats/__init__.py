"""What a data set is like: class sizes, duplicates, sizes in pixels, odd files; and where to start. No torch."""

import json
from collections.abc import Sequence
from pathlib import Path

from glmc.data.sources import SOURCES
from glmc.errors import UserError
from glmc.screen import Screen
from glmc.stats.advice import advise
from glmc.stats.facts import as_json, collect
from glmc.stats.find import scan, wanted
from glmc.stats.terminal import show


def stats(data: str, assignments: Sequence[str] = (), out: Path | None = None, *, as_text: bool = True) -> None:
    """Print what a data set is like, and which recipe to start from.

    Args:
        data: folder of class folders, or of train and test folders of these; list file; or a named set.
        assignments: data.KEY=VALUE or eval.few=VALUE, e.g. data.test_list=test.txt.
        out: page (.html) or picture of the curve (.png) to write beside.
        as_text: for people; False prints JSON.

    Raises:
        UserError: there are no such data, or `out` is there already. What is wrong with single images is printed.
    """
    if out is not None and out.suffix not in (".html", ".png"):
        raise UserError(f"--out {out}: the name must end in .html (all facts) or .png (the curve)")
    if out is not None and out.exists():
        raise UserError(f"{out} is there already, and nothing is overwritten; name another file with --out")
    if out is not None and not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}; make it first")
    screen = Screen(quiet=not as_text)
    if data in SOURCES and Path(data).is_dir():
        screen.say(f"{data}: the named set is meant; for the folder of that name write ./{data}")
    settings = wanted(data, assignments)
    facts = collect(data, settings, scan(settings.data), screen.bar)
    advice = advise(facts, assignments)
    if as_text:
        show(screen.console, facts, advice)
    else:
        print(json.dumps({**as_json(facts), "advice": advice._asdict()}, indent=1))
    if out is not None:
        from glmc.stats import picture  # matplotlib takes a second

        picture.write(facts, advice, out)
        screen.say(f"written: {out}")
