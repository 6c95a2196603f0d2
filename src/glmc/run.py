"""Training from a recipe to a run folder, and resuming it."""

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glmc import checkpoint, folder, runtime
from glmc.build import Parts, build, build_judge, load_trained, try_one_step
from glmc.engine import State, fit, refuse_non_finite
from glmc.errors import Interrupted, UserError
from glmc.metrics import per_class
from glmc.recipe import HARMLESS, Recipe, parse
from glmc.saving import keep_selected, restore, save
from glmc.screen import Screen

GLANCE_SECONDS = 0.5  # how often the progress bar looks at the loss


def train(recipe: Recipe, out: Path | None, *, command: str, quiet: bool = False, since: float) -> Path:
    """Train a recipe in a new run folder and return the folder.

    Args:
        recipe: complete.
        out: the folder, empty or not yet there; none takes the next free one under runs/.
        command: what to repeat, for environment.json.
        quiet: nothing on the terminal.
        since: `time.perf_counter()` when the command began, for the start-up time.
    """
    run = folder.claim(out, recipe.name)
    screen = Screen(run / "log.txt", quiet)
    try:
        checkpoint.write_atomic(run / "recipe.yaml", recipe.to_yaml())  # from here on, a killed run can be resumed
        parts = build(recipe, screen)
        try_one_step(parts)
        folder.remember_stage_one(run, recipe)
        checkpoint.write_atomic(run / "recipe.yaml", parts.recipe.to_yaml())
    except BaseException:
        folder.release(run)  # nothing was begun: leave nothing behind
        raise
    carry_out(parts, run, State(), screen, command, since)
    return run


def resume(run: Path, overrides: tuple[str, ...] = (), *, command: str, quiet: bool = False, since: float) -> Path:
    """Go on with a run from its last valid checkpoint, or from the start if it has none yet.

    Raises:
        UserError: there is no run, or an override would change its result.
    """
    if (run / "seeds.json").is_file() and not overrides:
        go_through_seeds(run, command=command, quiet=quiet, since=since)
        return run
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"--resume {run}: no run lies there (recipe.yaml is missing)")
    for assignment in overrides:
        if assignment.partition("=")[0] not in HARMLESS:
            raise UserError(
                f"{assignment}: a resumed run keeps its recipe; only {', '.join(sorted(HARMLESS))} may change"
            )
    screen = Screen(run / "log.txt", quiet)
    if (run / "result.json").exists():
        screen.say(f"{run} is finished already")
        if (run / "metrics.jsonl").exists() and not (run / "report.html").exists():  # a kill came between the two
            from glmc import report

            report.write(run)
        folder.show(run, screen)
        return run
    point = checkpoint.latest(run / "checkpoints")
    for remark in point.remarks if point else ():
        screen.say(remark)
    recipe = folder.recipe_of(run, overrides)
    parts = build(recipe, screen, initial=point is None)
    folder.remember_stage_one(run, recipe)
    if point is None:
        checkpoint.write_atomic(run / "recipe.yaml", parts.recipe.to_yaml())  # it may not have been settled yet
    state = restore(parts, point) if point else State()
    screen.say(f"going on from epoch {state.epoch + 1}, step {state.step} of {parts.loader.steps}")
    carry_out(parts, run, state, screen, command, since)
    return run


