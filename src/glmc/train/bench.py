"""`glmc bench`: which system suits one's own images, found out in equal seconds on images held out of the training.

The runs know two lists only, train.csv and held-out.csv: no test image of the data set is decoded or scored.
"""

import difflib
import hashlib
import io
import json
import math
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from glmc import recipe
from glmc.data import holdout, parts
from glmc.data.holdout import HoldOut
from glmc.data.inventory import rebased
from glmc.data.split import Split
from glmc.errors import Interrupted, UserError
from glmc.recipe.document import assigned
from glmc.report import benched
from glmc.runs import folder, result
from glmc.runs.files import write_atomic
from glmc.runs.shapes import Facts, read_json
from glmc.screen import Screen, clock
from glmc.stats import advice, find, make_lt
from glmc.train.distributed import dismiss
from glmc.train.pace import TIMED, evaluation_seconds, measured
from glmc.train.run import carry_out
from glmc.train.schedule import epochs_needed
from glmc.train.seeds import take

LISTS = {"train": "train.csv", "test": "held-out.csv"}
HELD = 0.2  # of the training images, where data.val_fraction does not say
FEWEST = 3  # epochs; a system that gets fewer, or too few for its last phase to begin, is not tried
AGAIN = 2  # systems for whose second seed time is put aside
TRYING = 0.25  # of the time: how much of it finding out the pace of each system may take
CLOSING = 4.0  # seconds of a run after its last epoch, as long as none has shown how many they are
SAFE = 0.97  # of the time is given out
PIXELS = {  # keys of `data` that do not say which images these are
    "data.size", "data.channels", "data.mean", "data.std", "data.area", "data.resize", "data.bits", "data.exif",
    "data.max_pixels", "data.on_bad_image", "data.loader", "data.workers", "data.batch_size", "data.cache",
}  # fmt: skip
OURS = {
    "train.epochs": "is found out", "train.seed": "is 0, then 1", "data.folds": "would test on every image",
    "then": "is not carried out",
}  # fmt: skip


def bench(
    given: Sequence[str], systems: Sequence[str] | None, minutes: float, out: Path | None, *, quiet: bool, since: float
) -> Path:
    """Train several systems for about the same time each, then the best ones with a second seed; tell which won.

    Args:
        given: key=value, data.root among them.
        systems: whose recipes folder/<system> are tried; none takes those of shortlist.yaml.
        minutes: for all of it, what earlier calls have spent in the folder included.
        out: the folder; the same call goes on in it. None takes runs/bench-N, the N of the same call if there is one.
        quiet: nothing on the terminal.
        since: `time.perf_counter()` when the command began.

    Returns:
        The folder: bench.json, index.html, the two lists, and a run folder <system>-<seed> for each run.

    Raises:
        UserError: the images or the words are wrong, or the minutes are too few for two systems.
        Interrupted: all that is unfinished has been saved.
    """
    for key in OURS.keys() & {word.partition("=")[0] for word in given}:
        raise UserError(f"{key} {OURS[key]} in a bench: leave it out")
    screen = Screen(quiet=quiet)
    kept, held, choice = look(given, screen)
    names = chosen(systems, choice)
    for name in names:  # what is wrong is told before anything is written
        recipe.load(f"folder/{name}", words_of(name, given, choice, Path()))
    lists = {LISTS["train"]: written(kept), LISTS["test"]: written(held)}
    prints = {file: hashlib.sha256(text.encode()).hexdigest() for file, text in lists.items()}
    plan = {"minutes": minutes, "systems": names, "given": list(given), "usual": list(choice.overrides), **prints}
    target, facts = claim(out, plan)
    for file, text in lists.items():
        write_atomic(target / file, text)
    trials = Trials(target, facts, 60 * minutes, since, {name: words_of(name, given, choice, target) for name in names})
    try:
        trials.find_paces(screen)
        trials.share_out(screen)
    except UserError:
        shutil.rmtree(target)  # nothing was trained: leave nothing behind
        raise
    try:
        trials.train(screen)
    except Interrupted as stop:
        raise Interrupted("stopped, state saved; the same command goes on", stop.exit_code - 128) from None
    finally:
        trials.save()
    runs = {name: [run for seed in (0, 1) if result.finished(run := trials.run(name, seed))] for name in names}
    runs = {name: several for name, several in runs.items() if several}
    if not runs:
        raise UserError(f"no system could be trained: {'; '.join(facts['left_out'].values())}")
    commands = {name: full(name, given, choice) for name in names}
    outcome = benched.conclude(target, runs, commands, facts["left_out"], screen)
    trials.facts |= {"outcome": outcome}
    trials.save()
    screen.say(f"{clock(trials.spent)} of {clock(60 * minutes)}   {target / benched.PAGE}")
    return target


