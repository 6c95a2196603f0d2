"""The folds of a cross-validation as one result: every image scored once, by a network that has not seen it."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from glmc.errors import UserError
from glmc.metrics import per_class, reliability, scores
from glmc.report import spread_of, write
from glmc.report.evidence import write_predictions
from glmc.report.finished import Run, read
from glmc.runs import folder, result
from glmc.runs.result import Result


def pool(base: Path, runs: Sequence[Path]) -> Result:
    """Write the result, confusion matrix, predictions and report of a cross-validation into its folder.

    Figures are of all images together, not means of the folds: six images of a class make no six accuracies. Training
    images per class are means of the runs, and the group of a class follows from them.

    Args:
        base: the folder.
        runs: one finished run of each fold.

    Raises:
        UserError: a run left no predictions, or the runs have other classes.
    """
    folds = [read(run) for run in runs]
    first = folds[0]
    for run in folds:
        if run.predictions is None or run.classes != first.classes:
            raise UserError(f"{run.folder} has other classes than {first.folder}, or no predictions.csv; train it anew")
    confusion = np.sum([run.confusion for run in folds], axis=0)
    counts = np.rint(np.mean([run.counts for run in folds], axis=0)).astype(np.int64)
    seen = [run.predictions for run in folds if run.predictions is not None]
    true, predicted = (np.concatenate([getattr(each, key) for each in seen]) for key in ("true", "predicted"))
    confidence = np.concatenate([each.confidence for each in seen])
    extras = {"ece": reliability(confidence, true == predicted)[1]}
    extras |= {key: weighted(folds, key) for key in ("top5", "nll") if all(key in run.result.last for run in folds)}
    found = first.result.model_copy(
        update={
            "counts": counts.tolist(),
            "last": scores(confusion, counts, few=first.few, extras=extras),
            "folds": spread_of([run.result for run in folds]),
            "per_class": per_class(confusion, counts, first.classes),
            "steps": sum(run.result.steps for run in folds),
            "weights_sha256": hashlib.sha256("".join(run.result.weights_sha256 for run in folds).encode()).hexdigest(),
            **dict.fromkeys(("best_on_test", "flip_tta", "crops_tta", "selected_on_val", "stage1")),
            **dict.fromkeys(("seconds", "step", "expect", "published")),
        }
    )
    folder.write_confusion(base / "confusion.csv", confusion, first.classes)
    images = [name for each in seen for name in each.images]
    order = sorted(range(len(images)), key=images.__getitem__)  # as in a cross-validation of other folds
    names = [images[row] for row in order]
    write_predictions(base, first.classes, true[order], predicted[order], confidence[order], names)
    for name in ("recipe.yaml", "environment.json"):
        shutil.copyfile(first.folder / name, base / name)
    result.write(base, found)
    write(base)
    return found


def weighted(folds: Sequence[Run], key: str) -> float:
    """The mean of a metric over all images of all folds."""
    images = [int(run.confusion.sum()) for run in folds]
    return float(np.average([run.result.last[key] for run in folds], weights=images))
