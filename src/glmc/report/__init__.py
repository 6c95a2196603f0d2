"""A finished run's folder -> `figures/*.png` and one self-contained `report.html`. Reads files only; needs no torch."""

import base64
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from glmc.errors import UserError
from glmc.metrics import GROUPS, MAIN, METRICS, doubts, group_rules, wilson
from glmc.report.evidence import confused, worst_of_tail
from glmc.report.figures import BLOCKS, NAMED, draw_all
from glmc.report.finished import Run, read
from glmc.report.page import number, parameters, render
from glmc.runs import result
from glmc.runs.files import write_atomic
from glmc.runs.result import Result

# -------------------------------------------------------------------------------------------------------- the page


def group_words(run: Run) -> dict[str, dict[str, str]]:
    """Group -> its rule, and its classes and test images in words; empty groups are absent."""
    sizes = np.bincount(run.group, minlength=len(GROUPS)).tolist()
    tested = np.bincount(run.group, run.confusion.sum(1), minlength=len(GROUPS)).astype(int).tolist()
    return {
        name: {
            "rule": f"{rule} training images",
            "size": f"{size} class{'es' if size > 1 else ''}, {images:,} test image{'s' if images != 1 else ''}",
        }
        for (name, rule), size, images in zip(group_rules(run.few).items(), sizes, tested, strict=True)
        if size
    }


class Column(NamedTuple):
    """A column of the headline table."""

    name: str
    note: str
    scores: Mapping[str, float]
    unfair: bool = False


def columns(run: Run) -> list[Column]:
    """The columns of the headline table that have scores. The last epoch comes first, whichever is better."""
    found, first = run.result, run.result.stage1
    if found.folds is not None:
        mean = {key: spread["mean"] for key, spread in found.folds.items()}
        deviation = {key: spread["sd"] for key, spread in found.folds.items() if "sd" in spread}
        return [
            Column("All images", "headline: each scored once, by a network that has not seen it", found.last),
            Column("Mean", f"of the {found.fold_number} folds, last epoch", mean),
            Column("Deviation", "between the folds", deviation),
        ]
    note = f"headline, epoch {found.epochs}" if run.epochs else f"headline, {found.stage2} without training"
    note = f"{note}, after the extension" if found.extended else note
    shown = [
        Column("Last epoch", note, found.last),
        Column("Flip TTA", "last epoch, with the mirror image", found.flip_tta or {}),
        Column("Five crops", "last epoch, mean of the logits", found.crops_tta or {}),
    ]
    if found.selected_on_val:
        note = f"epoch {found.selected_on_val['epoch']}"
        shown.append(Column("Selected on validation", note, found.selected_on_val))
    if first:
        which = "extension" if found.extended else "second stage" if found.stage == 2 else "last stage"
        note = f"{first.method or first.recipe}, last epoch, before the {which}"
        shown.append(Column("Before" if found.extended else f"Stage {found.stage - 1}", note, first.last or {}))
    if found.extended:
        shown.append(Column("After, the same images", "the test images of Before", found.extended.old))
        shown.append(Column("After, new images", "test images that came with the extension", found.extended.new))
    if found.best_on_test:
        note = f"epoch {found.best_on_test['epoch']}; selected on the test set: not a fair figure"
        shown.append(Column("Best on test", note, found.best_on_test, unfair=True))
    return [column for column in shown if column.scores]


def metric_rows(run: Run, table: Sequence[Column]) -> list[dict[str, Any]]:
    """One row per metric that any column has: label, meaning, the values as text, and the first one's interval."""
    holds, sure = group_words(run), run.sure
    return [
        {
            "key": key,
            "label": metric.title,
            "meaning": "{rule}, {size}".format(**holds[key]) if key in holds else metric.meaning,
            "values": [number(column.scores.get(key), metric.digits) for column in table],
            "interval": sure[key].text if key in sure else "",
        }
        for key, metric in METRICS.items()
        if any(key in column.scores for column in table)
    ]


