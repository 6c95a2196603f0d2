"""Several finished runs side by side, as a page, Markdown or CSV. Reads files only; needs no torch."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from glmc import report
from glmc.data.cells import CsvWriter
from glmc.errors import UserError
from glmc.metrics import GROUPS, MAIN, METRICS, doubts
from glmc.report import overlays, significance
from glmc.report.drawing import draw
from glmc.report.entries import Entry, differing, find, gather, refuse_other_tests
from glmc.report.entries import remarks as remarks_on
from glmc.report.finished import read
from glmc.report.page import number, render
from glmc.report.significance import LEVEL, Gap
from glmc.screen import Screen

# ----------------------------------------------------------------------------------------------------- significance


def gap(a: Entry, b: Entry, metric: str) -> Gap | None:
    """How far B is from A, by the strongest evidence there is: seeds, test images, classes; None without any."""
    if metric not in a.scores or metric not in b.scores:
        return None
    grouped = metric in GROUPS
    if grouped and (not np.array_equal(a.first.counts, b.first.counts) or a.first.few != b.first.few):
        return None
    if len(a.runs) > 1 and len(b.runs) > 1:
        values = [[run.result.last[metric] for run in entry.runs if metric in run.result.last] for entry in (a, b)]
        return significance.over_seeds(*values)
    one, other = a.first.predictions, b.first.predictions
    inside = a.first.group == GROUPS.index(metric) if grouped else np.ones(len(a.first.classes), dtype=np.bool_)
    if one is not None and other is not None:
        kept = inside[one.true]
        rights = [(each.predicted == each.true)[kept] for each in (one, other)]
        return significance.over_images(rights[0], rights[1], None if metric == "top1" else one.true[kept])
    return None if metric == "top1" else significance.over_classes(a.first.recall[inside], b.first.recall[inside])


Evidence = Callable[[Entry, Entry, str], Gap | None]  # two entries and a metric -> how far the second is from the first


def verdicts(entries: Sequence[Entry], by: str = "top1", evidence: Evidence = gap) -> list[dict[str, Any]]:
    """Each entry against the first: for each metric gap, interval and a plain word; and sentences about metric `by`.

    p-values are adjusted for the number of entries compared with the first (Holm).
    """
    first = entries[0]
    gaps = {metric: [evidence(first, entry, metric) for entry in entries[1:]] for metric in MAIN}
    against: list[dict[str, Any]] = [
        {"name": f"{entry.letter} against {first.letter}", "rows": []} for entry in entries[1:]
    ]
    for metric, found in gaps.items():
        adjusted = iter(significance.holm([each.p for each in found if each is not None]))
        for place, (entry, each) in enumerate(zip(entries[1:], found, strict=True)):
            p = None if each is None else next(adjusted)
            if metric == by:
                against[place]["sentences"] = sentences(first, entry, each, p, by)
            if each is not None and p is not None:
                sure = certain(each, p)
                word = ("higher" if each.points > 0 else "lower") if sure else "within noise"
                row = {"metric": METRICS[metric].word, "gap": signed(each.points), "word": word, "sure": sure}
                row |= {"images": cell(entry, metric)["images"]}
                row |= {"interval": f"{signed(each.low)} to {signed(each.high)}", "chance": significance.chance(p)}
                against[place]["rows"].append(row)
            elif len(first.runs) > 1 and len(entry.runs) > 1 and metric in first.scores and metric in entry.scores:
                points = signed(entry.scores[metric]["mean"] - first.scores[metric]["mean"])
                row = {"metric": METRICS[metric].word, "gap": points, "word": "no spread over the seeds", "sure": False}
                row |= {"images": cell(entry, metric)["images"], "interval": "–", "chance": "–"}
                against[place]["rows"].append(row)
    return against


def certain(found: Gap, p: float) -> bool:
    """Whether the adjusted p-value is small, and the interval leaves out zero."""
    return p < LEVEL and (found.low > 0 or found.high < 0)


def sentences(first: Entry, entry: Entry, found: Gap | None, p: float | None, by: str = "top1") -> list[str]:
    """What can be said of a metric of two entries, in words."""
    a, b, what = first.letter, entry.letter, METRICS[by].word
    if found is None or p is None:
        points = entry.scores[by]["mean"] - first.scores[by]["mean"]
        several = len(entry.runs) > 1 and len(first.runs) > 1
        why = "neither varies over its seeds" if several else "there are too few trainings, and no predictions.csv"
        return [
            f"{b} ends {signed(points)} points from {a} in {what}.",
            f"Whether that is noise cannot be told ({why}): train both with several seeds, e.g. --seeds 0,1,2,3,4.",
        ]
    seeds = f"{a} with seed {first.first.result.seed}, {b} with seed {entry.first.result.seed}"
    if found.points == 0 and found.p == 1:
        return [f"{a} and {b} have equally many test images right ({seeds}; {found.how}): no difference."]
    measured = f"95 % interval {signed(found.low)} to {signed(found.high)}; {found.how}"
    small = f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"
    rare = f"a gap this large would come by chance in {significance.chance(p)} ({small})"
    side = f"{number(abs(found.points))} points {'higher' if found.points > 0 else 'lower'} in {what}"
    if certain(found, p):
        text = f"{b} is better than {a}" if found.points > 0 else f"{b} is worse than {a}"
        text += f": {side} ({measured})."
    else:
        text = f"The difference between {b} and {a} cannot be told from noise: {b} is {side} ({measured})."
    lines = [text, f"If there were no difference, {rare}."]
    if max(len(first.runs), len(entry.runs)) > 1 and "images" in found.how:
        apart = signed(entry.scores[by]["mean"] - first.scores[by]["mean"])
        alone = f"One run of each is compared image by image ({seeds}); the means of all runs are {apart} points apart."
        lines.insert(0, alone)
    if "images" in found.how:
        lines.append(
            f"This is about two trained networks ({seeds}); other seeds may reverse it. "
            "To compare the recipes, train both with several seeds, e.g. --seeds 0,1,2,3,4."
        )
    elif min(len(first.runs), len(entry.runs)) < 3:
        lines.append("Two seeds tell little about the spread; five are better.")
    return lines


def signed(value: float) -> str:
    """1.25 -> "+1.2", with a true minus sign."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


