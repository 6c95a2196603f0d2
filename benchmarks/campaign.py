"""How to spend the half hour for which a GPU machine is at hand: calls of ten minutes at most, without a network.

    python benchmarks/campaign.py check --minutes 8 --out call-1
    python benchmarks/campaign.py accuracy --minutes 9 --out call-2 --data DATA
    python benchmarks/campaign.py accuracy --minutes 9 --out call-3 --data DATA --done call-2
    python benchmarks/campaign.py record --done call-1 --done call-2 --done call-3 --out benchmarks/records/DATE-gpu

`check` goes through the items of `checks.py`, `accuracy` through the runs of `queue.yaml`. Either stops by itself in
time. What is finished is in two files of --out at once, and what is under way once a minute, so that a kill costs no
more; a call leaves out what an earlier one has finished and goes on with what it has begun.

    campaign.tar  items/NAME.json and runs/NAME/, with the newest checkpoints of runs that are not finished
    items.json    the items again, for reading
"""

import argparse
import contextlib
import ctypes
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from glmc.runs.files import write_atomic

HERE = Path(__file__).resolve().parent
LARGEST = 15_500_000  # bytes of campaign.tar
SMALL = ("seeds.json", "summary.json", "recipe.yaml", "environment.json", "metrics.jsonl", "result.json")
ITEM_SECONDS = 150.0  # after which an item of `check` is given up
SAVING_SECONDS = 25.0  # that a run may take to save and end
GLMC = "from glmc import __main__, report; report.write = lambda run: None; __main__.main()"  # pages cost GPU time
UNPACKED = Path(tempfile.gettempdir()) / "glmc-campaign"  # archives of --data, until the machine goes

Facts = dict[str, Any]


class Call:
    """One call of the script: its clock, what earlier calls have left, and what it leaves itself.

    Args:
        out: folder of campaign.tar and items.json; those that lie there already are gone on with.
        done: such folders of earlier calls.
        minutes: until all must be over.
    """

    def __init__(self, out: Path, done: Sequence[Path], minutes: float) -> None:
        self.began = self.told = self.packed = time.monotonic()
        self.out, self.seconds = out, 60 * minutes
        self.left_out: list[str] = []  # runs whose checkpoints found no room in campaign.tar
        self.ends = self.began + self.seconds - min(20.0, 0.1 * self.seconds)
        out.mkdir(parents=True, exist_ok=True)
        self.work = Path(tempfile.mkdtemp(prefix="glmc-campaign-"))
        for part in ("items", "runs", "earlier"):
            (self.work / part).mkdir()
        if (out / "campaign.tar").exists():
            unpack(out, self.work)
        self.earlier = [unpack(folder, self.work / "earlier" / str(n)) for n, folder in enumerate(done)]
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, _number: int, _frame: object) -> None:
        self.ends = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds until this call must come to its end."""
        return self.ends - time.monotonic()

    def tell(self, text: str) -> None:
        """Print a line with the time."""
        self.told = time.monotonic()
        print(f"{(self.told - self.began) / 60:5.1f} min  {text}", flush=True)

    def tick(self, text: str) -> None:
        """Once a minute: print a line, and keep what there is."""
        if time.monotonic() - self.told > min(60.0, 0.1 * self.seconds):
            self.tell(text)
        if time.monotonic() - self.packed > min(60.0, 0.1 * self.seconds):
            self.keep()

    def put(self, name: str, **facts: Any) -> None:
        """Write an item, and keep it."""
        write_atomic(self.work / "items" / f"{name}.json", json.dumps({"name": name, **facts}, indent=1) + "\n")
        self.keep()

    def keep(self) -> None:
        """Bring all that there is to --out."""
        self.packed = time.monotonic()
        with contextlib.suppress(FileNotFoundError):  # a run has removed an old checkpoint: the next time, then
            content, left_out = pack(self.work)
            write_atomic(self.out / "campaign.tar", content)
            self.left_out = left_out
        write_atomic(self.out / "items.json", json.dumps(items_in([self.work]), indent=1) + "\n")

    def close(self) -> None:
        """Leave nothing behind but --out."""
        self.keep()
        shutil.rmtree(self.work)
        for run in self.left_out:
            self.tell(f"{run}: no room for its checkpoints, so that it will begin anew")


# ------------------------------------------------------------------------------------------------- what calls leave


def pack(work: Path) -> tuple[bytes, list[str]]:
    """campaign.tar, and the names of unfinished runs whose checkpoints found no room in it."""
    size, left_out, content = 0, [], io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:

        def add(files: Sequence[Path]) -> None:
            nonlocal size
            for file in files:
                tar.add(file, file.relative_to(work))
                size += file.stat().st_size + 1536

        add(sorted(work.glob("items/*.json")))
        for run in sorted(work.glob("runs/*")):
            add([file for name in SMALL for file in sorted([*run.glob(name), *run.glob(f"seed-*/{name}")])])
        for run in sorted(work.glob("runs/*")):
            points = [newest(seed) for seed in run.glob("seed-*") if not (seed / "result.json").exists()]
            files = [file for point in points if point for file in point.iterdir()]
            if size + sum(file.stat().st_size + 1536 for file in files) < LARGEST:
                add(files)
            else:
                left_out.append(run.name)
    return content.getvalue(), left_out


def newest(run: Path) -> Path | None:
    """The folder of a run's last checkpoint, whose name ends in the number of steps."""
    return max(run.glob("checkpoints/step-*[0-9]"), default=None)


