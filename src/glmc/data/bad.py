"""Images that cannot be read: all of them named in one refusal, or left out before anything counts the images."""

import hashlib
import os
from dataclasses import replace

import numpy as np

from glmc.data import cache, decode
from glmc.data.sources import Source
from glmc.data.split import Paths, Split
from glmc.errors import UserError
from glmc.recipe import Data
from glmc.screen import Screen

SHOWN = 3  # in a sentence


def without(source: Source, data: Data, screen: Screen) -> Source:
    """The source without the images that cannot be read; a remark says how many these are.

    Raises:
        UserError: a class is left without training images, or a part without any.
    """
    parts = parts_of(source)
    bad = {part: unreadable(split, part, data, screen) for part, split in parts.items()}
    if not any(bad.values()):
        return source
    lines = tuple(line for part, split in parts.items() for line in lines_of(split, bad[part]))
    kept = {part: split.select(np.delete(np.arange(len(split)), list(bad[part]))) for part, split in parts.items()}
    counts = kept["train"].counts
    for row in bad["train"]:
        label = source.train.labels[row]
        if not counts[label]:
            example = shown(lines_of(source.train, {row: bad["train"][row]})[0])
            raise UserError(
                f"data.on_bad_image=skip: class {source.train.classes[label]!r} has no training image that can be "
                f"read, e.g. {example}: replace some, or remove the class"
            )
    for part, split in kept.items():
        if len(parts[part]) and not len(split):
            raise UserError(
                f"data.on_bad_image=skip: no {part} image can be read: replace some, or remove the {part} set"
            )
    remark = f"{len(lines):,} images cannot be read and are left out (data.on_bad_image=skip), e.g. {shown(lines[0])}"
    return replace(
        source,
        train=kept["train"],
        test=kept["test"],
        val=kept.get("val"),
        remarks=(*source.remarks, remark),
        skipped=lines,
    )


def refusal(source: Source, data: Data, screen: Screen) -> UserError | None:
    """The sentence on the unreadable images of all parts, and a file that lists more than a few; none if all can be."""
    parts = parts_of(source)
    bad = {part: unreadable(split, part, data, screen) for part, split in parts.items()}
    lines = [line for part, split in parts.items() for line in lines_of(split, bad[part])]
    if not lines:
        return None
    every = {line.partition("\t")[2]: line for line in reversed(lines)}  # reason -> the first that has it
    telling = list(dict.fromkeys([*reversed(every.values()), *lines]))[:SHOWN]
    some = ", ".join(map(shown, telling)) + (listed(lines) if len(lines) > SHOWN else "")
    total = sum(map(len, parts.values()))
    return UserError(
        f"{len(lines):,} of {total:,} images cannot be read (e.g. {some}): replace or remove them, or leave them out "
        "with data.on_bad_image=skip"
    )


def parts_of(source: Source) -> dict[str, Split]:
    """The splits that a source has, by the name of their part."""
    parts = {"train": source.train, "test": source.test, "val": source.val}
    return {part: split for part, split in parts.items() if split is not None}


def unreadable(split: Split, part: str, data: Data, screen: Screen) -> dict[int, str]:
    """Row -> what is wrong, of the images of a split that cannot be read; of an array, none."""
    if not isinstance(split.images, Paths):
        return {}
    cache_dir = cache.cache_folder() if data.cache else None
    with screen.bar(f"reading all {part} images", len(split)) as bar:
        return decode.unreadable(
            split.images,
            channels=data.channels or 3,
            max_pixels=data.max_pixels,
            cache_dir=cache_dir,
            progress=bar.to,
            say=screen.say,
        )


def lines_of(split: Split, bad: dict[int, str]) -> list[str]:
    """Path, tab and reason of some rows."""
    assert isinstance(split.images, Paths) or not bad, "arrays can be read"
    return [f"{split.images[row]}\t{why}" for row, why in bad.items()]


def shown(line: str) -> str:
    """A line of `lines_of` within a sentence."""
    path, _, why = line.partition("\t")
    return f"{path!r} ({why})"


def listed(lines: list[str]) -> str:
    """Writes the lines into a file of the cache folder: "; all in FILE", or "" where it takes none."""
    text = os.fsencode("".join(f"{line}\n" for line in lines))
    file = cache.cache_folder() / f"unreadable-{hashlib.sha256(text).hexdigest()[:12]}.txt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text)
    except OSError:
        return ""
    return f"; all in {file}"
