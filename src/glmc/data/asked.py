"""The image files that the words of a command line stand for: files, folders, patterns, and a list on stdin."""

import glob
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from glmc.data.folders import IMAGE_ENDINGS
from glmc.errors import UserError


def find_images(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The files that are asked for, in order, and what is wrong with those that are no image files.

    Raises:
        UserError: nothing is asked for.
    """
    asked = [found for word in words for found in (standard_input() if word == "-" else expanded(word))]
    if not asked:
        raise UserError("no images are named: give files, folders, patterns, or - and a list of paths on stdin")
    return [path for path, _ in asked], {path: problem for path, problem in asked if problem}


def standard_input() -> Iterator[tuple[str, str]]:
    """(path, problem) for each line of stdin, which may also name a folder or a pattern."""
    for line in sys.stdin.buffer.read().splitlines():
        if line:
            yield from expanded(os.fsdecode(line))


def expanded(word: str) -> Iterator[tuple[str, str]]:
    """(path, problem) for each image file that a word stands for; the problem is "" where there is none."""
    if os.path.isdir(word):
        unreadable: list[OSError] = []
        images = list(images_below(word, unreadable.append))
        yield from ((path, "") for path in images)
        yield from ((str(error.filename), str(error.strerror)) for error in unreadable)
        if not images and not unreadable:
            yield word, "a folder without images"
    elif os.path.exists(word):
        yield word, "" if os.path.isfile(word) else "not a file"  # opening a pipe would wait for ever
    elif glob.has_magic(word):
        matches = sorted(glob.glob(word, recursive=True))
        below = "**" in word  # such a pattern has gone into the folders already
        chosen = [match for match in matches if not (below and os.path.isdir(match))]
        if not chosen:
            yield word, "no file matches"
        for match in chosen:
            yield from expanded(match)
    else:
        yield word, "no such file"


def images_below(folder: str, unreadable: Callable[[OSError], None]) -> Iterator[str]:
    """The image files of a folder and all folders below, sorted, without hidden ones."""
    for place, below, files in os.walk(folder, onerror=unreadable):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(IMAGE_ENDINGS) and not name.startswith("."):
                yield os.path.join(place, name)
