"""`glmc calibrate RUN`: fit a temperature, and the class frequencies that a network assumes, to held-out images.

They are written into the run folder as calibration.json, where `glmc predict` finds them, and uses them if they help on
images that they were not fitted to; see `temperature`. The same file keeps probabilities of the held-out images, by
which `glmc predict` chooses when to say "unknown" and what sets hold, see `abstain`; and what that does on test images.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor

from glmc.data.prepare import decoded, pixels
from glmc.data.split import Split
from glmc.errors import UserError
from glmc.inference import abstain
from glmc.inference.heldout import given_images, own_images, refuse_known_images
from glmc.inference.temperature import FOLDS, crossfit, metrics_of, reweighted
from glmc.metrics import METRICS, group_of
from glmc.recipe import HARMLESS, Settled, parse_settled
from glmc.runs import checkpoint, folder
from glmc.runs.files import write_atomic
from glmc.runs.shapes import Fitted, read_json
from glmc.runs.trained import Trained, build_views, find_checkpoint, load_trained, logits_of
from glmc.screen import Screen, without

FILE = "calibration.json"
LEAST, FEW = 10, 100  # images: fewer are refused, fewer get a remark
PRIORS = {"training": "the training frequencies", "uniform": "equal frequencies"}  # `Method.prior` in words
CHANGEABLE = sorted(
    {key for key in HARMLESS if key.startswith("data.")}
    | {"eval.batch_size", "train.device", "train.precision", "train.threads"}
)


def calibrate(
    run: Path, overrides: tuple[str, ...] = (), *, images: Path | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Fit, print what that changes, and write calibration.json into the run folder.

    An earlier fit that helps stays in place of one that does not.

    Args:
        run: a run folder, or one checkpoint.
        overrides: "key=value" of `CHANGEABLE`.
        images: a folder of classes or a list; none takes the validation images of the run.
        quiet: nothing on the terminal.

    Returns:
        The content of calibration.json; if its "helps" is false, `predict` uses neither temperature nor prior.

    Raises:
        UserError: no such run, no images, images of the training or the test set, classes that the run does not know.
    """
    screen = Screen(quiet=quiet)
    point = find_checkpoint(run, screen.warn)
    recipe = recipe_of(point, overrides)
    trained = load_trained(point, recipe)
    with folder.held(point.home):
        return calibrated(point, recipe, trained, images, screen)


def calibrated(
    point: checkpoint.Checkpoint, recipe: Settled, trained: Trained, images: Path | None, screen: Screen
) -> dict[str, Any]:
    """As `calibrate`, in a folder that is held."""
    if images is None:
        split, source = own_images(point, recipe, screen), "validation images of the run"
    else:
        split, source = given_images(images, recipe, trained.classes, screen), f"images of {images}"
        refuse_known_images(images, point, split, recipe, screen)
    if len(split) < LEAST:
        raise UserError(f"{len(split)} {source} are too few to calibrate on: give at least {LEAST}, better {FEW}")
    split = decoded(split, "images", recipe.data, screen)
    assumed, prior = assumed_prior(point, trained)
    logits = torch.from_numpy(logits_of_split(split, recipe, trained, screen))
    with screen.bar("calibrating", FOLDS + 1) as bar:
        fitted = crossfit(logits, torch.from_numpy(split.labels), torch.from_numpy(prior), bar.to)
    probabilities = fitted.held_out.exp() if fitted.helps else logits.softmax(1)
    held_out = abstain.kept(probabilities.numpy(), split.labels)
    result: dict[str, Any] = {
        "schema": 1,
        "step": point.step,
        "images": len(split),
        "classes_without_images": [trained.classes[label] for label in np.flatnonzero(split.counts == 0)],
        "source": source,
        "temperature": fitted.temperature,
        "temperature_se": fitted.error,
        "plain": metrics_of(logits, torch.from_numpy(split.labels)),
        "before": fitted.before,
        "after": fitted.after,
        "gain": dict(zip(("low", "high"), fitted.gain, strict=True)),
        "helps": fitted.helps,
        "ece_by_chance": fitted.ece_by_chance,
        "assumed_prior": assumed,
        "imbalance": {
            "assumed": float(prior.max() / prior.min()),
            "fitted": float(fitted.prior.max() / fitted.prior.min()),
        },
        "prior": dict(zip(trained.classes, fitted.prior.tolist(), strict=True)),
        "held_out": {name: values.tolist() for name, values in held_out._asdict().items()},
    }
    file = point.home / FILE
    show(result, f"{recipe.title}, {point.path}", screen)
    if not fitted.helps:
        low, high = fitted.gain
        why = f"the log-likelihood changes by {low:+.3f} to {high:+.3f} nats an image (95 %), which may be noise"
        if low > 0:
            why = f"the ECE rises from {fitted.before['ece']:.2f} to {fitted.after['ece']:.2f} %"
        screen.say(f"no gain: on held-out images {why}; probabilities stay as they are, and more images may tell more")
        earlier = find_fitted(point, trained.classes, "delete it, and calibrate again")
        if earlier is not None and earlier.helps and earlier.step == point.step:
            screen.say(f"{file} of an earlier calibration stays in use; delete it to predict without")
            return result
    target = torch.from_numpy(prior)
    temperature, origin = (fitted.temperature, fitted.prior) if fitted.helps else (1.0, target)
    result |= measured(point, recipe, trained, held_out, lambda z: reweighted(z, temperature, origin, target), screen)
    write_atomic(file, json.dumps(result) + "\n")
    when = "from now on, also for" if fitted.helps else "for"
    screen.say(f"written: {file}, which glmc predict uses {when} --unknown and --sets")
    return result


