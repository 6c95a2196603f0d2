"""docs/leaderboard.md, from what benchmarks/leaderboard.py has recorded: tables, and pictures as SVG."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from glmc.recipe.systems import rows
from glmc.runs.files import write_atomic

Facts = dict[str, Any]


def read_json(file: Path) -> Facts:
    """What stands in a file."""
    facts: Facts = json.loads(file.read_text())
    return facts


def means(board: Facts) -> dict[str, dict[str, Facts]]:
    """System -> column -> mean over the seeds of top-1, of the three parts of the classes, and of what it cost."""
    found: dict[str, dict[str, list[Facts]]] = {}
    for row in board["rows"]:
        found.setdefault(row["system"], {}).setdefault(row["column"], []).append(row)
    return {system: {name: mean(same) for name, same in columns.items()} for system, columns in found.items()}


def mean(same: Sequence[Facts]) -> Facts:
    """Several seeds of a system in a column as one."""

    def part(low: float, high: float) -> float:
        """Mean recall of the classes between two shares of the list of classes, the largest first."""
        recalls = []
        for row in same:
            falling = sorted(range(len(row["counts"])), key=lambda label: -row["counts"][label])
            inside = falling[round(low * len(falling)) : round(high * len(falling))]
            recalls.append(fmean(row["recalls"][label] for label in inside))
        return fmean(recalls)

    top1 = [row["last"]["top1"] for row in same]
    return {
        **same[0],
        "top1": fmean(top1),
        "sd": stdev(top1) if len(top1) > 1 else None,
        "seeds": len(same),
        "thirds": [part(0, 0.3), part(0.3, 0.7), part(0.7, 1)],
        "memory": max(row["memory"] for row in same),
    }


PAGE = """# Leaderboard

Made by `benchmarks/leaderboard.py`; every figure is a copy from `benchmarks/records/{record}`. One network, the same
images, crops, mirroring, batches and schedule for all; last epoch, nothing selected on the test images. *Common*: the
learning rate that was best for Balanced Softmax on training images set aside, weight decay 5e-4. *Own*: learning rate
and weight decay of the system's own recipe, if its learning rate is another. *Equal seconds*: the common learning rate,
and only as many epochs as fit into the time of cross entropy. Frequent, middle and rare: mean recall of the three
tenths of the classes with the most training images, of the next four, and of the last three. *Time*: of the training
steps of all stages, in that of cross entropy, timed in turn. Short runs say nothing about long ones.
"""
HEAD = ["system", "common", "own (rate, decay)", "equal seconds (epochs)", "frequent", "middle", "rare", "seeds"]
HEAD += ["parameters", "time", "MB"]


def table(board: Facts) -> Iterator[str]:
    """The part of the page about one data set and one number of epochs."""
    found = {system: columns for system, columns in means(board).items() if "common" in columns}
    ranked = sorted(found, key=lambda system: -found[system]["common"]["top1"])
    row, environment = board["rows"][0], board["environment"]
    tried = ", ".join(f"{rate}: {top1:.1f}" for rate, top1 in board["rate"]["tried"].items())
    yield f"## {board['data']}, {board['epochs']} epochs a stage\n"
    yield f"{row['backbone']}, {sum(row['counts']):,} images, {max(row['counts']):,} to {min(row['counts'])} a class."
    yield f"Common learning rate {board['rate']['rate']} (top-1 on the images set aside, {tried})."
    yield f"{environment.get('cpu', environment['device'])}, torch {environment['torch']}.\n"
    for picture, about in (("time", "accuracy against time"), ("classes", "frequent, middle and rare classes")):
        yield f"![{about}](leaderboard/{board['data']}-{board['epochs']}-{picture}.svg)\n"
    yield f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}"
    for system in ranked:
        common, own, equal = found[system]["common"], found[system].get("own"), found[system].get("seconds")
        cells = [system, score(common), told(own, "lr", "weight_decay"), told(equal, "epochs")]
        cells += [f"{value:.1f}" for value in common["thirds"]]
        cells += [str(common["seeds"]), f"{common['parameters'] / 1e6:.2f} M"]
        cells += [f"{board['costs'][system]:.2f}" if system in board["costs"] else "-", f"{common['memory']:.0f}"]
        yield f"| {' | '.join(cells)} |"
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
    """Accuracy against time, and bars of the classes, as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "glmc", "svg.fonttype": "none", "font.size": 8})
    from matplotlib import pyplot as plt

    file = f"{board['data']}-{board['epochs']}"
    found = {system: columns["common"] for system, columns in means(board).items() if "common" in columns}
    ranked = sorted(found, key=lambda system: found[system]["top1"])
    figure, axes = plt.subplots(figsize=(8, 5))
    places = {system: (board["costs"][system], found[system]["top1"]) for system in ranked if system in board["costs"]}
    axes.scatter([x for x, _ in places.values()], [y for _, y in places.values()], s=14)
    for system, place in places.items():
        axes.annotate(system, place, (3, 2), textcoords="offset points", fontsize=6)
    axes.set(xlabel="time of training, cross entropy = 1", ylabel="top-1, %")
    figure.savefig(out / f"{file}-time.svg", metadata={"Date": None}, bbox_inches="tight")
    figure, axes = plt.subplots(figsize=(8, 0.22 * len(ranked) + 1))
    for n, (name, colour) in enumerate([("frequent", "#4477aa"), ("middle", "#ccbb44"), ("rare", "#cc6677")]):
        heights = [row + 0.27 * (1 - n) for row in range(len(ranked))]
        axes.barh(heights, [found[s]["thirds"][n] for s in ranked], 0.27, label=name, color=colour)
    axes.set_yticks(range(len(ranked)), ranked)
    axes.set(xlabel="recall, %", ylim=(-0.6, len(ranked) - 0.4))
    axes.legend(frameon=False)
    figure.savefig(out / f"{file}-classes.svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close("all")


def write(record: Path, docs: Path) -> None:
    """The page about a record, and its pictures beside it."""
    boards = sorted(map(read_json, record.glob("*-*.json")), key=lambda board: (board["data"], board["epochs"]))
    (docs / "leaderboard").mkdir(exist_ok=True)
    for board in boards:
        draw(board, docs / "leaderboard")
    parts = [line for board in boards for line in table(board)]
    write_atomic(docs / "leaderboard.md", "\n".join([PAGE.format(record=record.name), *parts]).rstrip() + "\n")
