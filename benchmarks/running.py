"""Runs of the benchmarks: folders of `glmc train` and its later stages, trained once and gone on with if stopped."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from glmc.recipe import Recipe, choice, compose
from glmc.recipe.systems import rows
from glmc.runs.files import write_atomic
from glmc.train.distributed import dismiss
from glmc.train.pace import measured
from glmc.train.stages import POSTHOC, Following, following

EQUAL = ["optim.momentum=0.9", "train.schedule=cosine", "train.warmup=0.05", "eval.flip_tta=false"]


class Images(NamedTuple):
    """A data set of the benchmarks."""

    base: str  # recipe of plain cross entropy
    folder: str  # under --root
    values: list[str]  # what it takes to read these images
    aside: int  # training images a class, at most, that the learning rate is tuned on


SETS = {
    "cifar10-jpeg": Images("cifar10_lt/ce", "cifar10-jpeg", ["data.name=folder", "data.root=cifar10-jpeg"], 100),
    "tiny100": Images(
        "cifar100_lt/ce",
        "tiny-imagenet-100-lt",
        ["data.name=list", "data.root=tiny-imagenet-100-lt", "data.train_list=train_if100.txt",
         "data.test_list=val.txt", "data.size=32", "data.imbalance=null", "data.mean=null", "data.std=null"],
        45,
    ),
}  # fmt: skip


class Runs:
    """The runs on one data set.

    Args:
        data: of SETS.
        work: folder of the runs; the data set lies beside it.
        device: of `train.device`.
    """

    def __init__(self, data: str, work: Path, device: str) -> None:
        self.data, self.work, self.device = data, work, device
        self.images = SETS[data]
        self.work.mkdir(parents=True, exist_ok=True)
        self.locks: dict[str, threading.Lock] = {}

    def composed(self, system: str, seed: int, epochs: int, values: Sequence[str]) -> Recipe:
        """The recipe of a system on these images."""
        equal = [value for value in EQUAL if not (own_optimizer(system) and value.startswith("optim."))]
        given = [*self.images.values, *equal, f"train.seed={seed}", f"train.epochs={epochs}", f"eval.every={epochs}"]
        given += [f"train.device={self.device}", *(["train.threads=1"] if self.device == "cpu" else []), *values]
        last = {value.partition("=")[0]: value for value in given}  # `values` win
        return compose(self.images.base, system, list(last.values()))

    def trained(self, whole: Recipe) -> Path:
        """The folder of the last stage of a recipe, after training what is missing."""
        first, then = whole.override("then=null", "name=first"), following(whole)
        run = self.run(first, ())
        for number in range(1, len(then) + 1):
            run = self.run(first, then[:number])
        return run

    def place(self, first: Recipe, then: Sequence[Following]) -> Path:
        """The folder of the last of some stages, the same for all systems that share them.

        Defaults and nulls do not count, so that a new key leaves the runs where they are, unless it is one of an
        operation in a view, which stands there with its default. If a default changes, a new folder must be begun.
        """
        values = without_nulls(first.model_dump(mode="json", exclude_defaults=True))
        values |= {section: choice.chosen(section, values[section]) for section in choice.TABLES if section in values}
        known_by = json.dumps(values, sort_keys=True) + "".join(str(tuple(stage)) for stage in then)
        return self.work / "runs" / blake2b(known_by.encode(), digest_size=6).hexdigest()

    def run(self, first: Recipe, then: Sequence[Following]) -> Path:
        """Train the last of some stages, unless that has been done; its folder."""
        run = self.place(first, then)
        run.parent.mkdir(exist_ok=True)
        with self.locks.setdefault(run.name, threading.Lock()):
            if (run / "result.json").exists():
                return run
            if then and then[-1].name in POSTHOC:
                shutil.rmtree(run, ignore_errors=True)  # an adjustment begins anew
            if (run / "recipe.yaml").exists():
                self.glmc(run, "train", "--resume", run)
            elif then:
                parent, stage = self.place(first, then[:-1]), then[-1]
                self.glmc(run, "finetune", parent, "--stage2", stage.name, "--out", run, *length(stage, first))
            else:
                write_atomic(run.with_suffix(".yaml"), first.to_yaml())
                self.glmc(run, "train", run.with_suffix(".yaml"), "--out", run)
        return run

    def glmc(self, run: Path, *words: str | Path) -> None:
        """Carry out a command of glmc that trains a run, and note its largest memory in MB."""
        threads = {"OMP_NUM_THREADS": "1"} if self.device == "cpu" else {}
        command = [sys.executable, "-m", "glmc", *map(str, words), "--quiet"]
        with run.with_suffix(".log").open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.work.parent, env={**os.environ, **threads}
            )
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"glmc {' '.join(map(str, words))}:\n{run.with_suffix('.log').read_text()[-2000:]}")
        write_atomic(run.with_suffix(".memory"), f"{used.ru_maxrss // 1024}\n")

    def set_aside(self) -> list[str]:
        """Balanced training images instead of test images, and the others with a long tail, as overrides.

        Where the set comes with a long-tailed list, its images are set aside only in classes that have too few others.
        """
        folder, rng = self.work.parent / self.images.folder, random.Random(0)
        lists = [value.partition("=")[2] for value in self.images.values if value.startswith("data.train_list=")]
        listed = dict(line.split() for name in lists for line in (folder / name).read_text().splitlines())
        lines: dict[str, list[str]] = {"train": [], "aside": []}
        for place in sorted(each for each in (folder / "train").iterdir() if each.is_dir()):
            paths = sorted(str(path.relative_to(folder)) for path in place.rglob("*") if path.is_file())
            rng.shuffle(paths)
            paths.sort(key=lambda path: path in listed)
            label = next((listed[path] for path in paths if path in listed), place.name)
            inside = sum(path in listed for path in paths)
            spare = len(paths) - inside + inside // 10 if listed else len(paths) // 5
            number = min(self.images.aside, spare)
            lines["aside"] += [f"{path} {label}" for path in paths[:number]]
            lines["train"] += [f"{path} {label}" for path in paths[number:] if path in listed or not listed]
        return self.listed(lines["train"], lines["aside"], "train", "aside")

    def few_classes(self, counts: Sequence[int], tested: int) -> list[str]:
        """Classes drawn once, with these numbers of training images, as overrides.

        Tested are so many other training images of each; 0: all test images.
        """
        folder, rng = self.work.parent / self.images.folder, random.Random(0)
        images = {each.name: sorted(each.iterdir()) for each in sorted((folder / "train").iterdir())}
        drawn = rng.sample([name for name, found in images.items() if len(found) >= max(counts) + tested], len(counts))
        train, test = [], []
        for label, (name, number) in enumerate(zip(drawn, counts, strict=True)):
            others = images[name][-tested:] if tested else (folder / "val" / name).iterdir()
            train += [f"{path.relative_to(folder)} {label}" for path in images[name][:number]]
            test += [f"{path.relative_to(folder)} {label}" for path in others]
        suffix = f"{len(counts)}{'-aside' if tested else ''}"
        return self.listed(train, test, f"train-{suffix}", f"val-{suffix}")

    def listed(self, train: Sequence[str], test: Sequence[str], *names: str) -> list[str]:
        """Two lists of images under these names, as overrides."""
        for name, lines in zip(names, (train, test), strict=True):
            write_atomic(self.work / f"{name}.txt", "\n".join(sorted(lines)) + "\n")
        lists = (
            f"data.{part}_list={self.work.name}/{name}.txt" for part, name in zip(("train", "test"), names, strict=True)
        )
        return ["data.name=list", *lists]


def without_nulls(values: Any) -> Any:
    """Sections and settings, those left out that are null."""
    if not isinstance(values, dict):
        return values
    return {key: without_nulls(value) for key, value in values.items() if value is not None}


def own_optimizer(system: str) -> bool:
    """Whether a system brings an optimizer, with its own learning rate and momentum."""
    return any(value.startswith("optim.name=") for value in rows()[system].get("values", ()))


def length(stage: Following, first: Recipe) -> tuple[str, ...]:
    """The overrides of a later stage, which is as long as the first one."""
    values = (value for value in stage.overrides if not value.startswith("train.epochs="))
    return (*values, *([] if stage.name in POSTHOC else [f"train.epochs={first.train.epochs}"]))


def in_turn(recipe: Recipe, plain: Recipe) -> float:
    """Time of an epoch of one recipe in that of another, which is timed right before and after it."""

    def epoch(one: Recipe) -> float:
        parts, step = measured(one, timed=1.0)
        dismiss(parts)
        return step * parts.loader.steps

    before, asked, after = epoch(plain), epoch(recipe), epoch(plain)
    return 2 * asked / (before + after)


def circumstances(environment: dict[str, Any]) -> dict[str, Any]:
    """What a record says of hardware and versions, out of a run's environment.json."""
    return {key: value for key, value in environment.items() if key not in ("run", "command", "resumed")}
