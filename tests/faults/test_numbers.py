"""Numbers that become NaN or infinite anywhere in a run: it stops at the next save, and goes on from the one before."""

import math
import shutil

import pytest
import torch

from faults.small_runs import STEPS, after, errors_of, forked, glmc, note_all, settled
from glmc.errors import NON_FINITE
from glmc.losses.logit_adjusted import LogitAdjusted
from glmc.models import Backbone
from glmc.runs import checkpoint
from glmc.train import engine
from glmc.train.saving import Saver

VALUES = (math.nan, math.inf, -math.inf)
SETTING = ("train.ema=0.9", "optim.clip=10")


def poisoned(place: str, value: float, number: int) -> None:
    """From now on, in this process: the value comes up in that place, once, the time of that number, from 1 on."""
    calls: list[int] = []

    def before(owner, name, poison):
        """When `owner.name` is called for that time, it takes what the poison returns, if it returns something."""
        real = getattr(owner, name)

        def function(*arguments, **options):
            calls.append(1)
            if len(calls) == number:
                arguments = poison(*arguments) or arguments
            return real(*arguments, **options)

        setattr(owner, name, function)

    @torch.no_grad()
    def into(tensor):
        tensor[(0,) * tensor.ndim] = value

    def gradient(parameters, *more):
        parameters = list(parameters)
        into(parameters[0].grad)
        return parameters, *more

    def state(saver):
        parts = saver.parts
        held = {
            "weights": next(parts.method.parameters()),
            "running statistics": parts.method.backbone.norms[0].running_var,
            "momentum": next(iter(parts.optimizer.state.values()))["momentum_buffer"],
            "moving average": next(parts.average.parameters()),
        }
        into(held[place])

    if place == "images":
        before(Backbone, "forward", lambda net, images, *more: (net, torch.full_like(images, value), *more))
    elif place == "loss":
        before(LogitAdjusted, "forward", lambda loss, logits, *more: (loss, logits * value, *more))
    elif place == "gradient":
        before(engine, "clip_grad_norm_", gradient)
    else:
        before(Saver, "due", state)


IN_STEPS = ("gradient", "weights", "running statistics", "momentum", "moving average")
ELSEWHERE = ("images", "loss")  # which are looked at before the first step and in evaluation, too


@pytest.mark.parametrize(
    ("where", "values", "numbers"),
    [
        *(pytest.param(where, VALUES[:1], [5], id=f"{where}, once") for where in ("gradient", "running statistics")),
        *(
            pytest.param(where, VALUES, range(2, 3 * STEPS), id=where, marks=pytest.mark.faults)
            for where in (*IN_STEPS, *ELSEWHERE)
        ),
    ],
)
def test_no_checkpoint_holds_a_number_that_is_not_finite(place, whole, no_report, noted, where, values, numbers):
    """A checkpoint is due after each step here, so the run ends in the very step, with that of the step before."""
    outcomes = {}
    for value in values:
        for number in numbers:
            run = place / f"{where}-{value}-{number}"

            def work(run=run, value=value, number=number):
                poisoned(where, value, number)
                return glmc("train", *settled(run, *SETTING), "--quiet")

            child = forked(work, errors_of(run))
            code, said = child.wait(), child.said()
            found = checkpoint.latest(run / "checkpoints")
            stopped = code == NON_FINITE and said.count("\n") == 1
            if where in IN_STEPS:
                stopped = stopped and found is not None and found.step == number - 1
            tensors = [t for name in found.names for t in found.tensors(name).values()] if found else []
            finite = all(tensor.isfinite().all() for tensor in tensors)
            outcomes[value, number] = after(run, whole(*SETTING), *SETTING)
            if not finite or not (stopped or (code == 0 and where in ELSEWHERE)):
                outcomes[value, number] = f"silent: exit code {code}, {said}, {found}"
            shutil.rmtree(run)
    note_all(noted, f"NaN or infinity, {where}", outcomes)
