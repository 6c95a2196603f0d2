"""Training and evaluation: the two loops, in reading order. They know no method, data set or recipe by name."""

import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from glmc import ranks
from glmc.batches.resident import HostStream, Loader, Stream
from glmc.batches.resize import shrunk
from glmc.errors import NonFiniteLoss
from glmc.methods.base import Method
from glmc.models import Backbone
from glmc.random import Draws
from glmc.runtime import autocast
from glmc.step import Step
from glmc.train.sharpness import shaken, statistics_kept, uphill


@dataclass
class State:
    """Where a run stands; with the tensors, all that a checkpoint needs."""

    epoch: int = 0  # epochs finished
    step: int = 0  # steps done in the epoch that is running
    steps: int = 0  # steps done since the start
    sums: dict[str, float] = field(default_factory=dict)  # loss terms, summed over `step` steps
    seconds: dict[str, float] = field(default_factory=lambda: {"startup": 0.0, "train": 0.0, "eval": 0.0})
    modes: dict[str, int] = field(default_factory=dict)  # graph, compile or eager -> steps carried out so
    records: list[dict[str, Any]] = field(default_factory=list)  # of the epochs finished, as in metrics.jsonl


class Meter:
    """Loss terms summed on the device, so that nobody waits for them.

    Args:
        device: where the terms are.
        sums: name -> sum so far, for an epoch that is resumed.
        steps: how many steps these sums are of.
    """

    def __init__(self, device: torch.device, sums: Mapping[str, float], steps: int) -> None:
        self.device, self.names, self.steps = device, tuple(sums), steps
        self.sums = torch.tensor(list(sums.values()), device=device)
        self._copy: tuple[Tensor, int, torch.cuda.Event] | None = None
        self._seen: dict[str, float] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add the terms of one step; float [] each."""
        row = torch.stack([term.detach().float() for term in terms.values()])
        self.sums = self.sums + row if self.steps else row
        self.names, self.steps = tuple(terms), self.steps + 1

    def read(self) -> dict[str, float]:
        """Name -> sum. Waits for the device."""
        return dict(zip(self.names, self.sums.tolist(), strict=True))

    def glance(self) -> dict[str, float]:
        """Name -> mean, of now or of a moment ago. Never waits: on a GPU a copy is asked for now and read later."""
        if self.device.type != "cuda":
            return {name: value / self.steps for name, value in self.read().items()}
        if self._copy is not None and self._copy[2].query():
            there, steps, _ = self._copy
            self._seen = {name: value / steps for name, value in zip(self.names, there.tolist(), strict=True)}
            self._copy = None
        if self._copy is None:
            there = torch.empty(len(self.names), pin_memory=True).copy_(self.sums, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._copy = there, self.steps, event
        return self._seen


def refuse_non_finite(sums: Mapping[str, float], epoch: int) -> None:
    """Stop a run whose loss is not finite, naming the term; `epoch` is 0-based."""
    for name, value in sums.items():
        if not math.isfinite(value):
            raise NonFiniteLoss(
                f"the loss term '{name}' became {value} in epoch {epoch + 1}; no checkpoint has been written since; a "
                f"smaller optim.lr, optim.clip=1 or train.precision=float32 may help"
            )


class Inputs(NamedTuple):
    """Everything that changes from step to step: rows of the epoch's tables, on the device."""

    parts: dict[str, Stream]
    draws: dict[str, Tensor]  # a row of each of the method's tables
    progress: Tensor  # float [], epoch / epochs
    side: Tensor  # uint8 [side]: only its length counts, see `shrunk`; a graph is recorded for each shape of inputs


Terms = dict[str, Tensor]  # of the loss, by name; float [] each


def training_step(
    method: Method,
    loader: Loader,
    optimizer: Optimizer,
    *,
    precision: str,
    clip: float | None = None,
    sharpness: Mapping[str, Any] | None = None,
    noise: float | None = None,
    average: Method | None = None,
    ema: float = 0.0,
    compiled: bool = False,
) -> Callable[[Inputs], Terms]:
    """The whole step as a function of tensors: nothing in it waits for the host, and all state is changed in place.

    Args:
        method: on the device.
        loader: whose `batch` turns rows of tables into images.
        optimizer: with its learning rates as tensors.
        precision: "float32" or "bfloat16".
        clip: largest norm of the gradient, or none.
        sharpness: {rho, adaptive} of `sharpness.uphill`, or none.
        noise: rho of `sharpness.shaken`, or none.
        average: follows the method after every step, keeping the share `ema` of itself.
        ema: in (0, 1).
        compiled: fuse the method's operations for batches of the full size; the last one of an epoch stays as it is.
    """
    fused = torch.compile(method.forward, dynamic=False) if compiled else method.forward
    here, encoders = ranks.here(), [module for module in method.modules() if isinstance(module, Backbone)]
    of_backbones = {id(parameter) for encoder in encoders for parameter in encoder.parameters()}
    apart, alike = ([p for p in method.parameters() if (id(p) in of_backbones) == which] for which in (True, False))
    follow = None if average is None else following(average, method, ema)

    def gradient(consumed: Step) -> Terms:
        images = len(consumed.streams["instance"].rows)
        forward = fused if images == loader.batch_size else method.forward
        with ranks.spread(here, images):
            with autocast(loader.device, precision):
                terms = forward(consumed)
                loss = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        if here.world > 1:
            ranks.reduce_gradients(apart, alike)
            ranks.average([tensor for encoder in encoders for tensor in encoder.running])
        return terms

    def step(inputs: Inputs) -> Terms:
        streams = {name: shrunk(loader.batch(part), len(inputs.side)) for name, part in inputs.parts.items()}
        consumed = Step(streams, inputs.draws, inputs.progress)
        with contextlib.nullcontext() if noise is None else shaken(method.parameters(), rho=noise):
            terms = gradient(consumed)
        if sharpness is not None:
            with uphill(method.parameters(), **sharpness), statistics_kept(method):
                gradient(consumed)
        if clip is not None:
            clip_grad_norm_(method.parameters(), clip)
        optimizer.step()
        method.after_step()
        if follow is not None:
            follow()
        return {name: term.detach() for name, term in terms.items()}

    return step


