"""A finished run, as the files of its folder tell it. Needs no torch."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glmc.data.cells import plain
from glmc.errors import UserError
from glmc.metrics import Few, Interval, group_of, intervals
from glmc.recipe import document
from glmc.report.evidence import Predictions, read_examples, read_predictions
from glmc.runs import result
from glmc.runs.files import text_of
from glmc.runs.result import Result
from glmc.runs.shapes import Environment, Fitted, Measured, read_json, record_of


@dataclass(frozen=True)
class Run:
    """What the files of one run folder say.

    Attributes:
        recipe: the text of recipe.yaml, complete; settings: its sections and values.
        few: the rule of the rarest group, "<20" or "<=20" training images.
        epochs: the lines of metrics.jsonl, in order.
        counts: int64 [C], training images per class.
        confusion: int64 [C, C], row = true class, column = predicted class, test images of the last epoch.
        predictions: the prediction for each test image; None where the run left none.
        measured: what *unknown* and sets do on the test images, if it was calibrated at its end.
        examples: what `evidence.read_examples` says.
    """

    folder: Path
    recipe: str
    settings: dict[str, Any]
    few: Few
    environment: dict[str, Any]
    epochs: list[dict[str, Any]]
    result: Result
    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    confusion: NDArray[np.int64]
    predictions: Predictions | None
    measured: Measured | None
    examples: dict[str, Any]

    @property
    def start(self) -> str:
        """Its first weights, and what was kept of them: "weights loaded from w.safetensors, backbone frozen"."""
        model = self.settings.get("model") or {}
        source, adapter = model.get("pretrained"), model.get("adapter")
        told = "random weights at the start"
        if self.result.stage1 is not None:
            told = "weights of the stage before"
        elif source:
            told = f"weights loaded from {'timm' if source is True else source}"
        if model.get("freeze"):
            return f"{told}, backbone frozen"
        return f"{told}, backbone frozen but for its adapters ({adapter['name']})" if adapter else told

    @property
    def order(self) -> NDArray[np.int64]:
        """int64 [C]: class numbers from the most to the least frequent; equal counts stay in label order."""
        return np.argsort(-self.counts, kind="stable")

    @property
    def group(self) -> NDArray[np.int64]:
        """int64 [C]: place in `metrics.GROUPS` of every class."""
        return group_of(self.counts, self.few)

    @property
    def shares(self) -> NDArray[np.float64]:
        """float64 [C, C] in [0, 1]: the confusion matrix, each row divided by its sum; rows without images are 0."""
        return self.confusion / np.maximum(self.confusion.sum(1, keepdims=True), 1)

    @property
    def recall(self) -> NDArray[np.float64]:
        """float64 [C] in percent; NaN where a class has no test image (matplotlib leaves such points out)."""
        return np.where(self.confusion.sum(1) > 0, 100 * self.shares.diagonal(), np.nan)

    @property
    def sure(self) -> dict[str, Interval]:
        """How surely the accuracies of the last epoch are known."""
        return intervals(self.confusion.diagonal(), self.confusion.sum(1), self.counts, self.few)


def read(run: Path) -> Run:
    """The facts of a finished run.

    Raises:
        UserError: a file is missing or damaged, or the files belong to different runs.
    """
    if (run / "glmc.json").exists() and not (run / "confusion.csv").exists():
        raise UserError(
            f"{run} was written by glmc push or glmc export, which leave out what a report is drawn from; name the "
            "folder that the run was trained in"
        )
    recipe = text_of(run, "recipe.yaml")
    try:
        settings = dict(document.read(recipe, "recipe.yaml").tree or {})
    except (UserError, ValueError, TypeError) as error:
        why = " ".join(str(error).split())  # on one line
        raise UserError(f"{run / 'recipe.yaml'} is not a recipe ({why}); train again into an empty folder.") from None
    found = result.read(run)
    result.refuse_altered(run, found)
    if not found.last:
        raise UserError(
            f"{run} has no test images, so there is nothing to report; score others: glmc test {run} FOLDER"
        )
    trained = found.seconds is not None  # a post-hoc adjustment has no epochs
    lines = [line for line in text_of(run, "metrics.jsonl").split("\n") if line.strip()] if trained else []
    classes, confusion = confusion_of(run)
    if len(found.counts) != len(classes):
        raise UserError(
            f"{run / 'confusion.csv'} has {len(classes)} classes but result.json has {len(found.counts)}: "
            "the files belong to different runs; train again into an empty folder."
        )
    predictions = read_predictions(run, classes)
    if predictions is not None and len(predictions.true) != confusion.sum():
        raise UserError(
            f"{run / 'predictions.csv'} has {len(predictions.true)} images but confusion.csv {confusion.sum()}: "
            "the files belong to different runs; train again into an empty folder."
        )
    return Run(
        folder=run,
        recipe=recipe,
        settings=settings,
        few="<=20" if (settings.get("eval") or {}).get("few") == "<=20" else "<20",
        environment=read_json(Environment, run, "environment.json").model_dump(),
        epochs=[record_of(f"{run / 'metrics.jsonl'} line {i}", line) for i, line in enumerate(lines, 1)],
        result=found,
        classes=classes,
        counts=np.array(found.counts, dtype=np.int64),
        confusion=confusion,
        predictions=predictions,
        measured=measured_of(run, found),
        examples=read_examples(run),
    )


def measured_of(run: Path, found: Result) -> Measured | None:
    """What calibration.json says of the test images; None if there is none, or it is of an earlier checkpoint."""
    if not (run / "calibration.json").exists():
        return None
    fitted = read_json(Fitted, run, "calibration.json", "run glmc calibrate again")
    return fitted.test if fitted.step == found.steps else None


def confusion_of(run: Path) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names in label order and int64 [C, C] of confusion.csv."""
    header, *rows = list(csv.reader(io.StringIO(text_of(run, "confusion.csv"), newline=""))) or [[]]
    classes = tuple(map(plain, header[1:]))
    try:
        matrix = np.array([row[1:] for row in rows if row], dtype=np.int64)
    except ValueError as error:
        raise UserError(f"{run / 'confusion.csv'} does not hold whole numbers in equal rows ({error}).") from None
    if matrix.shape != (len(classes), len(classes)):
        raise UserError(f"{run / 'confusion.csv'} is not square: {len(classes)} columns, {len(matrix)} rows.")
    return classes, matrix
