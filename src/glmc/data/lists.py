"""Lists of images: text lines of `path label`, or tables with a header. UTF-8, or the cp1252 of Windows programs."""

import csv
import difflib
import itertools
import os
import re
import sys
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glmc.data.cells import plain
from glmc.data.folders import IMAGE_ENDINGS
from glmc.data.split import Paths, Split, check_names
from glmc.errors import UserError

PATH_COLUMNS, LABEL_COLUMNS = ("path", "image", "filename"), ("label", "class", "target")
SEPARATORS = ",;\t"  # of tables
LONG = 200  # characters of a line that are quoted


@dataclass(frozen=True)
class Listing:
    """One list file: its encoding, N images and N labels as written, and the first line of each label."""

    file: Path
    encoding: str
    images: Paths  # packed while they are read: as many strings would take twice the memory
    labels: list[str]
    first_line: dict[str, int]


def read(
    root: Path, files: Mapping[str, str], columns: Mapping[str, str] | None = None
) -> tuple[dict[str, Split], list[str]]:
    """The parts of `files` ("train", "test", "val" -> list file), and remarks.

    A relative list file is looked for as given, then under `root`; the listed paths start from `root`. Text lines end
    in the label, so that paths may hold spaces; with a tab or a semicolon behind the path, the label may, too. A .csv
    or .tsv file is a table with commas, semicolons or tabs, whose columns `columns` names ("path", "label" -> heading);
    where it does not, they are called path, image or filename, and label, class or target. Labels are whole numbers,
    which mean themselves, or names, which are numbered in sorted order. In a table, a ' before what looks
    like a formula is not part of it (`cells`). Blank lines are skipped; there are no comments.

    Raises:
        UserError: a file, line, label or image that does not fit, named, with the remedy.
    """
    if "train" not in files:
        raise UserError("data.name=list needs data.train_list=FILE, a list of `path label` or a CSV with a header")
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder: set data.root to the folder that listed paths start from")
    listings = {part: listing(root, part, file, columns) for part, file in files.items()}
    label_of, classes = _classes(listings["train"], list(listings.values()))
    for found in listings.values():
        _check_files(found, columns)
    parts = {
        part: Split(
            found.images, np.fromiter((label_of[text] for text in found.labels), np.int64, len(found.labels)), classes
        )
        for part, found in listings.items()
    }
    foreign = [f"{one.file} is not in UTF-8: read as cp1252" for one in listings.values() if one.encoding == "cp1252"]
    return parts, foreign + _shared(listings)


def first_path(file: Path, columns: Mapping[str, str] | None = None) -> str:
    """The first path of a list file; "" where `read` would say that there is none."""
    try:
        return next((path for _, path, _ in pairs(file, columns)), "")
    except UserError:
        return ""


def listing(root: Path, part: str, name: str, columns: Mapping[str, str] | None = None) -> Listing:
    """What a list file says, which lies where its name says or under `root`."""
    file = _file(root, part, name)
    labels: list[str] = []
    first_line: dict[str, int] = {}

    def paths() -> Iterator[str]:
        for line, path, label in pairs(file, columns):
            labels.append(sys.intern(label))  # one string per class, not per image
            first_line.setdefault(label, line)
            yield path

    images = Paths.from_list(root, paths())
    if not labels:
        raise UserError(f"{file} lists no images: write one `path label` per line")
    return Listing(file, encoding_of(file), images, labels, first_line)


def column(root: Path, name: str, columns: Mapping[str, str], wanted: str) -> list[str]:
    """The values of a further column of the training list, which is a table: one for each image.

    Raises:
        UserError: there is no such column, or it has no value in some line.
    """
    file = _file(root, "train", name)
    asked = f"data.groups=column:{wanted}"
    if not is_table(file, columns):
        raise UserError(f"{asked}: {file} has no columns; make it a table, .csv with a header")
    with _table(file) as (header, rows, _):
        place, values = place_of((wanted,), header), []
        if place is None:
            raise UserError(f"{asked}: {file} has no such column, only {', '.join(header)}{nearest(wanted, header)}")
        for line, row in rows:
            if len(row) <= place or not row[place].strip():
                raise UserError(
                    f"{file}:{line}: no value in column {wanted!r}, which data.groups names; write one, or leave the "
                    "line out"
                )
            values.append(sys.intern(row[place].strip()))
    return values


def column_by_path(root: Path, name: str, columns: Mapping[str, str], wanted: str) -> dict[str, str]:
    """The same, by the path of the image as `normpath` writes it."""
    paths = (os.path.normpath(path) for _, path, _ in pairs(_file(root, "train", name), columns))
    return dict(zip(paths, column(root, name, columns, wanted), strict=True))


