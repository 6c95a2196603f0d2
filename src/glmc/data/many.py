"""Work on every file of a set, in threads, and a fingerprint of them all."""

import hashlib
import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import PIL
from PIL import Image

from glmc.data.pictures import reason
from glmc.data.split import Paths
from glmc.errors import UserError

CACHE_FORMAT = 3  # to be raised when the pixels of the same files and options change
CHUNK = 32  # images per task: tasks of one small image would cost more than the image

Progress = Callable[[int, int], None]


class Unreadable(UserError):
    """Files that cannot be read, where all of them were to be decoded."""


def for_every(paths: Paths, work: Callable[[int], None], workers: int | None, progress: Progress | None) -> None:
    """Do `work` for every row, in threads (PIL decodes without the interpreter lock).

    Raises:
        Unreadable: it failed for some.
    """
    failures = failures_of(paths, work, workers, progress)
    refuse(paths, [f"{paths.relative(row)!r} ({reason(error)})" for row, error in failures.items()])


def failures_of(
    paths: Paths, work: Callable[[int], None], workers: int | None, progress: Progress | None
) -> dict[int, Exception]:
    """Do `work` for every row, in threads; row -> what it raised."""
    Image.init()  # loads PIL's formats now rather than in several threads at once

    def chunk(start: int) -> dict[int, Exception]:
        failed: dict[int, Exception] = {}
        for row in range(start, min(start + CHUNK, len(paths))):
            try:
                work(row)
            except Exception as error:  # PIL raises nearly anything on a damaged file
                failed[row] = error.with_traceback(None)  # which would hold on to the file's bytes
        return failed

    failures: dict[int, Exception] = {}
    pool = ThreadPoolExecutor(workers or cores())
    try:
        for number, failed in enumerate(pool.map(chunk, range(0, len(paths), CHUNK)), 1):
            failures |= failed
            if progress is not None:
                progress(min(number * CHUNK, len(paths)), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted run does not decode the rest first
    return failures


def refuse(paths: Paths, failures: list[str]) -> None:
    """Raise `Unreadable` if there are failures, each a sentence on one file."""
    if failures:
        raise Unreadable(
            f"{len(failures)} of {len(paths)} images in {paths.root} cannot be read (first: "
            f"{', '.join(failures[:10])}): replace or remove them"
        )


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fingerprint_of(paths: Paths, *options: str | int | None) -> str:
    """sha256 over options and files: path below the root, bytes, and the times of the last change.

    The status time joins the modification time because tools that keep the latter (tar, rsync) may replace a file by
    another of the same size; moving the whole folder changes neither.
    """
    digest = hashlib.sha256(json.dumps([CACHE_FORMAT, PIL.__version__, *options]).encode())
    failures = []
    for row in range(len(paths)):
        name = paths.relative(row)
        try:
            status = os.stat(os.path.join(paths.root, name))
        except OSError as error:
            failures.append(f"{name!r} ({error.strerror})")
            continue
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            failures.append(f"{name!r} (not a file)")
        facts = f"\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\n"
        digest.update(os.fsencode(name) + facts.encode())
    refuse(paths, failures)
    return digest.hexdigest()