# ---------------------------------------------------------------------------------------------------------- writing


def write(paths: Sequence[Path], out: Path | None, screen: Screen) -> Path:
    """The report of one run, or the comparison of several.

    Args:
        paths: folders of finished runs, or of several of them (seeds, a sweep).
        out: .html, .md or .csv; None: report.html in the one folder named, comparison.html here for several.
        screen: shows the progress.

    Returns:
        The file written.

    Raises:
        UserError: a folder holds no finished run, the runs do not belong together, or the file cannot be written.
    """
    kind = ".html" if out is None else out.suffix.lower()
    if kind not in (".html", ".md", ".csv"):
        raise UserError(f"--out {out}: give a file that ends in .html, .md or .csv")
    folders, remarks = find(paths)
    if len(folders) == 1 and kind == ".html":
        return report.write(folders[0], out)
    target = out or (paths[0] / "report.html" if len(paths) == 1 else Path("comparison.html"))
    runs = []
    with screen.bar("reading runs", len(folders)) as bar:
        for done, run in enumerate(folders, 1):
            runs.append(read(run))
            bar.to(done)
    entries = gather(runs)
    refuse_other_tests(entries)
    remarks += remarks_on(entries) + list(filter(None, map(doubt_of, entries)))
    page = as_csv(entries) if kind == ".csv" else (html if kind == ".html" else markdown)(entries, remarks)
    try:
        target.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"--out {target}: cannot be written ({error.strerror}); name another file") from None
    return target


def figures(entries: Sequence[Entry]) -> dict[str, Any]:
    """Name -> inline SVG."""
    shown = {
        name: (partial(function, entries), sizes(len(entries))) for name, (function, sizes) in overlays.FIGURES.items()
    }
    return draw(shown)


SPREAD = "± is the sample standard deviation over the seeds, two ends are the 95 % interval (Wilson) of a single run"


