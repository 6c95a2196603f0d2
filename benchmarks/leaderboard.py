"""Every system side by side: the same network, images and augmentation, equal epochs and equal seconds.

    python benchmarks/leaderboard.py --data cifar10-jpeg --epochs 5 --root data --record DATE-leaderboard

Each system of `glmc list systems` is put onto plain cross entropy of that data set (`glmc.recipe.compose`). A first
stage that several systems share is trained once; second stages are as long as the first. Columns, in the order of work:

    common   one learning rate for all: the best of six for Balanced Softmax, on images that are no test images
    own      learning rate and weight decay of the system's own recipe, if its learning rate is another
    seconds  the common learning rate, and the epochs for which the time of cross entropy suffices, for slower systems

The same command goes on where it stopped, and so does one with more systems or seeds. It ends with what there is in
benchmarks/records/RECORD and, about everything in that record, docs/leaderboard.md; --write does only that. Time is
processor time of a run's commands on a CPU, where runs share the machine, and training time on a GPU.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from campaign import lay_out
from glmc import recipe, runtime
from glmc.recipe import Recipe, compose
from glmc.recipe.systems import rows
from glmc.runs.files import write_atomic
from glmc.train.stages import POSTHOC, Following, following

HERE = Path(__file__).resolve().parent
Facts = dict[str, Any]
COLUMNS = ("common", "own", "seconds")
RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
EQUAL = ["optim.momentum=0.9", "train.schedule=cosine", "train.warmup=0.05", "eval.flip_tta=false"]
GLMC = """  # a command of glmc, which leaves what it took: processor seconds, and memory in MB
import atexit, resource, sys
used = open(sys.argv.pop(1), "a")
def leave():
    took = resource.getrusage(resource.RUSAGE_SELF)
    print(took.ru_utime + took.ru_stime, took.ru_maxrss / 1024, file=used)
