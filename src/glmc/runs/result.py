"""result.json: what a finished run says of itself. Needs no torch."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, Field, model_validator

from glmc import metrics
from glmc.errors import UserError
from glmc.metrics import Few, Interval
from glmc.recipe.sections import Expect, Published
from glmc.runs.files import text_of, value_of, write_atomic
from glmc.runs.shapes import AGAIN, Clock, Count, Row, Scores, read_json, shaped

FILE, STAGE_ONE = "result.json", "stage1.json"
BESIDE = ("confusion.csv", "predictions.csv", "metrics.jsonl", "examples/examples.json")
TOLD = 10  # classes in a sentence
THEN = ", then "  # between the stages of a system


def _of_an_epoch(scores: Scores) -> Scores:
    if "epoch" not in scores:
        raise ValueError("the number of the epoch is missing")
    return scores


Chosen = Annotated[Scores, AfterValidator(_of_an_epoch)]


class _File(BaseModel):
    """What is written as JSON, without what is None."""

    def as_json(self) -> dict[str, Any]:
        """Keys and values as they stand in the file."""
        return self.model_dump(by_alias=True, exclude_none=True)

    def write(self, file: Path) -> None:
        """Replace the file by this."""
        write_atomic(file, json.dumps(self.as_json(), indent=1) + "\n")


class StageOne(_File):
    """What a second stage says of the run it started from; a run that was not finished is known by its folder only."""

    run: str | None = None
    recipe: str | None = None
    method: str | None = None  # with the stages before it
    epochs: int | None = None
    seed: int | None = None
    last: Scores | None = None
    best_on_test: Scores | None = None
    flip_tta: Scores | None = None
    weights_sha256: str | None = None
    tests: list[Row] | None = None  # of a run that is extended: its classes, on those of its test images that are there


class Extended(_File):
    """An extended run on the test images of the run before, and on those that came with the new images."""

    old: Scores
    new: Scores
    old_tests: list[Row]  # classes that have such images
    new_tests: list[Row]


class Result(_File):
    """A finished run: which recipe and network, trained on what, how long, and how good it is."""

    format: Literal[1] = Field(default=1, alias="schema")
    recipe: str
    method: str  # with loss and mixture, see `Recipe.system`
    backbone: str
    parameters: int
    learnt: int | None = None  # of these, how many were trained; not in results of older versions
    counts: list[Count]  # [C], training images per class
    epochs: int  # 0: a second stage without training
    steps: int
    seed: int
    last: Scores
    best_on_test: Chosen | None = None
    flip_tta: Scores | None = None
    crops_tta: Scores | None = None
    selected_on_val: Chosen | None = None
    per_class: list[Row]  # as `metrics.per_class` makes them
    weights_sha256: str
    seconds: Clock | None = None  # none without training
    step: dict[str, str | int] | None = None  # the mode that was asked for, and the steps taken in each
    stage2: str | None = None
    settings: dict[str, float] | None = None  # of a second stage without training
    stage1: StageOne | None = None
    extended: Extended | None = None
    folds: dict[str, dict[str, float]] | None = None  # of a cross-validation: metric -> mean, sd and n of the folds
    expect: Expect | None = None
    published: Published | None = None
    files: dict[str, str] | None = None  # sha256 of those of `BESIDE` that are there
    seal: str | None = None  # sha256 of all of the above; on the disk only

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if len(self.counts) != len(self.per_class):
            raise ValueError(f"{len(self.counts)} counts and {len(self.per_class)} classes")
        return self

    @property
    def partly(self) -> str:
        """What to say of a network that was trained in part, behind the number of its parameters."""
        return f", {self.learnt:,} of them trained" if self.learnt is not None and self.learnt < self.parameters else ""

    @property
    def system(self) -> str:
        """What was trained, without the network: "logit_adjusted + cutmix"; of a later stage, all of them in order."""
        if self.stage2 is None:
            return self.method
        first = self.stage1.method if self.stage1 is not None else None
        return f"{first or self.method}{THEN}{self.stage2}"

    @property
    def stage(self) -> int:
        """Which stage it is: 1, or more of one that started from another run."""
        return 1 + self.system.count(THEN)

    @property
    def title(self) -> str:
        """What was trained, on which network: "logit_adjusted + cutmix on resnet32"; of a second stage, both."""
        whole = self.system
        if self.folds is not None:
            return f"{whole} on {self.backbone}, {self.fold_number}-fold cross-validation"
        return f"{whole} on {self.backbone}"

    @property
    def fold_number(self) -> int:
        """How many folds a cross-validation had; 0 of a single run."""
        return max((int(spread["n"]) for spread in (self.folds or {}).values()), default=0)

    def told_of_classes(self) -> str:
        """The old classes whose accuracy an extension has changed, most first, and that of the new; else ""."""
        if self.extended is None or self.stage1 is None:
            return ""
        before = {row["class"]: row.get("recall") for row in self.stage1.tests or ()}
        old = [(row["class"], before[row["class"]], row["recall"]) for row in self.extended.old_tests]
        old = sorted((each for each in old if each[1] != each[2]), key=lambda each: -abs(each[2] - each[1]))
        new = [row for row in self.extended.new_tests if row["class"] not in before]
        told = [f"{name} {was:.1f} before, {now:.1f} now" for name, was, now in old[:TOLD]]
        told += [f"{row['class']} {row['recall']:.1f}, new" for row in new[:TOLD]]
        return f"accuracy of single classes: {'; '.join(told) or 'as before'}"

    def intervals(self, few: Few) -> dict[str, Interval]:
        """How surely the accuracies of the last epoch are known; `few`: the border of the few-shot group."""
        return intervals_of([self], few)


def intervals_of(results: Sequence[Result], few: Few) -> dict[str, Interval]:
    """How surely the mean accuracies of runs on the same test images are known.

    They are those of a network that has as many images right as the runs on average: the seeds do not make them surer.

    Args:
        results: of runs with the same test images, at least one.
        few: the border of the few-shot group.
    """
    images = np.array([row["test"] for row in results[0].per_class])
    hits = np.mean([[row["test"] * row.get("recall", 0) / 100 for row in each.per_class] for each in results], axis=0)
    return metrics.intervals(hits, images, np.array(results[0].counts), few)


def finished(run: Path) -> bool:
    """Whether a run has come to its end."""
    return (run / FILE).exists()


def stage_one(run: Path) -> StageOne:
    """What a second stage says of the run that it starts from, which may be a later stage itself."""
    if not finished(run):
        return StageOne(run=str(run))
    first = read(run)
    return StageOne.model_validate(first.as_json() | {"run": str(run), "method": first.system})


def read_stage_one(run: Path) -> StageOne:
    """Read stage1.json of a second stage; a `UserError` if it is damaged."""
    return read_json(StageOne, run, STAGE_ONE, "remove it, and go on with glmc train --resume")


def write(run: Path, result: Result) -> None:
    """Write result.json, sealed, with the digests of the files beside it that the report is drawn from."""
    files = {name: sha256_of(run / name) for name in BESIDE if (run / name).exists()}
    whole = result.model_copy(update={"files": files or None})
    whole.model_copy(update={"seal": seal_of(whole.as_json())}).write(run / FILE)


def seal_of(said: Mapping[str, Any]) -> str:
    """The hex sha256 of all values but the seal, as they are read: what is not finite counts as absent."""
    text = json.dumps({key: value for key, value in said.items() if key != "seal"}, sort_keys=True)
    value = json.loads(text, parse_constant=lambda _: None)
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256_of(file: Path) -> str:
    """The hex digest of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read(run: Path) -> Result:
    """Read result.json.

    Raises:
        UserError: the run is not finished, or the file is damaged or of another program.
    """
    said = value_of(run / FILE, text_of(run, FILE), AGAIN)
    found = shaped(Result, said, run / FILE, AGAIN)
    if found.seal not in (None, seal_of(said)):
        raise UserError(f"{run / FILE} is damaged (sha256); {AGAIN}")
    return found.model_copy(update={"seal": None})


def refuse_altered(run: Path, found: Result) -> None:
    """Raise a `UserError` if a file beside result.json is not what the run has left."""
    for name, digest in (found.files or {}).items():
        if (run / name).exists() and sha256_of(run / name) != digest:
            raise UserError(f"{run / name} is not what the run left (sha256); {AGAIN}")