def html(
    entries: Sequence[Entry],
    remarks: Sequence[str],
    bench: Mapping[str, Any] | None = None,
    by: str = "top1",
    evidence: Evidence = gap,
) -> str:
    """The page; `bench`: what `report.benched` puts at its top; `by`: the metric of its sentences; see `verdicts`."""
    metrics = [name for name in METRICS if any(name in entry.scores for entry in entries)]
    words = {
        "entries": entries,
        "metrics": {name: METRICS[name].title.partition(",")[0].replace("-", "\u2011") for name in metrics},
        "cells": [{name: cell(entry, name) for name in metrics} for entry in entries],
        "others": [others(entry) for entry in entries],
        "commands": [[report.command(run) for run in entry.runs] for entry in entries],
        "remarks": remarks,
        "bench": bench,
        "spread": SPREAD,
        "verdicts": verdicts(entries, by, evidence),
        "figures": figures(entries),
        "differing": {name: [shown(value) for value in values] for name, values in differing(entries).items()},
        "groups": report.group_words(entries[0].first),
        "same_counts": all(np.array_equal(entry.first.counts, entries[0].first.counts) for entry in entries),
        "overlaid": overlays.MOST,
    }
    return render("compare.html", words)


def shown(value: Any) -> str:
    """A recipe value as YAML has it on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def cell(entry: Entry, metric: str) -> dict[str, str]:
    """One metric as text: mean, its deviation over the seeds or a single run's 95 % interval, test images of a group.

    A mean over seeds has a digit more than a single run.
    """
    score, digits = entry.scores.get(metric, {}), METRICS[metric].digits + (len(entry.runs) > 1)
    sure = entry.sure.get(metric) if score else None
    spread = "± " + number(score["sd"], digits) if "sd" in score else sure.text if sure else ""
    images = f"{sure.images:,} image{'s' if sure.images > 1 else ''}" if sure and metric in GROUPS else ""
    return {"mean": number(score.get("mean"), digits), "spread": spread, "images": images}


def doubt_of(entry: Entry) -> str:
    """A sentence on the accuracies of an entry that rest on too few test images; empty where there are none."""
    told = doubts({name: score["mean"] for name, score in entry.scores.items()}, entry.sure)
    return told and f"{entry.letter}: {told}"


def others(entry: Entry) -> dict[str, str]:
    """Mean top-1 of what is no headline: flip TTA, best on test."""
    means = {}
    for name in ("flip_tta", "best_on_test"):
        values = [scores["top1"] for run in entry.runs if (scores := getattr(run.result, name))]
        means[name] = number(float(np.mean(values))) if values else "–"
    return means


def markdown(entries: Sequence[Entry], remarks: Sequence[str]) -> str:
    """A table with the network and its parameters beside every accuracy, and what can be said of the gaps."""
    metrics = [name for name in METRICS if any(name in entry.scores for entry in entries)]
    heads = ["", "run", "network", "parameters", "seeds", *[METRICS[name].title for name in metrics]]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for entry in entries:
        result = entry.first.result
        cells = [in_markdown(**cell(entry, name)) for name in metrics]
        head = [entry.letter, entry.label, result.backbone, f"{result.parameters:,}", str(len(entry.runs))]
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in head + cells) + " |")
    lines += ["", f"Last epoch; {SPREAD}.", *[f"\n{each}" for each in remarks]]
    for verdict in verdicts(entries):
        lines += ["", f"**{verdict['name']}.** " + " ".join(verdict["sentences"]), ""]
        lines += ["| | gap, points | 95 % interval | |", "|---|---|---|---|"]
        for row in verdict["rows"]:
            metric = ", ".join(filter(None, (row["metric"], row["images"])))
            lines.append(f"| {metric} | {row['gap']} | {row['interval']} | {row['word']} |")
    return "\n".join(lines) + "\n"


def in_markdown(mean: str, spread: str, images: str) -> str:
    """A cell of the table: "90.00 ± 1.00", "47.3 (31.2–63.9) of 40 images"."""
    told = spread if not spread or spread.startswith("±") else f"({spread})"
    return " ".join(filter(None, (mean, told, images and f"of {images}")))


def as_csv(entries: Sequence[Entry]) -> str:
    """A line for each entry, every metric of its last epoch in full."""
    rows = []
    for entry in entries:
        result = entry.first.result
        row: dict[str, Any] = {"entry": entry.letter, "recipe": result.recipe, "method": result.method}
        row |= {"network": result.backbone, "parameters": result.parameters, "epochs": result.epochs}
        row |= {"seeds": " ".join(str(run.result.seed) for run in entry.runs), **report.in_one_row(entry.scores)}
        rows.append(row | {"folders": " ".join(str(run.folder) for run in entry.runs)})
    text = io.StringIO()
    table, keys = CsvWriter(text), list(dict.fromkeys(key for row in rows for key in row))
    table.writerow(keys)
    table.writerows([row.get(key, "") for key in keys] for row in rows)
    return text.getvalue()
