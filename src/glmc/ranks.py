"""Ranks: one training step carried out by several processes, with the result of a single one.

Every process knows the whole batch by its tables: labels, rows, and whatever else is drawn. Of W processes, rank r
loads the images at the positions r, r + W, r + 2 W, ... of each batch, and sends them through the backbone. The
features come back together in the order of the batch, so that whatever follows them - heads, losses, queues, class
centres - is computed by every rank on the whole batch, as a single process would. Methods and losses know no ranks:

    images [B / W] -> backbone, BatchNorm over all ranks -> features [B / W] -> gathered [B] -> heads, loss on each rank

The gradient of a feature goes back to the rank that it came from. What the backbone's parameters get from the images of
each rank is summed (`reduce_gradients`); the heads' gradients are the same everywhere.
"""

import contextlib
import os
import shlex
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from glmc import __version__
from glmc.errors import UserError

MEETING = timedelta(minutes=10)  # until all processes must have been started
PATIENCE = timedelta(hours=12)  # until a silent process is given up; one that has ended is noticed at once

Answer = TypeVar("Answer")


class Ranks(NamedTuple):
    """Which of how many processes this one is."""

    rank: int = 0
    world: int = 1

    @property
    def own(self) -> slice:
        """The positions of a batch whose images are this rank's."""
        return slice(self.rank, None, self.world)

    @property
    def local(self) -> int:
        """How many processes this node has."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if self.world > 1 else 1

    def images_of(self, images: int, rank: int | None = None) -> int:
        """How many of the images of a batch are a rank's; by default this one's."""
        return len(range(self.rank if rank is None else rank, images, self.world))


_HERE = [Ranks()]
_COMMON = [False]  # whether all ranks are inside `common`
_MEETING: list[dist.Store] = [dist.HashStore()]  # where processes find each other


def here() -> Ranks:
    """Which of how many processes this one is; a single one unless `begin` found others."""
    return _HERE[0]


def asked() -> Ranks:
    """What torchrun says in the environment; a single process without it.

    Raises:
        UserError: the environment speaks of several processes, but not of where they meet.
    """
    about = os.environ
    ranks = Ranks(int(about.get("RANK", 0)), int(about.get("WORLD_SIZE", 1)))
    if ranks.world > 1 and not {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= about.keys():
        raise UserError(
            f"WORLD_SIZE={ranks.world} is set, without RANK, MASTER_ADDR and MASTER_PORT: start glmc with torchrun, or "
            "unset it"
        )
    return ranks


def refuse(sentence: str) -> NoReturn:
    """Raise a `UserError` that every rank raises: they stay in step."""
    _COMMON[0] = False
    raise UserError(sentence)


@contextlib.contextmanager
def common() -> Iterator[None]:
    """Marks what all ranks do together: if one leaves it with an exception, the others are waiting in an exchange."""
    _COMMON[0] = True
    yield
    _COMMON[0] = False


def leave() -> None:
    """Tell the other ranks to end, unless they are waiting in an exchange, which fails once this process has gone."""
    if not _COMMON[0]:
        with contextlib.suppress(RuntimeError):  # they have ended already
            say("end")


def begin(words: Sequence[str] = ()) -> Ranks:
    """Join the other processes that torchrun has started, if there are any; each takes the GPU of its number.

    Args:
        words: of the command.

    Raises:
        UserError: another process has another version of glmc or PyTorch, or other words; it is said on every rank.
    """
    ranks = asked()
    if ranks.world == 1 or dist.is_initialized():
        return here()
    if torch.cuda.is_available():
        local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= gpus:
            raise UserError(
                f"rank {ranks.rank} on {socket.gethostname()} finds {gpus} GPUs for more processes: start torchrun "
                f"with --nproc-per-node {gpus}, or with CUDA_VISIBLE_DEVICES= for processors alone"
            )
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    meeting, _, _ = next(iter(dist.rendezvous("env://")))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # torchrun keeps what the processes of the last attempt have left there, their addresses among it. The number of
        # the attempt is known on one node only; for several, docs/scale.md names a switch.
        meeting = dist.PrefixStore(f"glmc/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", meeting)
    names = [f"here/{rank}" for rank in range(ranks.world)]
    meeting.set(names[ranks.rank], "")
    try:
        meeting.wait(names, MEETING)
    except RuntimeError as error:
        late = " and ".join(str(rank) for rank, name in enumerate(names) if not meeting.check([name]))
        raise UserError(f"rank {late} of {ranks.world} has not come within {MEETING.seconds // 60} minutes") from error
    dist.init_process_group(backend, store=meeting, rank=ranks.rank, world_size=ranks.world, timeout=PATIENCE)
    _HERE[0], _MEETING[0] = ranks, meeting
    for what, own in (
        ("has", f"glmc {__version__}, torch {torch.__version__}"),
        ("was started with", shlex.join(["glmc", *words])),
    ):
        (first, wanted), *others = everyones(own)
        for rank, (host, found) in enumerate(others, 1):
            if found != wanted:
                raise UserError(f"rank {rank} on {host} {what} {found}, and rank 0 on {first} {what} {wanted}")
    return ranks


def end() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()
    _HERE[0] = Ranks()


def everyones(value: Answer) -> list[tuple[str, Answer]]:
    """The host and the value of every rank; all ranks must ask."""
    found: list[Any] = [None] * here().world
    dist.all_gather_object(found, (socket.gethostname(), value))
    return found


def agreed(function: Callable[[], Answer]) -> Answer:
    """What a function returns here, if it goes well on every rank; all ranks must call it.

    The first rank of each node has its turn before the others, which find in the cache what it has decoded.

    Raises:
        UserError: of the first rank on which it does not go well, on every rank.
    """
    if here().world == 1:
        return function()
    first, answer = int(os.environ.get("LOCAL_RANK", 0)) == 0, None
    for turn in (True, False):
        failure = None
        if first is turn:
            try:
                answer = function()
            except UserError as error:
                failure = str(error)
        for rank, (host, sentence) in enumerate(everyones(failure)):
            if sentence is not None:
                refuse(sentence if rank == 0 else f"rank {rank} on {host}: {sentence}")
    return answer  # type: ignore[return-value]


def missing(patience: float = 3.0) -> list[int]:
    """The ranks that have ended, once a collective has failed; none if the store is gone, too.

    Every rank that is still there signs a list in torchrun's store, and looks after a while who has not.
    """
    if dist.is_initialized():
        dist.destroy_process_group()  # whoever waits for this rank fails, too, and signs
    try:
        _MEETING[0].set(f"there/{here().rank}", "")
        time.sleep(patience)
        return [rank for rank in range(here().world) if not _MEETING[0].check([f"there/{rank}"])]
    except RuntimeError:  # the store has gone with its process or node
        return []


class _Spread:
    """The batch that is spread over the ranks at the moment; none outside of a training step."""

    ranks = Ranks()
    images = 0  # of the whole batch; 0: nothing is spread


@contextlib.contextmanager
def spread(ranks: Ranks, images: int) -> Iterator[None]:
    """Within it, backbones see this rank's images of a batch of so many, and return the features of all of them."""
    if ranks.world == 1:
        yield
        return
    _Spread.ranks, _Spread.images = ranks, images
    try:
        yield
    finally:
        _Spread.ranks, _Spread.images = Ranks(), 0


