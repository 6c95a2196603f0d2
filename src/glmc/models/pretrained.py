"""Files of pretrained weights, in whichever layout they come, into a network."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from glmc.errors import UserError
from glmc.models.weights import content_of, fits

MINE = "glmc"  # key of the header under which `glmc export` says what a file is
WRAPPERS = ("state_dict", "model", "teacher")  # what training programs put the tensors of a network under


class Told(NamedTuple):
    """What a file of weights says of itself.

    Args:
        network: name of the backbone.
        mean, std: per channel, in fractions of the full range, of the images it was trained on.
        size: side of these in pixels.
    """

    network: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int


class _Images(BaseModel):
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int


class _Header(BaseModel):
    network: str
    preprocessing: _Images


def told(weights: str) -> Told | None:
    """What a file that `glmc export` wrote as safetensors says of itself; None for any other file.

    Args:
        weights: value of `model.pretrained`.

    Raises:
        UserError: there is no such file.
    """
    from safetensors import SafetensorError, safe_open

    file = _there(weights)
    if file.suffix != ".safetensors":
        return None
    try:
        with safe_open(file, "pt") as content:
            header = _Header.model_validate_json((content.metadata() or {})[MINE])
    except (KeyError, ValidationError, SafetensorError, OSError):  # another program's, or one that loading will refuse
        return None
    images = header.preprocessing
    return Told(header.network, images.mean, images.std, images.size)


def _there(weights: str) -> Path:
    file = Path(weights).expanduser()
    if not file.is_file():
        missing = "is a folder, not a file" if file.is_dir() else "there is no such file"
        raise UserError(f"model.pretrained={weights}: {missing}")
    return file


def load_pretrained(net: nn.Module, weights: str) -> None:
    """Load a file of tensors, in whichever layout timm reads; classifiers in it are left aside, the rest must match.

    Args:
        net: of this package or of timm, without classifier.
        weights: value of `model.pretrained`: a file of `glmc export`, timm, open_clip, CLIP, DINOv2, MAE, torchvision

    Raises:
        UserError: it cannot be read, lacks something of the network, or holds more of it.
    """
    said = f"model.pretrained={weights}"
    tensors = _unwrapped(content_of(_there(weights), said))
    if not isinstance(tensors, dict):
        raise UserError(f"{said}: holds a {type(tensors).__name__}; give a file of tensors by name")
    faults = _other_patches(net, tensors)
    tensors = _translated(net, tensors)
    wanted, aside = net.state_dict(), _heads(net)
    lacking = [key for key in wanted if key not in tensors]
    odd = [key for key in wanted if key in tensors and not fits(tensors[key], wanted[key])]
    parts = {key: key.partition(".")[0] for key in tensors if key not in wanted}
    over = [key for key, part in parts.items() if hasattr(net, part) and part not in aside]  # None: it goes without
    if lacking:
        faults.append(f"it has no {_some(lacking)}")
    if odd:
        faults.append(f"its {odd[0]} is {_form(tensors[odd[0]])} instead of {_form(wanted[odd[0]])}")
    if over:
        faults.append(f"it holds {_some(over)}, for which there is no place")
    if faults:
        raise UserError(
            f"{said}: does not fit the network of model.name: {faults[0]}; set model.name and "
            "data.channels to what the file was written from, or give another file"
        )
    net.load_state_dict({key: tensors[key] for key in wanted})


def _unwrapped(content: Any) -> Any:
    """Its tensors by name, without what training programs put around them and before their names; or as it is."""
    while isinstance(content, dict) and (inner := [w for w in WRAPPERS if isinstance(content.get(w), dict)]):
        content = content[inner[0]]
    if not isinstance(content, dict):
        return content
    return {re.sub(r"^(module\.|_orig_mod\.|backbone\.)+", "", str(key)): value for key, value in content.items()}


def _heads(net: nn.Module) -> set[str]:
    """The children of a network of timm's that hold its classifiers."""
    names = (getattr(net, "pretrained_cfg", None) or {}).get("classifier") or ()
    return {name.partition(".")[0] for name in ((names,) if isinstance(names, str) else names)}


def _other_patches(net: nn.Module, tensors: dict[str, Any]) -> list[str]:
    """A complaint about a file for patches of another size, which timm would resample without a word; or none."""
    mine = net.state_dict().get("patch_embed.proj.weight")
    for key in ("patch_embed.proj.weight", "visual.conv1.weight", "visual.trunk.patch_embed.proj.weight"):
        theirs = tensors.get(key)
        if mine is not None and isinstance(theirs, Tensor) and theirs.ndim == 4 and theirs.shape[2:] != mine.shape[2:]:
            return [f"its {key} is {_form(theirs)} instead of {_form(mine)}"]
    return []


def _translated(net: nn.Module, tensors: dict[str, Any]) -> dict[str, Any]:
    """The same under timm's names, which knows those of open_clip, OpenAI, DINOv2 and others; else as they are.

    Position embeddings are resampled to the network's own image size.
    """
    translate = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return tensors
    try:
        return dict(translate(dict(tensors), net))
    except (KeyError, IndexError, AttributeError, RuntimeError, TypeError, ValueError):  # of another architecture
        return tensors


def _some(names: Sequence[str]) -> str:
    """Names in words, of many the first."""
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def _form(value: Any) -> str:
    """Shape and type of what may be a tensor, in words."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{'x'.join(map(str, value.shape)) or 'a number'} ({str(value.dtype).removeprefix('torch.')})"
