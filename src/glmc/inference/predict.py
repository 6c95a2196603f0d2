"""`glmc predict RUN PATHS...`: the classes of image files, with probabilities for a known or an assumed world.

Predictions go to stdout or into a CSV file; remarks on them, progress, and files that cannot be read, to stderr.
"""

import io
import json
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from glmc.data.asked import find_images
from glmc.data.cells import CsvWriter
from glmc.data.many import Progress, cores
from glmc.data.pictures import decode_image, reason
from glmc.errors import UserError, printable
from glmc.inference import abstain, sheet
from glmc.inference.calibrate import PRIORS, assumed_prior, find_calibration, held_out_of, recipe_of
from glmc.inference.prior import read_prior
from glmc.inference.sorting import as_folder, refuse_file, sort_into
from glmc.inference.temperature import reweighted
from glmc.metrics import group_of
from glmc.recipe import Settled
from glmc.runs import checkpoint
from glmc.runs.files import write_atomic
from glmc.runs.trained import Trained, build_views, find_checkpoint, load_trained, logits_of
from glmc.screen import Screen, Terminal, without

Decoded = tuple[str, "Future[NDArray[np.uint8]]"]
UNKNOWN = "unknown"
SHOWN = 10  # classes of a set, in a table and on a page


class Prediction(NamedTuple):
    """The most probable classes of an image, falling."""

    labels: NDArray[np.int64]  # [K]
    probabilities: NDArray[np.float64]  # [K], in [0, 1]
    unknown: bool | None = None  # the first one is not sure enough; None: not asked
    members: NDArray[np.int64] | None = None  # labels in the set of the image, most probable first; None: not asked


class Rules(NamedTuple):
    """What is asked of a prediction beside its classes; see `abstain`."""

    threshold: float | None = None
    sets: abstain.Sets | None = None


