"""Data sets of the Hugging Face hub, through the `datasets` library: `hf:user/name` or `hf:user/name/config@revision`.

Images stay the files that they are: those that lie as files are used in place, those inside of a table are written out
once, beside the table in the library's own cache, and go away with it. What starts with `/`, `.` or `~` is a folder.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from glmc.data.split import Paths, Split, check_names
from glmc.errors import UserError

PREFIX = "hf:"
NAME = re.compile(r"(?P<path>[\w.-]+/[\w.-]+)(/(?P<config>[\w.+-]+))?(@(?P<revision>\S+))?")
PARTS = {"train": "train", "test": "test", "validation": "val", "valid": "val", "val": "val", "dev": "val"}

Progress = Callable[[int, int], None]


def read(name: str, *, download: bool = True, progress: Progress | None = None) -> tuple[dict[str, Split], list[str]]:
    """The parts "train", "test", "val" that there are, and remarks, as `folders.read` gives them.

    A validation set without a test set is the test set. Class names are those of the label column.

    Args:
        name: see the module's text.
        download: whether it may be fetched; else it must lie in the library's cache.
        progress: called with (images written, images of the part).

    Raises:
        UserError: the library is missing, no such data set, or no image or label column in it.
    """
    if find_spec("datasets") is None:
        raise UserError(f'data.name={name} needs the package datasets: pip install "glmc[hub]"')
    tables = _open(name, download)
    remarks: list[str] = []
    features = next(iter(tables.values())).features
    image, label = _columns(name, features, remarks)
    parts: dict[str, tuple[Paths, NDArray[np.int64]]] = {}
    for split, table in tables.items():
        part = PARTS.get(str(split).lower())
        if part is None or part in parts:
            remarks.append(f"data.name={name}: the part {split!r} is left aside")
            continue
        labels = np.array(table[label][:], dtype=np.int64)
        if part != "train" and (labels < 0).all():
            remarks.append(f"data.name={name}: the part {split!r} is left aside, as its labels are kept secret")
            continue
        parts[part] = _files(table, image, str(split), progress), labels
    if "train" not in parts:
        raise UserError(f"data.name={name} has the parts {', '.join(map(str, tables))} and no 'train'; choose another")
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")
        remarks.append(f"data.name={name}: there is no test set, the validation set is taken")
    return _splits(name, parts, tuple(features[label].names), remarks), remarks


def _open(name: str, download: bool) -> Any:
    """The tables of a data set by part."""
    import datasets

    found = NAME.fullmatch(name.removeprefix(PREFIX))
    local = name.removeprefix(PREFIX).startswith(("/", ".", "~"))
    if found is None and not local:
        raise UserError(f"data.name={name}: write hf:user/name, hf:user/name/config or hf:user/name@revision")
    path = os.path.expanduser(name.removeprefix(PREFIX))
    if local and not os.path.isdir(path):
        raise UserError(f"data.name={name}: there is no folder {path}")
    try:
        with _offline(not download):
            if local or found is None:
                return datasets.load_dataset(path)
            return datasets.load_dataset(found["path"], found["config"], revision=found["revision"])
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UserError(
            f"data.name={name}: there is no such data set, or it is private or gated; check the name, or ask for "
            f"access on its page and log in with `hf auth login`"
        ) from error
    except ConnectionError as error:
        remedy = "check the network" if download else "allow it with data.download=true"
        raise UserError(f"data.name={name} cannot be fetched, and no copy lies in the cache; {remedy}") from error
    except (ValueError, RuntimeError, OSError, yaml.YAMLError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk; the others are a config of no such name, or files that the library cannot read
        said = " ".join(str(error).split())
        raise UserError(f"data.name={name} cannot be opened: {said[:300]}") from error


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Let the library look into its cache only."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or wanted
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _columns(name: str, features: Any, remarks: list[str]) -> tuple[str, str]:
    """The names of the image and of the label column; of several label columns, the one with most classes."""
    import datasets

    images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if len(images) != 1 or not labels:
        raise UserError(
            f"data.name={name} has {len(images)} columns of images and {len(labels)} of class labels among "
            f"{', '.join(features)}, and one of images and at least one of labels are needed; choose another data set"
        )
    label = max(labels, key=lambda key: features[key].num_classes)
    if len(labels) > 1:
        remarks.append(f"data.name={name}: of the labels {', '.join(labels)}, {label} with the most classes is taken")
    return images[0], label


def _files(table: Any, column: str, split: str, progress: Progress | None) -> Paths:
    """Every image of a part as a file."""
    import datasets

    cells = table.select_columns(column).cast_column(column, datasets.Image(decode=False))
    home = Path(table.cache_files[0]["filename"]).parent
    target = home / f"glmc-{split}"
    if target.is_dir():
        return Paths.from_list(target, sorted(file.name for file in os.scandir(target)))
    places: list[str] = []
    folder = Path(tempfile.mkdtemp(dir=home, prefix=".glmc-"))
    try:
        for row, cell in enumerate(cells):
            picture = cell[column]
            if picture["bytes"] is None:
                places.append(os.path.abspath(picture["path"]))
                continue
            file = f"{row:09d}{Path(picture['path'] or '').suffix}"
            (folder / file).write_bytes(picture["bytes"])
            places.append(file)
            if progress is not None:
                progress(row + 1, len(cells))
        if not any(map(os.path.isabs, places)):
            os.rename(folder, target)
        return Paths.from_list(target, places)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _splits(
    name: str, parts: dict[str, tuple[Paths, NDArray[np.int64]]], classes: tuple[str, ...], remarks: list[str]
) -> dict[str, Split]:
    """The parts with labels 0 .. C - 1; names of classes that no image has are left out."""
    counts = {part: np.bincount(labels + 1, minlength=len(classes) + 1) for part, (_, labels) in parts.items()}
    for part, count in counts.items():
        if count[0]:
            raise UserError(f"data.name={name}: {count[0]} images of its {part} set have no label; choose another")
    used = np.sum(list(counts.values()), axis=0)[1:] > 0
    alone = [classes[c] for c in np.flatnonzero(used & (counts["train"][1:] == 0))]
    if alone:
        raise UserError(f"data.name={name}: class {alone[0]!r} has no training image, only test or validation images")
    if not used.all():
        remarks.append(f"data.name={name}: {(~used).sum()} of its {len(classes)} class names have no image at all")
    kept = tuple(classes[c] for c in np.flatnonzero(used))
    check_names({one: f"data.name={name}" for one in kept})
    number = np.cumsum(used) - 1
    return {part: Split(paths, number[labels].astype(np.int64), kept) for part, (paths, labels) in parts.items()}