# ------------------------------------------------------------------------------------------------- images and systems


def look(given: Sequence[str], screen: Screen) -> tuple[Split, Split, advice.Choice]:
    """The images to train on, those held out of them, and the adviser's choice; only training images are opened."""
    words = [word for word in given if word.startswith("data.") and not word.startswith("data.on_bad_image=")]
    data = recipe.load("folder/ce", words).data
    if data.name not in ("folder", "list"):
        raise UserError(f"data.name={data.name}: glmc bench takes a folder or a list of images")
    share, data = data.val_fraction, data.model_copy(update={"val_fraction": 0.0})
    train, held = parts.long_tailed(parts.find(data), data)
    if held is None or share:
        if train.groups is None:
            gives = holdout.even_share(train.counts, share or HELD)
            rows, out = holdout.hold_out(train.labels, gives, holdout.SEED)
        else:
            rows, out, _ = holdout.divide(train, HoldOut(share or HELD))
        train, held = train.select(rows), train.select(out)
    tested = held.counts[held.counts > 0]
    if len(tested) < 2:
        raise UserError(
            f"{data.root}: {len(train) + len(held)} images are too few to hold some of two classes out, which takes "
            "three of each"
        )
    screen.say(
        f"{advice.number(len(train), 'image')} to train on, {len(held):,} to compare on ({tested.max()} to "
        f"{tested.min()} a class), held out of the training images; the test images stay unseen"
    )
    if lacking := np.flatnonzero(held.counts == 0).tolist():
        screen.say(
            f"{advice.number(len(lacking), 'class')} with fewer than three images, e.g. {train.classes[lacking[0]]!r}: "
            "none is held out, and nothing is said about them"
        )
    if few := int((tested < 5).sum()):
        screen.say(f"{advice.number(few, 'class')} with fewer than 5 images to compare on: their share of it is rough")
    choice = advice.choose(find.scan(data), given)
    screen.say("; ".join(choice.why))
    root = Path(data.root).expanduser()
    return rebased(train, root), rebased(held, root), choice


def chosen(systems: Sequence[str] | None, choice: advice.Choice) -> list[str]:
    """The systems to try, in the order of their worth.

    Raises:
        UserError: one of them is unknown or named twice, or has a second stage; or there is one only.
    """
    if systems is None:
        table = yaml.safe_load((files("glmc") / "shortlist.yaml").read_text(encoding="utf-8"))
        return list(table["pretrained" if recipe.load(choice.recipe).model.pretrained else "scratch"])
    known = [name.removeprefix("folder/") for name in recipe.names() + recipe.composable() if name[:7] == "folder/"]
    for name in systems:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"--systems: there is no system {name!r}; {guess}`glmc list systems` names all")
        if stage := recipe.load(f"folder/{name}").then:
            raise UserError(
                f"--systems: {name} has a second stage ({stage}), which a bench does not train: leave it out"
            )
    if len(set(systems)) < max(2, len(systems)):
        raise UserError(f"--systems {','.join(systems)}: name two or more different ones")
    return list(systems)


def own(name: str, choice: advice.Choice) -> tuple[str, ...]:
    """The adviser's overrides, which are for networks trained from scratch."""
    return () if recipe.load(f"folder/{name}").model.pretrained else choice.overrides_for(f"folder/{name}")


def words_of(name: str, given: Sequence[str], choice: advice.Choice, target: Path) -> list[str]:
    """The overrides of a trial, which has the held-out images for test images."""
    rest = [word for word in given if not word.startswith("data.") or word.partition("=")[0] in PIXELS]
    root = next(word for word in given if word.startswith("data.root="))
    here = [assigned(f"data.{part}_list", str(target.resolve() / file)) for part, file in LISTS.items()]
    return [*own(name, choice), "data.name=list", root, *here, *rest]


def full(name: str, given: Sequence[str], choice: advice.Choice) -> str:
    """The command that trains a system on all training images."""
    kept = [word for word in given if not word.startswith("data.val_fraction=")]
    return advice.command(f"folder/{name}", [*kept, *own(name, choice)])


def written(split: Split) -> str:
    """A list of images as CSV."""
    text = io.StringIO()
    make_lt.write_list(text, split, make_lt.labels_for(split.classes, as_csv=True), as_csv=True)
    return text.getvalue()