def beside(run: Run) -> list[dict[str, str]]:
    """This run, our stored expectation and the published result, each with its network; only what is there."""
    found, expect, published = run.result, run.result.expect, run.result.published
    network = f"{found.backbone}, {parameters(found.parameters)} parameters with the heads{found.partly}"
    rows = [{"who": "This run", "top1": number(found.last.get("top1")), "network": network, "source": "last epoch"}]
    if expect:
        top1, network = f"{number(expect.top1)} ± {number(expect.sd)}", "that of the recipe as shipped"
        source = f"mean ± standard deviation of {expect.seeds} seeds, {expect.record}"
        rows.append({"who": "Ours, measured", "top1": top1, "network": network, "source": source})
    if published:
        top1, network = number(published.top1), published.network
        rows.append({"who": "Published", "top1": top1, "network": network, "source": published.source})
    return rows


def remarks(run: Run) -> list[str]:
    """Plain sentences on how this run compares with its expectation and the published result."""
    top1, expect, published, sentences = run.result.last.get("top1"), run.result.expect, run.result.published, []
    if expect and top1 is not None:
        gap = top1 - expect.top1
        side = "above" if gap >= 0 else "below"
        spread = f" ({number(abs(gap) / expect.sd)} standard deviations)" if expect.sd else ""
        sentences.append(f"This run ends {number(abs(gap))} points {side} the recipe's stored mean{spread}.")
    if published and published.network != run.result.backbone:
        text = f"The published figure belongs to another network ({published.network}, here {run.result.backbone})"
        sentences.append(f"{text}: the two accuracies are not a like-for-like comparison.")
    return sentences


def confused_pairs(run: Run, limit: int = 10) -> list[dict[str, Any]]:
    """The most frequent mistakes: true class, predicted class, images, share of the true class in percent, pictures."""
    seen = {(pair["true"], pair["predicted"]): pair for pair in run.examples["pairs"]}
    pairs = []
    for i, j in confused(run.confusion, limit):
        shown = seen.get((run.classes[i], run.classes[j]), {})
        pair: dict[str, Any] = {"true": class_facts(run, i), "predicted": class_facts(run, j)}
        pair |= {"images": int(run.confusion[i, j]), "share": number(100 * float(run.shares[i, j]))}
        pairs.append(pair | {split: pictures(run, shown.get(split, ())) for split in ("test", "train")})
    return pairs


def tail_classes(run: Run) -> list[dict[str, Any]]:
    """The worst of the rarer half of the classes, with some of their training images where the run left these."""
    seen = {entry["class"]: entry["train"] for entry in run.examples["tail"]}
    return [
        class_facts(run, c) | {"pictures": pictures(run, seen.get(run.classes[c], ()))}
        for c in worst_of_tail(run.confusion, run.counts, 6)
    ]


def pictures(run: Run, names: Sequence[str]) -> list[dict[str, Any]]:
    """Thumbnails as data of the page itself; `exact` ones are shown with their pixels, not smoothed."""
    kinds = {".png": "image/png", ".jpg": "image/jpeg"}
    shown = []
    for name in names:
        file = run.folder / "examples" / Path(name).name
        data = f"data:{kinds[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
        told = run.examples.get("files", {}).get(name, file.stem.replace("-", " image, row "))
        shown.append({"data": data, "exact": file.suffix == ".png", "name": told})
    return shown


def class_facts(run: Run, index: int) -> dict[str, Any]:
    """Name, training images, group, test images, recall with interval, precision and commonest mistake of one class."""
    row, hits, tested = run.result.per_class[index], int(run.confusion[index, index]), int(run.confusion[index].sum())
    wrong = run.confusion[index].copy()
    wrong[index] = 0
    return {
        "name": run.classes[index],
        "train": int(run.counts[index]),
        "group": GROUPS[run.group[index]],
        "test": tested,
        "recall": number(row.get("recall")),
        "interval": "{:.0f}–{:.0f}".format(*wilson(hits / tested, tested)) if tested else "",
        "precision": number(row.get("precision")),
        "taken_for": run.classes[int(wrong.argmax())] if wrong.any() else "–",
    }


