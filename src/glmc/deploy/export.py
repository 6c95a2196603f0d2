"""`glmc export`: a trained network as a folder that other programs read, compared with the network before it is kept.

model.onnx | model.pt2 | model.safetensors   the network; with --format timm, config.json beside it
learnt.safetensors                           of a frozen network: what was trained, adapters and classifier, alone
glmc.json                                    classes, preprocessing, figures, checksums, versions
README.md                                    the model card
"""

import hashlib
import json
import math
import os
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from glmc.data.parts import find
from glmc.data.prepare import decoded, pixels
from glmc.deploy import card, hub
from glmc.deploy.formats import (
    FILES,
    Deployed,
    Logits,
    answering_parameters,
    logits_of,
    need_onnx,
    write_onnx,
    write_timm,
    write_torch_export,
    write_weights,
)
from glmc.errors import UserError
from glmc.inference.calibrate import assumed_prior, find_calibration
from glmc.random import Draws
from glmc.recipe import Data, Recipe, parse_settled
from glmc.runs import checkpoint
from glmc.runs.result import Result, finished, read
from glmc.runs.trained import Trained, build_views, find_checkpoint, load_trained
from glmc.screen import Screen

FORMATS = tuple(FILES)
IMAGES = 64  # at most, that a file is compared on
BATCH = 16  # of them at a time; the first is alone, so that more than one batch size is tried
TOLERANCE = 1e-4  # of a logit, absolute, or relative to the largest one where that is more than 1


class Opened(NamedTuple):
    """A run's last checkpoint, ready to be handed on."""

    recipe: Recipe  # computes on the CPU
    public: Recipe  # the same without paths of this machine
    point: checkpoint.Checkpoint
    trained: Trained
    model: Deployed
    about: dict[str, Any]  # what `glmc.json` says
    result: Result | None  # if it tells of these weights


def export(reference: str, kind: str, out: Path | None, *, quiet: bool = False) -> Path:
    """Write the last checkpoint of a run for other programs and return the folder.

    Args:
        reference: run folder, one checkpoint, or hf:user/name.
        kind: one of `FORMATS`.
        out: the folder, new or empty; none takes `export-<kind>` in the run folder, of a run on the hub in the working
            directory.
        quiet: nothing on the terminal.

    Raises:
        UserError: nothing to export there, the folder is not empty, a package is missing, the network does not go with
            the format, or the file gives other logits than the network; nothing is kept then.
    """
    if kind not in FORMATS:
        raise UserError(f"--format {kind}: choose one of {', '.join(FORMATS)}, published")
    if kind == "onnx":
        need_onnx()  # now: the rest takes seconds
    run = hub.resolve(reference)
    target = out or (run / f"export-{kind}" if hub.is_local(reference) else Path(f"export-{kind}"))
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target} is there already, and nothing is overwritten; name another folder with --out")
    screen = Screen(quiet=quiet)
    opened = open_run(run, screen)
    images, what, why = sample_images(opened.recipe)
    if why:
        screen.say(why)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".glmc-export-") as work:
        folder = Path(work) / target.name
        folder.mkdir()
        screen.say(f"writing {opened.recipe.model.name} as {kind}")
        logits = write(folder, kind, opened, torch.from_numpy(images[:1]))
        if checkpoint.FROZEN in opened.point.names:
            write_learnt(folder / "learnt.safetensors", opened)
        worst = compare(logits_of(opened.model), logits, images, f"the {kind} file", what)
        document(folder, kind, opened, what, worst)
        os.rename(folder, target)
    screen.say(f"{target}: same classes as the network on {what}, logits within {worst:.1e}")
    return target


