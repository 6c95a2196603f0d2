"""A run's checkpoints: when they are due, what goes into them, and how it comes back."""

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glmc.errors import NonFiniteLoss, UserError
from glmc.methods.base import Method
from glmc.runs import checkpoint, files, folder
from glmc.runs.packed import Packed
from glmc.runs.trained import refuse_other_classes
from glmc.train.build import Parts
from glmc.train.engine import State

SHARE = 0.05  # of the time since the last save, what another one may take to be due at the end of an epoch

Groups = Mapping[str, Mapping[str, Tensor]]  # name of a group -> name of a tensor -> tensor


class Written(NamedTuple):
    """A checkpoint on its way to the disk."""

    folder: Path
    step: int
    groups: dict[str, checkpoint.Content]
    about: dict[str, Any]
    keep: int


class Saver:
    """Saves a run: what is to be saved is copied at once, and written by a thread while training goes on.

    It is a context, left when all is written.

    Args:
        parts: of the run.
        run: its folder.
    """

    def __init__(self, parts: Parts, run: Path) -> None:
        self.parts, self.run = parts, run
        self.began = time.monotonic()  # the last save
        self.cost = 0.0  # seconds from then until it was written
        self._about = {  # with the state, enough to be tested without the run folder
            "recipe": parts.recipe.to_yaml(),
            "name": parts.recipe.name,
            "classes": list(parts.data.train.classes),
            "counts": parts.counts.tolist(),
            "data": parts.data.fingerprints,
            "run": folder.mark_of(run),
        }
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._writing: Future[None] | None = None
        self._memory: dict[str, Packed] = {}
        self._still = still(parts)
        self._frozen: files.Held | None = None  # the file that holds these, once it is written
        self._selected: Written | None = None  # to be written with the next checkpoint

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()

    def due(self, *, epoch_over: bool) -> bool:
        """Whether it is time to save.

        Raises:
            UserError: the last save has failed.
        """
        if self._writing is not None and self._writing.done():
            self.wait()
        since = time.monotonic() - self.began
        return since > 60 * self.parts.recipe.train.save_minutes or (epoch_over and self.cost <= SHARE * since)

    def save(self, state: State) -> None:
        """Copy weights, optimizer, moving average, and where the run stands, and begin to write them.

        Raises:
            NonFiniteLoss: a value is NaN or infinite; the checkpoints that are there stay.
            UserError: the last save has failed.
        """
        self.wait()
        self.began, self.cost = time.monotonic(), math.inf
        groups: dict[str, Mapping[str, Tensor]] = {
            "weights": self._changing(self.parts.method),
            "optimizer": momenta(self.parts),
        }
        if self.parts.average is not None:
            groups["average"] = self._changing(self.parts.average)
        point = self._taken("checkpoints", state, groups, keep=2)
        todo = [point] if self._selected is None else [self._selected, point]  # in this order: a kill comes between
        self._selected = None
        self._writing = self._thread.submit(self._write, todo)

    def select(self, state: State, records: Sequence[Mapping[str, Any]]) -> None:
        """With a validation split to select on, copy the weights of its best epoch so far, for the next save to write.

        Raises: as `save` does.
        """
        scored = [record["val"]["top1"] for record in records if "val" in record]
        if (
            self.parts.recipe.eval.select == "val"
            and "val" in records[-1]
            and scored[-1] > max(scored[:-1], default=-1)
        ):
            self.wait()
            self._selected = self._taken("selected", state, {"weights": self._changing(self.parts.tested)}, keep=1)

    def wait(self) -> None:
        """Until what has been saved is written.

        Raises:
            UserError: it could not be.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _changing(self, method: Method) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in method.state_dict().items() if name not in self._still}

    def _taken(self, folder: str, state: State, groups: Groups, keep: int) -> Written:
        """A copy of everything, in memory that the last one has left."""
        contents: dict[str, checkpoint.Content] = {}
        finite = []
        for name, tensors in groups.items():
            memory = self._memory.get(f"{folder}/{name}")
            if memory is None or not memory.fits(tensors):
                memory = self._memory[f"{folder}/{name}"] = Packed(tensors)
            finite += memory.fill(tensors)
            contents[name] = memory.content
        if not torch.stack(finite).all():  # waits for the copies
            self._refuse_non_finite(groups)
        return Written(self.run / folder, state.steps, contents, {**self._about, "state": asdict(state)}, keep)

    def _refuse_non_finite(self, groups: Groups) -> None:
        for group, tensors in groups.items():
            for name, tensor in tensors.items():
                if not tensor.isfinite().all():
                    raise NonFiniteLoss(
                        f"{group}: {named(self.parts, group, name)} became non-finite; the last checkpoint is from "
                        f"before that; a smaller optim.lr, optim.clip=1 or train.precision=float32 may help"
                    )

    def _write(self, todo: Sequence[Written]) -> None:
        files.settle(self.run / "metrics.jsonl")  # a checkpoint relies on the records of the epochs before it
        for each in todo:
            groups = each.groups
            if self._still:
                if self._frozen is None or not self._frozen.intact():
                    self._frozen = None
                groups = {**groups, checkpoint.FROZEN: self._frozen or Packed.of(self._still).content}
            written = checkpoint.write(each.folder, each.step, groups, each.about, each.keep)
            if self._still and each.folder.name == "checkpoints":  # where the newest one stays
                first = self._frozen or checkpoint.read(written).held(checkpoint.FROZEN)
                self._frozen = files.Held(written / f"{checkpoint.FROZEN}.safetensors", first.entry)
        self.cost = time.monotonic() - self.began


def still(parts: Parts) -> dict[str, Tensor]:
    """The weights that never change: those of a frozen backbone beside its adapters, by their names in the method."""
    backbone = parts.method.backbone
    named = backbone.named_parameters() if backbone.frozen else ()
    return {f"backbone.{name}": weight for name, weight in named if not weight.requires_grad}


def momenta(parts: Parts) -> dict[str, Tensor]:
    """What the optimizer remembers of each parameter, by the parameter's number and a name."""
    order: dict[Tensor, str] = {parameter: f"{index:04d}" for index, parameter in enumerate(optimized(parts))}
    return {
        f"{order[parameter]}.{name}": value
        for parameter, slots in parts.optimizer.state.items()
        for name, value in slots.items()
        if isinstance(value, Tensor)
    }


