"""Training from a recipe to a run folder, and resuming it."""

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmc import checkpoint, folder, runtime
from glmc.build import Parts, build, build_judge, try_one_step
from glmc.engine import State, fit, refuse_non_finite
from glmc.errors import Interrupted, UserError
from glmc.metrics import per_class
from glmc.recipe import Recipe, parse
from glmc.screen import Screen

GLANCE_SECONDS = 0.5  # how often the progress bar looks at the loss
MAY_CHANGE = ("data.root", "data.download", "data.cache", "train.device", "train.save_minutes")  # when resuming


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
        parts = build(recipe, screen)
        try_one_step(parts)
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
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"--resume {run}: no run lies there (recipe.yaml is missing)")
    for assignment in overrides:
        if assignment.partition("=")[0] not in MAY_CHANGE:
            raise UserError(f"{assignment}: a resumed run keeps its recipe; only {', '.join(MAY_CHANGE)} may change")
    screen = Screen(run / "log.txt", quiet)
    if (run / "result.json").exists():
        screen.say(f"{run} is finished already")
        folder.show(run, screen)
        return run
    point = checkpoint.latest(run / "checkpoints")
    for remark in point.remarks if point else ():
        screen.say(remark)
    recipe = folder.recipe_of(run, overrides)
    parts = build(recipe, screen)
    state = restore(parts, point) if point else State()
    screen.say(f"going on from epoch {state.epoch + 1}, step {state.step} of {parts.loader.steps}")
    carry_out(parts, run, state, screen, command, since)
    return run


