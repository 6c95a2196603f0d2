"""How soon a row of a study is as accurate as another one is at its end: a speed run, with its history kept.

    python benchmarks/time_to_accuracy.py benchmarks/studies/STUDY.yaml --row muon --epochs 16 --target bs --root data
        --note "what is new" --known benchmarks/records/DATE-study/STUDY.json --record DATE-time-to-accuracy

The schedule must know its end, so a speed run is a training of so many epochs: it counts if the mean of its last-epoch
top-1 over the seeds of the study reaches that of the target after all of the study's epochs. Its time is told in that
of the target: epochs of both, and steps timed in turn, so that other work on the machine slows both down. Runs in the
record given as --known are not trained again. Every attempt is added to STUDY.json in benchmarks/records/RECORD, those
that fell short too, and the history is printed.
"""

import argparse
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from glmc.runs.files import write_atomic
from study import HERE, begun


def main() -> None:
    """Read the command line, train what is missing, and add the attempt to the history."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="file of a study")
    parser.add_argument("--row", required=True, help="what is tried")
    parser.add_argument("--epochs", type=int, required=True, help="of what is tried")
    parser.add_argument("--target", required=True, help="row that it is to be as accurate as")
    parser.add_argument("--note", required=True, help="what is new about this attempt")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of the data sets or their archives")
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="folder of the runs")
    parser.add_argument("--known", type=Path, help="record of a study, to take runs from")
    parser.add_argument("--record", required=True, help="folder under benchmarks/records")
    words = parser.parse_args()
    history = HERE / "records" / words.record / words.study.with_suffix(".json").name
    study = begun(
        words.study.resolve(), words.root.resolve(), words.work.resolve(), words.known and words.known.resolve()
    )
    with ThreadPoolExecutor(words.jobs) as pool:
        seeds, whole = study.plan["seeds"], study.plan["epochs"]
        aims = pool.map(lambda seed: study.train(words.target, seed, whole), seeds)
        tries = list(pool.map(lambda seed: study.train(words.row, seed, words.epochs), seeds))
    target, found = ([run["last"]["top1"] for run in runs] for runs in (aims, tries))
    attempt = {
        "date": time.strftime("%Y-%m-%d"),
        "note": words.note,
        "row": words.row,
        **{key: study.row(words.row)[key] for key in ("system", "values")},
        "epochs": words.epochs,
        "top1": found,
        "target": {"row": words.target, "epochs": whole, "top1": target},
        "reached": statistics.mean(found) >= statistics.mean(target),
        "time": words.epochs / whole * study.ratio(words.row, words.target),
        "command": f"python benchmarks/time_to_accuracy.py benchmarks/studies/{words.study.name} --row {words.row!r} "
        f"--epochs {words.epochs} --target {words.target!r} --record {Path(words.record).name}",
        "environment": tries[0]["environment"],
    }
    attempts = [*(json.loads(history.read_text()) if history.exists() else []), attempt]
    history.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(history, json.dumps(attempts, indent=1) + "\n")
    print("| date | attempt | epochs | top-1 | target | time of the target's |\n|---|---|---|---|---|---|")
    for each in attempts:
        top1, wanted_top1 = (statistics.mean(values) for values in (each["top1"], each["target"]["top1"]))
        share = f"{100 * each['time']:.0f} %" if each["reached"] else "fell short"
        print(f"| {each['date']} | {each['note']} | {each['epochs']} | {top1:.1f} | {wanted_top1:.1f} | {share} |")


if __name__ == "__main__":
    main()