def measured(
    point: checkpoint.Checkpoint,
    recipe: Settled,
    trained: Trained,
    held_out: abstain.Kept,
    log_probabilities: Callable[[Tensor], Tensor],
    screen: Screen,
) -> dict[str, Any]:
    """{"test": what `abstain.measured` finds on the run's test images}; empty, which is said, if they are not there."""
    try:
        split = decoded(own_images(point, recipe, screen, "test"), "test images", recipe.data, screen)
    except UserError as error:
        screen.say(f"not measured on the test images of the run: {error}")
        return {}
    if not len(split):
        return {}
    logits = torch.from_numpy(logits_of_split(split, recipe, trained, screen))
    group = group_of(trained.counts, recipe.eval.few)
    found = abstain.measured(log_probabilities(logits).exp().numpy(), split.labels, held_out, group)
    screen.say(f"what --unknown and --sets do on {len(split)} test images: glmc report {point.home}")
    return {"test": found}


def show(result: dict[str, Any], title: str, screen: Screen) -> None:
    """The metrics before and after in a table, and what limits them."""
    screen.say(f"{title}: {result['images']} {result['source']}")
    table = Table()
    table.add_column("")
    for key in ("nll", "ece", "top1"):
        table.add_column(METRICS[key].heading, justify="right")
    for name, key in (("the run as it is", "plain"), ("re-weighted", "before"), ("re-weighted, calibrated", "after")):
        scores = result[key]
        table.add_row(name, f"{scores['nll']:.3f}", f"{scores['ece']:.2f}", f"{scores['top1']:.2f}")
    screen.console.print(table)
    screen.say(
        "re-weighted: told how frequent each class is among these images, which the run as it is does not know; "
        f"calibrated: each tenth of the images by a fit to the others; by chance alone, even perfect probabilities "
        f"would show an ECE of about {result['ece_by_chance']:.2f} % on {result['images']} images"
    )
    assumed, imbalance = PRIORS[result["assumed_prior"]], result["imbalance"]
    screen.say(f"temperature {result['temperature']:.3f} ± {result['temperature_se']:.3f} (standard error)")
    screen.say(
        f"the run predicts as if its most frequent class came {imbalance['fitted']:.1f} times as often as its rarest; "
        f"{assumed}, which its method is meant to assume, would make that {imbalance['assumed']:.1f}"
    )
    lacking = result["classes_without_images"]
    if lacking:
        screen.say(f"{without(lacking, 'image here')}: there the run is taken to assume {assumed}")
    if result["images"] < FEW:
        screen.say(
            f"{result['images']} images are few: temperature and ECE may well come out differently on others; give "
            f"{FEW} or more with --images"
        )


