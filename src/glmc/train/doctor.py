"""What of this machine makes a run slow, or keeps it from starting: found within seconds, with a remedy for each."""

import os
import platform
import resource
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from rich.table import Table
from rich.text import Text

from glmc import __version__, runtime
from glmc.batches.streaming import SHARED
from glmc.data import cache, many
from glmc.screen import Screen

CPU = torch.device("cpu")
ROOM = 5 * 2**30  # bytes of a disk, and of memory: with less, a run may not end
SHARED_ROOM = 2**30  # bytes: workers that stream photographs hold some batches of them there
SLOW_DISK = 50 * 2**20  # bytes a second: below, saving a checkpoint of a ResNet-50 takes seconds
HANDLES = 1024  # worker processes hand each batch over in some of them
SAMPLE = 16 * 2**20  # bytes written to measure a disk


class Finding(NamedTuple):
    """One line of the table: what was looked at, what is there, and what to do about it; "" if nothing."""

    what: str
    found: str
    remedy: str = ""


def doctor(screen: Screen) -> list[Finding]:
    """Look at everything, and print it as a table."""
    findings = [
        versions(),
        devices(),
        bfloat16(),
        threads(),
        memory(),
        disk("disk of this folder", Path.cwd(), "begin runs on another disk with --out"),
        disk("cache folder", cache.cache_folder(), "make room with glmc cache --clear, or set GLMC_CACHE"),
        shared_memory(),
        handles(),
        compiler(),
    ]
    table = Table("", "found", "what to do", box=None)
    for finding in findings:
        table.add_row(*map(Text, finding), style="yellow" if finding.remedy else "")
    screen.console.print(table)
    return findings


def versions() -> Finding:
    """Of Python and the libraries that a result depends on; none of them is loaded for it."""
    names = {"torch": "torch", "torchvision": "torchvision", "timm": "timm", "PIL": "pillow"}
    libraries = ", ".join(f"{name} {version(package)}" for name, package in names.items())
    return Finding("versions", f"glmc {__version__}, Python {platform.python_version()}, {libraries}")


def devices() -> Finding:
    """Where a run would compute."""
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("devices", ", ".join(names))
    if torch.backends.mps.is_available():
        return Finding("devices", "Apple GPU (mps)")
    remedy = "there is an NVIDIA driver: install the PyTorch that is built for it" if shutil.which("nvidia-smi") else ""
    return Finding("devices", f"no GPU; {runtime.processor()}", remedy)


def bfloat16() -> Finding:
    """Whether products in bfloat16 are done by the hardware: only then does train.precision=auto take them."""
    device = runtime.pick_device("auto")
    if device.type == "cpu":
        objection = runtime.try_bfloat16()
        emulated = not torch.cpu._is_avx512_bf16_supported()
        found = ("emulated" if emulated else "by the processor") + (f": {objection}" if objection else "")
    else:
        emulated = device.type == "mps" or not torch.cuda.is_bf16_supported(including_emulation=False)
        objection, found = None, "emulated" if emulated else "by the GPU"
    remedy = "leave train.precision=auto, which computes in float32 here" if emulated or objection else ""
    return Finding("bfloat16", found, remedy)


def threads() -> Finding:
    """PyTorch's threads against the cores that this process may use, and what else uses them."""
    cores, used, load = min(many.cores(), quota()), torch.get_num_threads(), os.getloadavg()[0]
    remedy = ""
    if used > cores:
        remedy = f"threads wait for each other: export OMP_NUM_THREADS={cores}"
    elif load > cores:
        remedy = "other programs share the cores: wait for them, or expect a slow run"
    found = f"{counted(used, 'thread')} on {counted(cores, 'core')}, load {load:.1f}"
    return Finding("threads and cores", found, remedy)


def quota() -> int:
    """Cores that a container may use, however many it sees; the sum of all where nothing limits it."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, int(limit) // int(period))
    except (OSError, ValueError):  # no control group, or its limit is the word "max"
        return os.cpu_count() or 1


def memory() -> Finding:
    """Free memory of the machine, or of the container."""
    free = runtime.free_memory(CPU)
    if free is None:
        return Finding("free memory", "unknown")
    remedy = "close other programs, or take a smaller data.batch_size" if free < ROOM else ""
    return Finding("free memory", size(free), remedy)


def disk(what: str, folder: Path, remedy: str) -> Finding:
    """Room on the disk of a folder, which need not exist yet, and how fast it takes a file."""
    place = next(each for each in (folder, *folder.parents) if each.is_dir())
    free = shutil.disk_usage(place).free
    try:
        speed = writing_speed(place)
    except OSError as error:
        return Finding(what, f"{folder} cannot be written ({error.strerror})", remedy)
    slow = speed < SLOW_DISK or free < ROOM
    return Finding(what, f"{folder}: {size(free)} free, {speed / 2**20:,.0f} MiB/s", remedy if slow else "")


def writing_speed(folder: Path) -> float:
    """Bytes a second that reach the disk; an `OSError` where nothing can be written."""
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        file.write(os.urandom(SAMPLE))
        file.flush()
        os.fsync(file.fileno())
    return SAMPLE / (time.perf_counter() - began)


def shared_memory() -> Finding:
    """Where worker processes lay their batches down."""
    if not os.path.isdir(SHARED):
        return Finding("shared memory", "not limited by this system")
    free = shutil.disk_usage(SHARED).free
    remedy = "enlarge it (Docker: --shm-size=8g), or set data.workers lower" if free < SHARED_ROOM else ""
    return Finding("shared memory", f"{size(free)} free in {SHARED}", remedy)


def handles() -> Finding:
    """How many files this process may have open."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    remedy = f"ulimit -n {HANDLES}" if 0 <= allowed < HANDLES else ""
    return Finding("file handles", f"{allowed:,} of at most {most:,}", remedy)


def compiler() -> Finding:
    """What train.step=compile needs, and long runs on a CPU take by themselves."""
    there = runtime.has_compiler()
    remedy = "" if there else "install g++: long runs on a CPU are then compiled, which is faster"
    return Finding("C++ compiler", "there" if there else "none", remedy)


def counted(count: int, noun: str) -> str:
    """A number with its noun."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def size(bytes: int) -> str:
    """A number of bytes in GiB."""
    return f"{bytes / 2**30:,.1f} GiB"
