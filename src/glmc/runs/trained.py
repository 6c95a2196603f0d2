"""A run's network: built from its recipe, given the weights of a checkpoint, and scored."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glmc import models, runtime
from glmc.batches.augment import View
from glmc.data.inventory import shared_images
from glmc.data.parts import find, identity, images_of
from glmc.data.prepare import decoded, pixels
from glmc.data.split import Split
from glmc.errors import UserError
from glmc.methods.base import Method
from glmc.metrics import doubts, intervals, rows_of, scores
from glmc.models.heads import start_heads
from glmc.random import Draws, grown
from glmc.recipe import Recipe, Settled, choice, parse_settled, same_images
from glmc.runs import checkpoint, folder
from glmc.runs.shapes import About, shaped
from glmc.runs.tally import Tally
from glmc.runtime import autocast
from glmc.screen import Screen, complain, without


def build_method(recipe: Settled, counts: Tensor, device: torch.device, *, initial: bool = True) -> Method:
    """Backbone, heads and loss of a settled recipe, with the initial weights of its seed.

    `initial=False` is for those who load other weights at once: pretrained ones are not fetched for them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(Draws(recipe.train.seed, "weights").bits(1)[0] >> np.uint64(1)))
        backbone = models.build_backbone(
            recipe.model.name,
            channels=recipe.data.channels,
            pretrained=initial and recipe.model.pretrained,
            batch_norm=recipe.model.batch_norm,
            experts=recipe.model.experts,
            experts_from=recipe.model.experts_from,
            zero_residual=recipe.model.zero_residual,
            batch_norm_over=recipe.model.batch_norm_over,
            adapter=None if recipe.model.adapter is None else recipe.model.adapter.model_dump(),
            classes=len(counts),
        )
        loss = choice.build("loss", recipe.loss.model_dump(), counts)
        mixture = choice.build("mixture", recipe.mixture.model_dump(), counts)
        method: Method = choice.build("method", recipe.method.model_dump(), counts, (backbone, counts, loss, mixture))
        start_heads(method, recipe.model.heads)
    if recipe.model.freeze or recipe.model.adapter is not None:
        method.freeze_backbone(recipe.model.statistics, adapters=not recipe.model.freeze)
    return method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_views(recipe: Settled, names: tuple[str, ...], device: torch.device) -> list[View]:
    """The augmentations of a settled recipe, by name."""
    missing = [name for name in names if name not in recipe.views]
    if missing:
        raise UserError(f"views.{missing[0]}: the method {recipe.method.name} needs a view of this name in the recipe")
    for name in names:
        refuse_larger_crops(name, recipe.views[name], recipe.data.size)
    views = (for_epochs(recipe.train.epochs, recipe.views[name]) for name in names)
    return [View(operations, recipe.data.mean, recipe.data.std, device) for operations in views]


def for_epochs(epochs: int, operations: Sequence[Any]) -> list[Any]:
    """The operations of a view in a run of so many epochs: the probability of randaugment may depend on them."""
    found = []
    for operation in operations:
        if isinstance(operation, dict) and "randaugment" in operation:
            settings = dict(operation["randaugment"])
            settings["p"] *= grown(epochs, settings.pop("growing"))
            found += [{"randaugment": settings}] if settings["p"] else []
        else:
            found.append(operation)
    return found


def refuse_larger_crops(name: str, operations: Sequence[Any], side: int) -> None:
    """Raise a `UserError` if a view takes the middle, or mirrors a border, of images (`side` pixels) that lack it."""
    for operation in (each for each in operations if isinstance(each, dict)):
        if operation.get("center_crop", 0) > side:
            raise UserError(f"views.{name}: center_crop={operation['center_crop']} is larger than the image ({side})")
        border = operation.get("crop")
        if isinstance(border, dict) and border["padding"] == "reflect" and border["border"] >= side:
            raise UserError(f"views.{name}: crop reflects {border['border']} pixels of an image with {side} on a side")
        if "resized_crop" in operation:
            side = operation["resized_crop"]["size"]
        side = operation.get("center_crop", side)


How = Literal["plain", "flip", "crops"]  # images are looked at


class Trained(NamedTuple):
    """A method with the weights of a checkpoint, and what these were trained on."""

    method: Method
    classes: tuple[str, ...]
    counts: NDArray[np.int64]  # [C], training images per class


def load_trained(point: checkpoint.Checkpoint, recipe: Settled) -> Trained:
    """The method of a checkpoint, on the device of the recipe: the checkpoint's own, perhaps with some values changed.

    Raises:
        UserError: the weights are not those of the recipe's network and method.
    """
    device = runtime.pick_device(recipe.train.device)
    runtime.use_threads(recipe.train.threads)
    counts = np.array(point.state["counts"], dtype=np.int64)
    method = build_method(recipe, torch.from_numpy(counts), device, initial=False)
    # The moving average, if there is one, is what the run was tested with.
    tensors = point.weights("average" if "average" in point.names else "weights")
    try:
        method.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            f"model.name={recipe.model.name}, method.name={recipe.method.name}: the checkpoint's weights are not those "
            f"of this network and method; leave out overrides of model and method"
        ) from error
    if "repair" in point.state:  # its classifier was adjusted to classes of equal frequency
        method.prior = "uniform"
    return Trained(method, tuple(point.state["classes"]), counts)


