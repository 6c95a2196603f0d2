"""A finished run's folder -> `figures/*.png` and one self-contained `report.html`. Reads files only; needs no torch."""

import csv
import io
import json
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from numpy.typing import NDArray

from glmc.errors import UserError
from glmc.figures import BLOCKS, GROUPS, NAMED, PALETTE, Run, draw

# Metric -> (label, digits, explanation); the groups' explanation depends on the rule and is made by `group_words`.
METRICS = {
    "top1": ("Top-1, %", 1, "right answers among all test images"),
    "top5": ("Top-5, %", 1, "the right class is among the first five"),
    "balanced": ("Balanced, %", 1, "mean recall over the classes"),
    "macro_f1": ("Macro F1, %", 1, "mean F1 over the classes"),
    "worst_class": ("Worst class, %", 1, "the lowest recall of any class"),
    "many": ("Many, %", 1, ""),
    "medium": ("Medium, %", 1, ""),
    "few": ("Few, %", 1, ""),
    "ece": ("ECE, %", 1, "expected calibration error, 15 bins; lower is better"),
    "nll": ("NLL, nats", 3, "negative log-likelihood; lower is better"),
}


# ---------------------------------------------------------------------------------------------------------- reading


def read(run: Path) -> Run:
    """The facts of a finished run.

    Raises:
        UserError: a file is missing or damaged, or the files belong to different runs.
    """
    recipe = text_of(run, "recipe.yaml")
    try:
        settings = dict(yaml.safe_load(recipe) or {})
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise UserError(f"{run / 'recipe.yaml'} is not a recipe ({error}); train again into an empty folder.") from None
    result = json_of(run, "result.json", text_of(run, "result.json"))
    lines = [line for line in text_of(run, "metrics.jsonl").split("\n") if line.strip()]
    classes, confusion = confusion_of(run)
    if len(result["counts"]) != len(classes):
        raise UserError(
            f"{run / 'confusion.csv'} has {len(classes)} classes but result.json has {len(result['counts'])}: "
            "the files belong to different runs; train again into an empty folder."
        )
    return Run(
        folder=run,
        recipe=recipe,
        few="<=20" if (settings.get("eval") or {}).get("few") == "<=20" else "<20",
        environment=json_of(run, "environment.json", text_of(run, "environment.json")),
        epochs=[json_of(run, f"metrics.jsonl line {i}", line) for i, line in enumerate(lines, 1)],
        result=result,
        classes=classes,
        counts=np.array(result["counts"], dtype=np.int64),
        confusion=confusion,
    )


def text_of(run: Path, name: str) -> str:
    """The text of one file of the run folder; UserError where it is absent."""
    try:
        return (run / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{run} is not the folder of a finished run: it has no {name}; finish it with `glmc train --resume {run}`."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{run / name} cannot be read ({error}); train again into an empty folder.") from None


def json_of(run: Path, name: str, text: str) -> dict[str, Any]:
    """One JSON object. A value that is not a finite number counts as absent, as everywhere in the run folder."""
    try:
        return dict(json.loads(text, parse_constant=lambda _: None))
    except (ValueError, TypeError) as error:
        raise UserError(f"{run / name} is not a JSON object ({error}); train again into an empty folder.") from None


