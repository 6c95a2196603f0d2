"""Copies of predicted images in a folder for each class."""

import filecmp
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from glmc.errors import UserError


def sort_into(folder: Path, predicted: Iterable[tuple[str, str]]) -> tuple[int, int]:
    """Copy images into folders named after their predicted classes. No file is moved, changed or overwritten.

    An image whose name is taken by another one gets a number; one that lies there already stays as it is.

    Args:
        folder: made if it is not there.
        predicted: path of an image, name of its class.

    Returns:
        How many images were copied, and how many were there already.

    Raises:
        UserError: the folder is a file.
    """
    refuse_file(folder)
    copied = there = 0
    for path, name in predicted:
        place = folder / as_folder(name)
        place.mkdir(parents=True, exist_ok=True)
        target, number = place / os.path.basename(path), 2
        while target.exists() and not filecmp.cmp(path, target, shallow=False):
            stem, ending = os.path.splitext(os.path.basename(path))
            target, number = place / f"{stem}-{number}{ending}", number + 1
        if target.exists():
            there += 1
            continue
        half = place / f".{target.name}.part"  # a copy cut short must not look like an image
        shutil.copy2(path, half)
        half.rename(target)
        copied += 1
    return copied, there


def refuse_file(folder: Path) -> None:
    """Raise a `UserError` if what should be a folder is a file."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--sort-into {folder}: is a file; name a folder, new or not")


def as_folder(name: str) -> str:
    """The name of a class as that of a single folder: lists may hold classes such as "birds/heron" or ".."."""
    safe = name.replace("/", "_").replace("\\", "_")
    return safe if safe.strip(".") else f"_{safe}"
