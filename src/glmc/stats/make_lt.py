"""A long-tailed list of images out of a balanced set of files, and a list of its test images. No torch."""

import re
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from glmc.data import parts
from glmc.data.cells import CsvWriter
from glmc.data.folders import IMAGE_ENDINGS
from glmc.data.split import Paths, Split
from glmc.errors import UserError
from glmc.metrics import groups
from glmc.screen import Screen
from glmc.stats.advice import command, number
from glmc.stats.find import wanted

# How the errors of the long tail speak of a recipe's keys -> how this command calls them.
OPTIONS = {
    "data.imbalance": "--imbalance",
    "data.profile": "--profile",
    "data.n_max": "--n-max",
    "data.class_order": "--order",
    "data.split": "--split",
}


def make_lt(
    data: str,
    assignments: Sequence[str] = (),
    *,
    imbalance: float,
    profile: str = "exponential",
    split: str = "cao",
    n_max: int | None = None,
    order: str | int = "given",
    out: Path | None = None,
    quiet: bool = False,
) -> None:
    """Write a long-tailed list of training images, as `data.imbalance` would cut it, and say how to train with it.

    Test and validation images that no list names yet are listed beside, in files of their own. Without any test images,
    20 % of each class are held out before the cut, so that they are balanced. Names in .csv give CSV files with the
    header path,label; all others lines of `path label`. Classes keep their names where such a file can tell them.

    Args:
        data: folder of images, list file, or a named set of files.
        assignments: data.KEY=VALUE, e.g. data.test_list=test.txt.
        imbalance, profile, n_max, order, split: as data.imbalance, data.profile, data.n_max, data.class_order and
            data.split in a recipe.
        out: list to write; None takes the name of the data and the imbalance, in the working directory.
        quiet: say nothing.

    Raises:
        UserError: a file is there already, the data are arrays, an option is wrong, or a class has too few images.
    """
    screen = Screen(quiet=quiet)
    try:
        settings = wanted(data, [*assignments, *cut(imbalance, profile, split, n_max, order)]).data
        source = parts.find(settings)
        if isinstance(source.train.images, Paths):
            train, val = parts.long_tailed(source, settings)
    except UserError as error:
        raise UserError(in_options(str(error))) from None
    if not isinstance(source.train.images, Paths):
        raise UserError(f"{data} is one array without files to list: train with data.imbalance={imbalance:g} instead")
    file = out or Path(default_name(data, imbalance, train.classes))
    listed = {"train": file}  # part -> its list
    splits = {file: train}  # what is to be written
    for part, given, images in (("test", settings.test_list, source.test), ("val", settings.val_list, val)):
        if given is not None:
            listed[part] = Path(given)
        elif images is not None:
            listed[part] = file.with_name(f"{file.stem}_{part}{file.suffix}")
            splits[listed[part]] = images
    labels = labels_for(train.classes, is_csv(file))
    write(splits, labels)
    for remark in source.remarks:
        screen.say(remark)
    report(screen, splits, labels)
    others = [f"data.{part}_list={name}" for part, name in listed.items() if part != "train"]
    root = f"data.root={settings.root}"
    screen.say(f"train:  {command('folder/glmc', ['data.name=list', root, f'data.train_list={file}', *others])}")
    screen.say(f"advice: {shlex.join(['glmc', 'stats', str(file), root, *others])}")


def cut(imbalance: float, profile: str, split: str, n_max: int | None, order: str | int) -> list[str]:
    """The long tail as assignments of a recipe, which checks them."""
    values = {"imbalance": imbalance, "profile": profile, "split": split, "n_max": n_max, "class_order": order}
    return [f"data.{key}={value}" for key, value in values.items() if value is not None]


