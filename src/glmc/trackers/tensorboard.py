"""TensorBoard: event files in tensorboard/ of the run folder. Look at them with `tensorboard --logdir runs`."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter  # not SummaryWriter: its thread hides a full disk
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import text

from glmc.trackers.base import flat


class TensorBoard:
    """Every start of a run writes an event file of all epochs, which declares those of earlier starts void."""

    def begin(self, run: Path, recipe: Mapping[str, Any]) -> int:  # noqa: D102
        folder = run / "tensorboard"
        folder.mkdir(exist_ok=True)
        self.writer = EventsWriter(str(folder / "events"))
        self._write(session_log=SessionLog(status=SessionLog.START))
        self._write(summary=text("recipe", f"```\n{json.dumps(recipe, indent=2)}\n```"))
        return 0

    def log(self, record: Mapping[str, Any]) -> None:  # noqa: D102
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in flat(record).items()]
        self._write(step=record["epoch"], summary=Summary(value=values))

    def finish(self, result: Mapping[str, Any] | None) -> None:  # noqa: D102
        self.writer.close()

    def _write(self, **event: Any) -> None:
        self.writer.write_event(Event(wall_time=time.time(), **event))
        self.writer.flush()  # an epoch is rare enough to be shown at once
