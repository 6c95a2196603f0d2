"""Files of a run folder, whole or absent: written under another name, brought to the disk, renamed. POSIX only."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple

from glmc import trust
from glmc.errors import UserError

MOST_BYTES = 2**32  # of a file of a run, its checkpoints apart
_PROCESS = secrets.token_hex(4)  # tells our temporary files from those of another process that has the same number


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file so that every reader, also after a crash, finds the old content or the new one, never a part.

    Args:
        path: in an existing folder.
        content: text is written as UTF-8.

    Raises:
        UserError: disk full, folder absent or not writable and the like. The old content is untouched.
    """
    temporary = path.with_name(temporary_name(path.name))
    try:
        with _told_of(path):
            write_through(temporary, content.encode() if isinstance(content, str) else content)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        with suppress(OSError):  # mostly gone by now; on a read-only disk even asking is an error
            temporary.unlink()


def append(path: Path, text: str) -> None:
    """Add UTF-8 text to a file, and hand it to the system. A kill may cut it short.

    Raises:
        UserError: disk full, folder absent or not writable and the like.
    """
    with _told_of(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


def settle(path: Path) -> None:
    """Bring what has been handed to the system to the disk; a `UserError` if it refuses."""
    with _told_of(path):
        sync(path)


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror}); make its folder writable or make room on its disk"
        ) from error


def write_through(path: Path, content: bytes | memoryview) -> dict[str, Any]:
    """Write and bring to the disk; returns the file's entry in the manifest."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


class Held(NamedTuple):
    """A file that is never changed, and its entry in the manifest, from when it was written."""

    path: Path
    entry: dict[str, Any]

    def intact(self) -> bool:
        """Whether it is there as it was written."""
        try:
            content = self.path.read_bytes()
        except OSError:
            return False
        return hashlib.sha256(content).hexdigest() == self.entry["sha256"]


def link(held: Held, path: Path) -> dict[str, Any]:
    """Give a file a second name, or copy it where there are none; its entry in the manifest."""
    try:
        os.link(held.path, path)
    except OSError:
        write_through(path, held.path.read_bytes())
    return held.entry


def text_of(run: Path, name: str) -> str:
    """The text of one file of the run folder; UserError where it is absent."""
    try:
        with TextIOWrapper(trust.open_file(run / name, MOST_BYTES), encoding="utf-8") as stream:
            return stream.read()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{run} is not the folder of a finished run: it has no {name}; finish it with `glmc train --resume {run}`."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{run / name} cannot be read ({error}); train again into an empty folder.") from None


def value_of(file: Path | str, text: str, remedy: str) -> Any:
    """A value in JSON. What is not a finite number counts as absent, as everywhere in the run folder."""
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}); {remedy}") from None


def sync(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def temporary_name(name: str) -> str:
    """Of what is about to become `name`; no other process, of whatever machine or container, uses the same one."""
    return f".tmp-{os.getpid()}-{_PROCESS}-{name}"


def remove_temporary(folder: Path) -> None:
    """Remove what a killed writer has left; for whoever alone writes into the folder now."""
    for path in folder.glob(".tmp-*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
