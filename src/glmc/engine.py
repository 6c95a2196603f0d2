"""Training and evaluation: the two loops, in reading order. They know no method, data set or recipe by name."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from glmc.augment import View
from glmc.data.resident import ResidentLoader
from glmc.errors import NonFiniteLoss
from glmc.methods.base import Method, Step
from glmc.metrics import Tally
from glmc.random import Draws
from glmc.runtime import autocast


@dataclass
class State:
    """Where a run stands; with the tensors, all that a checkpoint needs."""

    epoch: int = 0  # epochs finished
    step: int = 0  # steps done in the epoch that is running
    steps: int = 0  # steps done since the start
    sums: dict[str, float] = field(default_factory=dict)  # loss terms, summed over `step` steps
    seconds: dict[str, float] = field(default_factory=lambda: {"startup": 0.0, "train": 0.0, "eval": 0.0})


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
    """Stop a run whose loss is no number any more, naming the term; `epoch` is 0-based."""
    for name, value in sums.items():
        if not math.isfinite(value):
            raise NonFiniteLoss(
                f"the loss term '{name}' became {value} in epoch {epoch + 1}; no checkpoint has been written since; a "
                f"smaller optim.lr, optim.clip=1 or train.precision=float32 may help"
            )


def fit(
    method: Method,
    loader: ResidentLoader,
    optimizer: Optimizer,
    state: State,
    *,
    epochs: int,
    factors: Sequence[float],
    precision: str,
    clip: float | None = None,
    average: AveragedModel | None = None,
    max_steps: int | None = None,
) -> Iterator[tuple[bool, Meter]]:
    """Train, from wherever `state` stands; yields (is the epoch over?, meter) after every step.

    The caller may evaluate, save or leave between two steps: `state` is up to date whenever it gets to see it, and
    after the last step of an epoch it already stands at the beginning of the next.

    Args:
        method: on the device.
        loader: batches of the method's streams.
        optimizer: its groups hold their peak learning rate as "peak".
        state: changed in place.
        epochs: length of the run.
        factors: [epochs], learning rate as a fraction of its peak.
        precision: "float32" or "bfloat16".
        clip: largest norm of the gradient, or none.
        average: exponential moving average of the method, updated after every step.
        max_steps: end the run after so many steps, in the middle of an epoch if need be.
    """
    while state.epoch < epochs and (max_steps is None or state.steps < max_steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factors[state.epoch]
        tables = loader.epoch(state.epoch)
        own = method.draws(Draws(loader.seed, "method", state.epoch), loader.steps)
        draws = {name: torch.from_numpy(table).float().to(loader.device) for name, table in own.items()}
        seeds = Draws(loader.seed, "torch", state.epoch).below(2**53, loader.steps)
        progress = torch.tensor(state.epoch / epochs, device=loader.device)
        meter = Meter(loader.device, state.sums, state.step)
        method.train()
        for streams in loader.batches(tables, first=state.step):
            step = Step(streams, {name: table[state.step] for name, table in draws.items()}, progress)
            torch.manual_seed(int(seeds[state.step]))  # dropout, too, is a function of seed, epoch and position
            with autocast(loader.device, precision):
                terms = method(step)
                loss = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if clip is not None:
                clip_grad_norm_(method.parameters(), clip)
            optimizer.step()
            if average is not None:
                average.update_parameters(method)
            meter.add(terms)
            state.step, state.steps = state.step + 1, state.steps + 1
            if state.step == loader.steps or state.steps == max_steps:
                break
            yield False, meter
        method.after_epoch()
        if average is not None:
            average.module.after_epoch()  # type: ignore[operator]
        state.epoch, state.step, state.sums = state.epoch + 1, 0, {}
        yield True, meter


@torch.inference_mode()
def evaluate(
    method: Method,
    images: Tensor,
    labels: Tensor,
    view: View,
    *,
    batch_size: int,
    precision: str,
    flip: bool = False,
) -> Tally:
    """Predict every image once and tally the answers on the device.

    Args:
        method: on the device of the images.
        images: uint8 [N, side, side, ch].
        labels: int64 [N].
        view: the augmentation of the test images (nothing random in it).
        batch_size: images at a time; changes nothing but speed and memory.
        precision: "float32" or "bfloat16".
        flip: average the class probabilities of each image and its mirror image.
    """
    training = method.training
    method.eval()
    tally = Tally(method.classes, images.device)
    for part, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        with autocast(images.device, precision):
            pixels = view(part, {})
            logits = method.predict(pixels).float()
            if flip:
                mirrored = method.predict(pixels.flip(-1)).float()
                logits = torch.logaddexp(logits.log_softmax(1), mirrored.log_softmax(1))
        tally.update(logits, truth)
    method.train(training)
    return tally
