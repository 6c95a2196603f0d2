"""Weights & Biases. Its own variables say where: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline and so on."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from glmc.trackers.base import final_scores, flat, recall, remember


class WeightsAndBiases:
    """One run of W&B for a run folder, however often that is resumed; the epoch is W&B's step."""

    def begin(self, run: Path, recipe: Mapping[str, Any]) -> int:  # noqa: D102
        known = recall(run, "wandb")
        self.folder = run
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "glmc"),
            name=f"{recipe['name']} {run.name}",
            id=known.get("id"),
            resume="allow",
            dir=run,
            config=dict(recipe),
            reinit="create_new",  # runs with other seeds may be open in this program
            settings=wandb.Settings(console="off", silent=True),  # the screen is the command's
        )
        self._keep(known.get("epochs", 0))
        return int(known.get("epochs", 0))

    def log(self, record: Mapping[str, Any]) -> None:  # noqa: D102
        self.run.log(flat(record), step=record["epoch"])
        self._keep(record["epoch"])

    def finish(self, result: Mapping[str, Any] | None) -> None:  # noqa: D102
        if result is not None:
            self.run.summary.update(final_scores(result))
        self.run.finish(exit_code=int(result is None))

    def _keep(self, epochs: int) -> None:
        remember(self.folder, "wandb", id=self.run.id, epochs=epochs)