def following(average: Method, method: Method, keep: float) -> Callable[[], None]:
    """Exponential moving average: average = keep * average + (1 - keep) * method; counters are copied."""
    pairs = list(zip(average.state_dict().values(), method.state_dict().values(), strict=True))
    means, values = zip(*[pair for pair in pairs if pair[0].is_floating_point()], strict=True)
    counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def follow() -> None:
        torch._foreach_lerp_(means, values, 1 - keep)  # one kernel for all of them
        for mean, value in counters:
            mean.copy_(value)

    return follow


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators of the processor and of the device; `torch.manual_seed` walks every backend there is."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)


def draw(method: Method, loader: Loader, epoch: int, epochs: int) -> dict[str, NDArray[Any]]:
    """A method's tables of an epoch (0-based)."""
    rng = Draws(loader.seed, "method", epoch)
    return method.tables(rng, epoch=epoch, epochs=epochs, steps=loader.steps, batch=loader.batch_size)


def move(tables: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
    """A method's tables on the device; what is float64 becomes float32."""
    tensors = {name: torch.from_numpy(table).to(device) for name, table in tables.items()}
    return {name: table.float() if table.dtype == torch.float64 else table for name, table in tensors.items()}


class Tables(NamedTuple):
    """All that is random about an epoch, on the host."""

    loader: dict[str, HostStream]
    method: dict[str, NDArray[Any]]


def drawn_ahead(method: Method, loader: Loader, which: range, epochs: int) -> Iterator[Tables]:
    """The tables of these epochs, each but the first drawn by a thread while the one before it runs."""

    def of(epoch: int) -> Tables:
        return Tables(loader.draw(epoch), draw(method, loader, epoch, epochs))

    with ThreadPoolExecutor(1, thread_name_prefix="tables") as thread:
        coming: Future[Tables] | None = None
        for epoch in which:
            tables = of(epoch) if coming is None else coming.result()
            coming = thread.submit(of, epoch + 1) if epoch + 1 in which else None
            yield tables


def state_of(method: Method, optimizer: Optimizer, average: Method | None) -> list[Tensor]:
    """All the tensors that a training step changes in place."""
    slots = [value for slot in optimizer.state.values() for value in slot.values() if isinstance(value, Tensor)]
    modules = [method] if average is None else [method, average]
    return [*slots, *(tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))]


def fit(
    method: Method,
    loader: Loader,
    optimizer: Optimizer,
    step: Callable[[Inputs], Terms],
    state: State,
    *,
    epochs: int,
    factors: Sequence[float],
    sides: Sequence[int] | None = None,
    before_epoch: Callable[[int], None] = lambda epoch: None,
    average: Method | None = None,
    max_steps: int | None = None,
) -> Generator[tuple[bool, Meter], None, None]:
    """Train, from wherever `state` stands; yields (is the epoch over?, meter) after every step.

    The caller may evaluate, save or leave between two steps: `state` is up to date whenever it gets to see it, and
    after the last step of an epoch it already stands at the beginning of the next.

    Args:
        method: on the device.
        loader: batches of the method's streams.
        optimizer: its groups have a "name", their peak learning rate as "peak" and the present one, "lr", as a tensor.
        step: `training_step`, perhaps recorded as a graph.
        state: changed in place.
        epochs: length of the run.
        factors: [epochs], learning rate as a fraction of its peak.
        sides: [epochs], in pixels, that the images are brought to; 0, or none: they stay as they are.
        before_epoch: what the method gathers from the training set before an epoch (0-based).
        average: the moving average that `step` keeps, for what a method does to its weights after an epoch.
        max_steps: end the run after so many steps, in the middle of an epoch if need be.
    """
    end = epochs
    if max_steps is not None:
        left = max_steps - state.steps + state.step  # steps, from the beginning of this epoch on
        end = min(epochs, state.epoch + math.ceil(left / loader.steps))
    for tables in drawn_ahead(method, loader, range(state.epoch, end), epochs):
        rates = method.rates(state.epoch / epochs)
        for group in optimizer.param_groups:
            group["lr"].fill_(group["peak"] * factors[state.epoch] * rates.get(group["name"], 1.0))
        if state.step == 0:  # an epoch that is resumed has what it gathered in its checkpoint
            before_epoch(state.epoch)
        streams, draws = loader.move(tables.loader), move(tables.method, loader.device)
        seeds = Draws(loader.seed, "torch", state.epoch).below(2**53, loader.steps)
        progress = torch.tensor(state.epoch / epochs, device=loader.device)
        side = torch.zeros(sides[state.epoch] if sides else 0, dtype=torch.uint8, device=loader.device)
        meter = Meter(loader.device, state.sums, state.step)
        method.train()
        for parts in loader.parts(streams, first=state.step, own=ranks.here().own):
            seed_generators(int(seeds[state.step]), loader.device)  # dropout, too, depends on seed, epoch and position
            meter.add(step(Inputs(parts, {name: table[state.step] for name, table in draws.items()}, progress, side)))
            state.step, state.steps = state.step + 1, state.steps + 1
            if state.step == loader.steps or state.steps == max_steps:
                break
            yield False, meter
        method.after_epoch()
        if average is not None:
            average.after_epoch()
        state.epoch, state.step, state.sums = state.epoch + 1, 0, {}
        yield True, meter