def unpack(folder: Path, into: Path) -> Path:
    """The contents of campaign.tar."""
    with tarfile.open(folder / "campaign.tar") as tar:
        tar.extractall(into, filter="data")
    return into


def items_in(roots: Sequence[Path]) -> dict[str, Facts]:
    """Name -> item: the one that was done, otherwise the last."""
    found: dict[str, Facts] = {}
    for file in (file for root in roots for file in sorted(root.glob("items/[!.]*.json"))):  # not what is being written
        facts = json.loads(file.read_text())
        if found.get(facts["name"], {}).get("state") != "done":
            found[facts["name"]] = facts
    return found


def runs_in(roots: Sequence[Path]) -> dict[str, Path]:
    """Name -> folder of a run of several seeds: the finished one, otherwise that with the most steps."""

    def steps(run: Path) -> int:
        points = filter(None, map(newest, run.glob("seed-*")))
        return sum(int(point.name.removeprefix("step-")) for point in points)

    found: dict[str, Path] = {}
    for run in (run for root in roots for run in sorted(root.glob("runs/*"))):
        found[run.name] = max(
            filter(None, [found.get(run.name), run]), key=lambda run: ((run / "summary.json").exists(), steps(run))
        )
    return found


def start(command: Sequence[str | Path], output: Path, last_will: int, cwd: Path) -> subprocess.Popen[bytes]:
    """A process that signals to this one do not reach, and that gets the signal `last_will` if this one is killed."""

    def bind() -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, last_will)  # PR_SET_PDEATHSIG

    with output.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, preexec_fn=bind, cwd=cwd)


def end_of(file: Path) -> str:
    """The last lines of a log."""
    return file.read_text(errors="replace")[-4000:]


# ------------------------------------------------------------------------------------------------------------ check


