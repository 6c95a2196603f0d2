"""Learning rate as a factor of its peak, one value an epoch; and how many epochs a recipe's phases take."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from glmc.recipe import Recipe
from glmc.recipe.sections import Progressive


def factor(
    epoch: int, epochs: int, *, schedule: str, warmup: float, milestones: Sequence[float], decay: float
) -> float:
    """What the peak learning rate is multiplied with throughout one epoch.

    All places are fractions of the run, so that a recipe keeps its shape when `epochs` changes.

    Args:
        epoch: 0-based.
        epochs: length of the run; the schedule reaches its end there.
        schedule: "cosine" falls from 1 towards 0 as (1 + cos(pi e / E)) / 2; "cosine_to_zero" is one epoch ahead of it
            and ends at 0; "step" multiplies by `decay` at each
            milestone; "constant" stays at 1; "paco" and "paco_late" see `paco`.
        warmup: the first `warmup * epochs` epochs climb linearly and end at the full rate (Cao et al., NeurIPS 2019:
            5 of 200 epochs, factors 1/5, 2/5, ... 1). They multiply the schedule, which is not shifted by them.
        milestones: for "step", ascending, in (0, 1).
        decay: for "step".

    Returns:
        In [0, 1.1]; above 1 in one epoch of "paco" and "paco_late" only.
    """
    if schedule == "paco":
        return paco(epoch, epochs)
    if schedule == "paco_late":
        return paco(epoch - 1, epochs) if epoch else 1.0
    climbing = warmup * epochs
    rise = min(1.0, (epoch + 1) / climbing) if climbing >= 1 else 1.0
    if schedule in ("cosine", "cosine_to_zero"):
        at = epoch + (schedule == "cosine_to_zero")
        return rise * 0.5 * (1 + math.cos(math.pi * at / epochs))
    if schedule == "step":
        return rise * decay ** sum(epoch >= round(at * epochs) for at in milestones)
    return rise


def side_in(epoch: int, epochs: int, full: int, progressive: Progressive | None) -> int:
    """Side in pixels that images of `full` pixels are brought to in one epoch (0-based); 0: they stay as they are."""
    if progressive is None or epoch >= round(progressive.until * epochs):
        return 0
    return max(1, round(progressive.side * full))


def paco(epoch: int, epochs: int) -> float:
    """Ten epochs of warm-up, then a cosine that began in the last of them. Cui et al., ICCV 2021, arXiv:2107.12028.

    As their code has it: (e + 1) / 10 up to and including epoch 10, which so exceeds the peak by a tenth, then
    (1 + cos(pi (e - 9) / (E - 9))) / 2. The first GLMC code used it; the later one sets the rate after each epoch with
    that epoch's number, so that epoch 0 runs at the peak and all others an epoch late ("paco_late").
    """
    if epoch <= 10:
        return (epoch + 1) / 10
    return 0.5 * (1 + math.cos(math.pi * (epoch - 9) / (epochs - 9)))


def epochs_needed(recipe: Recipe) -> int:
    """The fewest epochs in which every phase of a loss and a method takes part: 5 if one begins at 0.8 of the run."""
    latest = max((*beginnings(recipe.loss.params), *beginnings(recipe.method.params)), default=0.0)
    return next(epochs for epochs in itertools.count(1) if (epochs - 1) / epochs >= latest)


def beginnings(settings: Mapping[str, Any]) -> Iterator[float]:
    """Parts of the run at which something begins, in [0, 1): settings called so, those of a loss within included."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from beginnings(value)
        elif name in ("start", "softening_from"):
            yield value
