"""The machine a run stands on: device, precision, memory, and what to write down about it."""

import contextlib
import copy
import math
import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from glmc import __version__, ranks
from glmc.errors import UserError

LONG_RUN = 5e14  # operations; see benchmarks/README.md for the run that compiling pays for
MOST_TOGETHER = 8  # runs on one GPU: beyond that, small networks no longer gain
THREADS = torch.get_num_threads()  # PyTorch's choice, or that of OMP_NUM_THREADS


def use_threads(number: int | None) -> None:
    """Compute with so many processor threads; none stands for PyTorch's own choice."""
    torch.set_num_threads(number or THREADS)


def pick_device(name: str) -> torch.device:
    """The device of a recipe's `train.device`: auto, cpu, cuda or mps.

    Raises:
        UserError: this machine has no such device.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if present[kind])
    if not present[name]:
        raise UserError(f"train.device={name}: PyTorch finds no such device here; use train.device=auto")
    return torch.device(name)


def pick_precision(name: str, device: torch.device, say: Callable[[str], None]) -> str:
    """The precision of a recipe's `train.precision`: "bfloat16" where the hardware multiplies in it, else "float32".

    On a CPU, where some versions and processors are slow or wrong in it, that is tried first; what speaks against it is
    said.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():  # every processor with AMX has it, too
        objection = try_bfloat16()
        if objection is None:
            return "bfloat16"
        say(f"computing in float32: {objection}")
    return "float32"


def try_bfloat16() -> str | None:
    """What speaks against convolutions in bfloat16 on this processor, after a tenth of a second of trial; or nothing.

    Forward and backward, in three shapes that a ResNet has: values must agree with float32 to within 2 % of the largest
    one, and all three together must not take longer.
    """
    generator = torch.Generator().manual_seed(0)
    seconds = {torch.bfloat16: 0.0, torch.float32: 0.0}
    for inputs, outputs, side, stride in ((3, 16, 32, 1), (16, 32, 32, 2), (64, 64, 8, 1)):
        x = torch.randn(32, inputs, side, side, generator=generator).to(memory_format=torch.channels_last)
        weight = torch.randn(outputs, inputs, 3, 3, generator=generator)
        found = {}
        for dtype in seconds:
            found[dtype], fastest = _convolve(x.to(dtype), weight.to(dtype), stride)
            seconds[dtype] += fastest
        for ours, right in zip(found[torch.bfloat16], found[torch.float32], strict=True):
            if not (ours.float() - right).abs().max() <= 0.02 * right.abs().max():  # also false for NaN
                return f"a convolution of {inputs} to {outputs} channels in bfloat16 gives wrong values here"
    if seconds[torch.bfloat16] > 1.1 * seconds[torch.float32]:  # a tenth is noise
        ratio = seconds[torch.bfloat16] / seconds[torch.float32]
        return f"convolutions in bfloat16 take {ratio:.1f} times as long here"
    return None


def _convolve(x: Tensor, weight: Tensor, stride: int) -> tuple[list[Tensor], float]:
    """Output and both gradients of a convolution, and the least of five times in seconds."""
    x, weight = x.requires_grad_(), weight.requires_grad_()
    fastest = math.inf
    for _ in range(5):
        began = time.perf_counter()
        y = torch.nn.functional.conv2d(x, weight, stride=stride, padding=1)
        gradients = torch.autograd.grad(y, (x, weight), y)
        fastest = min(fastest, time.perf_counter() - began)
    return [y.detach(), *gradients], fastest


def pick_mode(device: torch.device, flops: float) -> Literal["graph_compile", "graph", "compile", "eager"]:
    """How a run's steps are carried out, if its recipe does not say; `flops` are those of all its steps together.

    The same on every machine with such a device, as compiled steps round differently.
    """
    if device.type == "cuda":
        return "graph"
    return "compile" if device.type == "cpu" and flops >= LONG_RUN and has_compiler() else "eager"


def has_compiler() -> bool:
    """Whether steps can be compiled for a CPU."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a network computes: convolutions and products in bfloat16, or everything in float32.

    On a GPU, weights are cast anew each time they are used: a cast that is kept would be missing from a recorded graph.
    """
    enabled = precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=device.type != "cuda")


def own_stream(device: torch.device) -> AbstractContextManager[object]:
    """A context that may be entered again and again: the stream of a GPU in which a run computes, by itself."""
    if device.type == "cuda":
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))  # in which the run's tensors have been made
        return torch.cuda.stream(stream)
    return nullcontext()