atexit.register(leave)
from glmc.__main__ import main
main()
"""


class Images(NamedTuple):
    """A data set of the leaderboard."""

    base: str  # recipe of plain cross entropy
    folder: str  # under --root
    values: list[str]  # what it takes to read these images
    aside: int  # training images a class, at most, that the learning rate is tuned on


SETS = {
    "cifar10-jpeg": Images("cifar10_lt/ce", "cifar10-jpeg", ["data.name=folder", "data.root=cifar10-jpeg"], 100),
    "tiny100": Images(
        "cifar100_lt/ce",
        "tiny-imagenet-100-lt",
        ["data.name=list", "data.root=tiny-imagenet-100-lt", "data.train_list=train_if100.txt",
         "data.test_list=val.txt", "data.size=32", "data.imbalance=null", "data.mean=null", "data.std=null"],
        45,
    ),
}  # fmt: skip


class Trained(NamedTuple):
    """What a command has left: its run folder, its processor seconds, and its largest memory in MB."""

    run: Path
    seconds: float
    memory: float


class Board:
    """The runs of one data set at one number of epochs.

    Args:
        data: of SETS.
        epochs: of each stage.
        work: folder of the runs.
        device: of `train.device`.
    """

    def __init__(self, data: str, epochs: int, work: Path, device: str) -> None:
        self.data, self.epochs, self.device = data, epochs, device
        self.images = SETS[data]
        self.work = work / f"{data}-{epochs}"
        self.work.mkdir(parents=True, exist_ok=True)
        self.locks: dict[str, threading.Lock] = {}
        self.rate = 0.0  # the common one, once it is known

    # --- what there is to train

    def composed(self, system: str, seed: int, epochs: int, values: Sequence[str]) -> Recipe:
        """The recipe of a system on these images."""
        given = [*self.images.values, *EQUAL, f"train.seed={seed}", f"train.epochs={epochs}", f"eval.every={epochs}"]
        given += [f"train.device={self.device}", *(["train.threads=1"] if self.device == "cpu" else []), *values]
        last = {value.partition("=")[0]: value for value in given}  # `values` win
        return compose(self.images.base, system, list(last.values()))

    def wanted(self, column: str, system: str, seed: int) -> Recipe | None:
        """The recipe of a system in a column; none where it is that of the first column, or cannot be told yet."""
        epochs, values = self.epochs, [f"optim.lr={self.rate}"]
        if column == "own":
            source = recipe.load(f"cifar100_lt/{rows()[system].get('recipe', system)}").optim
            if source.lr == self.rate:
                return None
            values = [f"optim.lr={source.lr}", f"optim.weight_decay={source.weight_decay}"]
        if column == "seconds":
            ours, theirs = (self.read(name, "common", seed) for name in (system, "ce"))
            if ours is None or theirs is None:
                return None
            epochs = max(1, round(self.epochs * theirs["seconds"] / ours["seconds"]))
            if epochs >= self.epochs:
                return None
        return self.composed(system, seed, epochs, values)

    # --- training

    def train(self, column: str, system: str, seed: int) -> None:
        """Train a system in a column, unless that has been done, and note how good it is."""
        whole = self.wanted(column, system, seed)
        if whole is None or self.read(system, column, seed) is not None:
            return
        first, then = whole.override("then=null", "name=first"), following(whole)
        done = [self.run(first.to_yaml(), first, None, None)]
        for number, stage in enumerate(then, start=1):
            done.append(self.run(f"{first.to_yaml()}{then[:number]}", first, done[-1].run, stage))
        result = json.loads((done[-1].run / "result.json").read_text())
        stages = [json.loads((each.run / "result.json").read_text()) for each in done]
        trained = sum(stage.get("seconds", {}).get("train", 0.0) for stage in stages)
        facts = {
            "system": system,
            "column": column,
            "seed": seed,
            "lr": whole.optim.lr,
            "weight_decay": whole.optim.weight_decay,
            "epochs": whole.train.epochs,
            "then": [stage.name for stage in then],
            "last": result["last"],
            "recalls": [row["recall"] for row in result["per_class"]],
            "counts": result["counts"],
            "parameters": result["parameters"],
            "backbone": result["backbone"],
            "seconds": trained if self.device == "cuda" else sum(each.seconds for each in done),
            "memory": max(each.memory for each in done),
            "environment": json.loads((done[-1].run / "environment.json").read_text()),
        }
        write_atomic(self.row(system, column, seed), json.dumps(facts, indent=1) + "\n")
        print(
            f"{time.strftime('%H:%M')} {column:8}{system:26}{facts['last']['top1']:6.2f} {facts['seconds']:6.0f} s",
            flush=True,
        )

    def run(self, known_by: str, first: Recipe, parent: Path | None, stage: Following | None) -> Trained:
        """Train a first stage, or a later one that `parent` comes before, once for all systems that share it."""
        name = blake2b(known_by.encode(), digest_size=6).hexdigest()
        run, used = self.work / "runs" / name, self.work / "runs" / f"{name}.used"
        with self.locks.setdefault(name, threading.Lock()):
            if not (run / "result.json").exists():
                run.parent.mkdir(exist_ok=True)
                if (run / "recipe.yaml").exists():
                    words = ["train", "--resume", run]
                elif parent is None or stage is None:
                    file = run.with_suffix(".yaml")
                    write_atomic(file, first.to_yaml())
                    words = ["train", file, "--out", run]
                else:
                    values = [value for value in stage.overrides if not value.startswith("train.epochs=")]
                    values += [] if stage.name in POSTHOC else [f"train.epochs={first.train.epochs}"]
                    words = ["finetune", parent, "--stage2", stage.name, "--out", run, *values]
                self.glmc(words, used, run.with_suffix(".log"))
        took = [[float(word) for word in line.split()] for line in used.read_text().splitlines()]
        return Trained(run, sum(seconds for seconds, _ in took), max(memory for _, memory in took))

    def glmc(self, words: Sequence[str | Path], used: Path, log: Path) -> None:
        """Carry out a command of glmc."""
        threads = {"OMP_NUM_THREADS": "1"} if self.device == "cpu" else {}
        command = [sys.executable, "-c", GLMC, used, *words, "--quiet"]
        with log.open("ab") as file:
            done = subprocess.run(
                command, stdout=file, stderr=file, cwd=self.work.parent, env={**os.environ, **threads}, check=False
            )
        if done.returncode:
            raise RuntimeError(f"glmc {' '.join(map(str, words))}:\n{log.read_text()[-2000:]}")

    def row(self, system: str, column: str, seed: int) -> Path:
        """The file of a system in a column."""
        return self.work / f"{system}-{column}-{seed}.json"

    def read(self, system: str, column: str, seed: int) -> Facts | None:
        """What is known of a system in a column; none if it was not trained."""
        file = self.row(system, column, seed)
        return json.loads(file.read_text()) if file.exists() else None

    # --- the common learning rate

    def tune(self, jobs: int) -> None:
        """Choose the common learning rate by Balanced Softmax on images of the training folder that are set aside."""
        file = self.work / "rate.json"
        if not file.exists():
            values = self.set_aside()
            with ThreadPoolExecutor(jobs) as pool:
                top1 = list(pool.map(lambda rate: self.tried(rate, values), RATES))
            best = RATES[max(range(len(RATES)), key=top1.__getitem__)]
            write_atomic(file, json.dumps({"rate": best, "tried": dict(zip(RATES, top1, strict=True))}) + "\n")
        self.rate = json.loads(file.read_text())["rate"]
        print(f"common learning rate: {file.read_text().strip()}", flush=True)

    def tried(self, rate: float, values: list[str]) -> float:
        """Top-1 of Balanced Softmax on the images that were set aside."""
        tuned = self.composed("balanced_softmax", 0, self.epochs, [*values, f"optim.lr={rate}"])
        run = self.run(tuned.to_yaml(), tuned, None, None).run
        return float(json.loads((run / "result.json").read_text())["last"]["top1"])

    def set_aside(self) -> list[str]:
        """Balanced training images instead of test images, and the others with a long tail, as overrides.

        Where the set comes with a long-tailed list, its own images are set aside only where there are too few others.
        """
        folder, rng = self.work.parent / self.images.folder, random.Random(0)
        lists = [value.partition("=")[2] for value in self.images.values if value.startswith("data.train_list=")]
        listed = dict(line.split() for name in lists for line in (folder / name).read_text().splitlines())
        lines: dict[str, list[str]] = {"train": [], "aside": []}
        for place in sorted(each for each in (folder / "train").iterdir() if each.is_dir()):
            paths = sorted(str(path.relative_to(folder)) for path in place.rglob("*") if path.is_file())
            rng.shuffle(paths)
            paths.sort(key=lambda path: path in listed)
            label = next((listed[path] for path in paths if path in listed), place.name)
            number = min(self.images.aside, len(paths) // 5)
            lines["aside"] += [f"{path} {label}" for path in paths[:number]]
            lines["train"] += [f"{path} {label}" for path in paths[number:] if path in listed or not listed]
        for name, listing in lines.items():
            write_atomic(self.work / f"{name}.txt", "\n".join(sorted(listing)) + "\n")
        train, aside = (f"{self.work.name}/{name}.txt" for name in ("train", "aside"))
        return ["data.name=list", f"data.train_list={train}", f"data.test_list={aside}"]


# ------------------------------------------------------------------------------------------------------ what came out


def record(work: Path, out: Path, data: str, epochs: int) -> None:
    """Write DATA-EPOCHS.json: every row that there is, and the conditions."""
    place = work / f"{data}-{epochs}"
    found = [json.loads(file.read_text()) for file in sorted(place.glob("*-*-[0-9]*.json"))]
    if not found:
        return
    environment = found[0]["environment"]
    for facts in found:
        del facts["environment"]
    order = list(rows())
    found.sort(key=lambda facts: (order.index(facts["system"]), COLUMNS.index(facts["column"]), facts["seed"]))
    whole = {
        "data": data,
        "epochs": epochs,
        "command": " ".join(["python", "benchmarks/leaderboard.py", *sys.argv[1:]]),
        "environment": {key: value for key, value in environment.items() if key != "command"},
        "rate": json.loads((place / "rate.json").read_text()),
        "aside": SETS[data].aside,
        "rows": found,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / f"{data}-{epochs}.json", json.dumps(whole, indent=1) + "\n")


def means(board: Facts) -> dict[str, dict[str, Facts]]:
    """System -> column -> mean over the seeds of top-1, of the three parts of the classes, and of what it cost."""
    found: dict[str, dict[str, list[Facts]]] = {}
    for row in board["rows"]:
        found.setdefault(row["system"], {}).setdefault(row["column"], []).append(row)
    return {system: {name: mean(same) for name, same in columns.items()} for system, columns in found.items()}


def mean(same: Sequence[Facts]) -> Facts:
    """Several seeds of a system in a column as one."""

    def over(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    def part(low: float, high: float) -> float:
        """Mean recall of the classes between two shares of the list of classes, the largest first."""
        recalls = []
        for row in same:
            falling = sorted(range(len(row["counts"])), key=lambda label: -row["counts"][label])
            inside = falling[round(low * len(falling)) : round(high * len(falling))]
            recalls.append(over([row["recalls"][label] for label in inside]))
        return over(recalls)

    top1 = [row["last"]["top1"] for row in same]
    spread = (sum((one - over(top1)) ** 2 for one in top1) / (len(top1) - 1)) ** 0.5 if len(top1) > 1 else None
    return {
        **same[0],
        "top1": over(top1),
        "sd": spread,
        "seeds": len(same),
        "thirds": [part(0, 0.3), part(0.3, 0.7), part(0.7, 1)],
        "seconds": over([row["seconds"] for row in same]),
        "memory": max(row["memory"] for row in same),
    }


PAGE = """# Leaderboard