def named(parts: Parts, group: str, name: str) -> str:
    """A tensor of a checkpoint, as its user knows it."""
    if group != "optimizer":
        return name
    index, slot = name.split(".")
    names = {parameter: name for name, parameter in parts.method.named_parameters()}
    return f"{slot} of {names[optimized(parts)[int(index)]]}"


def restore(parts: Parts, point: checkpoint.Checkpoint) -> State:
    """Put a checkpoint back into the objects, in their own memory layout, so that the next step is bitwise the same.

    Raises:
        UserError: the images are not those that the checkpoint was trained on.
    """
    refuse_other_classes(parts.recipe, parts.data.train.classes, point.state["classes"])
    if parts.data.fingerprints != point.state["data"]:
        raise UserError(
            f"data.root={parts.recipe.data.root}: other images than those that the run began with; give the data it "
            f"belongs to, or put its {folder.SPLIT} back as it was"
        )
    state = State(**point.state["state"])
    try:
        parts.method.load_state_dict(point.weights())
        if parts.average is not None:
            parts.average.load_state_dict(point.weights("average"))
        remember(parts, point.tensors("optimizer"))
        if point.step != state.steps or state.epoch > parts.recipe.train.epochs or state.step >= parts.loader.steps:
            raise ValueError(f"step {state.step} of epoch {state.epoch + 1}, {state.steps} in all")
    except (RuntimeError, ValueError, LookupError) as error:
        raise UserError(
            f"{point.path} is not of this run's network, method and optimizer ({str(error).splitlines()[0]}); use "
            "another checkpoint of the run"
        ) from error
    return state


def remember(parts: Parts, found: Mapping[str, Tensor]) -> None:
    """Give the optimizer what `momenta` has read from it; a `ValueError` if it is of another one."""
    parameters = optimized(parts)
    for key, value in found.items():
        index, name = key.split(".")
        parameter = parameters[int(index)]
        if value.ndim and value.shape != parameter.shape:
            raise ValueError(f"{key} is of {list(value.shape)}")
        like = parameter if value.ndim else value.to(parameter.device)
        parts.optimizer.state[parameter][name] = torch.empty_like(like, dtype=value.dtype).copy_(value)


def optimized(parts: Parts) -> list[torch.nn.Parameter]:
    """The parameters that are trained, in the optimizer's order."""
    return [parameter for group in parts.optimizer.param_groups for parameter in group["params"]]