class Calibration(NamedTuple):
    """What `predict` needs of calibration.json."""

    temperature: float
    prior: NDArray[np.float64]  # [C], sums to 1: the class frequencies that the network assumes
    source: str  # number and kind of images
    file: Path


def find_calibration(
    point: checkpoint.Checkpoint, classes: Sequence[str], say: Callable[[str], None]
) -> Calibration | None:
    """The calibration of a checkpoint; that there is none, or one of another step, is said.

    Raises:
        UserError: the file cannot be used.
    """
    file, found = point.home / FILE, find_fitted(point, classes)
    if found is None:
        say("probabilities as the network gives them, not calibrated: see glmc calibrate")
        return None
    if found.step != point.step:
        say(f"{file} is of step {found.step}, not of step {point.step}, and is not used: run glmc calibrate again")
        return None
    if not found.helps:
        say("probabilities as the network gives them: glmc calibrate has found nothing to gain")
        return None
    prior = np.array([found.prior[name] for name in classes], dtype=np.float64)
    return Calibration(found.temperature, prior, f"{found.images} {found.source}", file)


def find_fitted(
    point: checkpoint.Checkpoint, classes: Sequence[str], remedy: str = "run glmc calibrate again"
) -> Fitted | None:
    """What calibration.json of a checkpoint says, of whatever step; None if there is none.

    Raises:
        UserError: the file cannot be used; with the remedy.
    """
    file = point.home / FILE
    if not file.exists():
        return None
    found = read_json(Fitted, point.home, FILE, remedy)
    if set(found.prior) != set(classes):
        raise UserError(f"{file} is damaged (prior: of other classes than the run); {remedy}")
    if found.held_out is not None and max(found.held_out.labels) >= len(classes):
        raise UserError(f"{file} is damaged (held_out: labels of no class); {remedy}")
    return found


def held_out_of(point: checkpoint.Checkpoint, classes: Sequence[str], option: str) -> abstain.Kept:
    """The held-out images of a checkpoint.

    Raises:
        UserError: there are none for the option that needs them, or the file cannot be used.
    """
    found = find_fitted(point, classes)
    if found is None or found.step != point.step or found.held_out is None:
        raise UserError(f"{option}: needs held-out images of this checkpoint; run glmc calibrate {point.home} first")
    kept = found.held_out
    return abstain.Kept(np.array(kept.labels), np.array(kept.true), np.array(kept.first))


def recipe_of(point: checkpoint.Checkpoint, overrides: Sequence[str]) -> Settled:
    """The recipe of a checkpoint, where and how fast it computes perhaps changed.

    Raises:
        UserError: an override would change the predictions.
    """
    for assignment in overrides:
        if assignment.partition("=")[0] not in CHANGEABLE:
            raise UserError(
                f"{assignment}: a run predicts as it was trained to; only {', '.join(CHANGEABLE)} may change"
            )
    return parse_settled(point.state["recipe"], overrides)


def assumed_prior(point: checkpoint.Checkpoint, trained: Trained) -> tuple[str, NDArray[np.float64]]:
    """What a run assumes, according to its method: a key of `PRIORS`, and the class frequencies, float64 [C]."""
    assumed = trained.method.prior
    weights = trained.counts if assumed == "training" else np.ones(len(trained.counts))
    return assumed, weights / weights.sum()


@torch.inference_mode()
def logits_of_split(split: Split, recipe: Settled, trained: Trained, screen: Screen) -> NDArray[np.float64]:
    """float64 [N, C]: the logits of a decoded split, single view."""
    device = next(trained.method.parameters()).device
    (view,) = build_views(recipe, ("test",), device)
    logits = logits_of(trained.method, view, precision=recipe.train.precision)
    trained.method.eval()
    images = torch.from_numpy(pixels(split))
    found = np.empty((len(images), len(trained.classes)))
    with screen.bar("predicting", len(images)) as bar:
        for start in range(0, len(images), recipe.eval.batch_size):
            batch = images[start : start + recipe.eval.batch_size]
            found[start : start + len(batch)] = logits(batch.to(device)).double().cpu().numpy()
            bar.to(start + len(batch))
    return found
