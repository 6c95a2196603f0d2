"""Training from a recipe to a run folder, and resuming it."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glmc import ranks, runtime, trackers, trust
from glmc.batches.resident import Loader
from glmc.batches.streaming import StreamingLoader
from glmc.data import holdout
from glmc.data.inventory import to_csv
from glmc.errors import Interrupted, NonFiniteLoss, UserError
from glmc.recipe import HARMLESS, Recipe, continues
from glmc.runs import folder, result
from glmc.runs.files import write_atomic
from glmc.runs.trained import last_checkpoint
from glmc.screen import Screen, clock
from glmc.train.build import Parts
from glmc.train.conclusion import conclude, make_up_report
from glmc.train.distributed import built, contents, dismiss, hand_over, stepped
from glmc.train.engine import State, refuse_non_finite
from glmc.train.pace import Pace, estimate, within
from glmc.train.saving import Saver, restore
from glmc.train.schedule import epochs_needed
from glmc.train.trial import try_one_step

GLANCE_SECONDS = 0.5  # how often the progress bar looks at the loss


def train(
    recipe: Recipe,
    out: Path | None,
    *,
    minutes: float | None = None,
    command: str,
    quiet: bool = False,
    since: float,
    beside: Sequence[Path] = (),
    more: bool = False,
    again: Path | None = None,
) -> Path:
    """Train a recipe in a new run folder and return the folder.

    Args:
        recipe: complete.
        out: the folder, empty or not yet there; none takes the next free one under runs/.
        minutes: what the run may take; sets its epochs. None leaves them as they are.
        command: what to repeat, for environment.json.
        quiet: nothing on the terminal.
        since: `time.perf_counter()` when the command began, for the start-up time.
        beside: of `begin`.
        more, again: of `carry_out`; none for the run's own folder.
    """
    with folder.claimed(out, recipe.name) as run:
        begun = begin(recipe, run, Screen(run / "log.txt", quiet), command, since, beside, minutes)
        carry_out([begun], again or run, Screen(quiet=quiet), more=more)
    return run


class Begun(NamedTuple):
    """A run that stands ready to be trained."""

    parts: Parts
    run: Path
    state: State
    screen: Screen
    memory: int  # bytes of the device that training takes, about; 0 if unknown
    tracks: trackers.Tracks


def begin(
    recipe: Recipe,
    run: Path,
    screen: Screen,
    command: str,
    since: float,
    beside: Sequence[Path] = (),
    minutes: float | None = None,
) -> Begun:
    """Build a new run in a claimed folder, and say what is about to be trained.

    Args:
        recipe: complete.
        run: the folder.
        screen: the run's.
        command, since: as for `train`.
        beside: runs whose split it takes over, if its images are drawn as theirs.
        minutes: what the run may take, if there is a limit.
    """
    try:
        trackers.require(recipe.train.track)
        if minutes is not None:
            recipe = within(recipe, minutes, screen, since)
        write_atomic(run / "recipe.yaml", recipe.to_yaml())  # from here on, a killed run can be resumed
        parts = built(recipe, screen, known=folder.known_files(recipe, run, beside, screen))
        memory = try_one_step(parts)
        folder.remember_stage_one(run, recipe)
        note_settled(parts, run)
    except BaseException:
        folder.release(run)  # nothing was begun: leave nothing behind
        raise
    return ready(Begun(parts, run, State(), screen, memory, trackers.Tracks(run, screen.say)), command, since)


def note_settled(parts: Parts, run: Path) -> None:
    """Write what a run has been settled to: the files of each part, and its recipe."""
    if parts.data.inventory is not None:
        write_atomic(run / folder.SPLIT, to_csv(parts.data.inventory))
    write_atomic(run / "recipe.yaml", parts.recipe.to_yaml())


def ready(begun: Begun, command: str, since: float) -> Begun:
    """Note the circumstances and the start-up time of a run that is built, and say what is about to be trained."""
    parts, run, state, screen, _, tracks = begun
    hand_over(parts)
    tracks.begin(parts.recipe.train.track, parts.recipe.model_dump(), state.records)
    folder.record_environment(run, runtime.environment(parts.device, parts.recipe.train.precision, command))
    if parts.data.skipped:
        write_atomic(run / "skipped.txt", os.fsencode("".join(f"{line}\n" for line in parts.data.skipped)))
    announce(parts, run, screen)
    state.seconds["startup"] += time.perf_counter() - since
    return begun


def resume(
    run: Path,
    overrides: tuple[str, ...] = (),
    *,
    command: str,
    quiet: bool = False,
    since: float,
    more: bool = False,
    again: Path | None = None,
) -> Path:
    """Go on with a run from its last valid checkpoint, or from the start if it has none yet; arguments as for `train`.

    Raises:
        UserError: there is no run, or an override would change its result.
    """
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"--resume {run}: no run lies there (recipe.yaml is missing)")
    for assignment in overrides:
        if assignment.partition("=")[0] not in HARMLESS:
            raise UserError(
                f"{assignment}: a resumed run keeps its recipe; only {', '.join(sorted(HARMLESS))} may change"
            )
    screen = Screen(run / "log.txt", quiet)
    if result.finished(run):
        screen.say(f"{run} is finished already")
        make_up_report(run)
        folder.show(run, screen)
        return run
    with folder.held(run):
        carry_out([take_up(run, overrides, screen, command, since)], again or run, Screen(quiet=quiet), more=more)
    return run


def holds(run: Path, recipe: Recipe) -> bool:
    """Whether a folder holds a run of this recipe."""
    return (run / "recipe.yaml").is_file() and continues(recipe, folder.recipe_of(run))


def take_up(
    run: Path, overrides: tuple[str, ...], screen: Screen, command: str, since: float, beside: Sequence[Path] = ()
) -> Begun:
    """Build a run anew from its folder and its last valid checkpoint, if it has one; arguments as for `begin`."""
    point = last_checkpoint(run)
    for remark in point.remarks if point else ():
        screen.warn(remark)
    recipe = folder.recipe_of(run, overrides)
    if point is not None:
        folder.refuse_foreign(run, recipe, point)
    trackers.require(recipe.train.track)
    known = folder.known_files(recipe, run, beside, screen)
    trained = point.weights() if point is not None and recipe.model.cached else None
    parts = built(recipe, screen, initial=point is None, known=known, trained=trained)
    folder.remember_stage_one(run, recipe)
    if point is None:
        note_settled(parts, run)  # a kill may have come before it
    state = restore(parts, point) if point else State()
    screen.say(f"going on from epoch {state.epoch + 1}, step {state.step} of {parts.loader.steps}")
    memory = try_one_step(parts) if parts.device.type == "cuda" else 0  # to know how many fit side by side
    return ready(Begun(parts, run, state, screen, memory, trackers.Tracks(run, screen.say)), command, since)


def carry_out(begun: Sequence[Begun], again: Path, screen: Screen, *, more: bool = False) -> None:
    """Train runs to their end, side by side, a step of each in turn; on a GPU each in a stream of its own.

    Args:
        begun: the runs; they share nothing, and each comes out as it would alone.
        again: the folder that goes on with them after an interruption.
        screen: where their progress is shown.
        more: whether other runs are to follow, which a signal keeps from beginning.

    Raises:
        Interrupted: a signal has come; all that is unfinished has been saved.
        NonFiniteLoss: of some runs; the others have been trained to their end.
    """
    total = sum(each.parts.total_steps for each in begun)
    failed: dict[Path, NonFiniteLoss] = {}
    with contextlib.ExitStack() as stack, signals() as arrived, screen.bar("training", total) as bar:
        for each in begun:
            stack.callback(each.tracks.finish)

        def tell(words: Sequence[str]) -> None:
            bar.to(sum(each.state.steps for each in begun), what=words)

        alive = []
        for each in begun:
            saver = stack.enter_context(Saver(each.parts, each.run))
            alive.append((each, training(each, saver, tell, arrived), runtime.own_stream(each.parts.device)))
        while alive:
            for one in tuple(alive):
                each, steps, stream = one
                try:
                    with stream:
                        if next(steps, None) is None:
                            alive.remove(one)
                except NonFiniteLoss as error:
                    failed[each.run] = error
                    alive.remove(one)
    if arrived and (more or not all(result.finished(each.run) or each.run in failed for each in begun)):
        name = signal.Signals(arrived[0]).name
        command = f"glmc train --resume {again}{trust.words()}"
        raise Interrupted(f"stopped by {name}, state saved; go on with: {command}", arrived[0])
    for each in begun:
        if each.run not in failed:
            folder.show(each.run, each.screen)
    if len(begun) == 1 and failed:
        raise failed[begun[0].run]
    if failed:
        raise NonFiniteLoss("; ".join(f"{run.name}: {error}" for run, error in failed.items()))


def training(
    begun: Begun, saver: Saver, tell: Callable[[Sequence[str]], None], arrived: MutableSequence[int]
) -> Iterator[int]:
    """Train a run to its end, leaving a record for each epoch and a checkpoint whenever one is due; then conclude.

    Args:
        begun: the run.
        saver: of the run.
        tell: takes what stands beside the progress bar, the most important first.
        arrived: signals; after one, the state is saved, and this ends.

    Yields:
        How many steps are done, after each.
    """
    parts, run, state, screen, _, tracks = begun
    recipe, total, loader = parts.recipe, parts.total_steps, parts.loader
    records = state.records
    folder.write_metrics(run, records)  # a kill may have come between a record and its checkpoint
    began = lap = glanced = time.monotonic()
    pace = Pace(parts.device, lambda: state.seconds["train"] + time.monotonic() - lap)
    before, evaluating = state.steps, 0.0
    how = {"factors": parts.factors, "sides": parts.sides, "max_steps": recipe.train.max_steps}
    steps = stepped(parts, state, arrived, epochs=recipe.train.epochs, **how)
    if stalled(recipe, records):  # a kill came between its last epoch and its result
        steps.close()
    for epoch_over, meter in steps:
        state.modes[parts.step.mode] = state.modes.get(parts.step.mode, 0) + 1
        if pace.tick() and (ahead := estimate(parts, state, pace.seconds)):
            screen.say(ahead)
        now = time.monotonic()
        if not epoch_over and now - glanced > GLANCE_SECONDS:
            glanced, means = now, meter.glance()
            refuse_non_finite(means, state.epoch)
            tell([*headline(recipe, state, means, records), *waiting(loader, now - began - evaluating)])
        due = bool(arrived) or state.steps == total or saver.due(epoch_over=epoch_over)
        if epoch_over or due:
            state.sums = meter.read()  # waits for the device
            refuse_non_finite(state.sums, state.epoch - epoch_over)
            state.seconds["train"] += time.monotonic() - lap
            if epoch_over:
                records.append(conclude_epoch(parts, state, meter.steps, last=state.steps == total))
                evaluating += records[-1]["seconds"]["eval"]
                folder.append_metrics(run, records[-1])
                tracks.log(records[-1])
                passed = time.monotonic() - began
                words = headline(recipe, state, records[-1]["terms"], records)
                words += waiting(loader, passed - evaluating)
                tell(words)
                left = passed / (state.steps - before) * (total - state.steps)
                line = "  ".join([*words, f"{clock(passed)} passed, {clock(left)} left"])
                (screen.note if screen.console.is_terminal else screen.say)(line)
                saver.select(state, records)
                state.sums = {}
            leave, done = bool(arrived), epoch_over and stalled(recipe, records)
            if due or leave or done:
                note_contents(parts, run)
                saver.save(state)
            lap = time.monotonic()
            if leave:
                saver.wait()
                dismiss(parts)
                return
            if done:
                screen.say(
                    f"stopped after epoch {state.epoch} of {recipe.train.epochs}: {recipe.eval.stop_after} evaluations "
                    f"without a better top-1 on the validation images (eval.stop_after)"
                )
                break
        yield state.steps
    saver.wait()
    loader.close()
    conclude(parts, run, state, records)
    dismiss(parts)


def note_contents(parts: Parts, run: Path) -> None:
    """Write what the workers have learnt of the training images' contents into split.csv, until all are known."""
    inventory, loader = parts.data.inventory, parts.loader
    if inventory is not None and isinstance(loader, StreamingLoader) and not inventory["train"].digests.all():
        inventory["train"].digests[:] = contents(parts).numpy()
        write_atomic(run / folder.SPLIT, to_csv(inventory))


