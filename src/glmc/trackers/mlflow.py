"""MLflow. Its own variables say where: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and so on."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param

from glmc.trackers.base import final_scores, flat, recall, remember

MOST = 100  # parameters that MLflow takes at a time


class MLflow:
    """One run of MLflow for a run folder, however often that is resumed; the epoch is MLflow's step."""

    def begin(self, run: Path, recipe: Mapping[str, Any]) -> int:  # noqa: D102
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # its own 7 keep a run waiting for minutes
        known = recall(run, "mlflow")
        self.folder, self.client = run, mlflow.MlflowClient()
        if known:
            self.id = known["id"]
            self.client.update_run(self.id, status="RUNNING")
            return int(known["epochs"])
        experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "glmc"))
        name = f"{recipe['name']} {run.name}"
        self.id = self.client.create_run(experiment.experiment_id, run_name=name).info.run_id
        params = [Param(key, str(value)) for key, value in flat(recipe).items()]
        for first in range(0, len(params), MOST):
            self.client.log_batch(self.id, params=params[first : first + MOST])
        remember(run, "mlflow", id=self.id, epochs=0)
        return 0

    def log(self, record: Mapping[str, Any]) -> None:  # noqa: D102
        self._send(flat(record), record["epoch"])
        remember(self.folder, "mlflow", id=self.id, epochs=record["epoch"])

    def finish(self, result: Mapping[str, Any] | None) -> None:  # noqa: D102
        if result is not None:
            self._send(final_scores(result), result["epochs"])
        self.client.set_terminated(self.id, "KILLED" if result is None else "FINISHED")

    def _send(self, values: Mapping[str, float], epoch: int) -> None:
        now = int(1000 * time.time())  # milliseconds
        self.client.log_batch(self.id, metrics=[Metric(key, value, now, epoch) for key, value in values.items()])
