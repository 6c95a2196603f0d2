"""What every tracker is, and what the trackers share."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from glmc.runs.files import write_atomic
from glmc.runs.shapes import read_json

MEMORY = "trackers.json"  # in the run folder: the id that a tracker gave the run, and how many epochs it has


class Tracker(Protocol):
    """A program that shows a run while it trains. Any of its methods may raise any exception."""

    def begin(self, run: Path, recipe: Mapping[str, Any]) -> int:
        """Open, or continue what an earlier part of the same run opened.

        Args:
            run: the run folder.
            recipe: sections, keys and values.

        Returns:
            How many epochs the tracker already has; it gets those that follow.
        """

    def log(self, record: Mapping[str, Any]) -> None:
        """Take one epoch: a line of metrics.jsonl."""

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Close; `result` is what result.json holds, or none if the run is not complete."""


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by slashes: {"test": {"top1": 96.5}} -> {"test/top1": 96.5}."""
    joined: dict[str, Any] = {}
    for key, value in values.items():
        joined |= flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return joined


def final_scores(result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of the last epoch in result.json: "last/top1" and so on."""
    return flat({"last": result["last"]})


def recall(run: Path, tracker: str) -> dict[str, Any]:
    """What `remember` wrote last, or an empty dictionary."""
    return _memory(run).get(tracker, {})


def remember(run: Path, tracker: str, **facts: Any) -> None:
    """Keep what a resumed run needs to continue in the same place."""
    write_atomic(run / MEMORY, json.dumps(_memory(run) | {tracker: facts}, indent=1) + "\n")


def _memory(run: Path) -> dict[str, dict[str, Any]]:
    """What trackers.json says of each tracker."""
    if not (run / MEMORY).exists():
        return {}
    return read_json(dict[str, dict[str, Any]], run, MEMORY, "remove it, and the trackers begin anew")
