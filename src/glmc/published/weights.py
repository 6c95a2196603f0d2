"""Checkpoints of the published GLMC code, read into our names and written from them.

A file of the authors' (`ckpt.best.pth.tar` and the like) is a torch file of a dict:

    epoch       int, epochs done
    state_dict  name -> tensor, all names behind "module." unless the run was bound to one GPU
    best_acc1   float, percent on the test images in the best epoch so far

The names tell which of three families of networks it holds: with `conv2_x.` a ResNet with a small stem, else with
`layer4.` a ResNet or ResNeXt of torchvision's layout, else a ResNet-20 to 56 for small images.

    theirs                                               ours
    fc, fc_cb                                            classifier, rebalanced
    projection_head.0, contrast_head.0                   projector, predictor
    conv1.0, conv1.1                     (small stem)    backbone.net.conv1, bn1
    conv2_x.i.residual_function.0, .1    (small stem)    backbone.net.layer1.i.conv1, bn1; 3, 4 and 6, 7 the next
    conv2_x.i.shortcut.0, .1             (small stem)    backbone.net.layer1.i.shortcut.0, .1; conv3_x is layer2, ...
    any other trunk name                                 backbone.net. before it

Of what a file pickles, only tensors, numbers, texts and containers of them are made: see `glmc.models.weights`.
"""

import importlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from glmc.errors import UserError
from glmc.models import SMALL_IMAGE, build_backbone
from glmc.models.weights import content_of, fits
from glmc.runs.files import write_atomic

HEADS = {
    "classifier": "fc",
    "rebalanced": "fc_cb",
    "projector": "projection_head.0",
    "predictor": "contrast_head.0",
}
TORCHVISION_LAYOUT = {  # (first two sizes of layer1.0.conv2.weight, blocks of layer3, bottlenecks?) -> timm's name
    ((64, 64), 2, False): "resnet18",
    ((64, 64), 6, False): "resnet34",
    ((64, 64), 6, True): "resnet50",
    ((64, 64), 23, True): "resnet101",
    ((64, 64), 36, True): "resnet152",
    ((128, 4), 6, True): "resnext50_32x4d",
    ((256, 8), 23, True): "resnext101_32x8d",
}


@dataclass(frozen=True)
class Published:
    """What a published checkpoint holds.

    Attributes:
        backbone: a name for `build_backbone`.
        classes: C.
        epoch: epochs done, where the file says.
        best_acc1: percent, in the best epoch on the test images, where the file says.
        embedding: E, the setting of that name of `GLMC`.
        weights: the state of a `GLMC` on that backbone with that embedding, on the CPU.
    """

    backbone: str
    classes: int
    epoch: int | None
    best_acc1: float | None
    embedding: int
    weights: dict[str, Tensor]


def read(file: Path) -> Published:
    """A checkpoint of the published code, or a bare `state_dict` of it.

    Raises:
        UserError: not such a file, damaged, of a network that is not built here, or tensors that are missing, of
            another shape, or without a place.
    """
    content = _load(file)
    tensors = content.get("state_dict", content)
    if not isinstance(tensors, dict) or not all(isinstance(key, str) for key in tensors):
        _refuse_foreign(file, "holds no dict of named tensors")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    backbone = _backbone_of(tensors, file)
    first = "conv1.0.weight" if backbone.endswith("_small") else "conv1.weight"
    classes = _size(tensors, "fc_cb.weight", 0)
    embedding = _size(tensors, "projection_head.0.weight", 0)
    wanted = _layout(backbone, _size(tensors, first, 1), classes, embedding)
    theirs = {ours: _published_name(ours, backbone) for ours in wanted}
    _refuse_difference(tensors, {theirs[ours]: tensor for ours, tensor in wanted.items()}, backbone, file)
    best = _number(content, "best_acc1", int | float, file)
    return Published(
        backbone=backbone,
        classes=classes,
        epoch=_number(content, "epoch", int, file),
        best_acc1=None if best is None else float(best),
        embedding=embedding,
        weights={ours: tensors[theirs[ours]] for ours in wanted},
    )


def write(file: Path, weights: Mapping[str, Tensor], backbone: str, *, epoch: int, best_acc1: float) -> None:
    """Write a checkpoint as the published code does; `read` gives back the same bits.

    Args:
        file: in an existing folder; replaced as a whole.
        weights: the state of a `GLMC`, of any device and strides.
        backbone: its `build_backbone` name; a tag of pretrained weights (`resnet50.a1_in1k`) is of no matter.
        epoch: epochs done.
        best_acc1: percent.

    Raises:
        UserError: another network or method, which has no such layout; or the file cannot be written.
    """
    backbone = backbone.partition(".")[0]
    networks = (*SMALL_IMAGE, *TORCHVISION_LAYOUT.values())
    if backbone not in networks:
        raise UserError(
            f"{file}: the published layout has no place for the network {backbone}, only for {', '.join(networks)}; "
            f"export it in another format"
        )
    tensors = {ours: tensor for ours, tensor in weights.items() if not ours.startswith(("loss.", "conventional_loss."))}
    channels = _size(tensors, "backbone.net.conv1.weight", 1)
    classes, embedding = _size(tensors, "rebalanced.weight", 0), _size(tensors, "projector.weight", 0)
    _refuse_difference(tensors, _layout(backbone, channels, classes, embedding), backbone, file)
    state = {
        # A plain copy: a part of a larger tensor would be saved with the whole of it.
        f"module.{_published_name(ours, backbone)}": tensor.detach().to(
            "cpu", copy=True, memory_format=torch.contiguous_format
        )
        for ours, tensor in tensors.items()
    }
    buffer = io.BytesIO()
    torch.save({"epoch": int(epoch), "state_dict": state, "best_acc1": float(best_acc1)}, buffer)
    write_atomic(file, buffer.getvalue())


