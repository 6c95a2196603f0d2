"""Lines of the CSV files that glmc writes: people open them in spreadsheets, which compute what begins like a formula.

The defence is the usual one (OWASP, "CSV Injection"): a ' before such text. Numbers stay numbers. What glmc reads back
is exactly what was written, for text that begins with ' and such a sign gets another one.
"""

import csv
import re
from collections.abc import Iterable
from typing import Any, TextIO

FORMULA = re.compile(r"'*[=+\-@\t\r]")


class CsvWriter:
    """`csv.writer`, whose text cells no spreadsheet computes."""

    def __init__(self, stream: TextIO, lineterminator: str = "\n") -> None:
        self._writer = csv.writer(stream, lineterminator=lineterminator)

    def writerow(self, cells: Iterable[Any]) -> None:
        """Write one line."""
        self._writer.writerow([guarded(cell) if isinstance(cell, str) else cell for cell in cells])

    def writerows(self, lines: Iterable[Iterable[Any]]) -> None:
        """Write many lines."""
        for cells in lines:
            self.writerow(cells)


def guarded(text: str) -> str:
    """Text as it stands in a file.

    >>> [guarded(text) for text in ("cat", "=1+1", "'=1+1", "-0.5")]
    ['cat', "'=1+1", "''=1+1", '-0.5']
    """
    return f"'{text}" if FORMULA.match(text) and not _is_number(text) else text


def plain(text: str) -> str:
    """What `guarded` was given.

    >>> [plain(guarded(text)) for text in ("'", "=1+1", "''-3", "-3")]
    ["'", '=1+1', "''-3", '-3']
    """
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
