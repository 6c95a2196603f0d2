"""Learning rate as a factor of its peak, one value an epoch."""

import math
from collections.abc import Sequence


def factor(
    epoch: int, epochs: int, *, schedule: str, warmup: float, milestones: Sequence[float], decay: float
) -> float:
    """What the peak learning rate is multiplied with throughout one epoch.

    All places are fractions of the run, so that a recipe keeps its shape when `epochs` changes.

    Args:
        epoch: 0-based.
        epochs: length of the run; the schedule reaches its end there.
        schedule: "cosine" falls from 1 towards 0 as (1 + cos(pi e / E)) / 2; "step" multiplies by `decay` at each
            milestone; "constant" stays at 1.
        warmup: the first `warmup * epochs` epochs climb linearly and end at the full rate (Cao et al., NeurIPS 2019: 5 of
            200 epochs, factors 1/5, 2/5, ... 1). They multiply the schedule, which is not shifted by them.
        milestones: for "step", ascending, in (0, 1).
        decay: for "step".

    Returns:
        In [0, 1].
    """
    climbing = warmup * epochs
    rise = min(1.0, (epoch + 1) / climbing) if climbing >= 1 else 1.0
    if schedule == "cosine":
        return rise * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    if schedule == "step":
        return rise * decay ** sum(epoch >= round(at * epochs) for at in milestones)
    return rise
