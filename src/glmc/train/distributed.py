"""Several processes for one run: rank 0 carries out the command as a single process would, and the others follow it.

Run folder, log, trackers, checkpoints and report are rank 0's alone. The others build the same objects and wait for its
words: a recipe to build, state to take over, a step to take, images to evaluate. What the step computes together is in
`glmc.ranks`.
"""

import contextlib
import itertools
import signal
import socket
from collections.abc import Generator, Iterator, Mapping, MutableSequence
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from glmc import ranks
from glmc.batches.streaming import StreamingLoader
from glmc.data.inventory import Inventory
from glmc.errors import UserError
from glmc.recipe import Recipe, differences, parse
from glmc.screen import Screen
from glmc.train.build import Parts, build
from glmc.train.engine import Meter, State, fit
from glmc.train.saving import momenta, optimized

_NUMBERS = itertools.count(1)


def built(
    recipe: Recipe,
    screen: Screen,
    *,
    initial: bool = True,
    known: Inventory | None = None,
    trained: Mapping[str, Tensor] | None = None,
) -> Parts:
    """The objects of a run, on every rank; called by rank 0. Arguments and errors as for `build`.

    Raises:
        UserError: it goes wrong on any rank, or one has other images.
    """
    if ranks.here().world == 1:
        return build(recipe, screen, initial=initial, known=known, trained=trained)
    images = recipe.data.batch_size
    if images < ranks.here().world:
        raise UserError(
            f"data.batch_size={images} is for all processes together, and there are {ranks.here().world}: start fewer, "
            "or raise it"
        )
    number = next(_NUMBERS)
    ranks.say("build", number, recipe.to_yaml(), known)
    with ranks.common():
        parts = ranks.agreed(lambda: build(recipe, screen, initial=initial, known=known))
        refuse_other(parts)
    return replace(parts, number=number)


def refuse_other(parts: Parts) -> None:
    """Raise a `UserError` on every rank if one has other images, or settles the recipe in another way, than rank 0."""
    found = ranks.everyones((parts.data.fingerprints, parts.recipe))
    first, (prints, recipe) = found[0]
    for rank, (host, (theirs, settled)) in enumerate(found):
        if theirs != prints:
            ranks.refuse(
                f"data.root={parts.recipe.data.root}: rank {rank} on {host} finds other images there than rank 0 on "
                f"{first}; give all of them the same files"
            )
        for key, ours, other in differences(recipe, settled):
            ranks.refuse(
                f"{key}: rank 0 on {first} settles it as {ours}, rank {rank} on {host} as {other}; set it yourself"
            )


def hand_over(parts: Parts) -> None:
    """Let every rank have the weights, moving average and momenta of rank 0, which calls it."""
    if ranks.here().world > 1:
        known = {name: (tensor.shape, tensor.dtype) for name, tensor in momenta(parts).items()}
        ranks.say("hand over", parts.number, known)
        with ranks.common():
            take_over(parts, known)


@torch.no_grad()
def take_over(parts: Parts, known: dict[str, tuple[torch.Size, torch.dtype]]) -> None:
    """State from rank 0, in place; called by all ranks. `known` are the momenta that it has."""
    parameters = optimized(parts)
    for key, (shape, dtype) in known.items():
        index, name = key.split(".")
        like = parameters[int(index)]  # a momentum lies in memory as its parameter does
        empty = torch.empty_like(like, dtype=dtype) if shape == like.shape else like.new_empty(shape, dtype=dtype)
        parts.optimizer.state[like].setdefault(name, empty)
    there = momenta(parts)
    modules = [parts.method, *([] if parts.average is None else [parts.average])]
    for tensor in [*(t for module in modules for t in module.state_dict().values()), *(there[key] for key in known)]:
        whole = tensor.contiguous()
        dist.broadcast(whole, src=0)
        tensor.copy_(whole)


def stepped(
    parts: Parts, state: State, arrived: MutableSequence[int], **how: Any
) -> Generator[tuple[bool, Meter], None, None]:
    """`engine.fit` on every rank; called by rank 0.

    Args:
        parts: of the run.
        state: where it stands.
        arrived: signals that have come to this process; one that has come to another is added.
        how: epochs, factors, sides and max_steps of `fit`.
    """
    steps = fitted(parts, state, **how)
    if ranks.here().world == 1:
        yield from steps
        return
    ranks.say("fit", parts.number, asdict(state), how)
    while True:
        elsewhere = ranks.say_step(parts.number)
        if elsewhere and not arrived:
            arrived.append(elsewhere)
        with ranks.common():
            step = next(steps, None)
        if step is None:
            return
        yield step


def contents(parts: Parts) -> Tensor:
    """Digests of the training images that the workers of any rank have read: int64 [N], 0 where none has."""
    assert isinstance(parts.loader, StreamingLoader)
    if ranks.here().world > 1:
        if ranks.here().rank == 0:
            ranks.say("contents", parts.number)
        with ranks.common():
            dist.all_reduce(parts.loader.digests, dist.ReduceOp.MAX)
    return parts.loader.digests


def dismiss(parts: Parts) -> None:
    """Let go of a run on every rank; called by rank 0."""
    parts.loader.close()
    ranks.say("close", parts.number)


def fitted(parts: Parts, state: State, **how: Any) -> Generator[tuple[bool, Meter], None, None]:
    """`engine.fit` with the objects of a run."""
    return fit(
        parts.method, parts.loader, parts.optimizer, parts.step, state, before_epoch=parts.before_epoch,
        average=parts.average, **how,
    )  # fmt: skip


def follow() -> None:
    """What every rank but the first does, until rank 0 has ended. A signal is passed on to rank 0, which saves."""
    arrived: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: arrived.append(number))
    runs: dict[int, Parts] = {}
    steps: dict[int, Iterator[Any]] = {}
    while True:
        what, *about = ranks.hear(arrived[0] if arrived else 0)
        if what == "end":
            return
        if what == "build":
            number, text, known = about
            with contextlib.suppress(UserError):  # which rank 0 says
                runs[number] = ranks.agreed(
                    lambda: build(parse(text), Screen(quiet=True), initial=False, known=known)  # noqa: B023
                )
                refuse_other(runs[number])
        elif what == "hand over":
            take_over(runs[about[0]], about[1])
        elif what == "fit":
            number, state, how = about
            steps[number] = fitted(runs[number], State(**state), **how)
        elif what == "step":
            next(steps[about[0]], None)
        elif what == "evaluate":
            number, name, how = about
            runs[number].tally(name, how)
        elif what == "contents":
            contents(runs[about[0]])
        elif what == "close":
            runs.pop(about[0]).loader.close()
            steps.pop(about[0], None)


def lost(error: RuntimeError) -> UserError | None:
    """What to say if a collective has failed, most likely because another process has ended; None: it is no such."""
    here = ranks.here()
    if here.world == 1 or not any(word in str(error) for word in ("gloo", "Gloo", "NCCL", "onnection")):
        return None
    gone = ranks.missing()
    who = f"rank {' and '.join(map(str, gone))} of {here.world} ended, whose own output says why"
    if not gone:
        who = f"another process cannot be reached ({str(error).splitlines()[0]})"
    return UserError(
        f"rank {here.rank} on {socket.gethostname()}: {who}. A run goes on from its last checkpoint with glmc train "
        "--resume, or by itself if torchrun --max-restarts has started glmc train RECIPE --out RUN"
    )