def check(call: Call, device: str, steps: int) -> None:
    """Go through the items of checks.py; whatever happens to one, the next goes on in a fresh process."""
    output = call.work / "log.txt"
    done = {name for name, facts in items_in([call.work, *call.earlier]).items() if facts["state"] == "done"}
    while call.left > 0:
        command = [sys.executable, HERE / "checks.py", call.work / "items", "--device", device, "--steps", str(steps)]
        process = start([*command, "--skip", *done], output, signal.SIGKILL, cwd=call.work)
        begun: dict[str, float] = {}
        ended = False
        while not ended:
            ended = process.poll() is not None
            for name, facts in items_in([call.work]).items():
                if name not in done and name not in begun:
                    begun[name] = time.monotonic()
                if name not in done and facts["state"] != "running":
                    done.add(name)
                    call.tell(f"{name}: {brief(facts)}")
                    call.keep()
            now = next((name for name in begun if name not in done), "starting")
            if not ended and (call.left < 0 or time.monotonic() - begun.get(now, time.monotonic()) > ITEM_SECONDS):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            call.tick(now)
            time.sleep(0.1)
        cut = [name for name in begun if name not in done]
        for name in cut:
            facts = items_in([call.work])[name]
            why = "the call was over" if call.left < 0 else f"no end, status {process.returncode}\n{end_of(output)}"
            call.put(**{**facts, "state": "stopped" if call.left < 0 else "failed", "error": why})
            call.tell(f"{name}: {brief(items_in([call.work])[name])}")
            done.add(name)
        if process.returncode == 0:
            return
        if not begun:
            raise SystemExit(f"checks.py does not start:\n{end_of(output)}")


def brief(facts: Facts) -> str:
    """An item in a line."""
    if facts["state"] == "done":
        return numbers(facts)
    reason = facts.get("error", "").strip().splitlines()[-1:] or ["no word"]
    return f"{facts['state']}: {reason[0]}"


def numbers(facts: Facts) -> str:
    """All the numbers among facts in a line."""
    return ", ".join(f"{key} {value:.4g}" for key, value in facts.items() if isinstance(value, (int, float)))


# --------------------------------------------------------------------------------------------------------- accuracy


def accuracy(call: Call, device: str, steps: int | None, data: Path, queue: Path) -> None:
    """Train the runs of the queue that are not finished, as far as the time goes."""
    plan = yaml.safe_load(queue.read_text())
    finished = {name for name, run in runs_in([call.work, *call.earlier]).items() if (run / "summary.json").exists()}
    todo = [entry for entry in plan["runs"] if entry["name"] not in finished]
    minutes = sum(entry["minutes"] for entry in todo)
    call.tell(f"{len(finished)} runs are finished, {len(todo)} are left, about {minutes:.0f} min")
    for entry in todo:
        if call.left < min(30.0, 0.1 * call.seconds):
            return
        try:
            train(call, entry, plan, device, steps, data)
        except OSError as error:
            call.put(entry["name"], state="failed", error=str(error))
            call.tell(f"{entry['name']}: failed: {error}")


def train(call: Call, entry: Facts, plan: Facts, device: str, steps: int | None, data: Path) -> None:
    """Train the seeds of a run side by side, from the beginning or from where an earlier call has left them."""
    name, whole = entry["name"], entry.get("whole", False)
    known = items_in([call.work, *call.earlier]).get(name, {})
    needed = known.get("minutes_in_all", entry["minutes"])
    if whole and 60 * needed > call.left:
        call.tell(f"{name}: not begun, as it needs {needed:.1f} min and cannot be gone on with")
        return
    run = call.work / "runs" / name
    begun = runs_in([call.work, *call.earlier]).get(name)
    if begun and begun != run:
        shutil.copytree(begun, run)
    settings = [*plan["data"].get(entry.get("data"), []), *entry["overrides"], f"train.device={device}"]
    settings += [f"train.max_steps={steps}"] if steps else []
    seeds = ",".join(map(str, entry["seeds"]))
    if (run / "seeds.json").exists():
        words = ["train", "--resume", f"runs/{name}"]
    else:
        words = ["train", entry["recipe"], *settings, "--seeds", seeds, "--out", f"runs/{name}"]
        shutil.rmtree(run, ignore_errors=True)
    if "data" in entry:
        lay_out(entry["data"], data, call.work)
    call.tell(f"{name}: glmc {' '.join(words)}")
    output = call.work / f"{name}.log"
    command = [sys.executable, "-c", GLMC, *words, "--together", str(len(entry["seeds"])), "--quiet"]
    process = start(command, output, signal.SIGINT, cwd=call.work)
    stopped: float | None = None
    while process.poll() is None:
        at = progress(run)
        too_long = whole and at.get("epoch", 0) > 1 and 60 * at["minutes_to_go"] > call.left
        if stopped is None and (call.left < 0 or too_long):
            stopped = time.monotonic()
            process.send_signal(signal.SIGINT)  # it saves, and ends
        if stopped is not None and time.monotonic() - stopped > SAVING_SECONDS:
            process.kill()
        call.tick(f"{name}: {numbers(at) or 'starting'}")
        time.sleep(0.5)
    facts = {"state": "done", **progress(run)}
    if not (run / "summary.json").exists():
        facts |= {"state": "failed" if stopped is None else "stopped", "error": end_of(output)}
        if whole:
            shutil.rmtree(run, ignore_errors=True)
    call.put(name, **facts)
    call.tell(f"{name}: {facts['state']}, {numbers(facts)}")


