"""One recipe with several seeds or folds: runs side by side on a GPU, one after the other elsewhere, and their mean."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glmc import ranks, runtime
from glmc.errors import NonFiniteLoss, UserError
from glmc.metrics import doubts, of_several_groups, rows_of
from glmc.recipe import Recipe, parse
from glmc.runs import folder, result
from glmc.runs.files import write_atomic
from glmc.runs.shapes import Environment, read_json
from glmc.runs.trained import find_checkpoint
from glmc.screen import Screen
from glmc.train import stages
from glmc.train.run import Begun, begin, carry_out, take_up


def train_seeds(
    recipe: Recipe,
    seeds: Sequence[int],
    out: Path | None,
    *,
    together: int | None = None,
    command: str,
    quiet: bool,
    since: float,
) -> Path:
    """Train a recipe once for each seed, in folders seed-N of one folder, and tell mean and deviation.

    Args:
        recipe: complete; its own seed does not matter.
        seeds: of the runs.
        out: the folder, empty or not yet there; none takes the next free one under runs/.
        together: runs at a time; none: as many as fit on a GPU, one elsewhere. Each comes out as it would alone.
        command, quiet, since: as for `run.train`.
    """
    seeded = [recipe.override(f"train.seed={seed}") for seed in seeds]
    return begin_all(seeded, out, together=together, command=command, quiet=quiet, since=since)


def train_folds(
    recipe: Recipe,
    folds: int,
    out: Path | None,
    *,
    together: int | None = None,
    command: str,
    quiet: bool,
    since: float,
) -> Path:
    """Cross-validation: train a recipe once for each fold, in folders fold-N, and score every image once.

    Args:
        recipe: complete; its data have no test set of their own.
        folds: >= 2.
        out, together, command, quiet, since: as for `train_seeds`.
    """
    folded = [recipe.override(f"data.folds={folds}", f"data.fold={fold}") for fold in range(folds)]
    return begin_all(folded, out, together=together, command=command, quiet=quiet, since=since)


def begin_all(
    recipes: Sequence[Recipe], out: Path | None, *, together: int | None, command: str, quiet: bool, since: float
) -> Path:
    """Claim a folder for several runs and go through them."""
    stages.check(recipes[0])
    with folder.claimed(out, recipes[0].name) as base:
        write_atomic(base / "seeds.json", json.dumps([each.to_yaml() for each in recipes]) + "\n")
        try:
            go_through(base, together=together, command=command, quiet=quiet, since=since)
        finally:
            if not any(run_of(base, each).exists() for each in recipes):  # the first run never started
                (base / "seeds.json").unlink()
                folder.release(base)
    return base


def resume(base: Path, *, together: int | None, command: str, quiet: bool, since: float) -> None:
    """Go on with several runs; arguments as for `go_through`."""
    with folder.held(base):
        go_through(base, together=together, command=command, quiet=quiet, since=since)


def run_of(base: Path, recipe: Recipe) -> Path:
    """The folder of one of several runs."""
    return base / (f"seed-{recipe.train.seed}" if recipe.data.fold is None else f"fold-{recipe.data.fold + 1}")


def go_through(base: Path, *, together: int | None = None, command: str, quiet: bool, since: float) -> None:
    """Train each run of a folder, go on with it, or take it as it is if it is finished; then summarise them.

    Raises:
        NonFiniteLoss: of some runs; the others have been trained and summarised.
    """
    world = ranks.here().world
    if together is not None and together > 1 and world > 1:
        raise UserError(f"--together {together}: each run is trained by all {world} processes, one after the other")
    screen = Screen(quiet=quiet)
    remedy = "put it back as it was, or go on with each of the runs beside it"
    recipes = [parse(text) for text in read_json(list[str], base, "seeds.json", remedy)]
    runs = [run_of(base, recipe) for recipe in recipes]
    todo = [pair for pair in zip(recipes, runs, strict=True) if not result.finished(pair[1])]
    anew = not any(run.exists() for run in runs)
    began, failures = time.perf_counter(), list[str]()
    while todo:
        with contextlib.ExitStack() as stack:

            def taken(since: float) -> Begun:
                return stack.enter_context(take(*todo.pop(0), runs, quiet=quiet, command=command, since=since))

            group = [taken(since)]
            number = together or runtime.runs_that_fit(group[0].parts.device, group[0].memory)
            while todo and len(group) < number:
                group.append(taken(time.perf_counter()))
            try:
                carry_out(group, base, screen, more=bool(todo))
            except NonFiniteLoss as error:  # of some; the others go on, and the summary is of those that came to an end
                failures.append(str(error))
        since = time.perf_counter()
    for run in filter(Path.exists, runs):
        try:
            stages.go_on(run, command=command, quiet=quiet, since=time.perf_counter(), more=True, again=base)
        except NonFiniteLoss as error:
            failures.append(f"{run.name}: {error}")
    hours = (time.perf_counter() - began) / 3600
    runs = [stages.last(run, recipe) for run, recipe in zip(runs, recipes, strict=True)]
    runs = [run for run in runs if result.finished(run)]
    if not runs:
        raise NonFiniteLoss("; ".join(failures))
    if recipes[0].data.fold is not None:
        if not failures:
            conclude_folds(base, runs, screen)
    else:
        conclude_seeds(base, runs, recipes[0], len(runs) / hours if anew else None, screen)
    if failures:
        raise NonFiniteLoss(f"{'; '.join(failures)}; the other {len(runs)} finished")


def conclude_folds(base: Path, runs: Sequence[Path], screen: Screen) -> None:
    """Write the page of a cross-validation, and say its figures."""
    from glmc import report
    from glmc.report.folds import pool

    found = pool(base, runs)
    few = folder.recipe_of(runs[0]).eval.few
    images = sum(row["test"] for row in found.per_class)
    rows: dict[str, Mapping[str, Any]] = {f"all {images} images, each once": found.last}
    rows[f"mean of the {len(runs)} folds"] = report.in_one_row(report.spread_of([result.read(run) for run in runs]))
    sure = found.intervals(few)
    rows |= rows_of(sure)
    screen.table(f"{found.title}, accuracy in percent", rows)
    if doubt := doubts(found.last, sure):
        screen.say(doubt)
    counts = np.array([result.read(run).counts for run in runs])
    if moving := of_several_groups(counts, [row["class"] for row in found.per_class], few):
        screen.say(moving)
    screen.say(f"{base / 'report.html'}; to train on everything: data.test_fraction=0")


def conclude_seeds(base: Path, runs: Sequence[Path], recipe: Recipe, speed: float | None, screen: Screen) -> None:
    """Write summary.json of runs of several seeds, and say its figures; `speed`: runs per hour, if known."""
    from glmc import report

    spread = report.summary(runs)
    summary = summarise(runs, spread) | ({} if speed is None else {"runs_per_hour": speed})
    write_atomic(base / "summary.json", json.dumps(summary, indent=1) + "\n")
    rows: dict[str, Mapping[str, Any]] = {f"last epoch, {len(runs)} seeds": report.in_one_row(spread)}
    sure = result.intervals_of([result.read(run) for run in runs], recipe.eval.few)
    rows |= rows_of(sure, ends=False)
    if recipe.expect is not None:
        rows[f"expected ({recipe.expect.seeds} seeds)"] = folder.expectation(recipe.expect)
    screen.table(f"{recipe.title}, mean and standard deviation", rows)
    if doubt := doubts({name: score["mean"] for name, score in spread.items()}, sure):
        screen.say(doubt)
    if same_split(runs):
        screen.say("all seeds were trained and tested on the same images")
    else:
        screen.say("the seeds were not all trained and tested on the same images: so the deviation includes that")
    speed_words = "" if speed is None else f"   {speed:.1f} runs per hour"
    screen.say(f"{base / 'summary.json'}{speed_words}")


def same_split(runs: Sequence[Path]) -> bool:
    """Whether runs were trained and tested on the same images."""
    prints = [find_checkpoint(run).state["data"] for run in runs]
    return all(each == prints[0] for each in prints)


@contextlib.contextmanager
def take(
    recipe: Recipe, run: Path, beside: Sequence[Path], *, quiet: bool, command: str, since: float
) -> Iterator[Begun]:
    """Begin the run of one seed, on the images of those beside it, or take it up where it was interrupted; hold it."""
    if (run / "recipe.yaml").exists():
        with folder.held(run):
            yield take_up(run, (), Screen(run / "log.txt", quiet), command, since, beside)
    else:
        with folder.claimed(run, recipe.name):
            yield begin(recipe, run, Screen(run / "log.txt", quiet), command, since, beside)


def summarise(runs: Sequence[Path], spread: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """What summary.json holds: mean and deviation over the seeds, each seed's metrics, and their circumstances."""
    results = [result.read(run).as_json() for run in runs]
    same = ("schema", "recipe", "method", "backbone", "parameters", "counts", "epochs", "steps")
    each = ("seed", "last", "best_on_test", "flip_tta", "crops_tta", "selected_on_val", "weights_sha256", "seconds")
    return {
        **{key: results[0][key] for key in same},
        "last": spread,
        "runs": [{key: values[key] for key in each if key in values} for values in results],
        "environment": read_json(Environment, runs[0], "environment.json").model_dump(exclude_unset=True),
        "values": folder.recipe_of(runs[0]).model_dump(),
    }
