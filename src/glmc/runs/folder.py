"""The run folder, apart from its checkpoints: claiming it, its small files, and what they say on the screen."""

import contextlib
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glmc.errors import UserError
from glmc.methods.base import Method
from glmc.recipe import Recipe, load
from glmc.runs.files import write_atomic
from glmc.screen import Screen

DEFAULT = Path("runs")  # where runs go that are not told where


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
    """metrics.jsonl: a line an epoch, written anew so that a line is there in whole or not at all."""
    write_atomic(run / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))


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
    result = json.loads((run / "result.json").read_text())
    rows: dict[str, Mapping[str, Any]] = {}
    for name, key in (("stage 1, last epoch", "last"), ("stage 1, flip TTA", "flip_tta")):
        if key in result.get("stage1", {}):
            rows[name] = result["stage1"][key]
    rows["last epoch" if "stage2" not in result else f"stage 2 ({result['stage2']}), last epoch"] = result["last"]
    if "selected_on_val" in result:
        rows[f"selected on validation, epoch {result['selected_on_val']['epoch']}"] = result["selected_on_val"]
    if "best_on_test" in result:
        rows[f"best on test, epoch {result['best_on_test']['epoch']}"] = result["best_on_test"]
    if "flip_tta" in result:
        rows["last epoch, flip TTA"] = result["flip_tta"]
    if "expect" in result:
        rows[f"expected ({result['expect']['seeds']} seeds)"] = expectation(result["expect"])
    if "published" in result:
        rows[f"published ({result['published']['network']})"] = result["published"]
    title = (
        f"{result['recipe']}, {result['backbone']} ({result['parameters'] / 1e6:.2f} M parameters), accuracy in percent"
    )
    screen.table(title, rows)
    if "seconds" in result:  # a repair of the classifier takes none
        names = {"startup": "start-up", "train": "training", "eval": "evaluation"}
        screen.say(", ".join(f"{result['seconds'][key]:.1f} s {name}" for key, name in names.items()))
    page = run / "report.html"
    screen.say(f"run folder: {run}" + (f"   report: {page}" if page.exists() else ""))


def result_head(recipe: Recipe, method: Method, counts: NDArray[np.int64], epochs: int, steps: int) -> dict[str, Any]:
    """What result.json begins with: which recipe and network, on what (counts [C]), trained how long."""
    return {
        "schema": 1,
        "recipe": recipe.name,
        "method": recipe.method.name,
        "backbone": recipe.model.name,
        "parameters": sum(p.numel() for p in method.parameters()),
        "counts": counts.tolist(),
        "epochs": epochs,
        "steps": steps,
        "seed": recipe.train.seed,
    }


def stage_one(run: Path) -> dict[str, Any]:
    """What a second stage's result says of the run that it started from."""
    result = json.loads((run / "result.json").read_text()) if (run / "result.json").exists() else {}
    keys = ("recipe", "method", "epochs", "seed", "last", "best_on_test", "flip_tta", "weights_sha256")
    return {"run": str(run), **{key: result[key] for key in keys if key in result}}


def remember_stage_one(run: Path, recipe: Recipe) -> None:
    """stage1.json of a second stage: what its parent was when it began, since a parent may move or change."""
    if recipe.parent is not None and not (run / "stage1.json").exists():
        write_atomic(run / "stage1.json", json.dumps(stage_one(Path(recipe.parent)), indent=1) + "\n")


def expectation(expect: Mapping[str, Any]) -> dict[str, float]:
    """A recipe's `expect` as a row of the table."""
    return {"top1": expect["top1"], "top1_sd": expect["sd"]}