@contextlib.contextmanager
def same_child_signal() -> Iterator[None]:
    """Keeps the handler of SIGCHLD: PyTorch's would raise wherever the program stands when a worker dies."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def runs_that_fit(device: torch.device, memory: int) -> int:
    """How many runs a GPU takes side by side, of which the first is built and takes `memory` bytes; elsewhere one."""
    free = free_memory(device)
    if device.type != "cuda" or not memory or free is None or ranks.here().world > 1:
        return 1
    return max(1, min(MOST_TOGETHER, int(0.8 * free / (1.5 * memory))))  # graphs keep some of theirs to themselves


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on the device, or None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu" and sys.platform == "linux":
        with open("/proc/meminfo") as lines:
            facts = dict(line.split(":") for line in lines)
        return min(int(facts["MemAvailable"].split()[0]) * 1024, _container_room())
    return None


def _container_room() -> int:
    """Bytes left under the control group's limit; a very large number where there is none."""
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            room = int(limit.read()) - int(used.read())
        with open("/sys/fs/cgroup/memory.stat") as lines:
            facts = dict(line.split() for line in lines)
        return room + int(facts["inactive_file"])  # cached files make room for whoever asks
    except (OSError, ValueError, KeyError):  # no control group, or its limit is the word "max"
        return sys.maxsize


def room_for_images(device: torch.device) -> int | None:
    """Bytes that are free for images where they will live, on the device and on the host; None if unknown."""
    known = [free for free in (free_memory(device), free_memory(torch.device("cpu"))) if free is not None]
    return min(known, default=None)


def home_of(size: int, device: torch.device) -> torch.device:
    """Where that many bytes of test images live: on the device if they take at most half of what is free there."""
    free = free_memory(device)
    return device if free is None or size <= free // 2 else torch.device("cpu")


def check_pixels(size: int, device: torch.device) -> None:
    """Raise a `UserError` if that many bytes of images do not fit on a GPU; on the CPU they are there already."""
    free = free_memory(device)
    if device.type != "cpu" and free is not None and size > 0.9 * free:
        raise UserError(
            f"the images take {size / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free on {device.type}; take a "
            f"smaller data.size or train.device=cpu"
        )


def check_memory(
    method: nn.Module,
    loss_of: Callable[[nn.Module, int], Tensor],
    batch_size: int,
    device: torch.device,
    processes: int = 1,
) -> int:
    """Refuse a batch that will not fit, before training, and name the one that does.

    Two small steps on a copy of the method count the bytes that the backward pass keeps; they grow with the batch,
    while gradients and momentum do not.

    Args:
        method: on the device.
        loss_of: (method, images) -> the loss of a batch of that many images.
        batch_size: of this process.
        device: where the run will be.
        processes: how many share the recipe's batch.

    Returns:
        About how many bytes training will take beside the images; 0 if it is unknown how many are free.

    Raises:
        UserError: the batch needs more than is free.
    """
    free = free_memory(device)
    if free is None:
        return 0
    trial = copy.deepcopy(method).train()

    def kept_by(images: int) -> int:
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss_of(trial, images)
        return sum(kept.values())

    images = min(2, batch_size)
    growth = kept_by(2 * images) - kept_by(images)  # weights, and their copies in bfloat16, are kept in both
    parameters = sum(p.numel() * p.element_size() for p in trial.parameters())
    each = 1.3 * growth / images  # gradients of activations live beside the kept ones
    room = 0.9 * free - 3 * parameters  # gradients, momentum, and a copy of either while a step runs
    if each * batch_size > room:
        fitting = int(room // each) if room > 0 else 0
        remedy = (
            f"data.batch_size={fitting * processes} would fit"
            if fitting >= 1
            else "not even one image would fit: take a smaller model or data.size"
        )
        raise UserError(
            f"data.batch_size={batch_size * processes} needs about {each * batch_size / 2**30:.1f} GiB for one step, "
            f"and {max(room, 0) / 2**30:.1f} GiB are free on {device.type}; {remedy}"
        )
    return int(each * batch_size) + 3 * parameters


def environment(device: torch.device, precision: str, command: str) -> dict[str, object]:
    """The circumstances of a result: versions, hardware, precision, command."""
    import numpy
    import timm
    import torchvision

    return {
        "glmc": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "numpy": numpy.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": ranks.here().world,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": precision,
        "command": command,
    }


def processor() -> str:
    """The name of the processor."""
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