def _file(root: Path, part: str, name: str) -> Path:
    given = Path(name).expanduser()
    file = given if given.is_file() else root / given
    if not file.is_file():
        raise UserError(f"data.{part}_list={name}: there is no such file, neither as given nor in {root}")
    return file


def is_table(file: Path, columns: Mapping[str, str] | None) -> bool:
    """Whether a list has columns: its ending says so, or that they are named."""
    return bool(columns) or file.suffix.lower() in (".csv", ".tsv")


def pairs(file: Path, columns: Mapping[str, str] | None = None) -> Iterator[tuple[int, str, str]]:
    """(line, path, label) of each image; a file whose columns are named is a table, whatever its ending."""
    return _table_pairs(file, columns or {}) if is_table(file, columns) else _text_pairs(file)


def encoding_of(file: Path) -> str:
    """UTF-8 if the whole file is, else cp1252, in which western Windows programs save.

    Raises:
        UserError: it is neither; or holds zero bytes, as UTF-16 and what is no text do. Names the line.
    """
    for encoding in ("utf-8-sig", "cp1252"):
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if b"\0" in line:
                    raise _no_text(file, number, "it holds zero bytes")
                try:
                    line.decode(encoding)
                except UnicodeDecodeError as error:
                    if encoding == "cp1252":
                        raise _no_text(file, number, str(error)) from None
                    break
            else:
                return encoding
    raise AssertionError


def _no_text(file: Path, line: int, why: str) -> UserError:
    return UserError(f"{file}:{line}: {file.name} is not a list in UTF-8 or cp1252 ({why}): save it again as UTF-8")


def shown(text: str) -> str:
    """Text in quotes, no longer than a sentence bears."""
    return repr(text if len(text) <= LONG else f"{text[:LONG]}...")


def _fields(line: str) -> list[str]:
    """Path and label of a line: what is behind the last tab or semicolon after an image's name, else the last word."""
    for separator in "\t;":
        path, _, label = line.strip().rpartition(separator)
        if path.strip().lower().endswith(IMAGE_ENDINGS) and label.strip():
            return [path.strip(), label.strip()]
    return line.strip().rsplit(maxsplit=1)


def _text_pairs(file: Path) -> Iterator[tuple[int, str, str]]:
    """(line, path, label) of each line."""
    with open(file, encoding=encoding_of(file)) as lines:
        for number, line in enumerate(lines, 1):
            fields = _fields(line)
            if not fields:
                continue
            if len(fields) < 2 or fields[1].lower().endswith(IMAGE_ENDINGS):
                raise UserError(
                    f"{file}:{number}: no label after the path: {shown(line.strip())}; write `path label`, or give a "
                    "table the ending .csv and a header"
                )
            yield number, fields[0], fields[1]


def _table_pairs(file: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, str, str]]:
    """(line, path, label) of each record below the header, which tells what separates the fields."""
    with _table(file) as (header, rows, separator):
        for name in columns.values():
            if place_of((name,), header) is None:
                raise UserError(
                    f"{file}:1: no column {name!r}, which data.columns names, only {shown(separator.join(header))}"
                    + nearest(name, header)
                )
        path = place_of((columns["path"],) if "path" in columns else PATH_COLUMNS, header)
        label = place_of((columns["label"],) if "label" in columns else LABEL_COLUMNS, header)
        if path is None or label is None:
            lacking = [f"paths ({', '.join(PATH_COLUMNS)})"] if path is None else []
            lacking += [f"labels ({', '.join(LABEL_COLUMNS)})"] if label is None else []
            raise UserError(
                f"{file}:1: no header with a column of {' and one of '.join(lacking)}: "
                f"{shown(separator.join(header))}; make the first line `path,label`, or name the columns, e.g. "
                "data.columns={path: file, label: species}"
            )
        for line, row in rows:
            if len(row) <= max(path, label) or not row[path].strip() or not row[label].strip():
                raise UserError(f"{file}:{line}: no path or no label: {shown(separator.join(row))}; write both")
            yield line, plain(row[path].strip()), plain(row[label].strip())


def place_of(names: Iterable[str], header: Iterable[str]) -> int | None:
    """The place of the first of some names that a header holds, whatever the case of their letters."""
    small = [name.lower() for name in header]
    return next((small.index(name.strip().lower()) for name in names if name.strip().lower() in small), None)


def nearest(name: str, header: Sequence[str]) -> str:
    """What to do about a column that is not there."""
    written = {each.lower(): each for each in header}
    near = difflib.get_close_matches(name.strip().lower(), list(written), n=1, cutoff=0.7)
    return f"; did you mean {written[near[0]]!r}?" if near else "; name one of these"


@contextmanager
def _table(file: Path) -> Iterator[tuple[list[str], Iterator[tuple[int, list[str]]], str]]:
    """The header, (line, fields) of each record below it that is not blank, and the separator."""
    with open(file, encoding=encoding_of(file), newline="") as lines:
        first = next(lines, "")
        separator = max(SEPARATORS, key=first.count)
        rows = _records(file, itertools.chain([first], lines), separator)
        header = [name.strip() for name in next(rows, (1, []))[1]]
        yield header, ((line, row) for line, row in rows if any(field.strip() for field in row)), separator


