"""A grid of recipes with seeds, on images that are no test images or, at the end and once, on the test images.

    python benchmarks/study.py benchmarks/studies/screen-tiny.yaml --root data --record DATE-study

A study says what all its rows share, and what each has of its own:

    data: tiny100            cifar10-jpeg or tiny100
    epochs: 15
    split: aside             balanced training images instead of the test images; or test: the published lists
    counts: [300, 50, 6]     only so many classes, drawn once, with so many training images each, and their test images
    seeds: [0]
    values: [...]            overrides of every row
    rows:
      name: {system: balanced_softmax, values: [optim.lr=0.1]}    a system of `glmc list systems`, and overrides
      other: {like: name, values: [...]}                          another row with more overrides
      long: {like: name, seconds: other}                          epochs for which the time of another row suffices
      short: {like: name, epochs: 5}
    rows: FILE                                                    or those of another study

Rows that are run already, by whichever study, are taken from --work; the same command goes on where it stopped. It
prints the rows, best first, and writes STUDY.json into benchmarks/records/RECORD.
"""

import argparse
import itertools
import json
import os
import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from campaign import lay_out
from glmc import runtime
from glmc.recipe import Recipe
from glmc.runs.files import write_atomic
from running import SETS, Runs, circumstances, in_turn

HERE = Path(__file__).resolve().parent
GROUPS = ("many", "medium", "few")


