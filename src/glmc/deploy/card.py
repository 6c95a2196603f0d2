"""The model card, README.md: what a network is, on what it was trained, how good it is, and where not to trust it."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np

from glmc.metrics import MAIN, METRICS, Few, group_rules, groups
from glmc.models import SMALL_IMAGE
from glmc.runs.result import Result

SCORES = {  # key of result.json -> its honest name
    "last": "last epoch",
    "flip_tta": "last epoch, averaged with mirrored images",
    "crops_tta": "last epoch, mean over five crops",
    "selected_on_val": "epoch selected on validation images",
    "best_on_test": "best epoch on the test images: chosen with them, so not a fair figure",
}
COLUMNS = (*MAIN, "worst_class", "ece")
SHOWN = 20  # few-shot classes in the table


def render(about: Mapping[str, Any], recipe: str, kind: str, *, few: Few, result: Result | None, **words: Any) -> str:
    """The text of the card.

    Args:
        about: what `glmc.json` says.
        recipe: YAML, without paths of this machine.
        kind: "run", or a format of `glmc export`.
        few: border of the few-shot group.
        result: of the weights; none without a finished run.
        words: `name` of the repository of a run; `compared`, what the file was compared on.
    """
    counts, rows = np.array(about["counts"]), result.per_class if result else []
    members, rules = groups(counts, few), group_rules(few)
    smallest = sorted(np.flatnonzero(members["few"]), key=lambda c: counts[c])
    table = [few_row(about, rows, int(c)) for c in smallest]
    present = [key for key in COLUMNS if any(key in about["figures"].get(name, {}) for name in SCORES)]
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(files("glmc").joinpath("templates", "card.md").read_text(encoding="utf-8"))
    return template.render(
        about=about,
        recipe=recipe,
        kind=kind,
        library="timm" if kind == "timm" else "glmc",
        timm=about["network"] not in SMALL_IMAGE,
        architecture=about["network"].partition(".")[0],
        groups=[{"name": name, "rule": rule, "classes": int(members[name].sum())} for name, rule in rules.items()],
        columns=[METRICS[key].word for key in present],
        scores=[
            {"name": title(name, about["figures"][name]), "values": [cell(about["figures"][name], k) for k in present]}
            for name in SCORES
            if name in about["figures"]
        ],
        few=table,
        few_test=sum(row["test"] for row in table) if rows else None,
        rule_few=rules["few"],
        shown=SHOWN,
        millions=lambda number: f"{number / 1e6:.2f}",
        **{"name": None, "compared": None, **words},
    )


def few_row(about: Mapping[str, Any], rows: list[dict[str, Any]], c: int) -> dict[str, Any]:
    """Name, training and test images and recall of a class; the recall is None without a result."""
    row = {"name": escape(about["classes"][c]), "train": about["counts"][c], "test": 0, "recall": None}
    if rows:
        row |= {"test": rows[c]["test"], "recall": cell(rows[c], "recall")}
    return row


def title(name: str, scores: Mapping[str, Any]) -> str:
    """The name of a row of scores, with its epoch where it is not the last."""
    return SCORES[name] + (f" (epoch {scores['epoch']})" if "epoch" in scores else "")


def cell(scores: Mapping[str, Any], key: str) -> str:
    """A score with one digit, or nothing."""
    return f"{scores[key]:.1f}" if key in scores else ""


def escape(text: str) -> str:
    """A text that stands in a table of Markdown as it is."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