def carry_out(parts: Parts, run: Path, state: State, screen: Screen, command: str, since: float) -> None:
    """Train to the end, leaving a record for each epoch and a checkpoint whenever one is due; then conclude."""
    recipe, total = parts.recipe, parts.total_steps
    folder.record_environment(run, runtime.environment(parts.device, recipe.train.precision, command))
    records = folder.read_metrics(run, state.epoch)  # a kill may have come between a record and its checkpoint
    folder.write_metrics(run, records)
    folder.announce(parts, run, screen)

    state.seconds["startup"] += time.perf_counter() - since
    lap = glanced = time.monotonic()
    with signals() as arrived, screen.bar("training", total, state.steps) as bar:
        for epoch_over, meter in fit(
            parts.method,
            parts.loader,
            parts.optimizer,
            state,
            epochs=recipe.train.epochs,
            factors=parts.factors,
            precision=recipe.train.precision,
            clip=recipe.optim.clip,
            average=parts.average,
            max_steps=recipe.train.max_steps,
        ):
            now = time.monotonic()
            if not epoch_over and now - glanced > GLANCE_SECONDS:
                glanced, means = now, meter.glance()
                refuse_non_finite(means, state.epoch)
                bar.to(state.steps, what=folder.headline(recipe, state, means, records))
            due = bool(arrived) or now - lap > 60 * recipe.train.save_minutes
            if not epoch_over and not due:
                continue
            state.sums = meter.read()  # waits for the device
            refuse_non_finite(state.sums, state.epoch - epoch_over)
            state.seconds["train"] += time.monotonic() - lap
            if epoch_over:
                records.append(conclude_epoch(parts, state, records, last=state.steps == total))
                folder.write_metrics(run, records)
                line = folder.headline(recipe, state, records[-1]["terms"], records)
                bar.to(state.steps, what=line)
                (screen.note if screen.console.is_terminal else screen.say)(line)
                keep_selected(parts, run, state, records)
                state.sums = {}
            save(parts, run, state)
            lap = time.monotonic()
            if arrived:
                name = signal.Signals(arrived[0]).name
                raise Interrupted(f"stopped by {name}, state saved; go on with: glmc train --resume {run}", arrived[0])
    conclude(parts, run, state, records)
    folder.show(run, screen)