Made by `benchmarks/leaderboard.py`; every figure is a copy from `benchmarks/records/{record}`. One network, the same
images, crops, mirroring, batches and schedule for all; last epoch, nothing selected on the test images. *Common*: the
learning rate that was best for Balanced Softmax on training images set aside, weight decay 5e-4. *Own*: learning rate
and weight decay of the system's own recipe, if its learning rate is another. *Equal seconds*: the common learning rate,
and only as many epochs as fit into the time of cross entropy. Frequent, middle and rare: mean recall of the three
tenths of the classes with the most training images, of the next four, and of the last three. Short runs say nothing
about long ones.
"""
HEAD = ["system", "common", "own (rate, decay)", "equal seconds (epochs)", "frequent", "middle", "rare", "seeds"]
HEAD += ["parameters", "seconds", "MB"]


def table(board: Facts, place: str) -> Iterator[str]:
    """The part of the page about one data set and one number of epochs."""
    found = {system: columns for system, columns in means(board).items() if "common" in columns}
    ranked = sorted(found, key=lambda system: -found[system]["common"]["top1"])
    row, environment = board["rows"][0], board["environment"]
    tried = ", ".join(f"{rate}: {top1:.1f}" for rate, top1 in board["rate"]["tried"].items())
    seconds = "processor seconds of one core" if environment["device"] == "cpu" else "seconds of training"
    yield f"## {board['data']}, {board['epochs']} epochs a stage\n"
    yield f"{row['backbone']}, {sum(row['counts']):,} images, {max(row['counts']):,} to {min(row['counts'])} a class."
    yield f"Common learning rate {board['rate']['rate']} (top-1 on the images set aside, {tried}). Time is {seconds};"
    yield f"{environment.get('cpu', environment['device'])}, torch {environment['torch']}.\n"
    for picture, about in (("seconds", "accuracy against seconds"), ("classes", "frequent, middle and rare classes")):
        yield f"![{about}](../benchmarks/{place}/{board['data']}-{board['epochs']}-{picture}.svg)\n"
    yield f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}"
    for system in ranked:
        common, own, equal = (found[system].get(column) for column in COLUMNS)
        cells = [system, score(common), told(own, "lr", "weight_decay"), told(equal, "epochs")]
        cells += [f"{value:.1f}" for value in common["thirds"]]
        cells += [str(common["seeds"]), f"{common['parameters'] / 1e6:.2f} M"]
        yield f"| {' | '.join(cells)} | {common['seconds']:.0f} | {common['memory']:.0f} |"
    missing = [system for system in rows() if system not in found]
    if missing:
        yield f"\nNot measured: {', '.join(missing)}."
    yield f"\n    {board['command']}\n"


def score(facts: Facts) -> str:
    """Mean top-1, and the deviation over several seeds."""
    return f"{facts['top1']:.2f}" + (f" ± {facts['sd']:.2f}" if facts["sd"] is not None else "")


def told(facts: Facts | None, *names: str) -> str:
    """An accuracy and what is special about its column."""
    if facts is None:
        return "-"
    return f"{score(facts)} ({', '.join(f'{facts[name]}' for name in names)})"


def draw(board: Facts, out: Path) -> None:
    """Accuracy against seconds, and bars of the classes, as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "glmc", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    from matplotlib import pyplot as plt

    file = f"{board['data']}-{board['epochs']}"
    found = {system: columns["common"] for system, columns in means(board).items() if "common" in columns}
    ranked = sorted(found, key=lambda system: found[system]["top1"])
    figure, axes = plt.subplots(figsize=(8, 5))
    axes.scatter([found[s]["seconds"] for s in ranked], [found[s]["top1"] for s in ranked], s=14)
    for system in ranked:
        axes.annotate(
            system,
            (found[system]["seconds"], found[system]["top1"]),
            xytext=(3, 2),
            textcoords="offset points",
            fontsize=6,
        )
    axes.set(xscale="log", xlabel="seconds", ylabel="top-1, %")
    figure.savefig(out / f"{file}-seconds.svg", metadata={"Date": None}, bbox_inches="tight")
    figure, axes = plt.subplots(figsize=(8, 0.22 * len(ranked) + 1))
    for n, (name, colour) in enumerate([("frequent", "#4477aa"), ("middle", "#ccbb44"), ("rare", "#cc6677")]):
        places = [place + 0.27 * (1 - n) for place in range(len(ranked))]
        axes.barh(places, [found[s]["thirds"][n] for s in ranked], 0.27, label=name, color=colour)
    axes.set_yticks(range(len(ranked)), ranked)
    axes.set(xlabel="recall, %", ylim=(-0.6, len(ranked) - 0.4))
    axes.legend(frameon=False)
    figure.savefig(out / f"{file}-classes.svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close("all")


def write(out: Path, docs: Path) -> None:
    """The pictures of a record, and the page about it."""
    boards = [json.loads(file.read_text()) for file in sorted(out.glob("*-*.json"))]
    boards.sort(key=lambda board: (list(SETS).index(board["data"]), board["epochs"]))
    for board in boards:
        draw(board, out)
    parts = [line for board in boards for line in table(board, f"records/{out.name}")]
    write_atomic(docs / "leaderboard.md", "\n".join([PAGE.format(record=out.name), *parts]).rstrip() + "\n")


def main() -> None:
    """Read the command line, train what is missing, and write what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(SETS), default="cifar10-jpeg")
    parser.add_argument("--epochs", type=int, default=5, help="of each stage")
    parser.add_argument("--systems", help="between commas (default: all)")
    parser.add_argument("--columns", default=",".join(COLUMNS), help="of common, own and seconds")
    parser.add_argument("--seeds", default="0", help="between commas")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of the data sets or their archives")
    parser.add_argument("--work", type=Path, default=Path("runs/leaderboard"), help="folder of the runs")
    parser.add_argument("--record", required=True, help="folder under benchmarks/records")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs", help="folder of leaderboard.md")
    parser.add_argument("--write", action="store_true", help="train nothing")
    words = parser.parse_args()
    chosen = words.systems.split(",") if words.systems else list(rows())
    for unknown in sorted(set(chosen) - set(rows())):
        parser.error(f"there is no system {unknown}: `glmc list systems` names all")
    work, out = words.work.resolve(), HERE / "records" / words.record
    failed = [] if words.write else train(words, chosen, work)
    record(work, out, words.data, words.epochs)
    write(out, words.docs)
    if failed:
        raise SystemExit("\n".join(failed))


def train(words: argparse.Namespace, chosen: Sequence[str], work: Path) -> list[str]:
    """Train what is missing; what went wrong, in a text each."""
    board = Board(words.data, words.epochs, work, runtime.pick_device("auto").type)
    lay_out(board.images.folder, words.root.resolve(), work)
    board.tune(words.jobs)
    failed = []
    for column in words.columns.split(","):
        with ThreadPoolExecutor(words.jobs) as pool:
            runs = [(system, int(seed)) for seed in words.seeds.split(",") for system in chosen]
            begun = {run: pool.submit(board.train, column, *run) for run in runs}
        for run, future in begun.items():
            if error := future.exception():
                failed.append(f"{run}: {error}")
                print(failed[-1], flush=True)
    return failed


if __name__ == "__main__":
    main()
