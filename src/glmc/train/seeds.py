"""One recipe with several seeds: runs side by side on a GPU, one after the other elsewhere, and their mean."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glmc import runtime
from glmc.errors import NonFiniteLoss
from glmc.metrics import doubts, rows_of
from glmc.recipe import Recipe, parse
from glmc.runs import folder, result
from glmc.runs.files import write_atomic
from glmc.screen import Screen
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
    base = folder.claim(out, recipe.name)
    (base / "log.txt").unlink(missing_ok=True)
    write_atomic(base / "seeds.json", json.dumps([each.to_yaml() for each in seeded]) + "\n")
    try:
        go_through(base, together=together, command=command, quiet=quiet, since=since)
    finally:
        if not any(base.glob("seed-*")):  # the first run did not come to begin
            (base / "seeds.json").unlink()
            folder.release(base)
    return base


def go_through(base: Path, *, together: int | None = None, command: str, quiet: bool, since: float) -> None:
    """Train each seed of a folder, go on with it, or take it as it is if it is finished; then summarise them.

    Raises:
        NonFiniteLoss: of some runs; the others have been trained and summarised.
    """
    screen = Screen(quiet=quiet)
    recipes = [parse(text) for text in json.loads((base / "seeds.json").read_text())]
    runs = [base / f"seed-{recipe.train.seed}" for recipe in recipes]
    todo = [pair for pair in zip(recipes, runs, strict=True) if not result.finished(pair[1])]
    anew = not any(run.exists() for run in runs)
    began, failures = time.perf_counter(), list[str]()
    while todo:
        group = [take(*todo.pop(0), runs, quiet=quiet, command=command, since=since)]
        number = together or runtime.runs_that_fit(group[0].parts.device, group[0].memory)
        while todo and len(group) < number:
            group.append(take(*todo.pop(0), runs, quiet=quiet, command=command, since=time.perf_counter()))
        try:
            carry_out(group, base, screen)
        except NonFiniteLoss as error:  # of some; the others go on, and the summary is of those that came to their end
            failures.append(str(error))
        since = time.perf_counter()
    hours = (time.perf_counter() - began) / 3600

    from glmc import report

    runs = [run for run in runs if result.finished(run)]
    if not runs:
        raise NonFiniteLoss("; ".join(failures))
    spread = report.summary(runs)
    summary = summarise(runs, spread) | ({"runs_per_hour": len(runs) / hours} if anew else {})
    write_atomic(base / "summary.json", json.dumps(summary, indent=1) + "\n")
    rows: dict[str, Mapping[str, Any]] = {f"last epoch, {len(runs)} seeds": report.in_one_row(spread)}
    sure = result.read(runs[0]).intervals(recipes[0].eval.few)
    rows |= rows_of(sure, ends=False)
    expect = recipes[0].expect
    if expect is not None:
        rows[f"expected ({expect.seeds} seeds)"] = folder.expectation(expect)
    screen.table(f"{recipes[0].title}, mean and standard deviation", rows)
    if doubt := doubts({name: score["mean"] for name, score in spread.items()}, sure):
        screen.say(doubt)
    speed = f"   {summary['runs_per_hour']:.1f} runs per hour" if anew else ""
    screen.say(f"{base / 'summary.json'}{speed}")
    if failures:
        raise NonFiniteLoss(f"{'; '.join(failures)}; the summary is of the other {len(runs)}")


def take(recipe: Recipe, run: Path, beside: Sequence[Path], *, quiet: bool, command: str, since: float) -> Begun:
    """Begin the run of one seed, on the images of those beside it, or take it up where it was interrupted."""
    if (run / "recipe.yaml").exists():
        return take_up(run, (), Screen(run / "log.txt", quiet), command, since)
    folder.claim(run, recipe.name)
    return begin(recipe, run, Screen(run / "log.txt", quiet), command, since, beside)


def summarise(runs: Sequence[Path], spread: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """What summary.json holds: mean and deviation over the seeds, each seed's metrics, and their circumstances."""
    results = [result.read(run).as_json() for run in runs]
    same = ("schema", "recipe", "method", "backbone", "parameters", "counts", "epochs", "steps")
    each = ("seed", "last", "best_on_test", "flip_tta", "selected_on_val", "weights_sha256", "seconds")
    return {
        **{key: results[0][key] for key in same},
        "last": spread,
        "runs": [{key: values[key] for key in each if key in values} for values in results],
        "environment": json.loads((runs[0] / "environment.json").read_text()),
        "values": folder.recipe_of(runs[0]).model_dump(),
    }