def confusion_of(run: Path) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names in label order and int64 [C, C] of confusion.csv."""
    header, *rows = list(csv.reader(io.StringIO(text_of(run, "confusion.csv"), newline=""))) or [[]]
    classes = tuple(header[1:])
    try:
        matrix = np.array([row[1:] for row in rows if row], dtype=np.int64)
    except ValueError as error:
        raise UserError(f"{run / 'confusion.csv'} does not hold whole numbers in equal rows ({error}).") from None
    if matrix.shape != (len(classes), len(classes)):
        raise UserError(f"{run / 'confusion.csv'} is not square: {len(classes)} columns, {len(matrix)} rows.")
    return classes, matrix


# -------------------------------------------------------------------------------------------------------- the page


def group_words(run: Run) -> dict[str, dict[str, str]]:
    """Group -> its rule and size in words; empty groups are absent."""
    rules = ("> 100", "20–100", "< 20") if run.few == "<20" else ("> 100", "21–100", "≤ 20")
    sizes = np.bincount(run.group, minlength=len(GROUPS)).tolist()
    return {
        name: {"rule": f"n {rule}", "size": f"{size} class{'es' if size > 1 else ''}"}
        for name, rule, size in zip(GROUPS, rules, sizes, strict=True)
        if size
    }


def columns(run: Run) -> list[dict[str, Any]]:
    """The columns of the headline table: name, note, scores. The last epoch comes first, whoever is better."""
    result, last = run.result, run.result["last"]
    answer = [{"name": "Last epoch", "note": f"headline, epoch {result['epochs']}", "scores": last, "unfair": False}]
    if result.get("flip_tta"):
        note = "last epoch, with the mirror image"
        answer.append({"name": "Flip TTA", "note": note, "scores": result["flip_tta"], "unfair": False})
    if result.get("selected_on_val"):
        note = f"epoch {result['selected_on_val'].get('epoch')}"
        scores = result["selected_on_val"]
        answer.append({"name": "Selected on validation", "note": note, "scores": scores, "unfair": False})
    if result.get("best_on_test"):
        note = f"epoch {result['best_on_test'].get('epoch')}; selected on the test set: not a fair figure"
        answer.append({"name": "Best on test", "note": note, "scores": result["best_on_test"], "unfair": True})
    return answer


def metric_rows(run: Run, table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per metric that any column has: label, meaning and the values as text."""
    holds = group_words(run)
    return [
        {
            "key": key,
            "label": label,
            "meaning": "{rule}, {size}".format(**holds[key]) if key in holds else meaning,
            "values": [number(column["scores"].get(key), digits) for column in table],
        }
        for key, (label, digits, meaning) in METRICS.items()
        if any(column["scores"].get(key) is not None for column in table)
    ]


def beside(run: Run) -> list[dict[str, str]]:
    """This run, our stored expectation and the published figure, each with its network; only what is there."""
    result, rows = run.result, []
    network = f"{result['backbone']}, {parameters(result['parameters'])} parameters with the heads"
    rows.append(
        {"who": "This run", "top1": number(result["last"].get("top1")), "network": network, "source": "last epoch"}
    )
    if expect := result.get("expect"):
        spread = "" if expect.get("sd") is None else f" ± {number(expect['sd'])}"
        source = f"mean ± standard deviation of {expect.get('seeds')} seeds, {expect.get('record')}"
        network = "that of the recipe as shipped"
        rows.append(
            {"who": "Ours, measured", "top1": number(expect["top1"]) + spread, "network": network, "source": source}
        )
    if published := result.get("published"):
        network, source = str(published.get("network")), str(published.get("source"))
        rows.append({"who": "Published", "top1": number(published["top1"]), "network": network, "source": source})
    return rows


def remarks(run: Run) -> list[str]:
    """Plain sentences on how this run compares with its expectation and the published figure."""
    result, sentences = run.result, []
    top1, expect, published = result["last"].get("top1"), result.get("expect"), result.get("published")
    if expect and top1 is not None:
        gap = top1 - expect["top1"]
        side = "above" if gap >= 0 else "below"
        spread = f" ({number(abs(gap) / expect['sd'])} standard deviations)" if expect.get("sd") else ""
        sentences.append(f"This run ends {number(abs(gap))} points {side} the recipe's stored mean{spread}.")
    if published and published.get("network") != result["backbone"]:
        text = (
            f"The published figure belongs to another network ({published.get('network')}, here {result['backbone']})"
        )
        sentences.append(f"{text}: the two accuracies are not a like-for-like comparison.")
    return sentences


