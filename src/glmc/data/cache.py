"""Arrays on disk that are costly to make again: decoded images, sizes and digests of files. Whole or absent."""

import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glmc.errors import UserError

HEADER = 1024  # bytes that the header of a .npy file has at most, of arrays like ours


class CacheEntry(NamedTuple):
    """One decoded set: its fingerprint, its bytes on disk, when it was made, and the folder of the images."""

    name: str
    bytes: int
    date: str
    root: str


def cache_folder() -> Path:
    """$GLMC_CACHE, else $XDG_CACHE_HOME/glmc, else ~/.cache/glmc."""
    if os.environ.get("GLMC_CACHE"):
        return Path(os.environ["GLMC_CACHE"]).expanduser()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glmc"
    except RuntimeError:  # as in a container whose user has no name
        raise UserError(
            "this user has no home folder to keep decoded images in: set GLMC_CACHE to a folder, or data.cache=false"
        ) from None


def cache_entries(folder: Path | None = None) -> list[CacheEntry]:
    """The complete sets in the cache (None: `cache_folder()`), oldest first."""
    entries = []
    for file in _cache_files(folder or cache_folder()):
        about = _about(file.with_suffix(".json")) if file.suffix == ".npy" else None
        if about is not None:
            entries.append(CacheEntry(file.stem, file.stat().st_size, str(about["date"]), str(about["root"])))
    return sorted(entries, key=lambda entry: entry.date)


def clear_cache(folder: Path | None = None) -> int:
    """Removes what the cache wrote in its folder (None: `cache_folder()`) and nothing else; returns the bytes freed."""
    freed = 0
    for file in _cache_files(folder or cache_folder()):
        freed += file.stat().st_size
        file.unlink()
    return freed


def _cache_files(folder: Path) -> list[Path]:
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    ours = r"[0-9a-f]{64}\.(npy|json)|unreadable-[0-9a-f]{12}\.txt|\.glmc-.*\.tmp"
    return [folder / name for name in names if re.fullmatch(ours, name)]


def _about(file: Path) -> dict[str, object] | None:
    """What the small file beside a cached array says; None if it is absent or damaged."""
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) and {"sha256", "date", "root"} <= about.keys() else None


def read(folder: Path, name: str, say: Callable[[str], None]) -> NDArray[Any] | None:
    """The cached array; None if there is none or it is damaged, which is said."""
    array, about_file = folder / f"{name}.npy", folder / f"{name}.json"
    if not about_file.exists():
        return None
    try:
        about = _about(about_file)
        if about is not None and about.get("name") == name:  # or it is another set's
            # A copy in memory: what is mapped changes, or ends the process, when somebody writes into the file.
            content = np.fromfile(array, dtype=np.uint8)
            if hashlib.sha256(content.data).hexdigest() == about["sha256"]:
                return _array_of(content)
    except (OSError, ValueError):
        pass  # as good as damaged
    say(f"the cached array {array} is damaged: it is made again")
    return None


def write(folder: Path, name: str, array: NDArray[Any], root: str, say: Callable[[str], None]) -> None:
    """Array first, then the small file that makes it count; each appears whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / f"{name}.npy", lambda file: _save(file, array))
        with open(folder / f"{name}.npy", "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        date = datetime.now().astimezone().isoformat(timespec="seconds")
        about = {"name": name, "sha256": sha256, "date": date, "root": os.path.abspath(root), "shape": array.shape}
        _replace(folder / f"{name}.json", lambda file: file.write(json.dumps(about).encode()))
    except OSError as error:
        say(
            f"what was decoded or computed is not cached, for {folder} cannot take it ({error.strerror}): make "
            "room, or set GLMC_CACHE to another folder; this run goes on without"
        )


def _array_of(content: NDArray[np.uint8]) -> NDArray[Any]:
    """The array in the bytes of a .npy file, not copied."""
    header = io.BytesIO(content[:HEADER].tobytes())
    np.lib.format.read_magic(header)
    shape, _, dtype = np.lib.format.read_array_header_1_0(header)
    return content[header.tell() :].view(dtype).reshape(shape)


def _save(file: BinaryIO, array: NDArray[Any]) -> None:
    """numpy.save, but with the reason if the disk is full."""
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(array.data)


def _replace(target: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a temporary file beside the target, brings it to the disk and gives it the target's name."""
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".glmc-", suffix=".tmp")
    try:
        with open(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