def open_run(run: Path, screen: Screen) -> Opened:
    """The last checkpoint of a run on the CPU, and all that is known about it.

    Raises:
        UserError: there is none, or its calibration.json cannot be used.
    """
    point = find_checkpoint(run, screen.warn)
    recipe = parse_settled(point.state["recipe"], ["train.device=cpu"])
    trained = load_trained(point, recipe)
    fingerprint = checkpoint.weights_sha256(trained.method.state_dict())
    result = result_of(run, fingerprint)
    scores = result.as_json() if result else {}
    stored, (view,) = recipe.data.size, build_views(recipe, ("test",), torch.device("cpu"))
    mean, std = recipe.data.mean, recipe.data.std
    calibration = calibrated(point, trained, screen)
    temperature, offsets = calibration["temperature"], calibration["offsets"]
    model = Deployed(trained.method, view.side(stored), mean, std, temperature, offsets)
    channels = recipe.data.channels
    about = {
        "format": 1,
        "recipe": recipe.name,
        "method": recipe.system,
        "network": recipe.model.name,
        "parameters": sum(p.numel() for p in trained.method.parameters()),
        "answering_parameters": answering_parameters(model, torch.zeros(1, stored, stored, channels).byte()),
        "classes": list(trained.classes),
        "counts": trained.counts.tolist(),
        "preprocessing": preprocessing(recipe.data, view.side(stored)),
        **calibration,
        "precision": recipe.train.precision,
        "figures": {name: scores[name] for name in card.SCORES if name in scores},
        "weights_sha256": fingerprint,
        "versions": versions(),
    }
    return Opened(recipe, public(recipe), point, trained, model, about, result)


def preprocessing(data: Data, side: int) -> dict[str, Any]:
    """What happens to an image file before the network sees it, as `data.decode` and the test view do it.

    Args:
        data: section of a settled recipe.
        side: of the centre crop in pixels.
    """
    stored, channels = data.size, data.channels or 3
    grey = "ITU-R 601 grey" if channels == 1 else "RGB"
    turned = "upright by its EXIF orientation" if data.exif else "not turned by its EXIF orientation"
    filtered = "bilinear, antialiased (Pillow's BILINEAR)"
    squared = {"2 square": "the largest centred one", "3 resize": f"to {stored} x {stored} pixels, {filtered}"}
    if data.resize == "short_side":
        squared = {
            "2 resize": f"the short side to {stored} pixels, the long one in proportion, rounded down, {filtered}",
            "3 square": f"the middle {stored} x {stored} pixels",
        }
    return {
        "1 read": f"first frame, {turned}, 8 bits a channel, transparency on white, {grey}",
        **squared,
        "4 crop": f"the middle {side} x {side} pixels",
        "5 normalise": "(pixel / 255 - mean) / std for each channel",
        "size": stored,
        "channels": channels,
        "resize": data.resize,
        "exif": data.exif,
        "center_crop": side,
        "mean": list(data.mean or ()),
        "std": list(data.std or ()),
    }


def result_of(run: Path, fingerprint: str) -> Result | None:
    """The result of a run, if it tells of the weights with this sha256."""
    result = read(run) if finished(run) else None
    return result if result and result.weights_sha256 == fingerprint else None


def calibrated(point: checkpoint.Checkpoint, trained: Trained, screen: Screen) -> dict[str, Any]:
    """What turns logits into the probabilities of `glmc predict`: "temperature", and "offsets" of length C.

    "calibrated" says whether `glmc calibrate` has found them; else they change nothing.
    """
    found = find_calibration(point, trained.classes, screen.say)
    if found is None:
        return {"calibrated": False, "temperature": 1.0, "offsets": [0.0] * len(trained.classes)}
    _, target = assumed_prior(point, trained)
    return {"calibrated": True, "temperature": found.temperature, "offsets": np.log(target / found.prior).tolist()}


def public(recipe: Recipe) -> Recipe:
    """The recipe without paths of this machine: of an absolute one, only the last part is left."""
    sections = {name: section for name, section in recipe.model_dump().items() if isinstance(section, dict)}
    changes = [
        f"{name}.{key}={json.dumps(Path(value).name or 'data')}"
        for name, section in sections.items()
        for key, value in section.items()
        if isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~"))
    ]
    alone = ["parent=null", "starts_from=null"] if recipe.parent is not None else []
    return recipe.override("train.device=auto", *alone, *changes)