def confused_pairs(run: Run, limit: int = 10) -> list[dict[str, Any]]:
    """The most frequent mistakes: true class, predicted class, images, share of the true class in percent."""
    wrong = run.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [
        {
            "true": class_facts(run, int(i)),
            "predicted": class_facts(run, int(j)),
            "images": int(wrong[i, j]),
            "share": number(100 * float(run.shares[i, j])),
        }
        for i, j in pairs
        if wrong[i, j] > 0
    ]


def class_facts(run: Run, index: int) -> dict[str, Any]:
    """Name, training images, group, test images, recall, precision and the commonest mistake of one class."""
    row = run.result["per_class"][index]
    wrong = run.confusion[index].copy()
    wrong[index] = 0
    return {
        "name": run.classes[index],
        "train": int(run.counts[index]),
        "group": GROUPS[run.group[index]],
        "test": int(run.confusion[index].sum()),
        "recall": number(row.get("recall")),
        "precision": number(row.get("precision")),
        "taken_for": run.classes[int(wrong.argmax())] if wrong.any() else "–",
    }


def worst_classes(run: Run) -> list[dict[str, Any]]:
    """The classes of lowest recall, at most ten and at most half of all; classes without test images left out."""
    worst = np.argsort(run.recall, kind="stable")[: int(np.isfinite(run.recall).sum())]
    return [class_facts(run, int(c)) for c in worst[: min(10, max(len(run.classes) // 2, 1))]]


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
    return str(typed) if typed else "glmc train recipe.yaml"


def number(value: float | None, digits: int = 1) -> str:
    """A figure with a true minus sign; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def parameters(count: int) -> str:
    """466906 -> "0.47 M"."""
    return f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count:,}"


def duration(seconds: float | None) -> str:
    """3725.0 -> "1 h 02 min"; the two largest units only."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def write(run: Path) -> Path:
    """Writes figures/*.png and report.html into a finished run's folder; returns the path of report.html.

    The page holds its figures, needs no network and no script, and follows the reader's light or dark setting.

    Raises:
        UserError: a file of the run is missing or damaged, or the folder is not writable.
    """
    facts = read(run)
    table = columns(facts)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number, duration=duration, parameters=parameters)
    template = environment.from_string(files("glmc").joinpath("report.html").read_text(encoding="utf-8"))
    try:
        page = template.render(
            palette=PALETTE,
            run=facts,
            result=facts.result,
            groups=group_words(facts),
            columns=table,
            metrics=metric_rows(facts, table),
            beside=beside(facts),
            remarks=remarks(facts),
            figures=draw(facts),
            named=len(facts.classes) <= NAMED,
            block=math.ceil(len(facts.classes) / BLOCKS),
            pairs=confused_pairs(facts),
            worst=worst_classes(facts),
            everyone=[class_facts(facts, int(c)) for c in facts.order],
            upwards=errors_upwards(facts),
            command=command(facts),
        )
        target = run / "report.html"
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"The report cannot be written into {run} ({error.strerror}); make room or allow writing."
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
    results = [json_of(run, "result.json", text_of(run, "result.json")) for run in runs]
    for run, result in zip(runs, results, strict=True):
        for key in ("recipe", "method", "backbone", "parameters", "epochs", "counts"):
            if result[key] != results[0][key]:
                raise UserError(
                    f"{runs[0]} and {run} differ in `{key}`: a mean needs runs that differ in the seed only."
                )
    seeds = [result["seed"] for result in results]
    for i, seed in enumerate(seeds):
        if seed in seeds[:i]:
            raise UserError(
                f"{runs[seeds.index(seed)]} and {runs[i]} have the same seed {seed}: leave one of them out."
            )
    answer: dict[str, dict[str, float]] = {}
    for key in dict.fromkeys(key for result in results for key in result["last"]):
        values = [float(r["last"][key]) for r in results if r["last"].get(key) is not None]
        if values:
            answer[key] = {"mean": statistics.fmean(values), "n": len(values)}
            if len(values) > 1:
                answer[key]["sd"] = statistics.stdev(values)
    return answer
