"""`glmc sweep`: the runs of a grid of recipe values and seeds, resumed where they stopped, as one table."""

import csv
import hashlib
import io
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glmc.data.cells import CsvWriter
from glmc.errors import NonFiniteLoss, UserError
from glmc.metrics import GROUPS, MAIN, METRICS
from glmc.recipe import Recipe, essence
from glmc.runs import folder, result
from glmc.runs.files import write_atomic
from glmc.runs.shapes import read_json
from glmc.screen import Screen
from glmc.train.run import resume, train


def split_values(text: str) -> list[str]:
    """What stands between the commas of "a,b,{c: 1, d: 2}" that are not inside brackets or quotes."""
    values, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        depth += (letter in "[{") - (letter in "]}") if not quote else 0
        if letter == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]


def points(assignments: Sequence[str]) -> list[tuple[str, ...]]:
    """The points of a grid: every combination of the values of each "key=v1,v2,...", as assignments.

    Raises:
        UserError: a value is empty, or stands twice.
    """
    axes = []
    for assignment in assignments:
        key, _, text = assignment.partition("=")
        values = split_values(text)
        if "" in values or len(set(values)) < len(values):
            raise UserError(f"{assignment}: give different values between commas, none of them empty")
        axes.append([f"{key}={value}" for value in values])
    return list(itertools.product(*axes))


class Point(NamedTuple):
    """One row of a sweep's table."""

    label: str  # what sets it apart from the others
    recipe: Recipe


def lay_out(bases: Sequence[Recipe], assignments: Sequence[str]) -> list[Point]:
    """Every recipe at every point of the grid; "key=value" with a single value holds for all of them.

    Raises:
        UserError: an assignment does not fit a recipe.
    """
    axes = [assignment for assignment in assignments if len(split_values(assignment.partition("=")[2])) > 1]
    fixed = [assignment for assignment in assignments if assignment not in axes]
    laid = []
    for base in bases:
        for values in points(axes):
            label = " ".join([*([base.name] if len(bases) > 1 else []), *values])
            laid.append(Point(label or "as it is", base.override(*fixed, *values)))
    if len({point.label for point in laid}) < len(laid):
        raise UserError("two recipes of the sweep have the same name; give one of them another `name:`")
    return laid


def sweep(
    bases: Sequence[Recipe],
    assignments: Sequence[str],
    seeds: Sequence[int],
    out: Path | None,
    *,
    command: str,
    quiet: bool,
    since: float,
) -> Path:
    """Run a grid and write its table and pictures; the same command again goes on where it stopped.

    Args:
        bases: recipes, each of which is run at every point.
        assignments: "key=v1,v2,..." each, an axis of the grid; "key=value" holds for all runs.
        seeds: of each point.
        out: folder of the sweep; none takes runs/sweep-<recipe>. Runs that are there are kept.
        command, quiet, since: as for `run.train`.

    Returns:
        The folder: sweep.csv with every metric, sweep.md, sweep.png, confusion.png, and a run folder for each run.

    Raises:
        UserError: an assignment does not fit a recipe, or the folder holds another sweep.
    """
    laid = lay_out(bases, assignments)
    if any(point.recipe.then is not None for point in laid):
        raise UserError("a sweep trains single stages: set then=null, and carry second stages out with glmc finetune")
    target = claim(out or default_folder(bases, assignments), laid)
    screen, failed = Screen(quiet=quiet), []
    runs = [[target / name_of(point.label, seed) for seed in seeds] for point in laid]
    others = list(itertools.chain(*runs))  # on the same images, as far as the points draw them alike
    for number, (point, places) in enumerate(zip(laid, runs, strict=True), 1):
        for seed, run in zip(seeds, places, strict=True):
            if result.finished(run):
                continue
            screen.say(f"point {number} of {len(laid)}: {point.label}, seed {seed}")
            try:
                if (run / "recipe.yaml").exists():
                    resume(run, command=command, quiet=quiet, since=since, more=True)
                else:
                    seeded = point.recipe.override(f"train.seed={seed}", "expect=null", "published=null")
                    train(seeded, run, command=command, quiet=quiet, since=since, beside=others, more=True)
            except NonFiniteLoss as error:
                screen.say(f"{run}: {error}")
                failed.append(run)
            since = time.perf_counter()
    done = [(point, [run for run in places if run not in failed]) for point, places in zip(laid, runs, strict=True)]
    done = [(point, places) for point, places in done if places]
    if done:
        from glmc.report.ranking import rank  # matplotlib: not worth a second at the start

        rows = [summary(point.label, places) for point, places in done]
        draw(target, rows)
        rows, ranked = rank(rows)
        write_tables(target, rows, ranked)
        draw_confusions(target, {point.label: places[0] for point, places in done})
        several = "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
        title = f"{len(laid)} points, {several}, last epoch, test images; {ranked}"
        screen.table(title, {f"{row['rank']}  {row['point']}": row for row in rows})
        screen.say(f"{target / 'sweep.md'}")
    if failed:
        raise NonFiniteLoss(f"{len(failed)} runs of the sweep became non-finite and are not in its table: {failed[0]}")
    return target