def worst_classes(run: Run) -> list[dict[str, Any]]:
    """The classes of lowest recall, at most ten and at most half of all; classes without test images left out."""
    worst = np.argsort(run.recall, kind="stable")[: int(np.isfinite(run.recall).sum())]
    return [class_facts(run, int(c)) for c in worst[: min(10, max(len(run.classes) // 2, 1))]]


def trust(run: Run) -> list[dict[str, str]]:
    """Mean confidence beside accuracy, of all test images and of those of each group; none without predictions.csv."""
    if run.predictions is None:
        return []
    right, group = run.predictions.predicted == run.predictions.true, run.group[run.predictions.true]
    members = [("all images", np.ones(len(right), dtype=np.bool_))]
    members += [(name, group == place) for place, name in enumerate(GROUPS)]
    rows = []
    for name, inside in members:
        if inside.any():
            sure, score = 100 * float(run.predictions.confidence[inside].mean()), 100 * float(right[inside].mean())
            low, high = wilson(score / 100, int(inside.sum()))
            word = "about right, as far as these images tell" if low <= sure <= high else "too sure"
            word = "not sure enough" if sure < low else word
            rows.append({"name": name, "sure": number(sure), "right": number(score), "word": word})
    return rows


def answered(run: Run) -> list[dict[str, Any]]:
    """What thresholds for *unknown*, from held-out images, do on the test images, in percent; none if not measured."""
    rows = []
    for each in run.measured.unknown if run.measured is not None else ():
        kind, share = each["asked"].split("=")
        percent = f"{100 * float(share):g} %"
        rows.append(
            {
                "asked": f"at most {percent} wrong" if kind == "error" else f"{percent} answered",
                "option": f"--unknown {each['asked']}",
                "answered": number(100 * each["answered"]),
                "wrong": number(100 * each["wrong"] if each["images"] else None),
                "interval": "{:.1f}–{:.1f}".format(*wilson(each["wrong"], each["images"])) if each["images"] else "",
                "alike": number(100 * each["alike"]["wrong"] if each["alike"]["answered"] else None),
                "alike_answered": number(100 * each["alike"]["answered"]),
                "promised": "≤ " + number(100 * each["promised"]) if "promised" in each else "–",
                "dot": kind == "error" and each["images"] > 0,  # see `figures.draw_risk`
            }
        )
    return rows


def in_sets(run: Run, share: float = 0.9) -> list[dict[str, str]]:
    """By group, how often sets for `share` hold the true class, and their mean size; none if not measured."""
    groups = [each["groups"] for each in (run.measured.sets if run.measured else ()) if each["asked"] == share]
    return [
        {
            "name": "all images" if name == "all" else name,
            "covered": number(100 * found["covered"]),
            "interval": "{:.1f}–{:.1f}".format(*wilson(found["covered"], found["images"])),
            "size": number(found["size"]),
        }
        for rows in groups
        for name, found in rows.items()
    ]


def errors_upwards(run: Run) -> str | None:
    """Percent of the mistakes that name a class with more training images than the true one; None without any."""
    wrong = run.confusion.copy()
    np.fill_diagonal(wrong, 0)
    upwards = wrong[run.counts[:, None] < run.counts[None, :]].sum()
    return number(100 * float(upwards) / float(wrong.sum()), 0) if wrong.any() else None


def command(run: Run) -> str:
    """The command as it was typed; from the complete recipe where the environment does not hold it."""
    typed = run.environment.get("command")
    if isinstance(typed, list):
        return shlex.join(map(str, typed))
    return str(typed) if typed else again(run)


def again(run: Run) -> str:
    """The command that trains the complete recipe of the folder."""
    return shlex.join(["glmc", "train", str(run.folder / "recipe.yaml")])


def write(run: Path, target: Path | None = None) -> Path:
    """Writes figures/*.png and report.html into a finished run's folder; returns the path of the page.

    The page holds its figures, needs no network and no script, and follows the reader's light or dark setting.

    Args:
        run: the folder.
        target: file of the page; None: report.html in the folder.

    Raises:
        UserError: a file of the run is missing or damaged, or the folder is not writable.
    """
    facts, target = read(run), target or run / "report.html"
    table = columns(facts)
    try:
        drawn = draw_all(facts)
        words: dict[str, Any] = {
            "run": facts,
            "result": facts.result,
            "groups": group_words(facts),
            "columns": table,
            "tiles": {key: METRICS[key].heading for key in MAIN[1:] if key in facts.result.last},
            "metrics": metric_rows(facts, table),
            "beside": beside(facts),
            "sure": facts.sure,
            "doubt": doubts(facts.result.last, facts.sure),
            "remarks": remarks(facts),
            "figures": drawn,
            "named": len(facts.classes) <= NAMED,
            "block": math.ceil(len(facts.classes) / BLOCKS),
            "pairs": confused_pairs(facts),
            "tail": tail_classes(facts),
            "worst": worst_classes(facts),
            "trust": trust(facts),
            "answered": answered(facts),
            "in_sets": in_sets(facts),
            "everyone": [class_facts(facts, int(c)) for c in facts.order],
            "upwards": errors_upwards(facts),
            "command": command(facts),
            "again": again(facts),
            "labels": target.parent == run and (run / "labels.html").is_file(),  # of glmc labels
        }
        write_atomic(target, render("report.html", words).encode(errors="replace"))
    except OSError as error:
        raise UserError(
            f"The report cannot be written into {target.parent} ({error.strerror}); make room or allow writing."
        ) from None
    return target


# ---------------------------------------------------------------------------------------------------- several runs


def summary(runs: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Mean and sample standard deviation (n - 1) of the last epoch's scores over runs that differ in the seed only.

    Returns:
        metric -> {"mean", "sd", "n"} in the order of result.json; n counts the runs that have the metric; "sd" is
        absent for n = 1.

    Raises:
        UserError: no run, a seed twice, or runs of different recipes, networks, lengths or data.
    """
    if not runs:
        raise UserError("A summary needs at least one run folder.")
    results = [result.read(run) for run in runs]
    for run, found in zip(runs, results, strict=True):
        for key in ("recipe", "method", "backbone", "parameters", "epochs", "counts"):
            if getattr(found, key) != getattr(results[0], key):
                raise UserError(
                    f"{runs[0]} and {run} differ in `{key}`: a mean needs runs that differ in the seed only."
                )
    seeds = [found.seed for found in results]
    for i, seed in enumerate(seeds):
        if seed in seeds[:i]:
            raise UserError(
                f"{runs[seeds.index(seed)]} and {runs[i]} have the same seed {seed}: leave one of them out."
            )
    return spread_of(results)


def spread_of(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Mean and sample standard deviation of each metric of the last epoch, as `summary` gives them."""
    spread: dict[str, dict[str, float]] = {}
    for key in dict.fromkeys(key for found in results for key in found.last):
        values = [found.last[key] for found in results if key in found.last]
        spread[key] = {"mean": statistics.fmean(values), "n": len(values)}
        if len(values) > 1:
            spread[key]["sd"] = statistics.stdev(values)
    return spread


def in_one_row(spread: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """What `summary` gives as a row of a table: {"top1": mean, "top1_sd": deviation, ...}."""
    ends = {"": "mean", "_sd": "sd"}
    return {key + end: value[name] for key, value in spread.items() for end, name in ends.items() if name in value}
