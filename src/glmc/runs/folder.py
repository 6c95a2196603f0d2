"""The run folder, apart from its checkpoints: claiming it, its small files, and what they say on the screen."""

import contextlib
import fcntl
import io
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import IO, Any

import numpy as np

from glmc.data.cells import CsvWriter
from glmc.data.inventory import Inventory, from_csv, is_there
from glmc.errors import UserError
from glmc.metrics import doubts, rows_of
from glmc.recipe import Recipe, differences, load, parse, same_images
from glmc.recipe.sections import Expect
from glmc.runs import checkpoint, result
from glmc.runs.files import append, remove_temporary, write_atomic
from glmc.runs.shapes import Environment, read_json
from glmc.screen import Screen, complain, writable

DEFAULT = Path("runs")  # where runs go without --out
SPLIT = "split.csv"
LOCK = ".lock"

_locks: set[IO[str]] = set()


def _let_go() -> None:
    """In a child of this process, which must not hold its runs when it is gone."""
    for lock in _locks:
        lock.close()
    _locks.clear()


os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """Keep other processes from training in a folder meanwhile, and remove what a killed one was writing there.

    The system's lock on a file: it ends with its process, however that ends, and containers have it in common.

    Raises:
        UserError: another process trains there, or the folder cannot be written to.
    """
    try:
        lock = (run / LOCK).open("w")
    except OSError as error:
        raise UserError(f"{run}: cannot be written to ({error.strerror}); name another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = os.path.samestat(os.fstat(lock.fileno()), os.stat(run / LOCK))  # or it has been taken away since
        except (FileNotFoundError, BlockingIOError):
            free = False
        except OSError as error:  # as on Lustre, unless it is mounted with flock
            complain(f"{run}: its file system has no locks ({error.strerror}): let no other process train there")
            free = True
        if not free:
            raise UserError(f"{run}: another process is training there; wait for it, or name another folder")
        _locks.add(lock)
        try:
            for folder in (run, run / "checkpoints", run / "selected"):
                remove_temporary(folder)
            yield
        finally:
            _locks.discard(lock)
            with contextlib.suppress(OSError):  # a lock that stays does no harm
                (run / LOCK).unlink()


@contextlib.contextmanager
def claimed(out: Path | None, name: str) -> Iterator[Path]:
    """Make the folder of a new run, and hold it; a folder that exists already must be empty.

    Args:
        out: the folder; none takes the next free one under runs/.
        name: of the recipe.

    Raises:
        UserError: it is not empty, or cannot be written to.
    """
    if not writable(str(out)):
        raise UserError(f"--out {str(out)!a}: the name cannot be written in UTF-8 on one line; name another folder")
    number = 1
    while out is None:
        candidate = DEFAULT / f"{name.replace('/', '-')}-{number:03d}"
        with contextlib.suppress(FileExistsError):  # also when another run takes the number at this moment
            candidate.mkdir(parents=True)
            out = candidate
        number += 1
    try:
        out.mkdir(parents=True, exist_ok=True)
        ours = {LOCK, "log.txt"} if (out / LOCK).exists() or not (out / "log.txt").exists() else {LOCK}
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written to ({error.strerror}); name another folder") from error
    with held(out):
        if any(path.name not in ours for path in out.iterdir()):
            raise UserError(f"--out {out}: the folder is not empty, and nothing is overwritten; name another one")
        yield out


def stage(run: Path, number: int) -> Path:
    """The folder of a later stage, within that of a run whose recipe names it; `number` is at least 2."""
    return run / f"stage-{number}"


def later_stages(run: Path) -> list[Path]:
    """The folders of the stages that a run has gone on into, in order."""
    return list(takewhile(Path.exists, (stage(run, number) for number in count(2))))


def release(run: Path) -> None:
    """Take back what `claimed` made, when the run did not come to begin."""
    with contextlib.suppress(OSError):
        for name in (result.STAGE_ONE, SPLIT, "recipe.yaml", "log.txt", LOCK):  # as long as it has a recipe it is a run
            (run / name).unlink(missing_ok=True)
        run.rmdir()
        if run.parent == DEFAULT:
            DEFAULT.rmdir()  # unless it holds other runs


def recipe_of(run: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The settled recipe of a run, under the name it was started with."""
    return load(str(run / "recipe.yaml"), overrides)


def inventory_of(run: Path, root: str) -> Inventory | None:
    """The files of each part of a run, as its split.csv says; None if it has none, as on images that come as arrays.

    Args:
        run: its folder.
        root: of the data now.

    Raises:
        UserError: the file is damaged.
    """
    file = run / SPLIT
    return from_csv(file.read_bytes(), file, Path(root).expanduser()) if file.exists() else None


def known_files(recipe: Recipe, run: Path, beside: Sequence[Path], screen: Screen) -> Inventory | None:
    """The files of each part of a run: its own, else of a run beside it that draws the same, else of its parent."""
    known = inventory_of(run, recipe.data.root)
    if known is None:
        known = next((split for other in beside if (split := shared(recipe, other)) is not None), None)
    if known is None and recipe.starts_from == "rows":
        raise UserError("starts_from=rows: two runs' images belong to it, which only glmc extend RUN puts together")
    if known is None and recipe.parent is not None:
        known = of_parent(recipe, Path(recipe.parent), screen)
    return known


def shared(recipe: Recipe, other: Path) -> Inventory | None:
    """The files of another run, if the recipe draws its images from the same folder as that one does; None if not."""
    if not (other / SPLIT).exists():
        return None
    theirs = recipe_of(other)
    roots = {Path(root).expanduser().resolve() for root in (recipe.data.root, theirs.data.root)}
    if len(roots) > 1 or not same_images(recipe, theirs):
        return None
    return inventory_of(other, recipe.data.root)


def of_parent(recipe: Recipe, parent: Path, screen: Screen) -> Inventory | None:
    """The files of the run that another starts from, wherever they lie now; None if it sees others, which is said."""
    if not (parent / SPLIT).exists():
        return None
    known = inventory_of(parent, recipe.data.root)
    if known is not None and same_images(recipe, recipe_of(parent)) and all(map(is_there, known.values())):
        return known
    screen.say(f"not the images of {parent}: what was trained on there may be tested on here")
    return None


def write_metrics(run: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """metrics.jsonl anew: a line an epoch."""
    write_atomic(run / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))


def append_metrics(run: Path, record: Mapping[str, Any]) -> None:
    """Another line of metrics.jsonl."""
    append(run / "metrics.jsonl", json.dumps(record) + "\n")


def record_environment(run: Path, facts: Mapping[str, Any]) -> str:
    """environment.json: the circumstances of the first start, and of each time the run was resumed.

    Returns:
        The mark of the run, drawn at its first start, by which its checkpoints know it.
    """
    file = run / "environment.json"
    if file.exists():
        first = _environment(run)
        facts = {**first.model_dump(exclude_unset=True), "resumed": [*first.resumed, facts]}
    else:
        facts = {"run": secrets.token_hex(8), **facts}
    write_atomic(file, json.dumps(facts, indent=2) + "\n")
    return str(facts["run"])


def mark_of(run: Path) -> str | None:
    """The mark by which the checkpoints of a run know it; None if its environment.json is gone."""
    return _environment(run).run if (run / "environment.json").exists() else None


def _environment(run: Path) -> Environment:
    """What environment.json says."""
    return read_json(Environment, run, "environment.json", "put it back as it was, or train again into an empty folder")


def refuse_foreign(run: Path, recipe: Recipe, point: checkpoint.Checkpoint) -> None:
    """Raise a `UserError` unless a checkpoint is of the run whose folder it lies in, and of its recipe.

    Args:
        run: the folder.
        recipe: settled, as the folder says.
        point: the checkpoint.
    """
    if mark_of(run) != point.state["run"]:
        raise UserError(
            f"{point.path}: saved by another run than that of {run / 'environment.json'}; put the run's own back"
        )
    trained = parse(point.state["recipe"])
    for key, ours, theirs in differences(recipe, trained):
        raise UserError(
            f"{run / 'recipe.yaml'}: {key} is {ours}, and the run was trained with {theirs} so far; put that back, or "
            f"begin another run with glmc train {run / 'recipe.yaml'}"
        )


def write_confusion(file: Path, confusion: np.ndarray, classes: Sequence[str]) -> None:
    """confusion.csv: a row for each true class, a column for each predicted one."""
    text = io.StringIO()
    writer = CsvWriter(text)
    writer.writerow(["true \\ predicted", *classes])
    for name, row in zip(classes, confusion, strict=True):
        writer.writerow([name, *row.tolist()])  # not the whole of it at once: 8,142 classes are 66 million numbers
    write_atomic(file, text.getvalue())


def show(run: Path, screen: Screen) -> None:
    """The table at the end of a run, how surely its figures are known, and what was expected of it."""
    found = result.read(run)
    if not found.last:
        screen.say(f"run folder: {run}   without test images; score it on others: glmc test {run} FOLDER")
        return
    sure = found.intervals(recipe_of(run).eval.few)
    rows: dict[str, Mapping[str, Any] | None] = {}
    last = "last epoch" if found.stage2 is None else f"stage {found.stage} ({found.stage2}), last epoch"
    if found.stage1 is not None:
        before = f"stage {found.stage - 1}" if found.extended is None else "before"
        rows |= {f"{before}, last epoch": found.stage1.last, f"{before}, flip TTA": found.stage1.flip_tta}
    if found.extended is not None:
        rows |= {"after, the same images": found.extended.old, "after, new images": found.extended.new}
        last = "after, all images"
    rows[last] = found.last
    rows |= rows_of(sure)
    if found.selected_on_val:
        rows[f"selected on validation, epoch {found.selected_on_val['epoch']}"] = found.selected_on_val
    if found.best_on_test:
        rows[f"best on test, epoch {found.best_on_test['epoch']}"] = found.best_on_test
    rows["last epoch, flip TTA"] = found.flip_tta
    rows["last epoch, five crops"] = found.crops_tta
    if found.expect:
        rows[f"expected ({found.expect.seeds} seeds)"] = expectation(found.expect)
    if found.published:
        rows[f"published ({found.published.network})"] = {"top1": found.published.top1}
    title = f"{found.title} ({found.parameters / 1e6:.2f} M parameters{found.partly}), accuracy in percent"
    screen.table(title, {name: scores for name, scores in rows.items() if scores is not None})
    if doubt := doubts(found.last, sure):
        screen.say(doubt)
    if told := found.told_of_classes():
        screen.say(told)
    if found.seconds is not None:
        names = {"startup": "start-up", "train": "training", "eval": "evaluation"}
        screen.say(", ".join(f"{found.seconds[key]:.1f} s {name}" for key, name in names.items()))
    page = run / "report.html"
    screen.say(f"run folder: {run}" + (f"   report: {page}" if page.exists() else ""))


def remember_stage_one(run: Path, recipe: Recipe) -> None:
    """stage1.json of a second stage: what its parent was when it began, since a parent may move or change."""
    if recipe.parent is None:
        return
    if (run / result.STAGE_ONE).exists():
        result.read_stage_one(run)  # it is wanted at the end, when it would be late to find it damaged
    else:
        result.stage_one(Path(recipe.parent)).write(run / result.STAGE_ONE)


def expectation(expect: Expect) -> dict[str, float]:
    """A recipe's `expect` as a row of the table."""
    return {"top1": expect.top1, "top1_sd": expect.sd}
