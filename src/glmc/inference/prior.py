"""The class frequencies of the world that a user has in mind."""

import csv
import difflib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glmc.errors import UserError


def read_prior(choice: str, classes: Sequence[str], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Class frequencies, float64 [C], >= 0, that sum to 1.

    Args:
        choice: "uniform", "training", or a file of `class,count` lines, with or without that header; counts may be any
            numbers in proportion to the frequencies.
        classes: C names.
        counts: int64 [C], training images per class.

    Raises:
        UserError: no such file; an unknown, repeated or missing class; a count that is none.
    """
    weights = np.ones(len(classes)) if choice == "uniform" else counts.astype(np.float64)
    if choice not in ("uniform", "training"):
        weights = _from_file(Path(choice), classes)
    return weights / weights.sum()


def _from_file(file: Path, classes: Sequence[str]) -> NDArray[np.float64]:
    if not file.is_file():
        raise UserError(f"--prior {file}: neither uniform nor training nor a file; write `class,count` lines into one")
    label_of = {name: label for label, name in enumerate(classes)}
    weights = np.full(len(classes), np.nan)
    for line, name, text in _lines(file):
        if name not in label_of:
            near = difflib.get_close_matches(name, classes, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"its classes are {', '.join(classes[:5])}, ..."
            raise UserError(f"{file}:{line}: the run has no class {name!r}; {hint}")
        if not np.isnan(weights[label_of[name]]):
            raise UserError(f"{file}:{line}: class {name!r} stands there for the second time; remove one of the lines")
        weights[label_of[name]] = _count(file, line, text)
    missing = [name for name, weight in zip(classes, weights, strict=True) if np.isnan(weight)]
    if missing:
        some = ", ".join(map(repr, missing[:5])) + (", ..." if len(missing) > 5 else "")
        what = "a class" if len(missing) == 1 else f"{len(missing)} classes"
        raise UserError(f"{file} has no line for {what} ({some}); write `class,0` for what never occurs")
    if not weights.any():
        raise UserError(f"{file}: every count is 0; give those that occur a count above 0")
    return weights


def _lines(file: Path) -> Iterator[tuple[int, str, str]]:
    """(line, class, count) below the header, if there is one."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, strict=True)
            for row in rows:
                fields = [field.strip() for field in row]
                if not any(fields) or (rows.line_num == 1 and [f.lower() for f in fields] == ["class", "count"]):
                    continue
                if len(fields) != 2:
                    raise UserError(
                        f"{file}:{rows.line_num}: not `class,count`: {','.join(row)!r}; quote names with commas"
                    )
                yield rows.line_num, fields[0], fields[1]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as `class,count` lines in UTF-8 ({error}); save it again") from error


def _count(file: Path, line: int, text: str) -> float:
    try:
        count = float(text)
    except ValueError:
        count = math.nan
    if not (math.isfinite(count) and count >= 0):
        raise UserError(f"{file}:{line}: {text!r} is no count; give a number of 0 or more")
    return count
