"""What a run leaves at its end: confusion.csv, predictions.csv, examples, result.json and the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glmc.data.inventory import names
from glmc.data.pictures import decode_image
from glmc.data.prepare import pixels
from glmc.data.split import Paths
from glmc.metrics import per_class, scores
from glmc.runs import checkpoint, folder, result
from glmc.runs.result import Extended, Result
from glmc.runs.tally import Tally
from glmc.train.build import Parts
from glmc.train.engine import State


def conclude(parts: Parts, run: Path, state: State, records: list[dict[str, Any]]) -> None:
    """Write confusion.csv, result.json and the report of a run that has been trained to its end.

    Without test images there is no more to say than that it is finished.
    """
    recipe, tested = parts.recipe, "test" in parts.sets
    tally = parts.tally("test") if tested else Tally(len(parts.counts), parts.device)
    last, confusion = parts.scored(tally)
    stage, first = None, None
    if recipe.parent is not None:
        stage = recipe.name.rpartition("+")[2] if "+" in recipe.name else recipe.system
        first = result.read_stage_one(run)
    found = Result(
        recipe=recipe.name,
        method=recipe.system,
        backbone=recipe.model.name,
        parameters=sum(p.numel() for p in parts.method.parameters()),
        learnt=sum(p.numel() for p in parts.method.parameters() if p.requires_grad),
        counts=parts.counts.tolist(),
        epochs=state.epoch,
        steps=state.steps,
        seed=recipe.train.seed,
        last=last,
        best_on_test=best_epoch(records, "test"),
        flip_tta=parts.score("test", "flip")[0] if recipe.eval.flip_tta and tested else None,
        crops_tta=parts.score("test", "crops")[0] if recipe.eval.crops == 5 and tested else None,
        selected_on_val=best_epoch(records, "val") if recipe.eval.select == "val" else None,
        per_class=per_class(confusion, parts.data.train.counts, parts.data.train.classes),
        weights_sha256=checkpoint.weights_sha256(parts.tested.state_dict()),
        seconds=state.seconds,
        step={"asked": recipe.train.step, **state.modes},
        stage2=stage,
        stage1=first,
        extended=apart(parts, tally, first.tests) if tested and first and first.tests else None,
        expect=recipe.expect,
        published=recipe.published,
    )
    if tested:
        folder.write_confusion(run / "confusion.csv", confusion, parts.data.train.classes)
        leave_evidence(parts, run, tally)
    result.write(run, found)
    if tested:
        from glmc import report  # matplotlib: not worth a second at the start, here and below

        report.write(run)


def apart(parts: Parts, tally: Tally, before: Sequence[Mapping[str, Any]]) -> Extended:
    """Scores of an extended run on the test images of the run before, which come first, and on the others.

    Args:
        parts: of the run.
        tally: of its test images.
        before: the rows of the run before, whose counts say which of its classes are few.
    """
    true, predicted, _ = tally.predictions()
    own, classes, few = sum(row["test"] for row in before), parts.data.train.classes, parts.recipe.eval.few
    counts = np.zeros((2, len(classes)), dtype=np.int64)
    counts[0, : len(before)], counts[1] = [row["train"] for row in before], parts.data.train.counts
    confusion = np.zeros((2, len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, ((np.arange(len(true)) >= own).astype(np.int64), true, predicted), 1)
    old, new = (
        [row for row in per_class(*each, classes) if row["test"]] for each in zip(confusion, counts, strict=True)
    )
    return Extended(
        old=scores(confusion[0], counts[0], few=few),
        new=scores(confusion[1], counts[1], few=few),
        old_tests=old,
        new_tests=new,
    )


def make_up_report(run: Path) -> None:
    """Write the report of a finished run, if a kill came between its result and its report."""
    if result.finished(run) and (run / "predictions.csv").exists() and not (run / "report.html").exists():
        from glmc import report

        with folder.held(run):
            report.write(run)


def best_epoch(records: Sequence[Mapping[str, Any]], split: str) -> dict[str, float] | None:
    """The scores on the test images, and the number, of the epoch with the highest top-1 on a split; none untested."""
    tested = [record for record in records if split in record and "test" in record]
    if not tested:
        return None
    best = max(tested, key=lambda record: record[split]["top1"])
    return {**best["test"], "epoch": best["epoch"]}


def leave_evidence(parts: Parts, run: Path, tally: Tally) -> None:
    """predictions.csv and examples/ of a run, from its last predictions for the test images."""
    from glmc.report import evidence

    train, test, data = parts.data.train, parts.data.test, parts.recipe.data

    def decoded(row: int) -> NDArray[np.uint8]:
        size, channels = parts.data.size, parts.data.channels
        reading = data.resize, data.exif, data.bits or 16, data.max_pixels
        return decode_image(train.images[row], size, channels, *reading)

    of_train = decoded if isinstance(train.images, Paths) else train.images.__getitem__
    of_test = pixels(test).__getitem__
    listed = parts.data.inventory
    files = None if listed is None else {part: names(listed[part].split) for part in ("train", "test")}
    evidence.write(run, train.classes, *tally.predictions(), of_test, train.labels, of_train, files)