class Study:
    """A grid and its runs.

    Args:
        file: of the grid.
        work: folder of the runs.
    """

    def __init__(self, file: Path, work: Path) -> None:
        self.plan = yaml.safe_load(file.read_text())
        if isinstance(self.plan["rows"], str):
            self.plan["rows"] = yaml.safe_load((file.parent / self.plan["rows"]).read_text())["rows"]
        self.name = file.stem
        # Not the name alone, which may be that of the data set's own folder beside it.
        runs = work / f"runs-{self.plan['data']}"
        self.runs = Runs(self.plan["data"], runs, runtime.pick_device("auto").type)
        self.lists = self.runs.set_aside() if self.plan["split"] == "aside" else []
        if "counts" in self.plan:
            self.lists = self.runs.few_classes(self.plan["counts"])

    def row(self, name: str) -> dict[str, Any]:
        """A row with what it has from the row that it is like."""
        row = self.plan["rows"][name] or {}
        base = self.row(row["like"]) if "like" in row else {"values": []}
        return {**base, **row, "values": [*base["values"], *row.get("values", [])]}

    def recipe(self, name: str, seed: int, epochs: int | None = None) -> Recipe:
        """What a row trains; in other epochs than the study says, if they are given."""
        row = self.row(name)
        if epochs is None:
            epochs = row.get("epochs", self.plan["epochs"])
            share = self.ratio(row["seconds"], name) if "seconds" in row else 1.0
            epochs = max(1, round(epochs * share))
        values = [*self.lists, *self.plan.get("values", []), *row["values"]]
        return self.runs.composed(row["system"], seed, epochs, values)

    def ratio(self, slow: str, fast: str) -> float:
        """Time of an epoch of one row in that of another, measured once."""
        recipes = [self.recipe(name, 0, self.plan["epochs"]) for name in (slow, fast)]
        known_by = "-".join(self.runs.place(recipe, ()).name for recipe in recipes)
        file = self.runs.work / f"ratio-{known_by}.json"
        if not file.exists():
            write_atomic(file, json.dumps(in_turn(*recipes)) + "\n")
        return float(json.loads(file.read_text()))

    def train(self, name: str, seed: int, epochs: int | None = None) -> dict[str, Any]:
        """Train a row with a seed, unless that has been done; what came out."""
        whole = self.recipe(name, seed, epochs)
        run = self.runs.trained(whole)
        result = json.loads((run / "result.json").read_text())
        last = result["last"]
        print(f"{time.strftime('%H:%M')} {name:40} seed {seed} {last['top1']:6.2f}", flush=True)
        return {
            "seed": seed,
            "epochs": whole.train.epochs,
            "last": last,
            "recalls": [each["recall"] for each in result["per_class"]],
            "parameters": result["parameters"],
            "learnt": result.get("learnt", result["parameters"]),
            "backbone": result["backbone"],
            "seconds": result["seconds"],
            "environment": circumstances(json.loads((run / "environment.json").read_text())),
        }

    def all(self, jobs: int, record: Path) -> None:
        """Train every row, seed by seed, and write down what there is after each."""
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in self.plan["rows"]}
        writing = threading.Lock()

        def one(name: str, seed: int) -> None:
            run = self.train(name, seed)
            with writing:
                found[name].append(run)
                self.write(found, record)

        with ThreadPoolExecutor(jobs) as pool:
            wanted = itertools.product(self.plan["seeds"], self.plan["rows"])
            waiting = [pool.submit(one, name, seed) for seed, name in wanted]
        print("\n".join(self.table(found)))
        for each in waiting:
            each.result()

    def write(self, found: dict[str, list[dict[str, Any]]], record: Path) -> None:
        """The record: what was asked, and every run that there is."""
        done = {name: sorted(runs, key=lambda run: run["seed"]) for name, runs in found.items() if runs}
        rows = {
            name: {
                **{key: value for key, value in self.row(name).items() if key != "like"},
                "runs": [{key: value for key, value in run.items() if key != "environment"} for run in runs],
            }
            for name, runs in done.items()
        }
        whole = {
            "command": f"python benchmarks/study.py benchmarks/studies/{self.name}.yaml --record {record.name}",
            "environment": next(iter(done.values()))[0]["environment"],
            **{key: value for key, value in self.plan.items() if key != "rows"},
            "rows": rows,
        }
        record.mkdir(parents=True, exist_ok=True)
        write_atomic(record / f"{self.name}.json", json.dumps(whole, indent=1) + "\n")

    def table(self, found: dict[str, list[dict[str, Any]]]) -> list[str]:
        """The rows, best first, as a table in Markdown."""
        lines = ["| row | epochs | top-1 | many / medium / few | ECE | seconds |", "|---|---|---|---|---|---|"]
        done = {name: runs for name, runs in found.items() if runs}
        for name, runs in sorted(done.items(), key=lambda pair: -mean(pair[1], "top1")[0]):
            groups = " / ".join(f"{mean(runs, group)[0]:.1f}" for group in GROUPS if group in runs[0]["last"])
            seconds = statistics.mean(run["seconds"]["train"] for run in runs)
            top1, spread = mean(runs, "top1")
            spoken = f"{top1:.1f} ± {spread:.1f}" if len(runs) > 1 else f"{top1:.1f}"
            ece = mean(runs, "ece")[0]
            lines.append(f"| {name} | {runs[0]['epochs']} | {spoken} | {groups} | {ece:.1f} | {seconds:.0f} |")
        return lines


def mean(runs: Sequence[dict[str, Any]], score: str) -> tuple[float, float]:
    """Mean and standard deviation of a score of the last epoch over runs."""
    values = [run["last"][score] for run in runs]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    """Read the command line and carry a study out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="+", type=Path, help="files of studies, carried out one after the other")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of the data sets or their archives")
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="folder of the runs")
    parser.add_argument("--record", required=True, help="folder under benchmarks/records")
    words = parser.parse_args()
    files, root, work = [file.resolve() for file in words.study], words.root.resolve(), words.work.resolve()
    for file in files:
        begun(file, root, work).all(words.jobs, HERE / "records" / words.record)


def begun(file: Path, root: Path, work: Path) -> Study:
    """A study whose images lie in the working directory from now on."""
    work.mkdir(parents=True, exist_ok=True)
    lay_out(SETS[yaml.safe_load(file.read_text())["data"]].folder, root, work)
    os.chdir(work)  # where data.root begins
    return Study(file, work)


if __name__ == "__main__":
    main()