def stalled(recipe: Recipe, records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last `eval.stop_after` evaluations brought no better top-1 on the validation images."""
    scored = [record["val"]["top1"] for record in records if "val" in record]
    patience = recipe.eval.stop_after
    return patience is not None and len(scored) > patience and max(scored[-patience:]) <= max(scored[:-patience])


def waiting(loader: Loader, seconds: float) -> list[str]:
    """How a loader that is waited for shares the time with the steps; `seconds` since training began."""
    if not loader.waited:
        return []
    share = 100 * loader.waited / max(seconds, loader.waited)
    return [f"data {share:.0f} % / step {100 - share:.0f} %"]


def conclude_epoch(parts: Parts, state: State, steps: int, *, last: bool) -> dict[str, Any]:
    """The record of the epoch that has just ended, of so many steps: mean loss terms, and scores if it is evaluated."""
    began = time.monotonic()
    record: dict[str, Any] = {
        "epoch": state.epoch,
        "step": state.steps,
        "lr": parts.recipe.optim.lr * parts.factors[state.epoch - 1],
        "terms": {name: value / steps for name, value in state.sums.items()},
    }
    if last or state.epoch % parts.recipe.eval.every == 0:
        record |= {name: parts.score(name)[0] for name in parts.sets}
    seconds = {"train": state.seconds["train"], "eval": time.monotonic() - began}
    for earlier in state.records:
        seconds["train"] -= earlier["seconds"]["train"]
    state.seconds["eval"] += seconds["eval"]
    return record | {"seconds": seconds}


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM are written into instead of ending the program.

    A second one ends it at once, and a third one even the tidying up that follows.
    """
    arrived: list[int] = []

    def remember(number: int, _frame: object) -> None:
        arrived.append(number)
        signal.signal(number, end)

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.raise_signal(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def announce(parts: Parts, run: Path, screen: Screen) -> None:
    """Say what is about to be trained, on what."""
    recipe, data, counts = parts.recipe, parts.data, parts.counts
    parameters = sum(p.numel() for p in parts.method.parameters())
    trained = sum(p.numel() for p in parts.method.parameters() if p.requires_grad)
    learning = "" if trained == parameters else f", {trained:,} of them learn"
    screen.say(
        f"{recipe.title} ({parameters / 1e6:.2f} M parameters with heads{learning}), from the recipe {recipe.name}, "
        f"{recipe.train.precision} on {parts.device}, in {run}"
    )
    screen.say(
        f"{len(data.train):,} training images of {len(counts)} classes ({counts.max()} to {counts.min()} a class), "
        f"{len(data.test):,} test images, {data.size} x {data.size} pixels; "
        f"epochs: {recipe.train.epochs}, of {parts.loader.steps} steps"
        + "".join(f", then {stage}" for stage in recipe.later)
    )
    if data.val is not None and len(data.val):
        screen.say(holdout.set_aside(data.train, data.val))
    if (world := ranks.here().world) > 1:
        screen.say(
            f"{world} processes share each batch of {recipe.data.batch_size}: the training is that of one process, "
            "and so is the learning rate"
        )
    if recipe.train.epochs < (needed := epochs_needed(recipe)):
        screen.say(
            f"with fewer than {needed} epochs the last phase of {recipe.system} never begins: raise train.epochs"
        )


def headline(
    recipe: Recipe, state: State, terms: Mapping[str, float], records: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Where a run stands, the most important first: epoch, mean loss, last accuracy, mean terms of the loss."""
    epoch = f"epoch {min(state.epoch + bool(state.step), recipe.train.epochs)}/{recipe.train.epochs}"
    each = [f"{name} {value:.3f}" for name, value in terms.items()]
    whole = "sum" if "loss" in terms else "loss"
    loss = [f"{whole} {sum(terms.values()):.3f}"] if len(each) > 1 else each
    tested = [f"top-1 {record['test']['top1']:.2f} (epoch {record['epoch']})" for record in records if "test" in record]
    return [epoch, *loss, *tested[-1:], *(each if len(each) > 1 else ())]
