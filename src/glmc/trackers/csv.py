"""metrics.csv: a row an epoch, for spreadsheets. metrics.jsonl says the same; no package is needed."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glmc.runs.files import write_atomic
from glmc.trackers.base import flat


class Table:
    """Written anew with every epoch, so that the file is whole at any moment and new columns find their place."""

    def begin(self, run: Path, recipe: Mapping[str, Any]) -> int:  # noqa: D102
        self.file = run / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        return 0

    def log(self, record: Mapping[str, Any]) -> None:  # noqa: D102
        self.rows.append(flat(record))
        text = io.StringIO()
        columns = dict.fromkeys(key for row in self.rows for key in row)
        writer = csv.DictWriter(text, columns, lineterminator="\n")  # what a row lacks stays empty
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomic(self.file, text.getvalue())

    def finish(self, result: Mapping[str, Any] | None) -> None:  # noqa: D102
        pass
