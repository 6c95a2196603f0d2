"""A grid of recipes with seeds, on images that are no test images or, at the end and once, on the test images.

    python benchmarks/study.py benchmarks/studies/screen-tiny.yaml --root data --record DATE-study

A study says what all its rows share, and what each has of its own:

    data: tiny100            cifar10-jpeg or tiny100
    epochs: 15
    split: aside             balanced training images instead of the test images; or test: the published lists
    counts: [300, 50, 6]     only so many classes, drawn once, with so many training images each
    seeds: [0]
    values: [...]            overrides of every row
    rows:
      name: {system: balanced_softmax, values: [optim.lr=0.1]}    a system of `glmc list systems`, and overrides
      other: {like: name, values: [...]}                          another row with more overrides
      long: {like: name, seconds: other}                          epochs for which the time of another row suffices
      short: {like: name, epochs: 5}
    rows: FILE                                                    or those of another study

Rows that are run already, by whichever study, are taken from --work, or from the record that is to be written, so that
a record may grow on several machines; the same command goes on where it stopped. A run in a record counts if its row
and its recipe are still the same. It prints the rows, best first, and writes STUDY.json into benchmarks/records/RECORD.
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
ASIDE = 50  # training images a class that are tested on where a study takes few classes and no test images
GROUPS = ("many", "medium", "few")


class Study:
    """A grid and its runs.

    Args:
        file: of the grid.
        work: folder of the runs.
        record: of this study or of one with the same images, whose runs are not trained again; or none.

    Raises:
        SystemExit: the record is about other images or epochs.
    """

    def __init__(self, file: Path, work: Path, record: Path | None) -> None:
        self.plan = yaml.safe_load(file.read_text())
        if isinstance(self.plan["rows"], str):
            self.plan["rows"] = yaml.safe_load((file.parent / self.plan["rows"]).read_text())["rows"]
        self.name = file.stem
        # Not the name alone, which may be that of the data set's own folder beside it.
        runs = work / f"runs-{self.plan['data']}"
        self.runs = Runs(self.plan["data"], runs, runtime.pick_device("auto").type)
        aside = self.plan["split"] == "aside"
        if "counts" in self.plan:
            self.lists = self.runs.few_classes(self.plan["counts"], ASIDE if aside else 0)
        else:
            self.lists = self.runs.set_aside() if aside else []
        self.recorded = [] if record is None else self.runs_of(record)

    def runs_of(self, record: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The rows of a record, and a run of each."""
        found = json.loads(record.read_text())
        for key in ("data", "epochs", "split", "counts", "values"):
            if found.get(key) != self.plan.get(key):
                raise SystemExit(
                    f"{record}: its {key} is {found.get(key)}, not {self.plan.get(key)}: name another record"
                )
        environment = {"environment": found["environment"]}
        rows = [({k: v for k, v in row.items() if k != "runs"}, row["runs"]) for row in found["rows"].values()]
        return [(row, environment | run) for row, runs in rows for run in runs]

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
        known_by = "-".join(self.digest(recipe) for recipe in recipes)
        file = self.runs.work / f"ratio-{known_by}.json"
        if not file.exists():
            write_atomic(file, json.dumps(in_turn(*recipes)) + "\n")
        return float(json.loads(file.read_text()))

    def known(self, name: str, seed: int, epochs: int | None = None) -> dict[str, Any] | None:
        """What came out of a row with a seed by the record; None if it does not say."""
        asked = {key: value for key, value in self.row(name).items() if key != "like"}
        for row, run in self.recorded:
            if (row, run["seed"]) == (asked, seed) and epochs in (None, run["epochs"]):
                recipe = self.digest(self.recipe(name, seed, run["epochs"]))
                if run.get("recipe", recipe) == recipe:  # the first records have none
                    return run
        return None

    def digest(self, recipe: Recipe) -> str:
        """What a recipe is known by."""
        return self.runs.place(recipe, ()).name

    def train(self, name: str, seed: int, epochs: int | None = None) -> dict[str, Any]:
        """Train a row with a seed, unless that has been done; what came out."""
        known = self.known(name, seed, epochs)
        if known is not None:
            return known
        whole = self.recipe(name, seed, epochs)
        run = self.runs.trained(whole)
        result = json.loads((run / "result.json").read_text())
        last = result["last"]
        print(f"{time.strftime('%H:%M')} {name:40} seed {seed} {last['top1']:6.2f}", flush=True)
        return {
            "seed": seed,
            "epochs": whole.train.epochs,
            "recipe": self.digest(whole),
            "last": last,
            "recalls": [each["recall"] for each in result["per_class"]],
            "parameters": result["parameters"],
            "learnt": result.get("learnt", result["parameters"]),
            "backbone": result["backbone"],
            "seconds": result["seconds"],
            "environment": circumstances(json.loads((run / "environment.json").read_text())),
        }

    def all(self, jobs: int, record: Path) -> None:
        """Train every row, seed by seed, and write down what there is after each, with what the record had."""
        wanted = list(itertools.product(self.plan["seeds"], self.plan["rows"]))
        known = {(name, seed): self.known(name, seed) for seed, name in wanted}
        found = {name: [run for (row, _), run in known.items() if row == name and run] for name in self.plan["rows"]}
        lost = len(self.recorded) - sum(map(len, found.values()))
        if lost:
            raise SystemExit(f"{record}: {lost} of its runs are of other rows, seeds or recipes; name another record")
        if any(found.values()):
            self.write(found, record)
        writing = threading.Lock()

        def one(name: str, seed: int) -> None:
            run = self.train(name, seed)
            with writing:
                found[name].append(run)
                self.write(found, record)

        with ThreadPoolExecutor(jobs) as pool:
            waiting = [pool.submit(one, name, seed) for seed, name in wanted if known[name, seed] is None]
        print("\n".join(self.table(found)))
        for each in waiting:
            each.result()

    def write(self, found: dict[str, list[dict[str, Any]]], record: Path) -> None:
        """The record: what was asked, and every run that there is."""
        done = {name: sorted(runs, key=lambda run: run["seed"]) for name, runs in found.items() if runs}
        first = next(iter(done.values()))[0]["environment"]
        rows = {
            name: {
                **{key: value for key, value in self.row(name).items() if key != "like"},
                "runs": [{k: v for k, v in run.items() if (k, v) != ("environment", first)} for run in runs],
            }
            for name, runs in done.items()
        }
        whole = {
            "command": f"python benchmarks/study.py benchmarks/studies/{self.name}.yaml --record {record.parent.name}",
            "environment": first,
            **{key: value for key, value in self.plan.items() if key != "rows"},
            "rows": rows,
        }
        record.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(record, json.dumps(whole, indent=1) + "\n")

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
        record = HERE / "records" / words.record / f"{file.stem}.json"
        begun(file, root, work, record if record.exists() else None).all(words.jobs, record)


def begun(file: Path, root: Path, work: Path, record: Path | None) -> Study:
    """A study whose images lie in the working directory from now on; runs in the record are not trained again."""
    work.mkdir(parents=True, exist_ok=True)
    lay_out(SETS[yaml.safe_load(file.read_text())["data"]].folder, root, work)
    os.chdir(work)  # where data.root begins
    return Study(file, work, record)


if __name__ == "__main__":
    main()
