"""By which images the points of a sweep are ranked: validation images, if all of its runs have some. Needs no torch."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glmc.runs.files import text_of
from glmc.runs.shapes import record_of

PLAN = "sweep.json"  # what tells the folder of a sweep from others
BY = "balanced"  # validation images have the long tail of the training images: top-1 would be that of the head
ON_VALIDATION = (
    "ranked by the balanced accuracy on the validation images, last epoch; the test images chose nothing, "
    "so that the figures of the best point are fair"
)
ON_TEST = (
    "ranked by the balanced accuracy on the test images: the figures of the best point are too good, as they chose it; "
    "data.val_fraction=0.1 holds images out to choose by"
)


def remark(folder: Path, runs: Sequence[Path]) -> str:
    """What a comparison of the runs of a sweep has to say: its figures are those of the test images."""
    best = f"Picking the best point of {folder} from this page selects on the test images, so that its figures flatter"
    if on_validation(runs) is None:
        return f"{best}: its runs have no validation images, and data.val_fraction=0.1 would hold some out."
    return f"{best}: {folder / 'sweep.md'} ranks the points by their validation images."


def on_validation(runs: Sequence[Path]) -> float | None:
    """Mean `BY` of runs in percent on their validation images in the last epoch; None if one of them has none."""
    last = [record_of(str(run / "metrics.jsonl"), text_of(run, "metrics.jsonl").splitlines()[-1]) for run in runs]
    if not all("val" in record for record in last):
        return None
    return statistics.fmean(record["val"][BY] for record in last)


def rank(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The rows of a sweep's table, best first, each with its "rank" from 1 on; and a sentence on what ranks them.

    Args:
        rows: with the metrics on the test images, and "validation" (`on_validation`), perhaps None.
    """
    held_out = all(row["validation"] is not None for row in rows)
    known = rows if held_out else [{key: row[key] for key in row if key != "validation"} for row in rows]
    ordered = sorted(known, key=lambda row: -row["validation" if held_out else BY])
    ranked = [{"rank": place, **row} for place, row in enumerate(ordered, 1)]
    return ranked, ON_VALIDATION if held_out else ON_TEST