def _records(file: Path, lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """(line that it begins in, fields) of each record of a table."""
    rows, line = csv.reader(lines, delimiter=separator, strict=True), 1
    try:
        for row in rows:
            yield line, row
            line = rows.line_num + 1
    except csv.Error as error:
        raise UserError(f"{file}:{line}: not a line of a table ({error}): close its quotes, or leave it out") from error


def _classes(train: Listing, listings: list[Listing]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Label text -> label, and the class names."""
    places: dict[str, str] = {}
    for listing in listings:
        for text, line in listing.first_line.items():
            places.setdefault(text, f"{listing.file}:{line}")
    numbers = {text for text in places if re.fullmatch(r"-?[0-9]{1,18}", text)}
    if numbers and len(numbers) < len(places):
        word, number = next(text for text in places if text not in numbers), min(numbers)
        raise UserError(
            f"{places[word]}: label {word!r} is a name, but {places[number]} has the number {number}: use numbers or "
            "names in all lists, not both"
        )
    return _numbered(train, places) if numbers else _named(train, places)


def _numbered(train: Listing, places: Mapping[str, str]) -> tuple[dict[str, int], tuple[str, ...]]:
    label_of = {text: int(text) for text in places}
    trained = {label_of[text] for text in train.first_line}
    last = max(trained)
    for text, label in label_of.items():
        if not 0 <= label <= last or text.startswith("-"):
            raise UserError(f"{places[text]}: label {text} is out of range: {train.file} has labels from 0 to {last}")
    skipped = list(itertools.islice((label for label in range(last) if label not in trained), 10))
    if skipped:
        raise UserError(
            f"{train.file} has labels up to {last} but no image of {last + 1 - len(trained)} of them (first: "
            f"{', '.join(map(str, skipped))}): every class needs a training image, so number the classes 0, 1, 2, ... "
            "without gaps, or write names"
        )
    return label_of, tuple(str(label) for label in range(last + 1))


def _named(train: Listing, places: Mapping[str, str]) -> tuple[dict[str, int], tuple[str, ...]]:
    check_names(places)
    for text, place in places.items():
        if text not in train.first_line:
            raise UserError(f"{place}: class {text!r} has no training image in {train.file}: add some, or remove it")
    classes = tuple(sorted(train.first_line))
    return {name: label for label, name in enumerate(classes)}, classes


def _check_files(listing: Listing, columns: Mapping[str, str] | None) -> None:
    """Every image must be there; asking each folder once is what network disks answer fast."""
    images = listing.images
    folders: defaultdict[str, array[int]] = defaultdict(lambda: array("q"))  # folder -> rows
    for row, name in enumerate(_names(images)):
        folders[name.rpartition("/")[0]].append(row)
    absent = []
    for folder, rows in folders.items():
        try:
            there = set(os.listdir(os.path.join(images.root, folder)))
        except OSError:
            there = set()
        # Asking for the single file settles what a listing cannot: other Unicode forms, ignored case, "a/..".
        names = _names(images.select(np.array(rows)))
        absent += [
            row
            for row, name in zip(rows, names, strict=True)
            if name.rpartition("/")[2] not in there and not os.path.exists(images[row])
        ]
    if absent:
        missing = list(dict.fromkeys(images.relative(row) for row in sorted(absent)))
        line = next(line for line, path, _ in pairs(listing.file, columns) if path == missing[0])
        if len(absent) == len(images):
            raise UserError(
                f"none of the {len(missing):,} files of {listing.file} lie under {images.root} (e.g. "
                f"{shown(missing[0])}): "
                "set data.root to the folder that the paths start from"
            )
        raise UserError(
            f"{listing.file}:{line}: {len(missing)} images of {listing.file.name} are not in {images.root} (first: "
            f"{', '.join(map(shown, missing[:10]))}): set data.root to the folder that the paths start from, or "
            "correct the list"
        )


def _shared(listings: Mapping[str, Listing]) -> list[str]:
    """Remarks on images that are used for training and for a test: the figures would flatter."""
    remarks = []
    for part in ("test", "val"):
        names = set(_names(listings[part].images)) if part in listings else set()
        shared = len(names.intersection(_names(listings["train"].images))) if names else 0
        if shared:
            remarks.append(f"{shared} images of {listings[part].file} are in {listings['train'].file} too")
    return remarks


def _names(images: Paths) -> Iterator[str]:
    """All relative paths, several times faster than one by one."""
    return (os.fsdecode(images.blob[start:end]) for start, end in itertools.pairwise(images.offsets.tolist()))