def conclude_epoch(parts: Parts, state: State, records: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
    """The record of the epoch that has just ended: mean loss terms, and scores if it is one to be evaluated."""
    began = time.monotonic()
    steps = state.steps - (records[-1]["step"] if records else 0)
    record: dict[str, Any] = {
        "epoch": state.epoch,
        "step": state.steps,
        "lr": parts.recipe.optim.lr * parts.factors[state.epoch - 1],
        "terms": {name: value / steps for name, value in state.sums.items()},
    }
    if last or state.epoch % parts.recipe.eval.every == 0:
        record |= {name: parts.judge(name)[0] for name in parts.sets}
    seconds = {"train": state.seconds["train"], "eval": time.monotonic() - began}
    for earlier in records:
        seconds["train"] -= earlier["seconds"]["train"]
    state.seconds["eval"] += seconds["eval"]
    return record | {"seconds": seconds}


def conclude(parts: Parts, run: Path, state: State, records: list[dict[str, Any]]) -> None:
    """Write confusion.csv, result.json and the report of a run that has been trained to its end."""
    recipe = parts.recipe
    last, confusion = parts.judge("test")
    tested = [record for record in records if "test" in record]
    best = max(tested, key=lambda record: record["test"]["top1"])
    result: dict[str, Any] = {
        **folder.result_head(recipe, parts.method, parts.data.train.counts, state),
        "last": last,
        "best_on_test": {**best["test"], "epoch": best["epoch"]},
    }
    if recipe.eval.flip_tta:
        result["flip_tta"] = parts.judge("test", flip=True)[0]
    if recipe.eval.select == "val":
        chosen = max((record for record in tested if "val" in record), key=lambda record: record["val"]["top1"])
        result["selected_on_val"] = {**chosen["test"], "epoch": chosen["epoch"]}
    result |= {
        "per_class": per_class(confusion, parts.data.train.counts, parts.data.train.classes),
        "weights_sha256": checkpoint.weights_sha256(parts.judged.state_dict()),
        "seconds": state.seconds,
    }
    if recipe.parent is not None:
        result |= {"stage2": recipe.method.name, "stage1": json.loads((run / "stage1.json").read_text())}
    for name, known in (("expect", recipe.expect), ("published", recipe.published)):
        if known is not None:
            result[name] = known.model_dump()
    folder.write_confusion(run / "confusion.csv", confusion, parts.data.train.classes)
    checkpoint.write_atomic(run / "result.json", json.dumps(result, indent=1) + "\n")
    from glmc import report  # matplotlib: not worth a second at the start

    report.write(run)


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM are written into instead of ending the program; a second one ends it at once."""
    arrived: list[int] = []

    def remember(number: int, _frame: object) -> None:
        arrived.append(number)
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_seeds(recipe: Recipe, seeds: list[int], out: Path | None, *, command: str, quiet: bool, since: float) -> Path:
    """Train a recipe once for each seed, in folders seed-N of one folder, and tell mean and deviation."""
    seeded = [recipe.override(f"train.seed={seed}") for seed in seeds]
    base = folder.claim(out, recipe.name)
    (base / "log.txt").unlink(missing_ok=True)
    checkpoint.write_atomic(base / "seeds.json", json.dumps([each.to_yaml() for each in seeded]) + "\n")
    try:
        go_through_seeds(base, command=command, quiet=quiet, since=since)
    finally:
        if not any(base.glob("seed-*")):  # the first run did not come to begin
            (base / "seeds.json").unlink()
            folder.release(base)
    return base


def go_through_seeds(base: Path, *, command: str, quiet: bool, since: float) -> None:
    """Train each seed of a folder, go on with it, or take it as it is if it is finished; then summarise them."""
    runs = []
    for text in json.loads((base / "seeds.json").read_text()):
        recipe = parse(text)
        run = base / f"seed-{recipe.train.seed}"
        if not (run / "recipe.yaml").exists():
            train(recipe, run, command=command, quiet=quiet, since=since)
        elif not (run / "result.json").exists():
            resume(run, command=command, quiet=quiet, since=since)
        runs.append(run)
        since = time.perf_counter()
    from glmc import report

    screen, spread = Screen(quiet=quiet), report.summary(runs)
    checkpoint.write_atomic(base / "summary.json", json.dumps(summarise(runs, spread), indent=1) + "\n")
    row = {key: value["mean"] for key, value in spread.items()}
    row |= {f"{key}_sd": value["sd"] for key, value in spread.items() if "sd" in value}
    rows = {f"last epoch, {len(runs)} seeds": row}
    if recipe.expect is not None:
        rows[f"expected ({recipe.expect.seeds} seeds)"] = folder.expectation(recipe.expect.model_dump())
    screen.table(f"{recipe.name}, mean and standard deviation", rows)
    screen.say(f"{base / 'summary.json'}")


def summarise(runs: list[Path], spread: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What summary.json holds: mean and deviation over the seeds, each seed's figures, and their circumstances."""
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    same = ("schema", "recipe", "method", "backbone", "parameters", "counts", "epochs", "steps")
    each = ("seed", "last", "best_on_test", "flip_tta", "selected_on_val", "weights_sha256", "seconds")
    return {
        **{key: results[0][key] for key in same},
        "last": spread,
        "runs": [{key: result[key] for key in each if key in result} for result in results],
        "environment": json.loads((runs[0] / "environment.json").read_text()),
        "values": folder.recipe_of(runs[0]).model_dump(),
    }


def test(path: Path, overrides: tuple[str, ...], *, quiet: bool) -> dict[str, Any]:
    """Evaluate the last checkpoint of a run, or one checkpoint, on the test images.

    Args:
        path: a run folder, or one checkpoint.
        overrides: of the recipe that the checkpoint carries, e.g. where the data lie.
        quiet: nothing on the terminal.

    Returns:
        {"checkpoint", "recipe", "test": scores, "flip_tta": scores}; the last one if the recipe wants it.

    Raises:
        UserError: nothing to test there, or the images have other classes than the checkpoint.
    """
    screen = Screen(quiet=quiet)
    point = find_checkpoint(path)
    for remark in point.remarks:
        screen.say(remark)
    recipe = parse(point.state["recipe"], overrides)
    trained = load_trained(point, recipe)
    judge = build_judge(recipe, trained, screen)
    result: dict[str, Any] = {"checkpoint": str(point.path), "recipe": recipe.name}
    result["test"] = judge(trained.method, False)[0]
    if recipe.eval.flip_tta:
        result["flip_tta"] = judge(trained.method, True)[0]
    rows = {"test images": result["test"]} | ({"flip TTA": result["flip_tta"]} if recipe.eval.flip_tta else {})
    screen.table(f"{recipe.name}, {recipe.model.name}, {point.path}, accuracy in percent", rows)
    return result


def find_checkpoint(path: Path) -> checkpoint.Checkpoint:
    """The last checkpoint of a run, or the one that lies in this folder.

    Raises:
        UserError: neither.
    """
    point = checkpoint.latest(path / "checkpoints")
    if point is None and not (path / checkpoint.MANIFEST).exists():
        raise UserError(f"{path}: neither a run with a checkpoint nor a checkpoint; name one that `glmc train` made")
    return point or checkpoint.read(path)
