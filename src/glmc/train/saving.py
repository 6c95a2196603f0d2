"""A run's checkpoints: what goes into them, and how it comes back."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmc.errors import NonFiniteLoss, UserError
from glmc.runs import checkpoint
from glmc.runs.trained import refuse_other_classes
from glmc.train.build import Parts
from glmc.train.engine import State


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
    """Write a checkpoint: weights, optimizer, moving average, and where the run stands.

    Raises:
        NonFiniteLoss: a weight is NaN or infinite; the checkpoints that are there stay.
    """
    for name, parameter in parts.method.named_parameters():
        if not parameter.isfinite().all():
            raise NonFiniteLoss(f"the weights {name} became non-finite; the last checkpoint is from before that")
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
    """Put a checkpoint back into the objects, in their own memory layout, so that the next step is bitwise the same.

    Raises:
        UserError: the images are not those that the checkpoint was trained on.
    """
    refuse_other_classes(parts.recipe, parts.data.train.classes, point.state["classes"])
    if parts.counts.tolist() != point.state["counts"]:
        raise UserError(
            f"data.root={parts.recipe.data.root}: {parts.counts.tolist()} training images a class, and the run began "
            f"with {point.state['counts']}; give the data it belongs to"
        )
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
    scored = [record["val"]["top1"] for record in records if "val" in record]
    if parts.recipe.eval.select == "val" and "val" in records[-1] and scored[-1] > max(scored[:-1], default=-1):
        tensors = {"weights": parts.tested.state_dict()}
        checkpoint.save(run / "selected", state.steps, tensors, about(parts, state), keep=1)
