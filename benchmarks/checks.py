"""What `campaign.py check` asks of a machine: items, one after the other, each with a JSON file of its own.

An item yields facts, which are on the disk before it goes on. One that fails leaves its traceback there and ends the
process, since its GPU may be out of order for that process; started again with its name under --skip, this goes on.

    python benchmarks/checks.py FOLDER --device cuda --steps 100
"""

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from glmc import runtime
from glmc.runs.files import write_atomic
from glmc.train.build import build_step
from glmc.train.engine import State, fit
from glmc.train.execution import MODES
from step import Ours, long_tailed_noise, ours, peak_mb, timed

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = ("resnet32", "resnet32_w64")
ROUNDS = 5  # that a timing is made of
COMPARED = 50  # steps after which runs side by side must have the weights of the same runs alone
TESTS_SECONDS = 120.0  # that the tests of the suite may take
PYTEST = """
import sys, pytest
class OnlyOnGPU:
    def pytest_collection_modifyitems(self, items):
        why = {item: str([mark.kwargs.get("reason") for mark in item.iter_markers("skipif")]) for item in items}
        items[:] = [item for item in items if "GPU" in why[item] or "CUDA" in why[item]]
sys.exit(pytest.main(sys.argv[1:], [OnlyOnGPU()]))
"""

Facts = dict[str, Any]


class Machine(NamedTuple):
    """Where items are measured, and how long."""

    device: torch.device
    steps: int  # of a timing

    @property
    def batch(self) -> int:
        """Images of a step and stream; on a CPU a few, as only the program is tried there."""
        return 64 if self.device.type == "cuda" else 4

    def wait(self) -> None:
        """Until all is computed."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Strict:
    """A screen on which nothing may be said: a mode that does not work is not left for another one."""

    def say(self, text: str) -> None:
        """Refuse it."""
        raise RuntimeError(text)


def trained(machine: Machine, network: str, seed: int = 0, device: torch.device | None = None) -> Ours:
    """GLMC as published, on noise."""
    return ours(network, long_tailed_noise(32, 100), machine.batch, device or machine.device, seed=seed)


def steps_of(parts: Ours, mode: Any) -> Iterator[Any]:
    """The training steps of `glmc train`, carried out in that mode or not at all."""
    screen: Any = Strict()
    step = build_step(mode, parts.method, parts.loader, parts.optimizer, None, parts.recipe, screen)
    return fit(parts.method, parts.loader, parts.optimizer, step, State(), epochs=10_000, factors=[1.0] * 10_000)


# -------------------------------------------------------------------------------------------------------------- items


def versions(machine: Machine) -> Iterator[Facts]:
    """Libraries and hardware."""
    facts = runtime.environment(machine.device, "", "")
    yield {key: value for key, value in facts.items() if key not in ("precision", "command")}
    yield {"cuda": torch.version.cuda, "kernel": platform.release()}
    if machine.device.type == "cuda":
        about = torch.cuda.get_device_properties(machine.device)
        yield {
            "cudnn": torch.backends.cudnn.version(),
            "memory_gb": about.total_memory / 1e9,
            "multiprocessors": about.multi_processor_count,
            "capability": f"{about.major}.{about.minor}",
        }
        question = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        yield {"driver": subprocess.run(question, capture_output=True, text=True, check=True).stdout.strip()}


def never_waits(machine: Machine) -> Iterator[Facts]:
    """A training step in which the host waits for the GPU is an error here."""
    parts = trained(machine, "resnet32")
    steps = steps_of(parts, "eager")
    timed(steps, 3, machine.device)  # libraries wait while they choose kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    yield {"precision": parts.recipe.train.precision}


def tests(machine: Machine) -> Iterator[Facts]:
    """The tests of the suite that are left out where there is no GPU."""
    files = [str(f.relative_to(ROOT)) for f in sorted((ROOT / "tests").rglob("test_*.py")) if "skipif" in f.read_text()]
    command = [sys.executable, "-c", PYTEST, "-q", "-p", "no:cacheprovider", *files]
    with tempfile.TemporaryFile("w+") as output:
        try:
            done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, timeout=TESTS_SECONDS)
        finally:
            output.seek(0)
            text = output.read().replace(f"{ROOT}/", "")
            yield {"output": text[-8000:]}
    if done.returncode:
        raise RuntimeError(f"pytest ended with status {done.returncode}")


def kernels(machine: Machine, network: str) -> Iterator[Facts]:
    """What the GPU does in an eager step, from PyTorch's profiler: kernels, copies, and how long they take."""
    steps = steps_of(trained(machine, network), "eager")
    timed(steps, 5, machine.device)
    number = 5
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        timed(steps, number, machine.device)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        profiler.export_chrome_trace(file.name)
        events = [event for event in json.loads(Path(file.name).read_text())["traceEvents"] if event.get("ph") == "X"]
    counts = Counter(event.get("cat") for event in events)
    busy = [event for event in events if event.get("cat") == "kernel"]
    yield {
        "kernels": counts["kernel"] / number,
        "copies": counts["gpu_memcpy"] / number,
        "fills": counts["gpu_memset"] / number,
        "kernel_ms": sum(event["dur"] for event in busy) / number / 1e3,
        "most_often": [[name[:120], n / number] for name, n in Counter(e["name"] for e in busy).most_common(10)],
    }


