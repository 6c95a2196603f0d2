"""The machine a run stands on: device, precision, memory, and what to write down about it."""

import copy
import os
import platform
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from glmc import __version__
from glmc.errors import UserError

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


def pick_precision(name: str, device: torch.device) -> str:
    """The precision of a recipe's `train.precision`: "bfloat16" where the hardware multiplies in it, else "float32"."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():  # every processor with AMX has it, too
        return "bfloat16"
    return "float32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a network computes: convolutions and products in bfloat16, or everything in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on the device, or None where nobody tells."""
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


def check_pixels(size: int, device: torch.device) -> None:
    """Raise a `UserError` if that many bytes of images do not fit on a GPU; on the CPU they are there already."""
    free = free_memory(device)
    if device.type != "cpu" and free is not None and size > 0.9 * free:
        raise UserError(
            f"the images take {size / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free on {device.type}; take a "
            f"smaller data.size or train.device=cpu"
        )


def check_memory(
    method: nn.Module, loss_of: Callable[[nn.Module, int], Tensor], batch_size: int, device: torch.device
) -> None:
    """Refuse a batch that will not fit, before training, and name the one that does.

    Two small steps on a copy of the method count the bytes that the backward pass keeps; they grow with the batch,
    while gradients and momentum do not.

    Args:
        method: on the device.
        loss_of: (method, images) -> the loss of a batch of that many images.
        batch_size: of the recipe.
        device: where the run will be.

    Raises:
        UserError: the batch needs more than is free.
    """
    free = free_memory(device)
    if free is None:
        return
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
            f"data.batch_size={fitting} would fit"
            if fitting >= 1
            else "not even one image would fit: take a smaller model or data.size"
        )
        raise UserError(
            f"data.batch_size={batch_size} needs about {each * batch_size / 2**30:.1f} GiB for one step and "
            f"{max(room, 0) / 2**30:.1f} GiB are free on {device.type}; {remedy}"
        )


def environment(device: torch.device, precision: str, command: str) -> dict[str, object]:
    """What a figure's circumstances are: versions, hardware, precision, command."""
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
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": precision,
        "command": command,
    }


def _processor() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
