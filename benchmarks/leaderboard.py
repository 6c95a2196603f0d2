"""Every system side by side: the same network, images, crops and mirroring, equal epochs and equal seconds.

    python benchmarks/leaderboard.py --data cifar10-jpeg --epochs 5 --root data --record DATE-leaderboard

Each system of `glmc list systems` is put onto plain cross entropy of that data set (`glmc.recipe.compose`). A first
stage that several systems share is trained once; second stages are as long as the first. Columns, in the order of work:

    common   one learning rate for all: the best of six for Balanced Softmax, on images that are no test images
    own      learning rate and weight decay of the system's own recipe, if its learning rate is another
    seconds  the common learning rate, and the epochs for which the time of cross entropy suffices, for slower systems

What a system takes is told in the time of cross entropy: their steps are timed in turn, so that other work on the
machine slows both down. The same command goes on where it stopped, and so does one with more systems or seeds. It ends
with what there is in benchmarks/records/RECORD and, about everything in that record, docs/leaderboard.md; --write does
only that.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from campaign import lay_out
from glmc import recipe, runtime
from glmc.recipe import Recipe
from glmc.recipe.systems import rows
from glmc.runs.files import write_atomic
from glmc.train.stages import POSTHOC, following, second_recipe
from leaderboard_page import Facts, read_json, write
from running import SETS, Runs, circumstances, in_turn, length, own_optimizer

HERE = Path(__file__).resolve().parent
COLUMNS = ("common", "own", "seconds")
RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


class Board(Runs):
    """The runs of one data set at one number of epochs.

    Args:
        data: of SETS.
        epochs: of each stage.
        work: folder of the runs.
        device: of `train.device`.
    """

    def __init__(self, data: str, epochs: int, work: Path, device: str) -> None:
        super().__init__(data, work / f"{data}-{epochs}", device)
        self.epochs = epochs
        self.rate = 0.0  # the common one, once it is known

    # --- what there is to train

    def wanted(self, column: str, system: str, seed: int) -> Recipe | None:
        """The recipe of a system in a column; none where it is that of the first column, or cannot be told yet."""
        epochs, values = self.epochs, self.pace(system)
        if column == "own":
            if own_optimizer(system):
                return None
            source = recipe.load(f"cifar100_lt/{rows()[system].get('recipe', system)}").optim
            if source.lr == self.rate:
                return None
            values = [f"optim.lr={source.lr}", f"optim.weight_decay={source.weight_decay}"]
        if column == "seconds":
            epochs = max(1, round(self.epochs / self.cost(system)))
            if epochs >= self.epochs:
                return None
        return self.composed(system, seed, epochs, values)

    def pace(self, system: str) -> list[str]:
        """The common learning rate, unless a system has an optimizer of its own, whose rates are others."""
        return [] if own_optimizer(system) else [f"optim.lr={self.rate}"]

    # --- training

    def train(self, column: str, system: str, seed: int) -> None:
        """Train a system in a column, unless that has been done, and note how good it is."""
        whole = self.wanted(column, system, seed)
        if whole is None or self.read(system, column, seed) is not None:
            return
        run = self.trained(whole)
        result = read_json(run / "result.json")
        facts = {
            "system": system,
            "column": column,
            "seed": seed,
            "lr": whole.optim.lr,
            "weight_decay": whole.optim.weight_decay,
            "epochs": whole.train.epochs,
            "then": [stage.name for stage in following(whole)],
            "last": result["last"],
            "recalls": [row["recall"] for row in result["per_class"]],
            "counts": result["counts"],
            "parameters": result["parameters"],
            "backbone": result["backbone"],
            "memory": int(run.with_suffix(".memory").read_text()),
            "environment": read_json(run / "environment.json"),
        }
        write_atomic(self.row(system, column, seed), json.dumps(facts, indent=1) + "\n")
        print(f"{time.strftime('%H:%M')} {column:8}{system:26}{facts['last']['top1']:6.2f}", flush=True)

    # --- what it costs

    def cost(self, system: str) -> float:
        """Time that the steps of a system take, all stages together, in that of cross entropy."""
        file = self.work / f"cost-{system}.json"
        if not file.exists():
            # As in the first column, whose runs later stages start from.
            whole, plain = (self.composed(name, 0, self.epochs, self.pace(name)) for name in (system, "ce"))
            first, then = whole.override("then=null", "name=first"), following(whole)
            ratio, before = in_turn(first, plain), first
            for number, stage in enumerate(then):
                if stage.name not in POSTHOC:
                    before = second_recipe(before, self.place(first, then[:number]), stage.name, length(stage, first))
                    ratio += in_turn(before, plain)
            write_atomic(file, json.dumps({"system": system, "ratio": ratio}) + "\n")
        return float(read_json(file)["ratio"])

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
        run = self.run(tuned, ())
        return float(json.loads((run / "result.json").read_text())["last"]["top1"])


# ------------------------------------------------------------------------------------------------------ what came out


def record(work: Path, out: Path, data: str, epochs: int) -> None:
    """Write DATA-EPOCHS.json: every row that there is, and the conditions."""
    place = work / f"{data}-{epochs}"
    found = [read_json(file) for file in sorted(place.glob("*-*-[0-9]*.json"))]
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
        "command": f"python benchmarks/leaderboard.py --data {data} --epochs {epochs} --record {out.name}",
        "environment": circumstances(environment),
        "rate": read_json(place / "rate.json"),
        "aside": SETS[data].aside,
        "costs": {cost["system"]: cost["ratio"] for cost in map(read_json, sorted(place.glob("cost-*.json")))},
        "rows": found,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / f"{data}-{epochs}.json", json.dumps(whole, indent=1) + "\n")


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
    work, docs, out = words.work.resolve(), words.docs.resolve(), HERE / "records" / words.record
    failed = [] if words.write else train(words, chosen, work)
    record(work, out, words.data, words.epochs)
    write(out, docs)
    if failed:
        raise SystemExit("\n".join(failed))


def train(words: argparse.Namespace, chosen: Sequence[str], work: Path) -> list[str]:
    """Train what is missing; what went wrong, in a text each."""
    board = Board(words.data, words.epochs, work, runtime.pick_device("auto").type)
    lay_out(board.images.folder, words.root.resolve(), work)
    os.chdir(work)  # where data.root begins
    board.tune(words.jobs)
    failed = []
    for column in words.columns.split(","):
        with ThreadPoolExecutor(words.jobs) as pool:
            runs = [(system, int(seed)) for seed in words.seeds.split(",") for system in chosen]
            begun = {run: pool.submit(board.train, column, *run) for run in runs}
        for system in chosen if column == "common" else []:
            board.cost(system)
        for run, future in begun.items():
            if error := future.exception():
                failed.append(f"{run}: {error}")
                print(failed[-1], flush=True)
    return failed


if __name__ == "__main__":
    main()
