"""Whose code may run, and what is opened of what others wrote: regular files of a bounded size.

A recipe may name a class as "package.module:Class", and importing it executes its file.

Recipes, runs and folders of images are handed from one person to the next, so that a name in a file is no permission:
one is the name typed in an assignment, the folder given with `--code`, or `--trust`. None of them is remembered by a
run.
"""

import os
import shlex
import stat
import sys
import traceback
from importlib.machinery import PathFinder
from pathlib import Path
from typing import BinaryIO

from glmc.errors import UserError

_typed: set[str] = set()
_folders: list[str] = []
_everything: list[bool] = []
_files: set[str] = set()  # that have been imported


def allow_name(name: str) -> None:
    """Let a class that the user has named be imported, e.g. "mine:Loss"."""
    _typed.add(name)


def allow_folder(folder: str) -> None:
    """Let the modules of a folder be found and imported, after all that is installed: they cannot hide a library.

    Raises:
        UserError: there is no such folder.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise UserError(f"--code {folder}: there is no such folder; give the one that holds your own methods or losses")
    _folders.append(str(place.resolve()))
    sys.path.append(_folders[-1])


def allow_everything() -> None:
    """Let whatever class a recipe names be imported."""
    _everything.append(True)


def allowed(name: str) -> bool:
    """Whether "package.module:Class" may be imported."""
    package = name.partition(":")[0].partition(".")[0]
    return bool(_everything) or name in _typed or PathFinder.find_spec(package, _folders) is not None


def words() -> str:
    """What a later command needs to be given for the same code, with a space before it; empty if there is none."""
    if _folders:
        return "".join(f" --code {shlex.quote(folder)}" for folder in _folders)
    return " --trust" if _typed or _everything else ""


def imported(file: str | None) -> None:
    """Note a file of a user's own that has been imported."""
    _files.update({file} if file else ())


def own_line(error: BaseException) -> str | None:
    """ "file:line" in the innermost frame of an error that lies in a user's own code; or none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename in _files or {*map(str, Path(f.filename).parents)} & {*_folders}]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else None


def open_file(path: str | os.PathLike[str], limit: int) -> BinaryIO:
    """Open a regular file for reading: neither a pipe, which may wait for ever, nor a device, which may never end.

    Raises:
        OSError, ValueError: it cannot be opened, is something else, or has more than `limit` bytes.
    """
    # Without this flag, opening a pipe waits for whoever writes to it; to a regular file it makes no difference.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and status.st_size <= limit:
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise ValueError(f"larger than {limit:,} bytes" if stat.S_ISREG(status.st_mode) else "not a file")