def default_name(data: str, imbalance: float, classes: Sequence[str]) -> str:
    """The data's name and the imbalance; a CSV where lines of `path label` could not tell the class names."""
    path = Path(data).expanduser().absolute()
    suits_csv_only = labels_for(classes, False) != labels_for(classes, True)
    name = path.stem if path.is_file() else path.name
    return f"{name}_if{imbalance:g}.{'csv' if suits_csv_only else 'txt'}"


def is_csv(file: Path) -> bool:
    """Whether `glmc.data.lists` reads the file as a CSV."""
    return file.suffix.lower() == ".csv"


def labels_for(classes: Sequence[str], as_csv: bool) -> list[str]:
    """What stands for each class in a list: the names if they read back as themselves and in this order, else numbers.

    >>> labels_for(["cat", "red fox"], False), labels_for(["cat", "red fox"], True), labels_for(["0", "7"], True)
    (['0', '1'], ['cat', 'red fox'], ['0', '1'])
    """
    numbers = [str(label) for label in range(len(classes))]
    if any(re.fullmatch(r"-?[0-9]{1,18}", name) for name in classes):  # a number in a list means itself
        return numbers
    if not as_csv and any(len(name.split()) != 1 or name.lower().endswith(IMAGE_ENDINGS) for name in classes):
        return numbers
    return list(classes) if all(name == name.strip() for name in classes) else numbers


def write(splits: dict[Path, Split], labels: Sequence[str]) -> None:
    """Writes all lists or none; what is there already stays."""
    for file in splits:
        if file.exists():
            raise UserError(f"{file} is there already, and nothing is overwritten; name another file with --out")
    with ExitStack() as undo:
        for file, split in splits.items():
            try:
                with open(file, "x", encoding="utf-8", newline="") as stream:
                    undo.callback(file.unlink)
                    write_list(stream, split, labels, as_csv=is_csv(file))
            except OSError as error:
                raise UserError(f"{file} cannot be written: {error.strerror}") from error
        undo.pop_all()


def write_list(stream: TextIO, split: Split, labels: Sequence[str], *, as_csv: bool) -> None:
    """One line an image."""
    assert isinstance(split.images, Paths), "arrays have no paths"
    records = CsvWriter(stream)
    if as_csv:
        records.writerow(["path", "label"])
    for row, label in enumerate(split.labels.tolist()):
        path = split.images.relative(row)
        if path != path.strip() or set(path) & {"\r", "\n"} or path.encode(errors="replace").decode() != path:
            raise UserError(
                f"{path!r} cannot stand in a list: rename it without line breaks, outer spaces and bytes that are not "
                "UTF-8"
            )
        if as_csv:
            records.writerow([path, labels[label]])
        else:
            stream.write(f"{path} {labels[label]}\n")


def report(screen: Screen, splits: dict[Path, Split], labels: Sequence[str]) -> None:
    """Says how many images of how many classes each file lists."""
    train, *_ = splits.values()
    counts = train.counts
    for file, split in splits.items():
        least, most = int(split.counts.min()), int(split.counts.max())
        each = f"{most:,}" if least == most else f"{most:,} to {least:,}"
        screen.say(f"{file}: {number(len(split), 'image')} of {number(len(counts), 'class')}, {each} a class")
    members = groups(counts, "<20")
    shares = ", ".join(f"{int(member.sum()):,} {name}" for name, member in members.items())
    screen.say(f"classes by training images: {shares}")
    if list(labels) != list(train.classes):
        first, last = train.classes[0], train.classes[-1]
        screen.say(f"classes are numbered, 0 = {first!r} to {len(labels) - 1} = {last!r}, in the order of their names")


def in_options(sentence: str) -> str:
    """A complaint about a recipe's keys, in this command's words.

    >>> in_options("lower data.imbalance, or set data.n_max=7")
    'lower --imbalance, or set --n-max 7'
    """
    for key, option in OPTIONS.items():
        sentence = sentence.replace(f"override {key}=", f"{option} ").replace(f"{key}=", f"{option} ")
        sentence = sentence.replace(key, option)
    return sentence