def default_folder(bases: Sequence[Recipe], assignments: Sequence[str]) -> Path:
    """Where a sweep goes without --out: a folder of its first recipe and its axes."""
    axes = [assignment.partition("=")[0].rpartition(".")[2] for assignment in assignments]
    return folder.DEFAULT / "-".join(["sweep", bases[0].name.replace("/", "-"), *axes])


def claim(target: Path, laid: Sequence[Point]) -> Path:
    """The folder of a sweep, made now or by the same sweep earlier.

    Raises:
        UserError: it holds something else.
    """
    target.mkdir(parents=True, exist_ok=True)
    known = target / "sweep.json"
    plan = json.dumps(
        {point.label: {**essence(point.recipe.model_dump()), "parent": point.recipe.parent} for point in laid}, indent=1
    )
    if known.exists() and read_json(dict[str, Any], target, known.name, "name another folder") != json.loads(plan):
        raise UserError(f"--out {target}: another sweep lies there; name another folder")
    if not known.exists() and any(target.iterdir()):
        raise UserError(f"--out {target}: the folder is not empty and holds no sweep; name another one")
    write_atomic(known, plan + "\n")
    return target


def name_of(label: str, seed: int) -> str:
    """Folder of a run: point and seed, short enough and with nothing in it that a file system dislikes."""
    safe = "".join(letter if letter.isalnum() or letter in "=_.+" else "-" for letter in label)
    if len(safe) > 80 or safe != label.replace(" ", "-").replace("/", "-"):
        safe = f"{safe[:70]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    return f"{safe}_seed={seed}"


def summary(label: str, runs: Sequence[Path]) -> dict[str, Any]:
    """A row of the table: the point, what was trained, and mean and deviation of each metric over the seeds."""
    from glmc import report
    from glmc.report import ranking

    first = result.read(runs[0])
    head = {"point": label, "method": first.method, "backbone": first.backbone, "parameters": first.parameters}
    head |= {"seeds": len(runs), "validation": ranking.on_validation(runs)}
    return head | report.in_one_row(report.summary(runs))


def write_tables(target: Path, rows: Sequence[dict[str, Any]], ranked: str) -> None:
    """sweep.csv with every metric, sweep.md with those that people look at first and by what they are `ranked`."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    table = CsvWriter(text)
    table.writerow(keys)
    table.writerows([row.get(key, "") for key in keys] for row in rows)
    write_atomic(target / "sweep.csv", text.getvalue())
    shown = [key for key in MAIN if any(key in row for row in rows)]
    heads = ["rank", "point", "system", "network", "parameters", *(["validation"] if "validation" in keys else [])]
    heads += [METRICS[key].word for key in shown]
    lines = [f"{ranked[0].upper()}{ranked[1:]}.", "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [f"{row[key]:.2f}" + (f" ± {row[f'{key}_sd']:.2f}" if f"{key}_sd" in row else "") for key in shown]
        head = [str(row["rank"]), row["point"], row["method"], row["backbone"], f"{row['parameters']:,}"]
        head += [f"{row['validation']:.2f}"] if "validation" in row else []
        lines.append("| " + " | ".join(head + cells) + " |")
    write_atomic(target / "sweep.md", "\n".join(lines) + "\n")


def draw(target: Path, rows: Sequence[dict[str, Any]]) -> None:
    """sweep.png: top-1 and the groups of each point, with deviations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(5.0, 1.1 * len(rows) + 2), 3.6), layout="constrained")
    axes = figure.add_subplot()
    at = range(len(rows))
    for key, marker in zip(("top1", *GROUPS), "os^v", strict=True):
        places = [i for i in at if key in rows[i]]
        heights, spread = [rows[i][key] for i in places], [rows[i].get(f"{key}_sd", 0.0) for i in places]
        axes.errorbar(
            places, heights, spread, marker=marker, capsize=3, label=METRICS[key].word, lw=2 if key == "top1" else 1
        )
    axes.set_xticks(list(at), [row["point"].replace(" ", "\n") for row in rows], fontsize=7)
    axes.set_ylabel("accuracy on the test images, percent")
    axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.15))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target / "sweep.png", dpi=150)


def draw_confusions(target: Path, runs: Mapping[str, Path]) -> None:
    """confusion.png: the confusion matrix of each point (its first seed), true classes down, predicted across."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(runs) + 0.6, 3.0), layout="constrained")
    for axes, (point, run) in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs.items(), strict=True):
        with (run / "confusion.csv").open(newline="") as file:
            counts = np.array([row[1:] for row in list(csv.reader(file))[1:]], dtype=float)
        axes.imshow(counts / counts.sum(1, keepdims=True).clip(1), vmin=0, vmax=1, cmap="Blues")
        axes.set_title(point.replace(" ", "\n"), fontsize=7)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.savefig(target / "confusion.png", dpi=150)
