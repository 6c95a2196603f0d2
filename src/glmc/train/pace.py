"""How long a run takes, from its first steps; and how many epochs fit into some minutes."""

import statistics
import time
from collections.abc import Callable

import torch

from glmc.errors import UserError
from glmc.recipe import Recipe, load
from glmc.screen import Screen
from glmc.train.build import Parts
from glmc.train.distributed import built, dismiss, stepped
from glmc.train.engine import State
from glmc.train.trial import try_one_step

WARM_UP = 3  # steps that are not timed: they compile, record a graph, or wait for the first images
TIMED = 3.0  # seconds of steps that are timed, at least
WORTH_SAYING = 60.0  # seconds; whoever waits for less needs no estimate
STEP = 3  # forward passes that a training step takes as long as, about
# Recipe -> a quicker one for the same images and network, and what an image takes of it in forward passes.
QUICKER = {"folder/finetune": ("folder/linear", 1), "folder/glmc": ("folder/logit_adjusted", STEP)}


class Pace:
    """Times the first steps of a run, and changes nothing about them.

    Args:
        device: of the run.
        clock: seconds spent on training so far.
        timed: seconds of steps that are timed, at least.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float], timed: float = TIMED) -> None:
        self.clock, self.timed = clock, timed
        self.seconds = 0.0  # of a step, 0 as long as they are unknown
        self._wait = torch.get_device_module(device).synchronize
        self._steps, self._began = 0, 0.0

    def tick(self) -> bool:
        """To be called after each step; whether the time of one has just become known."""
        if self.seconds:
            return False
        self._steps += 1
        if self._steps == WARM_UP:
            self._wait()
            self._began = self.clock()
        if self._steps <= WARM_UP or self.clock() - self._began < self.timed:
            return False
        self._wait()
        self.seconds = (self.clock() - self._began) / (self._steps - WARM_UP)
        return True


def forward_seconds(parts: Parts, step_seconds: float) -> float:
    """Seconds of one image's way through the network, about, where steps with images of the full size take so long."""
    return step_seconds / (STEP * parts.loader.batch_size * len(parts.loader.views))


def evaluation_seconds(parts: Parts, step_seconds: float) -> float:
    """Seconds of one evaluation, about, where steps with images of the full size take so long."""
    return forward_seconds(parts, step_seconds) * sum(len(labels) for _, labels in parts.sets.values())


def estimate(parts: Parts, state: State, step_seconds: float) -> str:
    """What is ahead of a run whose steps take so long now, and what a quicker recipe would take; "" if over soon."""
    plan = parts.recipe
    tests = -(-plan.train.epochs // plan.eval.every) - state.epoch // plan.eval.every
    areas = parts.areas[state.epoch :] or parts.areas[-1:]
    full = step_seconds / areas[0]  # seconds of a step with images of the full size
    left = (parts.total_steps - state.steps) * full * statistics.mean(areas) + tests * evaluation_seconds(parts, full)
    if left < WORTH_SAYING:
        return ""
    sentence = f"about {spoken(left)} to go on {parts.device}"
    if plan.name in QUICKER and state.epoch == 0:
        name, passes = QUICKER[plan.name]
        images = load(name).train.epochs * len(parts.data.train)
        sentence += f"; {name} would take about {spoken(passes * images * forward_seconds(parts, full))}"
    return sentence


def spoken(seconds: float) -> str:
    """A duration in words.

    >>> spoken(20), spoken(1500), spoken(20_000)
    ('1 min', '25 min', '5.6 h')
    """
    return f"{max(1, round(seconds / 60))} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def measured(recipe: Recipe, timed: float = TIMED) -> tuple[Parts, float]:
    """A run that is begun and timed: its parts, to be evaluated or dismissed, and the mean seconds of its steps."""
    parts = built(recipe, Screen(quiet=True))
    try_one_step(parts)
    seconds = {side: paced(parts, side, timed) for side in sorted(set(parts.sides))}
    return parts, statistics.mean(seconds[side] for side in parts.sides)


def paced(parts: Parts, side: int, timed: float) -> float:
    """Seconds of a step with images brought to this side, see `engine.fit`."""
    endless = 100_000  # epochs; it ends with the timing
    pace = Pace(parts.device, time.perf_counter, timed)
    how = {"epochs": endless, "factors": [parts.factors[0]] * endless, "sides": [side] * endless}
    steps = stepped(parts, State(), [], **how)
    while not pace.tick():
        next(steps)
    steps.close()
    return pace.seconds


def within(recipe: Recipe, minutes: float, screen: Screen, since: float) -> Recipe:
    """A recipe with as many epochs as these minutes allow, said in a sentence.

    A run is begun, timed and dropped before the real one is built, which so is that of the same train.epochs bit for
    bit: its schedule must be known from its first step on.

    Args:
        recipe: complete.
        minutes: for the whole command.
        screen: for the sentence.
        since: `time.perf_counter()` when the command began.

    Raises:
        UserError: not even one epoch fits.
    """
    parts, step = measured(recipe)
    test = evaluation_seconds(parts, step / statistics.mean(parts.areas))
    epoch = parts.loader.steps * step + test / recipe.eval.every
    dismiss(parts)
    left = 60 * minutes - (time.perf_counter() - since) - 3 * test  # the last evaluation, and that of mirrored images
    epochs = int(left // epoch)
    if epochs < 1:
        raise UserError(
            f"--minutes {minutes:g}: an epoch takes about {spoken(epoch)} on {parts.device}, after "
            f"{time.perf_counter() - since:.0f} s of preparation; give more minutes, or a smaller data.size or model"
        )
    screen.say(
        f"--minutes {minutes:g} sets train.epochs={epochs} in the place of {recipe.train.epochs}: an epoch takes "
        f"about {epoch:.2g} s on {parts.device}"
    )
    return recipe.override(f"train.epochs={epochs}", "expect=null", "published=null")
