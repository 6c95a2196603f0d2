"""What a person sees while a command runs: sentences, a progress bar, a table at the end."""

import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table

from glmc.errors import printable
from glmc.metrics import MAIN, METRICS

BAR = 16  # columns


class Terminal(Console):
    """A console on which names of files and classes are nothing but text, whatever control characters they hold."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is printed; only what rich itself has to say may control the terminal."""
        for part in super().render(renderable, options):
            yield part if part.control else Segment(printable(part.text), part.style)


class Screen:
    """Sentences and progress on the terminal; the sentences also go to the run's log.

    Args:
        log: file that the sentences are appended to, with the time; none for commands without a run folder.
        quiet: nothing on the terminal.
    """

    def __init__(self, log: Path | None = None, quiet: bool = False) -> None:
        self.console, self.log = Terminal(quiet=quiet, highlight=False), log

    def say(self, text: str) -> None:
        """Print a sentence and log it."""
        self.console.print(text, markup=False, soft_wrap=True)
        self.note(text)

    def warn(self, text: str) -> None:
        """Say what nobody may miss: on a quiet screen it goes to standard error."""
        if self.console.quiet:
            complain(text)
        self.say(text)

    def note(self, text: str) -> None:
        """Log a sentence without printing it."""
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {printable(text)}\n")

    @contextmanager
    def bar(self, what: str, total: int | None = None, done: int = 0) -> Iterator["Bar"]:
        """A progress bar with the time left, shown on a terminal only."""
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=BAR),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        ) as progress:
            yield Bar(progress, progress.add_task(what, total=total, completed=done))

    def table(self, title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """One row a result, one column an accuracy in percent, or text; a column that no row has is left out.

        Where the terminal is narrow, deviations stand below their figures; nothing is cut off.
        """
        self.console.print(title, markup=False, soft_wrap=True)
        table = Table()
        table.add_column("", overflow="fold")
        known = [key for key in MAIN if any(key in scores for scores in rows.values())]
        for key in known:
            table.add_column(METRICS[key].word, justify="right", overflow="fold")
        for name, scores in rows.items():
            table.add_row(name, *[_percent(scores, key) for key in known])
        self.console.print(table)
        for name, scores in rows.items():
            self.note(f"{title} | {name} | " + " ".join(f"{k} {_percent(scores, k)}" for k in MAIN if k in scores))


class Bar:
    """The handle of a progress bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def to(self, done: int, total: int | None = None, what: Sequence[str] | None = None) -> None:
        """Move the bar, and change its total or its words if given: as many as the terminal is wide enough for.

        Args:
            done: steps.
            total: of so many.
            what: words, the most important first.
        """
        if what is not None:
            task = self._progress.tasks[self._task]
            beside = BAR + len(f" {task.total}/{task.total} 000:00:00 ")
            what = fitting(what, self._progress.console.width - beside)
        self._progress.update(self._task, completed=done, total=total, description=what)


def fitting(words: Sequence[str], width: int) -> str:
    """The first of some words, with two spaces between them, that fit into `width` columns; one at least."""
    lines = ["  ".join(words[: number + 1]) for number in range(len(words))]
    return max((line for line in lines if len(line) <= width), key=len, default=words[0])


def complain(text: str) -> None:
    """A sentence on standard error."""
    print(f"glmc: {printable(text)}", file=sys.stderr)


def writable(name: str) -> bool:
    """Whether a name can be written in UTF-8 on a line: without control characters and what is no Unicode."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)


def without(classes: Sequence[str], what: str) -> str:
    """Classes that lack something, in words.

    >>> without(["newt"], "held-out image")
    '1 class has no held-out image (newt)'
    """
    some = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    return f"{len(classes)} class{'es have' if len(classes) > 1 else ' has'} no {what} ({some})"


def clock(seconds: float) -> str:
    """4521.3 -> "1:15:21"."""
    return str(timedelta(seconds=round(seconds)))


def _percent(scores: Mapping[str, Any], key: str) -> str:
    if key not in scores:
        return ""
    if isinstance(scores[key], str):
        return str(scores[key])
    spread = f" ±{scores[key + '_sd']:.2f}" if key + "_sd" in scores else ""
    return f"{scores[key]:.2f}{spread}"