def progress(run: Path) -> Facts:
    """Where the seeds of a run stand, by their slowest: epoch, top-1, steps a second together, minutes."""
    found = []
    for seed in run.glob("seed-*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            records = [json.loads(line) for line in (seed / "metrics.jsonl").read_text().splitlines()]
            last, before = records[-1], records[-2]["step"] if len(records) > 1 else 0
            epochs = yaml.safe_load((seed / "recipe.yaml").read_text())["train"]["epochs"]
            tested = [record["test"]["top1"] for record in records if "test" in record]
            seconds = sum(last["seconds"].values())
            found.append((last["epoch"], tested[-1:], (last["step"] - before) / seconds, seconds, epochs))
    if not found:
        return {}
    epoch, tested, _, seconds, epochs = min(found)
    return {
        "epoch": epoch,
        "epochs": epochs,
        **({"top1": tested[0]} if tested else {}),
        "steps_per_second": sum(speed for _, _, speed, _, _ in found),
        "minutes_to_go": (epochs - epoch) * seconds / 60,
        "minutes_in_all": epochs * seconds / 60,
    }


def lay_out(name: str, data: Path, work: Path) -> None:
    """Put a data set into the working folder: unpacked under --data, or from its archive, once for all calls."""
    folder = data / name
    if not folder.is_dir():
        folder = UNPACKED / name
    if not folder.is_dir():
        archive = next(data.glob(f"{name}.tar.*"), None)
        if archive is None:
            raise FileNotFoundError(f"neither {name} nor {name}.tar.* is in {data}: give their folder as --data")
        UNPACKED.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=UNPACKED) as fresh:
            with tarfile.open(archive) as tar:
                tar.extractall(fresh, filter="data")
            os.replace(Path(fresh) / name, folder)
    if not (work / name).exists():
        (work / name).symlink_to(folder.resolve())


# ----------------------------------------------------------------------------------------------------------- record


def record(roots: Sequence[Path], out: Path) -> None:
    """Write what several calls have found: NAME.json for each finished run, check.json, and README.md with tables."""
    out.mkdir(parents=True, exist_ok=True)
    runs, found = runs_in(roots), items_in(roots)
    summaries = {
        name: json.loads((run / "summary.json").read_text())
        for name, run in sorted(runs.items())
        if (run / "summary.json").exists()
    }
    for name, summary in summaries.items():
        write_atomic(out / f"{name}.json", json.dumps(summary, indent=1) + "\n")
    checked = {name: facts for name, facts in found.items() if name not in runs}
    write_atomic(out / "check.json", json.dumps(checked, indent=1) + "\n")
    lines = [f"# {out.name}", "", "Made by `benchmarks/campaign.py`; `check.json` holds its items in full.", ""]
    lines += [*about(checked, summaries), "", *accuracies(summaries), "", *timings(checked), ""]
    unfinished = {name: facts for name, facts in found.items() if facts["state"] != "done"}
    lines += [f"- {name}: {brief(facts)}" for name, facts in unfinished.items()]
    write_atomic(out / "README.md", "\n".join(lines).rstrip() + "\n")