def split_words(words: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Paths, and assignments of a recipe's values: dotted keys before "=", unless a file has that name."""
    assignments = [w for w in words if re.match(r"[a-z_0-9]+(\.[a-z_0-9]+)+=", w) and not os.path.exists(w)]
    return [word for word in words if word not in assignments], tuple(assignments)


def predict(
    run: Path,
    paths: Sequence[str],
    overrides: tuple[str, ...] = (),
    *,
    top: int = 5,
    csv_file: Path | None = None,
    as_json: bool = False,
    sorted_into: Path | None = None,
    sheet_file: Path | None = None,
    prior: str | None = None,
    flip: bool = False,
    unknown: str | None = None,
    sets: float | None = None,
) -> None:
    """Predict image files, in the order in which they are given.

    Args:
        run: a run folder, or one checkpoint.
        paths: image files, folders (with all below), patterns, "-" for a list on stdin, a path a line.
        overrides: "key=value" of `calibrate.CHANGEABLE`.
        top: classes to name for each image, at most.
        csv_file: a new file to write instead of printing a table. It has a row for each image, so that it can be
            sorted, filtered and joined by file as it is.
        as_json: print an object on each line instead, as soon as it is known.
        sorted_into: folder to copy the images into, a folder for each predicted class; see `sorting.sort_into`.
        sheet_file: a new page to write, with a thumbnail of each image; see `sheet.page`.
        prior: class frequencies where the images come from: "training", "uniform" or a file of `class,count` lines;
            none takes those that the run's method is meant to assume, if the run is calibrated, and leaves the
            probabilities as they are, if not.
        flip: average the probabilities of each image and its mirror image.
        unknown: "error=0.05" or "coverage=0.9": which images are called unknown, see `abstain`.
        sets: share of the images whose set of classes is to hold the true one.

    Raises:
        UserError: wrong arguments, before anything is predicted; or files that could not be read, after all others
            have been predicted.
    """
    if csv_file is not None and as_json:
        raise UserError(f"--csv {csv_file} and --json: give one of the two")
    for option, file in (("--csv", csv_file), ("--sheet", sheet_file)):
        if file is not None and file.exists():
            raise UserError(f"{option} {file}: exists, and nothing is overwritten; name another file")
    if sorted_into is not None:
        refuse_file(sorted_into)
    stdout, screen = sys.stdout, Screen()
    screen.console = Terminal(stderr=True, highlight=False)
    point = find_checkpoint(run, screen.warn)
    recipe = recipe_of(point, overrides)
    trained = load_trained(point, recipe)
    if unknown is not None and sorted_into is not None and UNKNOWN in map(as_folder, trained.classes):
        raise UserError(f"--sort-into {sorted_into}: the run has a class {UNKNOWN}; leave out --unknown or --sort-into")
    chosen = [option for option, value in (("--unknown", unknown), ("--sets", sets)) if value is not None]
    other = [option for option, given in (("--flip", flip), ("--prior", prior is not None)) if given]
    if chosen and other:
        what = " and ".join(other)
        raise UserError(f"{', '.join(chosen)}: held-out images promise nothing for {what}; leave out {what}")
    asked, problems = find_images(paths)
    if set(asked) == set(problems):
        refuse(problems, len(problems))
    rules = rules_of(point, recipe, trained, unknown, sets, screen.say)
    log_probabilities = log_probabilities_of(point, recipe, trained, prior, flip, screen.say)
    bar_hides = as_json and stdout.isatty()  # lines and a bar on one terminal would overwrite each other
    with (Screen(quiet=True) if bar_hides else screen).bar("predicting") as bar:
        rows = predictions(asked, problems, recipe, log_probabilities, min(top, len(trained.classes)), bar.to, rules)
        table = []
        for path, prediction in rows:
            table.append((path, prediction))
            if as_json:
                stdout.write(as_line(path, prediction, trained.classes))
                stdout.flush()
    if unknown is not None:
        screen.say(f"{sum(bool(each.unknown) for _, each in table)} of {len(table)} images are called {UNKNOWN}")
    if csv_file is not None:
        write_atomic(csv_file, as_csv(table, trained.classes).encode("utf-8", "surrogateescape"))
        screen.say(f"{len(table)} predictions written: {csv_file}")
    if sheet_file is not None:
        shown = [(path, named(each, trained.classes), *remarks(each, trained.classes)) for path, each in table]
        write_atomic(sheet_file, sheet.page(f"{point.home.name}, {recipe.name}", shown, seen_by(recipe)))
        screen.say(f"contact sheet written: {sheet_file}")
    if sorted_into is not None:
        first = ((path, UNKNOWN if each.unknown else trained.classes[each.labels[0]]) for path, each in table)
        copied, there = sort_into(sorted_into, first)
        screen.say(f"{copied} images copied into {sorted_into}{f', {there} were there already' if there else ''}")
    stdout.write("" if csv_file or as_json else as_table(table, trained.classes))
    refuse(problems, len(set(asked)))


def rules_of(
    point: checkpoint.Checkpoint,
    recipe: Settled,
    trained: Trained,
    unknown: str | None,
    share: float | None,
    say: Callable[[str], None],
) -> Rules:
    """What `unknown` and `share` (of sets) come to on the held-out images of a run, which is said.

    Raises:
        UserError: they are none, the run has no held-out images, or too few.
    """
    rules = Rules()
    if share is not None:
        abstain.refuse_no_share(share)
    if unknown is not None:
        abstain.asked(unknown)
        held = held_out_of(point, trained.classes, f"--unknown {unknown}")
        threshold, promise = abstain.threshold_for(unknown, held)
        rules = rules._replace(threshold=threshold.value)
        say(promise)
    if share is not None:
        held = held_out_of(point, trained.classes, f"--sets {share:g}")
        found = abstain.sets_for(share, held, group_of(trained.counts, recipe.eval.few))
        rules = rules._replace(sets=found)
        say(abstain.promise(found, share))
        lacking = [name for label, name in enumerate(trained.classes) if label not in held.labels]
        if lacking:
            say(f"{without(lacking, 'held-out image')}: there the sets promise nothing")
    return rules


def seen_by(recipe: Settled) -> Callable[[str], NDArray[np.uint8]]:
    """What turns a file into a small picture that shows what the network sees of it."""

    def picture(path: str) -> NDArray[np.uint8]:
        data = recipe.data
        return decode_image(path, sheet.SIDE, data.channels, data.resize, data.exif, max_pixels=data.max_pixels)

    return picture


def log_probabilities_of(
    point: checkpoint.Checkpoint,
    recipe: Settled,
    trained: Trained,
    prior: str | None,
    flip: bool,
    say: Callable[[str], None],
) -> Callable[[Tensor], Tensor]:
    """What turns images (uint8 [B, side, side, ch]) into log-probabilities (float64 [B, C]), on the host.

    After `glmc calibrate`, its temperature is used, and the probabilities are for the class frequencies that the method
    is meant to assume, or for `prior`. Which they are is said.
    """
    device = next(trained.method.parameters()).device
    (view,) = build_views(recipe, ("test",), device)
    logits = logits_of(trained.method, view, precision=recipe.train.precision, how="flip" if flip else "plain")
    trained.method.eval()
    calibration = None
    if flip:
        say("probabilities with mirrored images averaged in are not calibrated: glmc calibrate is for single views")
    else:
        calibration = find_calibration(point, trained.classes, say)
    assumed, source = assumed_prior(point, trained)
    target = source if prior is None else read_prior(prior, trained.classes, trained.counts)
    world = PRIORS[assumed] if prior is None else PRIORS.get(prior, f"the frequencies in {prior}")
    temperature = 1.0
    if calibration is not None:
        temperature, source = calibration.temperature, calibration.prior
        say(f"calibrated on {calibration.source}, temperature {temperature:.3f}; probabilities for {world} of classes")
    elif prior is not None:
        say(f"probabilities for {world} of classes, if the run assumes {PRIORS[assumed]}: see glmc calibrate")
    weights = torch.from_numpy(source), torch.from_numpy(target)

    @torch.inference_mode()
    def compute(images: Tensor) -> Tensor:
        return reweighted(logits(images.to(device)).cpu().double(), temperature, *weights)

    return compute


def predictions(
    asked: Sequence[str],
    problems: dict[str, str],
    recipe: Settled,
    log_probabilities: Callable[[Tensor], Tensor],
    top: int,
    progress: Progress,
    rules: Rules,
) -> Iterator[tuple[str, Prediction]]:
    """(path, its `top` classes) for each readable file, in the order asked, as soon as it is known.

    A file that is asked for several times is predicted once.

    Args:
        asked: paths.
        problems: what is wrong with some of them; files that turn out not to be readable join these.
        recipe: settled.
        log_probabilities: as `log_probabilities_of` gives it.
        top: K.
        progress: called with (files done, files in all).
        rules: for *unknown* and sets.
    """
    unique = [path for path in dict.fromkeys(asked) if path not in problems]
    found: dict[str, Prediction] = {}
    done, told = 0, 0
    for batch in decoded_ahead(unique, recipe, min(recipe.eval.batch_size, len(unique))):
        images = readable(batch, problems)
        if images:
            found |= predict_batch(images, log_probabilities, top, rules)
        done += len(batch)
        progress(done, len(unique))
        while told < len(asked) and (asked[told] in found or asked[told] in problems):
            if asked[told] in found:
                yield asked[told], found[asked[told]]
            told += 1


def decoded_ahead(paths: Sequence[str], recipe: Settled, batch_size: int) -> Iterator[list[Decoded]]:
    """Batches of (path, pixels to come), decoded in threads; of the batch after the one yielded, too, but no more."""
    size, channels = recipe.data.size, recipe.data.channels
    reading = recipe.data.resize, recipe.data.exif, recipe.data.bits or 16, recipe.data.max_pixels
    assert size is not None, "a checkpoint's recipe is settled"
    assert channels is not None
    Image.init()  # loads PIL's formats now rather than in several threads at once
    waiting: deque[Decoded] = deque()
    pool = ThreadPoolExecutor(cores())
    try:
        for path in paths:
            waiting.append((path, pool.submit(decode_image, path, size, channels, *reading)))
            if len(waiting) == 2 * batch_size:
                yield [waiting.popleft() for _ in range(batch_size)]
        while waiting:
            yield [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
    finally:
        pool.shutdown(cancel_futures=True)


def readable(batch: Iterable[Decoded], problems: dict[str, str]) -> dict[str, NDArray[np.uint8]]:
    """The pixels of the files that could be read; what is wrong with the others joins `problems`."""
    images = {}
    for path, pixels in batch:
        try:
            images[path] = pixels.result()
        except Exception as error:  # PIL raises nearly anything on a damaged file
            problems[path] = reason(error)
    return images


def predict_batch(
    images: dict[str, NDArray[np.uint8]], log_probabilities: Callable[[Tensor], Tensor], top: int, rules: Rules
) -> dict[str, Prediction]:
    """The `top` classes of each image (uint8 [side, side, ch])."""
    probabilities = log_probabilities(torch.from_numpy(np.stack(list(images.values())))).exp()
    inside = None if rules.sets is None else rules.sets.of(probabilities.numpy())
    most, labels = (each.numpy() for each in probabilities.topk(top, dim=1))
    found = {}
    for row, path in enumerate(images):
        unknown = None if rules.threshold is None else bool(most[row, 0] <= rules.threshold)
        members = None
        if inside is not None:
            members = np.flatnonzero(inside[row])
            members = members[np.argsort(-probabilities[row].numpy()[members], kind="stable")]
        found[path] = Prediction(labels[row], most[row], unknown, members)
    return found


def named(prediction: Prediction, classes: Sequence[str]) -> list[tuple[str, float]]:
    """(class, probability), falling; six digits, more would be noise."""
    pairs = zip(prediction.labels.tolist(), prediction.probabilities.tolist(), strict=True)
    return [(classes[label], float(f"{probability:.6g}")) for label, probability in pairs]


def remarks(prediction: Prediction, classes: Sequence[str]) -> tuple[str, str]:
    """The first class, or that it is unknown and the first class at most; and the set of classes, "" if not asked."""
    first = classes[prediction.labels[0]]
    members = [] if prediction.members is None else [classes[label] for label in prediction.members]
    further = f", ... {len(members) - SHOWN} more" if len(members) > SHOWN else ""
    return f"{UNKNOWN} ({first})" if prediction.unknown else first, ", ".join(members[:SHOWN]) + further


def as_line(path: str, prediction: Prediction, classes: Sequence[str]) -> str:
    """A line of JSON."""
    found = [{"class": name, "probability": probability} for name, probability in named(prediction, classes)]
    line: dict[str, Any] = {"file": path, "predictions": found}
    line |= {} if prediction.unknown is None else {"unknown": prediction.unknown}
    line |= {} if prediction.members is None else {"set": [classes[label] for label in prediction.members]}
    return json.dumps(line) + "\n"


def as_csv(rows: Sequence[tuple[str, Prediction]], classes: Sequence[str]) -> str:
    """A row for each image: file, class, probability, class 2, probability 2, and so on; unknown and set if asked."""
    text = io.StringIO()
    writer = CsvWriter(text)
    first = rows[0][1] if rows else Prediction(np.empty(1, np.int64), np.empty(1))
    further = [f"{heading} {rank}" for rank in range(2, len(first.labels) + 1) for heading in ("class", "probability")]
    asked = ["unknown"] * (first.unknown is not None) + ["set"] * (first.members is not None)
    writer.writerow(["file", "class", "probability", *further, *asked])
    for path, prediction in rows:
        cells = [value for pair in named(prediction, classes) for value in pair]
        if prediction.unknown is not None:
            cells.append("yes" if prediction.unknown else "no")
        if prediction.members is not None:
            cells.append("|".join(classes[label] for label in prediction.members))
        writer.writerow([path, *cells])
    return text.getvalue()


def as_table(rows: Sequence[tuple[str, Prediction]], classes: Sequence[str]) -> str:
    """A line for each image, in columns; wide as it needs to be, so that names stay whole in a pipe."""
    sets = bool(rows) and rows[0][1].members is not None
    lines = [("file", "class", "probability", "set" if sets else "others")] if rows else []
    for path, prediction in rows:
        (_, probability), *others = named(prediction, classes)
        name, members = remarks(prediction, classes)
        rest = members if sets else ", ".join(f"{other} {100 * p:.1f} %" for other, p in others)
        lines.append((in_line(path), name, f"{100 * probability:.1f} %", rest))
    wide = [max(len(line[column]) for line in lines) for column in range(3)] if lines else []
    return "".join(f"{f:<{wide[0]}}  {c:<{wide[1]}}  {p:>{wide[2]}}  {o}".rstrip() + "\n" for f, c, p, o in lines)


def in_line(path: str) -> str:
    """A path as a terminal takes it, in one line."""
    return printable(path).replace("\n", "\\n").replace("\t", "\\t")


def refuse(problems: dict[str, str], asked: int) -> None:
    """Raise a `UserError` that names every file that could not be predicted, and why."""
    if problems:
        listed = "".join(f"\n  {in_line(path)} ({why})" for path, why in problems.items())
        raise UserError(f"{len(problems)} of {asked} could not be predicted:{listed}")