def _load(file: Path) -> dict[Any, Any]:
    if not file.is_file():
        raise UserError(f"{file}: there is no such file; give a .pth.tar of the published code")
    content = content_of(file, str(file))
    if not isinstance(content, dict):
        _refuse_foreign(file, f"holds a {type(content).__name__} and no dict")
    return content


def _backbone_of(tensors: Mapping[str, Any], file: Path) -> str:
    """Which network the names and shapes mean.

    Where too little is left to tell, the nearest network that was published, so that what is missing can be named.
    """
    if any(key.startswith("conv2_x.") for key in tensors):
        if any(".residual_function.6." in key for key in tensors):
            return "resnet50_small"
        return "resnet34_small" if _blocks(tensors, "conv4_x") > 2 else "resnet18_small"
    if any(key.startswith("layer4.") for key in tensors):
        narrow = "layer1.0.conv2.weight"
        shape = (_size(tensors, narrow, 0), _size(tensors, narrow, 1))
        bottlenecks = any(key.endswith(".conv3.weight") for key in tensors)
        return TORCHVISION_LAYOUT.get((shape, _blocks(tensors, "layer3"), bottlenecks), "resnext50_32x4d")
    blocks = max(_blocks(tensors, stage) for stage in ("layer1", "layer2", "layer3")) or 5
    width = _size(tensors, "conv1.weight", 0) if "conv1.weight" in tensors else 64
    kind = {16: "", 64: "_w64"}.get(width, "?")
    name = f"resnet{6 * blocks + 2}{kind}"
    if name not in SMALL_IMAGE:
        _refuse_foreign(
            file,
            f"holds a ResNet of {blocks} blocks a stage that begins with {width} channels, and such networks have "
            f"3, 5, 7 or 9 blocks and 16 or 64 channels here",
        )
    return name


def _layout(backbone: str, channels: int, classes: int, embedding: int) -> dict[str, Tensor]:
    """Name and shape of all that a file must hold, in our names; tensors without content."""
    if backbone not in SMALL_IMAGE:
        importlib.import_module("timm")  # now: what a module makes while it is imported must not lack its content
    with torch.device("meta"):
        encoder = build_backbone(backbone, channels=1 if channels == 1 else 3)
        features = encoder.out_dim
        whole = nn.ModuleDict(
            {
                "backbone": encoder,
                "classifier": nn.Linear(features, classes),
                "rebalanced": nn.Linear(features, classes),
                "projector": nn.Linear(features, embedding),
                "predictor": nn.Linear(embedding, embedding),
            }
        )
    return whole.state_dict()


def _published_name(ours: str, backbone: str) -> str:
    """The published name, without "module.", of a tensor."""
    layer, _, kind = ours.rpartition(".")
    if layer in HEADS:
        return f"{HEADS[layer]}.{kind}"
    name = ours.removeprefix("backbone.net.")
    if not backbone.endswith("_small"):
        return name
    inside = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", name)
    if inside is None:
        return re.sub("^bn1", "conv1.1", re.sub("^conv1", "conv1.0", name))
    stage, block, rest = inside.groups()
    # Convolution, BatchNorm, ReLU, and again: 0, 1, 2, 3, ...
    rest = re.sub(r"^conv(\d)", lambda found: f"residual_function.{3 * int(found[1]) - 3}", rest)
    rest = re.sub(r"^bn(\d)", lambda found: f"residual_function.{3 * int(found[1]) - 2}", rest)
    return f"conv{int(stage) + 1}_x.{block}.{rest}"


def _refuse_difference(found: Mapping[str, Any], wanted: Mapping[str, Tensor], backbone: str, file: Path) -> None:
    """Raise a `UserError` unless the tensors found are those wanted, name by name and shape by shape."""
    missing = [name for name in wanted if name not in found]
    misshapen = [name for name in wanted if name in found and not fits(found[name], wanted[name])]
    homeless = [name for name in found if name not in wanted]
    for names, what in (
        (missing, "lacks {} of its {} tensors"),
        (misshapen, "has {} of its {} tensors in another shape or type"),
        (homeless, "has {} too many beside its {} tensors"),
    ):
        if names:
            number = what.format(len(names), len(wanted))
            listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise UserError(
                f"{file}: what should be GLMC on {backbone} {number}: {listed}; give the whole state of the method "
                f"GLMC on one of the published networks"
            )


def _blocks(tensors: Mapping[str, Any], stage: str) -> int:
    return len({key.split(".")[1] for key in tensors if key.startswith(f"{stage}.")})


def _size(tensors: Mapping[str, Any], name: str, axis: int) -> int:
    """One size of a tensor; 1 where it is absent, empty or has no such axis, which the comparison will say."""
    tensor = tensors.get(name)
    return tensor.shape[axis] or 1 if isinstance(tensor, Tensor) and tensor.ndim > axis else 1


def _number(content: Mapping[Any, Any], key: str, kind: Any, file: Path) -> Any:
    value = content.get(key)
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta:
        value = value.item()
    if value is not None and not isinstance(value, kind):
        _refuse_foreign(file, f"says {key}, which should be a number, as a {type(value).__name__}")
    return value


def _refuse_foreign(file: Path, what: str) -> NoReturn:
    raise UserError(f"{file}: {what}; give a .pth.tar of the published code, a dict of epoch, state_dict and best_acc1")