def about(checked: dict[str, Facts], summaries: dict[str, Facts]) -> Iterator[str]:
    """Hardware and versions in a line."""
    facts = checked.get("versions") or next((summary["environment"] for summary in summaries.values()), {})
    keys = ("device", "driver", "cuda", "cudnn", "python", "torch", "torchvision", "timm", "numpy", "cpu", "cores")
    yield ", ".join(f"{key} {facts[key]}" for key in keys if key in facts)


def accuracies(summaries: dict[str, Facts]) -> Iterator[str]:
    """A row for each run: last epoch, mean and deviation over the seeds; then the commands."""
    if not summaries:
        return
    yield "Last epoch, mean ± standard deviation over the seeds, percent; seconds of training, seeds side by side."
    yield ""
    yield "| run | seeds | epochs | top-1 | many | medium | few | seconds | steps/s together | network | parameters |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for name, summary in summaries.items():
        seconds = max(run["seconds"]["train"] for run in summary["runs"])
        scores = [spread(summary["last"].get(key)) for key in ("top1", "many", "medium", "few")]
        precision = summary["values"]["train"]["precision"]
        yield (
            f"| {name} | {len(summary['runs'])} | {summary['epochs']} | {' | '.join(scores)} | {seconds:.0f} | "
            f"{len(summary['runs']) * summary['steps'] / seconds:.0f} | {summary['backbone']}, {precision} | "
            f"{summary['parameters'] / 1e6:.2f} M |"
        )
    yield ""
    for summary in summaries.values():
        yield f"    {summary['environment']['command']}"


def spread(score: Facts | None) -> str:
    """Mean and deviation."""
    if score is None:
        return "-"
    return f"{score['mean']:.2f}" + (f" ± {score['sd']:.2f}" if "sd" in score else "")


def timings(checked: dict[str, Facts]) -> Iterator[str]:
    """A row for each network and mode, and for each number of seeds side by side."""
    if any(name.startswith("ms-") and "ms" in facts for name, facts in checked.items()):
        yield "| network | mode | batch | precision | ms a step | first step, s | peak, MB |"
        yield "|---|---|---|---|---|---|---|"
    for name, facts in checked.items():
        if name.startswith("ms-") and "ms" in facts:
            yield (
                f"| {facts['network']} | {facts['mode']} | {facts['batch'][0]} x {facts['batch'][1]} | "
                f"{facts['precision']} | {facts['ms']:.2f} | {facts['first_step_s']:.1f} | {facts['peak_mb']:.0f} |"
            )
    together = {key: value for key, value in checked.get("seeds", {}).items() if key.isdigit()}
    if together:
        yield ""
        yield "| runs side by side | steps/s together | equal to the same run alone |"
        yield "|---|---|---|"
    for number, facts in together.items():
        yield f"| {number} | {facts['steps_per_second']:.0f} | {facts['equal_to_alone']} of {number} |"


def main() -> None:
    """Read the command line and carry out one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["check", "accuracy", "record"])
    parser.add_argument("--minutes", type=float, default=9.0, help="after which the call is over")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, required=True, help="folder of what this call leaves")
    parser.add_argument("--done", type=Path, action="append", default=[], help="that folder of an earlier call")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets or their archives")
    parser.add_argument("--steps", type=int, help="of a timing (default 100), or of a run (default: all)")
    parser.add_argument("--queue", type=Path, default=HERE / "queue.yaml", help="what `accuracy` trains")
    words = parser.parse_args()
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # other processes have other working folders
    os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in paths if path)
    if words.part == "record":
        with tempfile.TemporaryDirectory() as place:
            record([unpack(folder, Path(place) / str(n)) for n, folder in enumerate(words.done)], words.out)
        return
    call = Call(words.out, words.done, words.minutes)
    try:
        if words.part == "check":
            check(call, words.device, words.steps or 100)
        else:
            accuracy(call, words.device, words.steps, words.data, words.queue)
    finally:
        call.close()
    call.tell("over")


if __name__ == "__main__":
    main()