def operations(machine: Machine) -> Iterator[Facts]:
    """How many operations PyTorch dispatches in an eager step, counted on the CPU."""
    counted: Counter[str] = Counter()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            counted[str(function)] += 1
            return function(*args, **(kwargs or {}))

    steps = steps_of(trained(machine._replace(device=torch.device("cpu")), "resnet32"), "eager")
    next(steps)
    with Count():
        next(steps)
    yield {"operations": sum(counted.values()), "most_often": counted.most_common(10)}


def milliseconds(machine: Machine, network: str, mode: str) -> Iterator[Facts]:
    """How long a training step takes."""
    parts = trained(machine, network)
    steps = steps_of(parts, mode)
    began = time.perf_counter()
    next(steps)
    machine.wait()
    yield {
        "network": network,
        "mode": mode,
        "batch": [machine.batch, len(parts.loader.views)],
        "precision": parts.recipe.train.precision,
        "parameters": sum(p.numel() for p in parts.method.parameters()),
        "first_step_s": time.perf_counter() - began,
    }
    timed(steps, min(10, machine.steps), machine.device)
    rounds = [timed(steps, max(1, machine.steps // ROUNDS), machine.device) for _ in range(ROUNDS)]
    yield {"ms": statistics.median(rounds), "rounds_ms": rounds, "peak_mb": peak_mb(machine.device)}


def side_by_side(machine: Machine, seeds: range) -> tuple[list[Tensor], float]:
    """Train runs as `glmc train --seeds` does; weights of each after `COMPARED` steps, and steps a second together."""
    mode = runtime.pick_mode(machine.device, 0.0)
    runs = []
    for seed in seeds:
        parts = trained(machine, "resnet32", seed)
        runs.append((parts.method, steps_of(parts, mode), runtime.own_stream(machine.device)))

    def turns(number: int) -> None:
        for _ in range(number):
            for _, steps, stream in runs:
                with stream:
                    next(steps)
        machine.wait()

    turns(min(COMPARED, machine.steps))
    weights = [torch.cat([p.detach().flatten() for p in method.parameters()]).cpu() for method, _, _ in runs]
    began = time.perf_counter()
    turns(machine.steps)
    return weights, len(runs) * machine.steps / (time.perf_counter() - began)


def seeds(machine: Machine) -> Iterator[Facts]:
    """Several runs on one device: how fast together, and whether each comes out as it would alone."""
    numbers = (1, 2, 4, 8) if machine.device.type == "cuda" else (1, 2)
    alone = [side_by_side(machine, range(seed, seed + 1))[0][0] for seed in range(numbers[-1])]
    for number in numbers:
        weights, speed = side_by_side(machine, range(number))
        gaps = [(found - right).abs().max().item() for found, right in zip(weights, alone, strict=False)]
        yield {
            str(number): {
                "steps_per_second": speed,
                "equal_to_alone": sum(map(torch.equal, weights, alone)),
                "largest_difference": max(gaps),
                "peak_mb": peak_mb(machine.device),
            }
        }


def items(device: torch.device) -> dict[str, Callable[[Machine], Iterator[Facts]]]:
    """Name -> item, in order of worth; a CPU takes those that it can."""
    on_gpu = device.type == "cuda"
    timings = {
        network: {f"ms-{network}-{mode}": partial(milliseconds, network=network, mode=mode) for mode in modes}
        for network in NETWORKS
        for modes in [reversed(MODES) if on_gpu else ["eager"]]
    }
    return {
        "versions": versions,
        **({"never-waits": never_waits} if on_gpu else {}),
        "tests": tests,
        **timings["resnet32"],
        "seeds": seeds,
        **({f"kernels-{network}": partial(kernels, network=network) for network in NETWORKS} if on_gpu else {}),
        "operations": operations,
        **(timings["resnet32_w64"] if on_gpu else {}),
    }


# ---------------------------------------------------------------------------------------------------------------- main


def carry_out(name: str, item: Callable[[Machine], Iterator[Facts]], machine: Machine, folder: Path) -> bool:
    """Write an item's file again and again; whether it came to its end."""
    began = time.perf_counter()
    facts: Facts = {"name": name, "state": "running"}

    def put(**more: Any) -> None:
        facts.update(more, seconds=time.perf_counter() - began)
        write_atomic(folder / f"{name}.json", json.dumps(facts, indent=1) + "\n")

    put()
    try:
        for more in item(machine):
            put(**more)
    except Exception:
        put(state="failed", error=traceback.format_exc().replace(f"{ROOT}/", ""))
        return False
    put(state="done")
    return True


def main() -> None:
    """Carry out all items but those to be skipped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the items' files")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--steps", type=int, default=100, help="of a timing")
    parser.add_argument("--skip", nargs="*", default=[], help="names of items")
    words = parser.parse_args()
    machine = Machine(torch.device(words.device), words.steps)
    for name, item in items(machine.device).items():
        if name in words.skip:
            continue
        if not carry_out(name, item, machine, words.folder):
            sys.exit(1)
        gc.collect()
        torch.compiler.reset()
        if machine.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
