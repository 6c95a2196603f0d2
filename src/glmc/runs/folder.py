"""The run folder, apart from its checkpoints: claiming it, its small files, and what they say on the screen."""

import contextlib
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glmc.errors import UserError
from glmc.recipe import Recipe, load
from glmc.recipe.sections import Expect
from glmc.runs import result
from glmc.runs.files import append, write_atomic
from glmc.screen import Screen

DEFAULT = Path("runs")  # where runs go without --out


def claim(out: Path | None, name: str) -> Path:
    """Make the folder of a new run; a folder that exists already must be empty.

    Args:
        out: the folder; none takes the next free one under runs/.
        name: of the recipe.

    Raises:
        UserError: it is not empty, or cannot be written to.
    """
    number = 1
    while out is None:
        candidate = DEFAULT / f"{name.replace('/', '-')}-{number:03d}"
        with contextlib.suppress(FileExistsError):  # also when another run takes the number at this moment
            candidate.mkdir(parents=True)
            return candidate
        number += 1
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise UserError(f"--out {out}: the folder is not empty, and nothing is overwritten; name another one")
        (out / "log.txt").touch()
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written to ({error.strerror}); name another folder") from error
    return out


def release(run: Path) -> None:
    """Take back what `claim` made, when the run did not come to begin."""
    with contextlib.suppress(OSError):
        for name in ("log.txt", "recipe.yaml", "stage1.json"):
            (run / name).unlink(missing_ok=True)
        run.rmdir()
        if run.parent == DEFAULT:
            DEFAULT.rmdir()  # unless it holds other runs


def recipe_of(run: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The settled recipe of a run, under the name it was started with."""
    return load(str(run / "recipe.yaml"), overrides)


def read_metrics(run: Path, epochs: int) -> list[dict[str, Any]]:
    """The records of the first `epochs` epochs; a line that a kill has cut short is left out."""
    file, records = run / "metrics.jsonl", []
    for line in file.read_text().splitlines() if file.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return [record for record in records if record["epoch"] <= epochs]


def write_metrics(run: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """metrics.jsonl anew: a line an epoch."""
    write_atomic(run / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))


def append_metrics(run: Path, record: Mapping[str, Any]) -> None:
    """Another line of metrics.jsonl."""
    append(run / "metrics.jsonl", json.dumps(record) + "\n")


def record_environment(run: Path, facts: Mapping[str, Any]) -> None:
    """environment.json: the circumstances of the first start, and of each time the run was resumed."""
    file = run / "environment.json"
    if file.exists():
        first = json.loads(file.read_text())
        facts = {**first, "resumed": [*first.get("resumed", []), facts]}
    write_atomic(file, json.dumps(facts, indent=2) + "\n")


def write_confusion(file: Path, confusion: np.ndarray, classes: Sequence[str]) -> None:
    """confusion.csv: a row for each true class, a column for each predicted one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true \\ predicted", *classes])
    for name, row in zip(classes, confusion.tolist(), strict=True):
        writer.writerow([name, *row])
    write_atomic(file, text.getvalue())


def show(run: Path, screen: Screen) -> None:
    """The table at the end of a run, beside what was expected of it."""
    found = result.read(run)
    rows: dict[str, Mapping[str, float] | None] = {}
    if found.stage1 is not None:
        rows |= {"stage 1, last epoch": found.stage1.last, "stage 1, flip TTA": found.stage1.flip_tta}
    rows["last epoch" if found.stage2 is None else f"stage 2 ({found.stage2}), last epoch"] = found.last
    if found.selected_on_val:
        rows[f"selected on validation, epoch {found.selected_on_val['epoch']}"] = found.selected_on_val
    if found.best_on_test:
        rows[f"best on test, epoch {found.best_on_test['epoch']}"] = found.best_on_test
    rows["last epoch, flip TTA"] = found.flip_tta
    if found.expect:
        rows[f"expected ({found.expect.seeds} seeds)"] = expectation(found.expect)
    if found.published:
        rows[f"published ({found.published.network})"] = {"top1": found.published.top1}
    title = f"{found.recipe}, {found.backbone} ({found.parameters / 1e6:.2f} M parameters), accuracy in percent"
    screen.table(title, {name: scores for name, scores in rows.items() if scores is not None})
    if found.seconds is not None:
        names = {"startup": "start-up", "train": "training", "eval": "evaluation"}
        screen.say(", ".join(f"{found.seconds[key]:.1f} s {name}" for key, name in names.items()))
    page = run / "report.html"
    screen.say(f"run folder: {run}" + (f"   report: {page}" if page.exists() else ""))


def remember_stage_one(run: Path, recipe: Recipe) -> None:
    """stage1.json of a second stage: what its parent was when it began, since a parent may move or change."""
    if recipe.parent is not None and not (run / "stage1.json").exists():
        result.stage_one(Path(recipe.parent)).write(run / "stage1.json")


def expectation(expect: Expect) -> dict[str, float]:
    """A recipe's `expect` as a row of the table."""
    return {"top1": expect.top1, "top1_sd": expect.sd}
