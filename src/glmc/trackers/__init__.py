"""Trackers: programs that show a run while it trains, all behind the three methods of `base.Tracker`.

metrics.jsonl in the run folder is always written, and it is the source: a tracker that was added later, or that missed
some epochs, gets them from there when the run is resumed.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from glmc.errors import UserError
from glmc.runs.shapes import read_json
from glmc.trackers.base import Tracker

TRACKERS = {  # name -> class, package that it needs
    "tensorboard": ("glmc.trackers.tensorboard:TensorBoard", "tensorboardX"),
    "wandb": ("glmc.trackers.wandb:WeightsAndBiases", "wandb"),
    "mlflow": ("glmc.trackers.mlflow:MLflow", "mlflow"),
}


def require(names: Iterable[str]) -> None:
    """Refuse trackers whose package is missing, without importing any.

    Raises:
        UserError: names the package and how to install it.
    """
    for name in names:
        package = TRACKERS[name][1]
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:  # without origin: a mere folder of that name, as W&B leaves behind
            raise UserError(
                f"train.track: {name} needs the package {package}, which is not installed here; "
                f"python -m pip install {package} brings it, or leave {name} out of train.track"
            )


class Tracks:
    """The trackers of one run. One that fails is reported once and left out from then on.

    Args:
        run: the run folder.
        say: takes the report of a failure.
    """

    def __init__(self, run: Path, say: Callable[[str], None]) -> None:
        self.run, self.say = run, say
        self.told: dict[str, int] = {}  # name -> epochs it has
        self.live: dict[str, Tracker] = {}

    def begin(self, names: Iterable[str], recipe: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> None:
        """Open trackers, and give them the epochs they have missed.

        Args:
            names: of `TRACKERS`.
            recipe: sections, keys and values.
            records: the finished epochs, lines of metrics.jsonl.

        Raises:
            UserError: a tracker cannot be opened; before the first step, that is easily fixed.
        """
        for name in dict.fromkeys(names):
            module, _, class_name = TRACKERS[name][0].partition(":")
            try:
                tracker: Tracker = getattr(importlib.import_module(module), class_name)()
                self.told[name] = tracker.begin(self.run, recipe)
            except Exception as error:
                self.finish()
                raise UserError(
                    f"train.track: {name} cannot begin ({brief(error)}); fix that, or leave {name} out of train.track"
                ) from error
            self.live[name] = tracker
        for record in records:
            self.log(record)

    def log(self, record: Mapping[str, Any]) -> None:
        """Pass on an epoch, a line of metrics.jsonl, to the trackers that do not have it yet."""
        self._each(lambda tracker: tracker.log(record), [n for n in self.live if self.told[n] < record["epoch"]])

    def finish(self) -> None:
        """Close all trackers, with what result.json holds if the run is complete. A second call does nothing."""
        file = self.run / "result.json"
        result = read_json(dict[str, Any], self.run, file.name) if file.exists() else None
        self._each(lambda tracker: tracker.finish(result), list(self.live))
        self.live = {}

    def _each(self, call: Callable[[Tracker], None], names: Iterable[str]) -> None:
        for name in names:
            try:
                call(self.live[name])
            except Exception as error:  # whatever it is: a failing tracker must not end hours of training
                del self.live[name]
                self.say(f"{name} has failed and tracks this run no longer ({brief(error)}); metrics.jsonl has it all")


def brief(error: Exception) -> str:
    """An exception in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