def claim(out: Path | None, plan: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The folder of a bench, made now or by the same call earlier, and what its bench.json says.

    Raises:
        UserError: it holds something else.
    """
    number = 1
    while True:
        target = out or folder.DEFAULT / f"bench-{number}"
        target.mkdir(parents=True, exist_ok=True)
        file = target / benched.FACTS
        if file.exists():
            known = read_json(Facts, target, file.name, "name another folder").model_dump(exclude_unset=True)
            if known["plan"] == json.loads(json.dumps(plan)):
                return target, known
        if not any(target.iterdir()):
            facts = {
                "plan": plan,
                "spent": 0.0,
                "paces": {},
                "left_out": {},
                "epochs": {},
                "taken": 0.0,
                "expected": 0.0,
            }
            write_atomic(file, json.dumps(facts, indent=1) + "\n")
            return target, facts
        if out is not None:
            what = "another bench lies there" if file.exists() else "the folder is not empty"
            raise UserError(f"--out {out}: {what}; name another folder")
        number += 1


# ------------------------------------------------------------------------------------------------------------- trials


class Trials:
    """The runs of a bench, and its clock.

    Args:
        target: the folder.
        facts: what bench.json says: seconds spent, paces, what is left out, epochs; kept up to date.
        seconds: for everything.
        since: `time.perf_counter()` when the command began.
        words: the overrides of each system, by its name, in the order of worth.
    """

    def __init__(
        self, target: Path, facts: dict[str, Any], seconds: float, since: float, words: Mapping[str, Sequence[str]]
    ) -> None:
        self.target, self.facts, self.seconds, self.words = target, facts, seconds, words
        self._since = since - facts["spent"]

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._since

    @property
    def left(self) -> float:
        """Seconds that may still be given out."""
        return SAFE * self.seconds - self.spent

    def save(self) -> None:
        """Write bench.json."""
        write_atomic(self.target / benched.FACTS, json.dumps(self.facts | {"spent": self.spent}, indent=1) + "\n")

    def run(self, name: str, seed: int) -> Path:
        """The folder of a run."""
        return self.target / f"{name}-{seed}"

    def leave_out(self, name: str, why: str, screen: Screen) -> None:
        """Note that a system takes no part."""
        self.facts["left_out"][name] = why
        screen.say(f"{name} is left out: {why}")

    def find_paces(self, screen: Screen) -> None:
        """Time some steps of each system, the most worthy first, until there is no time for another one."""
        paces = self.facts["paces"]
        timed = min(TIMED, TRYING * self.seconds / len(self.words) / 4)
        with screen.bar("timing", len(self.words)) as bar:
            for done, (name, words) in enumerate(self.words.items()):
                bar.to(done, what=[f"timing {name}"])
                if name in paces or name in self.facts["left_out"]:
                    continue
                if "share" in self.facts or (len(paces) > 1 and self.is_full()):
                    break
                began = time.perf_counter()
                try:
                    built, step = measured(recipe.load(f"folder/{name}", [*words, f"train.epochs={FEWEST}"]), timed)
                    if not paces:
                        built.score("test")  # the first evaluation loads libraries
                    dismiss(built)
                except UserError as error:
                    self.leave_out(name, str(error), screen)
                    continue
                test = evaluation_seconds(built, step / statistics.mean(built.areas))
                epoch = built.loader.steps * step + test / built.recipe.eval.every
                build = max(time.perf_counter() - began - timed * len(set(built.sides)), 0.0)
                least = max(FEWEST, epochs_needed(built.recipe))
                paces[name] = {
                    "fewest": least,
                    "epoch": epoch,
                    "tests": 2 * test,
                    "build": build,
                    "step": built.recipe.train.step,
                }
                self.save()

    def around(self) -> float:
        """Seconds of a run before its first and after its last epoch."""
        return float(CLOSING + min(pace["build"] for pace in self.facts["paces"].values()))

    def slower(self) -> float:
        """How many times longer the runs so far took than their first steps suggested; at least 1."""
        return max(1.0, float(self.facts["taken"] / (self.facts["expected"] or 1)))

    def fitting(self, again: int) -> list[str]:
        """As many systems as get through `FEWEST` epochs in equal shares of the time left, the most worthy first.

        Args:
            again: runs for which a share is put aside.
        """
        paces = self.facts["paces"]
        for number in range(len(paces), 1, -1):
            share = self.left / (number + again) - self.around()
            names = [name for name, pace in paces.items() if fewest(pace) <= share]
            if len(names) >= number:
                return names[:number]
        return []

    def is_full(self) -> bool:
        """Whether there would be no time for another system, even for one as quick as the quickest."""
        runs = max(len(self.fitting(0)), 1) + 1
        return self.left / runs - self.around() < min(map(fewest, self.facts["paces"].values()))

    def share_out(self, screen: Screen) -> None:
        """Decide which systems are trained, and for how many seconds each.

        Raises:
            UserError: not even two are.
        """
        paces, facts = self.facts["paces"], self.facts
        if "share" in facts:
            return
        if len(paces) < 2:
            raise UserError(f"fewer than two systems can be tried: {'; '.join(facts['left_out'].values())}")
        names = self.fitting(0)
        if not names:
            needed = (2 * (sorted(map(fewest, paces.values()))[1] + self.around()) + self.spent) / SAFE / 60
            raise UserError(
                f"--minutes {self.seconds / 60:g} is too little: the fewest epochs of two systems take about "
                f"{math.ceil(10 * needed) / 10:g} minutes here"
            )
        again = AGAIN if self.fitting(AGAIN) == names else 0
        facts["share"] = self.left / (len(names) + again) - self.around()
        left = [name for name in self.words if name not in names and name not in facts["left_out"]]
        for name in left:
            pace = paces.pop(name, None)
            facts["left_out"][name] = (
                f"no time, {pace['fewest']} epochs take about {fewest(pace):.0f} s" if pace else "no time"
            )
        if left:
            told = ", ".join(f"{name} ({facts['left_out'][name]})" for name in left)
            screen.say(f"the time is for {len(names)} systems with {facts['share']:.0f} s each; left out: {told}")
        self.save()

    def train(self, screen: Screen) -> None:
        """Train each system once, then the best one, and those that cannot be told from it, with a second seed."""
        paces, epochs = self.facts["paces"], self.facts["epochs"]
        for place, (name, pace) in enumerate(paces.items()):
            if name not in epochs:
                share = min(self.facts["share"], self.left / (len(paces) - place) / self.slower() - self.around())
                number = int((share - pace["tests"]) // pace["epoch"])
                if number < pace["fewest"] and len(epochs) > 1:
                    continue
                epochs[name] = max(pace["fewest"], number)
                self.save()
            self.go(name, 0, f"{place + 1} of {len(paces)}", screen)
        for name, pace in paces.items():  # those for which the time seemed too short, where it was not
            if name not in epochs and fewest(pace) * self.slower() + self.around() < self.left:
                epochs[name] = pace["fewest"]
                self.go(name, 0, "time was left", screen)
            elif name not in epochs and name not in self.facts["left_out"]:
                self.leave_out(name, "the others took longer than their first steps suggested", screen)
        firsts = {name: [run] for name in paces if result.finished(run := self.run(name, 0))}
        for name in benched.close(firsts):
            seconds = sum((result.read(firsts[name][0]).seconds or {}).values()) + CLOSING
            if not self.run(name, 1).exists() and self.left < seconds:
                break  # a second seed of a lesser one would decide nothing
            self.go(name, 1, "second seed", screen)

    def go(self, name: str, seed: int, what: str, screen: Screen) -> None:
        """Train one run, or go on with it; one that cannot be trained is left out."""
        run, epochs, began = self.run(name, seed), self.facts["epochs"][name], time.perf_counter()
        if result.finished(run) or name in self.facts["left_out"]:
            return
        pace = self.facts["paces"][name]
        screen.say(f"{what}: {name}, {epochs} epochs of about {pace['epoch']:.2g} s; {clock(self.left)} left")
        mode = (
            () if any(word.startswith("train.step=") for word in self.words[name]) else (f"train.step={pace['step']}",)
        )
        words = [*self.words[name], f"train.epochs={epochs}", f"train.seed={seed}", *mode]
        command, anew = advice.command(f"folder/{name}", words), not run.exists()
        try:
            wanted = recipe.load(f"folder/{name}", words)
            with take(wanted, run, (), quiet=True, command=command, since=began) as begun:
                carry_out([begun], self.target, screen, more=True)
        except UserError as error:
            if seed == 0:
                self.leave_out(name, str(error), screen)
            else:
                screen.say(f"{name} stays with one seed: {error}")
            return
        found = result.read(run)
        if anew:
            self.facts["taken"] += time.perf_counter() - began
            self.facts["expected"] += epochs * pace["epoch"] + pace["tests"] + self.around()
        self.save()
        screen.say(
            f"    balanced accuracy {found.last[benched.BY]:.1f} %, {(found.seconds or {})['train']:.0f} s of training"
        )


def fewest(pace: Mapping[str, float]) -> float:
    """Seconds of the shortest run."""
    return pace["fewest"] * pace["epoch"] + pace["tests"]