def versions() -> dict[str, str]:
    """Of the packages that a reader of the folder may need."""
    found = {}
    for name in ("glmc", "torch", "timm", "safetensors", "onnx", "onnxruntime"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def sample_images(recipe: Recipe) -> tuple[NDArray[np.uint8], str, str]:
    """Images to compare on, uint8 [n, size, size, ch]: of the test set, evenly spread, if it can be found.

    Returns:
        The images, what they are, and why they are no test images, if so.
    """
    size, channels = recipe.data.size or 0, recipe.data.channels or 3
    try:
        split = find(recipe.data.model_copy(update={"download": False})).test
        rows = np.unique(np.linspace(0, len(split) - 1, min(IMAGES, len(split))).astype(np.int64))
        uncached = recipe.data.model_copy(update={"cache": False})
        test = decoded(split.select(rows), "test images", uncached, Screen(quiet=True))
        return pixels(test), f"{len(rows)} of its test images", ""
    except UserError as error:
        images = Draws(0, "export").below(256, IMAGES, size, size, channels).astype(np.uint8)
        return (
            images,
            f"{IMAGES} images of random pixels",
            f"compared on random pixels, as there are no images: {error}",
        )


def write(folder: Path, kind: str, opened: Opened, image: torch.Tensor) -> Logits:
    """Write the network into a folder in one of `FORMATS`; returns what computes its logits."""
    file, name, channels = folder / FILES[kind], opened.recipe.model.name, opened.recipe.data.channels or 3
    if kind == "onnx":
        return write_onnx(file, opened.model, image, opened.about)
    if kind == "torch-export":
        return write_torch_export(file, opened.model, image)
    if kind == "timm":
        return write_timm(folder, opened.model, name, channels, opened.about["preprocessing"]["size"], opened.about)
    return write_weights(file, opened.model, name, channels, opened.about)


def write_learnt(file: Path, opened: Opened) -> None:
    """Write the tensors that were trained while the others were frozen: megabytes beside the network's gigabytes."""
    from safetensors.torch import save_file

    group = "average" if "average" in opened.point.names else "weights"
    model = opened.public.model
    about = {"network": model.name, "pretrained": str(model.pretrained), "classes": json.dumps(opened.trained.classes)}
    save_file(opened.point.tensors(group), file, metadata={"format": "pt", **about})


def compare(source: Logits, exported: Logits, images: NDArray[np.uint8], file: str, what: str) -> float:
    """The largest difference between the logits of the network and of the file.

    Args:
        source, exported: the network's and the file's.
        images: uint8 [n, size, size, ch], n >= 1.
        file, what: names of the file and of the images, for the error.

    Raises:
        UserError: a logit differs by more than `TOLERANCE`, or an image gets another class.
    """
    worst, allowed, others = 0.0, 0.0, 0
    for batch in (images[:1], *(images[start : start + BATCH] for start in range(1, len(images), BATCH))):
        right, found = source(batch), exported(np.ascontiguousarray(batch))
        worst = max(worst, float(np.abs(right - found).max())) if np.isfinite(found).all() else math.inf
        allowed = max(allowed, TOLERANCE * max(1.0, float(np.abs(right).max())))
        others += int((right.argmax(1) != found.argmax(1)).sum())
    if worst > allowed or others:
        raise UserError(
            f"{file} does not predict as the network does on {what}: logits differ by up to {worst:.1e} (at most "
            f"{allowed:.1e} are allowed), and {others} get another class; nothing was kept, try another --format"
        )
    return worst


def document(folder: Path, kind: str, opened: Opened, what: str, worst: float) -> None:
    """Write glmc.json and README.md beside the network."""
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}
    compared = {"images": what, "largest_logit_difference": worst}
    graph = {
        "input": {"images": "uint8 [N, size, size, channels], after step 3 of the preprocessing"},
        "output": {
            "logits": "float32 [N, C]",
            "probabilities": "float32 [N, C], softmax(logits / temperature + offsets)",
        },
    }
    weights = {
        "input": "float32 [N, channels, center_crop, center_crop], after step 5 of the preprocessing",
        "output": "logits float32 [N, C]",
    }
    ends = graph if kind in ("onnx", "torch-export") else weights
    facts = {**opened.about, "kind": kind, **ends, "compared": compared, "sha256": files}
    (folder / "glmc.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    text = card.render(
        opened.about,
        opened.public.to_yaml(),
        kind,
        few=opened.recipe.eval.few,
        result=opened.result,
        compared=f"{what} (logits within {worst:.1e})",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