def spreading() -> bool:
    """Whether a batch is spread over several ranks at the moment."""
    return _Spread.images > 0


def own() -> slice:
    """The positions of the batch whose images are here; all of them where nothing is spread."""
    return _Spread.ranks.own


# --------------------------------------------------------------------------------------------------------- collectives


class _Whole(torch.autograd.Function):
    """Float [...] of each rank -> [W, ...], for what all ranks go on with alike: each has the gradient of its part."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return _all_gather(part)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient[_Spread.ranks.rank]


def _all_gather(part: Tensor) -> Tensor:
    whole = part.new_empty(_Spread.ranks.world * part.numel())
    dist.all_gather_into_tensor(whole, part.flatten())
    return whole.view(-1, *part.shape)


def gathered(part: Tensor, views: int = 1) -> Tensor:
    """The rows of all ranks in the order of the batch: float [..., views * B / W, D] -> [..., views * B, D].

    Every rank must go on with them in the same way. Rows are in the last dimension but one, view after view.
    """
    if not spreading():
        return part
    ranks, images = _Spread.ranks, _Spread.images
    own, most = ranks.images_of(images), ranks.images_of(images, 0)
    if part.shape[-2] != views * own:
        raise ValueError(f"a backbone must see {views} views of the {own} images here, not {part.shape[-2]} images")
    rows = part.unflatten(-2, (views, own))  # [..., V, B / W, D]
    rows = torch.nn.functional.pad(rows, (0, 0, 0, most - own))  # ranks have the same number, or one less
    whole = _Whole.apply(rows).movedim(0, -2)  # [..., V, most, W, D]: position i * W + r is row i of rank r
    return whole.flatten(-3, -2)[..., :images, :].flatten(-3, -2)


def gathered_images(part: Tensor) -> Tensor:
    """Float [B / W, ...] of each rank -> [B, ...], in the order of the batch; no gradient."""
    return part if not spreading() else gathered(part.detach().flatten(1)).unflatten(1, part.shape[1:])


def moments(groups: Tensor, views: int = 1) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance of each channel over the images of all ranks, and the number of values behind them.

    Means, and sums of squares around them, are put together (Chan et al. 1979): one exchange, and no cancellation.

    Args:
        groups: float [G, views * B / W, ch, ...].
        views: of each image in a group.

    Returns:
        Two tensors [G, 1, ch, 1, ...], of float32 at least.
    """
    ranks, images = _Spread.ranks, _Spread.images
    size = views * groups.shape[3:].numel()  # values of an image behind each mean
    here = max(ranks.images_of(images) * size, 1)  # a rank without images adds nothing
    dims, dtype = [1, *range(3, groups.ndim)], torch.promote_types(groups.dtype, torch.float32)
    mean = groups.sum(dims, keepdim=True, dtype=dtype) / here
    squares = (groups - mean).square().sum(dims, keepdim=True)
    means, sums = _all_gather(torch.stack([mean, squares])).unbind(1)  # [W, G, 1, ch, 1, ...] each
    every = torch.arange(ranks.world, device=groups.device)  # made on the device: nothing waits for the host
    weights = (images // ranks.world + (every < images % ranks.world)) * size  # int64 [W], values of each rank
    weights = weights.to(dtype).view(-1, *[1] * mean.ndim)
    number = images * size
    mean = (weights * means).sum(0) / number
    var = (sums.sum(0) + (weights * (means - mean).square()).sum(0)) / number
    return mean, var, number


def reduce_gradients(apart: Iterable[Tensor], alike: Iterable[Tensor]) -> None:
    """Put gradients together.

    Args:
        apart: parameters whose gradient is the sum over the ranks.
        alike: parameters whose gradient is the same on every rank; it becomes their mean, so that it stays the same.
    """
    summed = [parameter.grad for parameter in apart if parameter.grad is not None]
    same = [parameter.grad for parameter in alike if parameter.grad is not None]
    if same:
        torch._foreach_div_(same, float(here().world))
    add_up([*summed, *same])


def average(statistics: list[Tensor]) -> None:
    """Let all ranks have the mean of theirs, in place."""
    if statistics:
        torch._foreach_div_(statistics, float(here().world))
        add_up(statistics)


def add_up(tensors: list[Tensor]) -> None:
    """The sums over the ranks, in place: one exchange for all tensors of a kind."""
    for dtype in {tensor.dtype for tensor in tensors}:
        some = [tensor for tensor in tensors if tensor.dtype == dtype]
        buffer = torch.cat([tensor.flatten() for tensor in some])
        dist.all_reduce(buffer)
        parts = buffer.split([tensor.numel() for tensor in some])
        torch._foreach_copy_(some, [part.view_as(like) for part, like in zip(parts, some, strict=True)])


def in_order(part: Tensor, images: int) -> Tensor:
    """What ranks hold of the positions r, r + W, ... of some images: [n / W, ...] -> [n, ...], on every rank."""
    ranks = here()
    most = ranks.images_of(images, 0)
    padded = part.new_zeros(most, *part.shape[1:])
    padded[: len(part)] = part
    whole = part.new_empty(ranks.world * padded.numel())
    dist.all_gather_into_tensor(whole, padded.flatten())
    return whole.view(ranks.world, *padded.shape).movedim(0, 1).flatten(0, 1)[:images]


# --------------------------------------------------------------------------------------------------- words of rank 0

STEP, OBJECT = 1, 2  # kinds of words: the next step of a run, or an object that follows


def say_step(run: int) -> int:
    """Let the others take the next step of a run; a signal that came to any rank, or 0."""
    return _word(STEP, run, 0)[2]


def say(*word: Any) -> None:
    """Tell the others anything that `hear` understands; nothing where there are none."""
    if here().world > 1:
        _word(OBJECT, 0, 0)
        dist.broadcast_object_list([word], src=0)


def hear(arrived: int) -> tuple[Any, ...]:
    """What rank 0 says next: ("step", run), or an object; it is told of a signal that has `arrived`, or 0."""
    kind, run, _ = _word(0, 0, arrived)
    if kind == STEP:
        return "step", run
    word: list[Any] = [None]
    dist.broadcast_object_list(word, src=0)
    return tuple(word[0])


def _word(kind: int, run: int, arrived: int) -> list[int]:
    """One exchange carries the word to the others, and their signals to rank 0."""
    word = torch.tensor([kind, run, arrived])
    dist.all_reduce(word, dist.ReduceOp.MAX)
    numbers: list[int] = word.tolist()
    return numbers