def refuse_other_classes(recipe: Recipe, found: Sequence[str], trained: Sequence[str]) -> None:
    """Raise a `UserError` unless the images have the classes, in label order, that a checkpoint was trained on."""
    if list(found) == list(trained):
        return
    number = f"{len(found)} classes, and the checkpoint was trained on {len(trained)}"
    names = "classes of other names than those that the checkpoint was trained on"
    what = number if len(found) != len(trained) else names
    raise UserError(f"data.root={recipe.data.root}: these images have {what}; give the data it belongs to")


def logits_of(method: Method, view: View, *, precision: str, how: How = "plain") -> Callable[[Tensor], Tensor]:
    """What turns images (uint8 [B, side, side, ch], on the method's device) into logits (float32 [B, C]).

    Args:
        method: on the device; what it is in training mode is not changed here.
        view: the augmentation of the test images (nothing random in it).
        precision: "float32" or "bfloat16".
        how: "plain"; "flip" averages the class probabilities of each image and its mirror image, and the logits are
            then their logarithms; "crops" averages the logits of the crop in the middle and those in the corners.

    Raises:
        UserError: five crops of a view that has none.
    """
    crop: int = next((side for name, side in view.operations if name == "center_crop"), 0)
    if how == "crops" and not crop:
        raise UserError("eval.crops=5: the test images are not cropped; set views.test, e.g. [{center_crop: 0.875}]")

    def compute(images: Tensor) -> Tensor:
        with autocast(images.device, precision):
            if how == "crops":
                return torch.stack([method.predict(each).float() for each in five_crops(images)]).mean(0)
            pixels = view(images, {})
            logits = method.predict(pixels).float()
            if how == "flip":
                mirrored = method.predict(pixels.flip(-1)).float()
                logits = torch.logaddexp(logits.log_softmax(1), mirrored.log_softmax(1))
        return logits

    def five_crops(images: Tensor) -> list[Tensor]:
        """Float [B, ch, crop, crop] each, of uint8 [B, side, side, ch]."""
        end = images.shape[1] - crop
        corners = [(end // 2, end // 2), (0, 0), (0, end), (end, 0), (end, end)]
        return [view(images[:, top : top + crop, left : left + crop], {}, cut=True) for top, left in corners]

    return compute


@torch.inference_mode()
def evaluate(
    method: Method, logits: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, *, batch_size: int
) -> Tally:
    """Predict every image once and tally the predictions on the device.

    Args:
        method: in evaluation mode while this lasts.
        logits: `logits_of`, perhaps recorded as a graph.
        images: uint8 [N, side, side, ch], on the method's device or on the host.
        labels: int64 [N].
        batch_size: images at a time; changes nothing but speed and memory.
    """
    device, training = next(method.parameters()).device, method.training
    method.eval()
    tally = Tally(method.classes, device)
    for batch, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        tally.update(logits(batch.to(device, non_blocking=True)), truth.to(device, non_blocking=True))
    method.train(training)
    return tally


def score(
    trained: Trained, split: Split, recipe: Settled, *, how: How = "plain"
) -> tuple[dict[str, float], NDArray[np.int64]]:
    """Metrics and confusion matrix (int64 [C, C]) of a trained method on decoded images, as a settled recipe says.

    Args:
        trained: on its device.
        split: decoded.
        recipe: whose test view, precision and group borders count.
        how: see `logits_of`.

    Raises:
        UserError: the images have other classes than the method was trained on.
    """
    refuse_other_classes(recipe, split.classes, trained.classes)
    device = next(trained.method.parameters()).device
    images, labels = torch.from_numpy(pixels(split)).to(device), torch.from_numpy(split.labels).to(device)
    (view,) = build_views(recipe, ("test",), device)
    logits = logits_of(trained.method, view, precision=recipe.train.precision, how=how)
    tally = evaluate(trained.method, logits, images, labels, batch_size=recipe.eval.batch_size)
    confusion, extras = tally.compute()
    return scores(confusion, trained.counts, few=recipe.eval.few, extras=extras), confusion


def test_images(point: checkpoint.Checkpoint, recipe: Settled, screen: Screen) -> Split:
    """The test images of a run, decoded: those that it held out, whatever has come to their folder since.

    If the recipe asks for others (`data.test_list=...`), or the images are others and the run's split.csv is not there,
    that is said, and how many of them it was trained on.

    Args:
        point: of the run.
        recipe: the checkpoint's own, perhaps with some values changed.
        screen: for remarks and progress.

    Raises:
        UserError: an image is missing or was altered.
    """
    data, known = recipe.data, folder.inventory_of(point.home, recipe.data.root)
    if data.test_fraction == 0 and known is not None and not len(known["test"].split):
        raise UserError(f"{point.path}: this run was trained on everything; name other images: glmc test RUN FOLDER")
    if known is not None and same_images(recipe, parse_settled(point.state["recipe"])):
        splits = images_of(data, screen, known, needed=("test",)).splits
        return decoded(splits["test"], "test images", data, screen)
    source = find(data, screen)
    for remark in source.remarks:
        screen.say(remark)
    test = source.test
    now, prints = identity({"test": test}, data, "resident", screen)
    if prints["test"] != point.state["data"]["test"]:
        seen = "some may be images that it was trained on"
        if known is not None and now is not None:
            seen = f"it was trained on {shared_images(known['train'], now['test'])} of these {len(test)}"
        screen.say(f"not the test images of the run: {seen}")
    return decoded(test, "test images", data, screen)


def find_checkpoint(path: Path, say: Callable[[str], None] = complain) -> checkpoint.Checkpoint:
    """The last checkpoint of a run, or the one that lies in this folder.

    Args:
        path: of the run, or of the checkpoint.
        say: told in a sentence of newer checkpoints that are damaged.

    Raises:
        UserError: neither; or the checkpoint is of another run, or of another recipe than the folder's.
    """
    point = last_checkpoint(path)
    if point is not None and (path / "recipe.yaml").exists():
        folder.refuse_foreign(path, folder.recipe_of(path), point)
    if point is None and not (path / checkpoint.MANIFEST).exists():
        raise UserError(f"{path}: neither a run with a checkpoint nor a checkpoint; name one that `glmc train` made")
    point = point or known(checkpoint.read(path))
    for remark in point.remarks:
        say(remark)
    return point


def last_checkpoint(run: Path) -> checkpoint.Checkpoint | None:
    """The newest whole checkpoint of a run, if it has one; errors as for `checkpoint.latest` and `known`."""
    point = checkpoint.latest(run / "checkpoints")
    return point and known(point)


def known(point: checkpoint.Checkpoint) -> checkpoint.Checkpoint:
    """The same, if it says all that one of a run says; else a `UserError`."""
    shaped(About, point.state, point.path / checkpoint.STATE, "use another checkpoint of the run")
    return point


def test(path: Path, overrides: tuple[str, ...], *, quiet: bool) -> dict[str, Any]:
    """Evaluate the last checkpoint of a run, or one checkpoint, on the test images.

    Args:
        path: a run folder, or one checkpoint.
        overrides: of the recipe that the checkpoint carries, e.g. where the data lie.
        quiet: nothing on the terminal.

    Returns:
        {"checkpoint", "recipe", "test": scores, "flip_tta": scores}; the last one if the recipe wants it.

    Raises:
        UserError: nothing to test there, or the images have other classes than the checkpoint.
    """
    screen = Screen(quiet=quiet)
    point = find_checkpoint(path, screen.warn)
    recipe = parse_settled(point.state["recipe"], overrides)
    if later := folder.later_stages(path):
        which = "second" if len(later) == 1 else "last"
        screen.say(f"this is the first stage of the run; the {which} is tested with glmc test {later[-1]}")
    trained = load_trained(point, recipe)
    split = test_images(point, recipe, screen)
    return {"checkpoint": str(point.path), "recipe": recipe.name} | scored(
        trained, split, recipe, f"{recipe.title}, {point.path}", screen
    )


def scored(trained: Trained, split: Split, recipe: Settled, title: str, screen: Screen) -> dict[str, Any]:
    """Score a trained method on decoded images and say how good it is, and how surely.

    Returns:
        {"test": scores, "flip_tta": scores, "crops_tta": scores}; the last two if the recipe wants them.
    """
    result: dict[str, Any] = {}
    result["test"], confusion = score(trained, split, recipe)
    sure = intervals(confusion.diagonal(), confusion.sum(1), trained.counts, recipe.eval.few)
    if recipe.eval.flip_tta:
        result["flip_tta"] = score(trained, split, recipe, how="flip")[0]
    if recipe.eval.crops == 5:
        result["crops_tta"] = score(trained, split, recipe, how="crops")[0]
    rows = {"single view": result["test"], **rows_of(sure)}
    names = {"flip_tta": "flip TTA", "crops_tta": "five crops"}
    rows |= {name: result[key] for key, name in names.items() if key in result}
    screen.table(f"{title}, accuracy in percent", rows)
    if doubt := doubts(result["test"], sure):
        screen.say(doubt)
    lacking = [trained.classes[label] for label in np.flatnonzero(confusion.sum(1) == 0)]
    if lacking:
        screen.say(f"{without(lacking, 'image here')}, which none of these figures counts")
    return result