def carry_out(parts: Parts, run: Path, state: State, screen: Screen, command: str, since: float) -> None:
    """Train to the end, leaving a record for each epoch and a checkpoint whenever one is due; then conclude."""
    recipe, total = parts.recipe, parts.total_steps
    environment = runtime.environment(parts.device, recipe.train.precision, command)
    checkpoint.write_atomic(run / "environment.json", json.dumps(environment, indent=2) + "\n")
    records = folder.read_metrics(run, state.epoch)  # a kill may have come between a record and its checkpoint
    checkpoint.write_atomic(run / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))
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
            if now - glanced > GLANCE_SECONDS:
                glanced, sums = now, meter.glance()
                refuse_non_finite(sums, state.epoch)
                bar.to(state.steps, what=folder.headline(recipe, state, sums, records))
            due = bool(arrived) or now - lap > 60 * recipe.train.save_minutes
            if not epoch_over and not due:
                continue
            state.sums = meter.read()  # waits for the device
            refuse_non_finite(state.sums, state.epoch - epoch_over)
            state.seconds["train"] += time.monotonic() - lap
            if epoch_over:
                records.append(conclude_epoch(parts, state, records, last=state.steps == total))
                with (run / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
                line = folder.headline(recipe, state, {}, records)
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
        "schema": 1,
        "recipe": recipe.name,
        "method": recipe.method.name,
        "backbone": recipe.model.name,
        "parameters": sum(p.numel() for p in parts.method.parameters()),
        "counts": parts.counts.tolist(),
        "epochs": state.epoch,
        "steps": state.steps,
        "seed": recipe.train.seed,
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
    for name, known in (("expect", recipe.expect), ("published", recipe.published)):
        if known is not None:
            result[name] = known.model_dump()
    folder.write_confusion(run / "confusion.csv", confusion, parts.data.train.classes)
    checkpoint.write_atomic(run / "result.json", json.dumps(result, indent=1) + "\n")
    from glmc import report  # matplotlib: not worth a second at the start

    report.write(run)


def about(parts: Parts, state: State) -> dict[str, Any]:
    """What a checkpoint says of itself, enough to be tested without its run folder."""
    return {
        "recipe": parts.recipe.to_yaml(),
        "name": parts.recipe.name,
        "classes": list(parts.data.train.classes),
        "counts": parts.counts.tolist(),
        "state": asdict(state),
    }


def save(parts: Parts, run: Path, state: State) -> None:
    """Write a checkpoint: weights, optimizer, moving average, and where the run stands."""
    order: dict[Tensor, str] = {parameter: f"{index:04d}" for index, parameter in enumerate(optimized(parts))}
    tensors = {
        "weights": parts.method.state_dict(),
        "optimizer": {
            f"{order[parameter]}.{name}": value
            for parameter, slots in parts.optimizer.state.items()
            for name, value in slots.items()
            if isinstance(value, Tensor)
        },
    }
    if parts.average is not None:
        tensors["average"] = parts.average.state_dict()
    checkpoint.save(run / "checkpoints", state.steps, tensors, about(parts, state))


def restore(parts: Parts, point: checkpoint.Checkpoint) -> State:
    """Put a checkpoint back into the objects, in their own memory layout, so that the next step is bitwise the same."""
    parts.method.load_state_dict(point.tensors("weights"))
    if parts.average is not None:
        parts.average.load_state_dict(point.tensors("average"))
    parameters = optimized(parts)
    for key, value in point.tensors("optimizer").items():
        index, name = key.split(".")
        parameter = parameters[int(index)]
        like = parameter if value.shape == parameter.shape else value.to(parameter.device)
        parts.optimizer.state[parameter][name] = torch.empty_like(like, dtype=value.dtype).copy_(value)
    return State(**point.state["state"])


def optimized(parts: Parts) -> list[torch.nn.Parameter]:
    """The parameters that are trained, in the optimizer's order."""
    return [parameter for group in parts.optimizer.param_groups for parameter in group["params"]]


def keep_selected(parts: Parts, run: Path, state: State, records: list[dict[str, Any]]) -> None:
    """With a validation split to select on, keep the weights of its best epoch so far in selected/."""
    judged = [record["val"]["top1"] for record in records if "val" in record]
    if parts.recipe.eval.select == "val" and "val" in records[-1] and judged[-1] > max(judged[:-1], default=-1):
        tensors = {"weights": parts.judged.state_dict()}
        checkpoint.save(run / "selected", state.steps, tensors, about(parts, state), keep=1)


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
    base = folder.claim(out, recipe.name)
    runs = []
    for seed in seeds:
        (base / "log.txt").unlink(missing_ok=True)
        seeded = recipe.override(f"train.seed={seed}")
        runs.append(train(seeded, base / f"seed-{seed}", command=command, quiet=quiet, since=since))
        since = time.perf_counter()
    from glmc import report

    screen, spread = Screen(quiet=quiet), report.summary(runs)
    checkpoint.write_atomic(base / "summary.json", json.dumps({"seeds": seeds, "last": spread}, indent=1) + "\n")
    row = {key: value["mean"] for key, value in spread.items()} | {
        f"{key}_sd": value["sd"] for key, value in spread.items()
    }
    screen.table(f"{recipe.name}, {len(seeds)} seeds, last epoch, mean and standard deviation", {"last epoch": row})
    screen.say(f"{base / 'summary.json'}")
    return base


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
    point = checkpoint.latest(path / "checkpoints") or checkpoint.read(path)
    screen = Screen(quiet=quiet)
    for remark in point.remarks:
        screen.say(remark)
    recipe = parse(point.state["recipe"], overrides)
    judge = build_judge(recipe, point.state["classes"], point.state["counts"], weights_of(point), screen)
    result: dict[str, Any] = {"checkpoint": str(point.path), "recipe": recipe.name, "test": judge(False)[0]}
    if recipe.eval.flip_tta:
        result["flip_tta"] = judge(True)[0]
    rows = {"test images": result["test"]} | ({"flip TTA": result["flip_tta"]} if recipe.eval.flip_tta else {})
    screen.table(f"{recipe.name}, {recipe.model.name}, {point.path}, accuracy in percent", rows)
    return result


def weights_of(point: checkpoint.Checkpoint) -> dict[str, Tensor]:
    """The weights that are evaluated: the moving average if the run kept one."""
    if "average" not in point.names:
        return point.tensors("weights")
    average = point.tensors("average")
    return {key.removeprefix("module."): value for key, value in average.items() if key.startswith("module.")}
