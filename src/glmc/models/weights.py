"""Files of weights, read with distrust; and whether pretrained ones can be had, asked before a minute of retries."""

import os
import pickletools
import zipfile
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import URLError
from urllib.request import Request, urlopen

import torch
from torch import Tensor

from glmc import trust
from glmc.errors import UserError

MARK, MOST_TUPLES = -1, 10_000
LEGACY = 5  # pickles of which a file consists that torch older than 1.6 wrote, before the tensors
MOST_BYTES = 2**37  # of a file of weights
SECONDS = 4  # to wait for an answer of the hub


def obstacle(name: str) -> str | None:
    """What keeps timm's weights of a model from being had, or nothing: they lie in the hub's cache, or it answers."""
    return None if in_cache(name) else no_hub()


def in_cache(name: str) -> bool:
    """Whether timm's weights of a model have been fetched before."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return False
    files = ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(str(config.hf_hub_id), file), str) for file in files)


def no_hub() -> str | None:
    """What keeps the hub from answering, or nothing."""
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return "HF_HUB_OFFLINE is set"
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urlopen(Request(address, method="HEAD"), timeout=SECONDS):
            return None
    except (URLError, OSError, ValueError) as error:
        return f"no answer from {address}: {getattr(error, 'reason', error)}"


def content_of(file: Path, name: str) -> Any:
    """What a file of tensors holds: a .safetensors, or one of `torch.save`, of which nothing is run.

    Args:
        file: the file.
        name: what the user calls it.

    Raises:
        UserError: it is damaged, holds more than tensors, numbers and texts, or takes more memory than itself.
    """
    try:
        with trust.open_file(file, MOST_BYTES) as stream:
            if file.suffix == ".safetensors":
                from safetensors.torch import load_file

                return load_file(file)
            _refuse_bombs(stream)
            stream.seek(0)
            return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # every reader has its own exceptions for a damaged or foreign file
        why = f" ({error})" if isinstance(error, ValueError | OSError) else ""
        raise UserError(
            f"{name}: not a readable file of weights{why}: it is damaged, cut short, or holds more than tensors and "
            f"numbers, which is never run; fetch it again, or save it with nothing but tensors and numbers"
        ) from error


def _refuse_bombs(stream: BinaryIO) -> None:
    """Raise a `ValueError` where a file would be unpacked to more bytes than it has, or makes some out of a number."""
    pickles: list[bytes | BinaryIO] = [stream] * LEGACY
    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as packed:
            if any(name.endswith("/constants.pkl") for name in packed.namelist()):  # as OpenAI's files of CLIP are
                raise ValueError("it is a TorchScript program: save torch.jit.load(FILE).state_dict() with torch.save")
            if sum(member.file_size for member in packed.infolist()) > stream.seek(0, os.SEEK_END):
                raise ValueError("it unpacks to more bytes than it has")
            pickles = [packed.read(name) for name in packed.namelist() if name.endswith("data.pkl")]
    else:
        stream.seek(0)
    for content in pickles:
        _refuse_bomb(content)


def _refuse_bomb(content: bytes | BinaryIO) -> None:
    """The same of one pickle; and where tuples of tuples, each used twice, would take for ever as the key of a dict."""
    stack: list[int] = []  # how many tuples lie in each value; MARK for a mark
    memo: dict[Any, int] = {}
    for code, argument, _ in pickletools.genops(content):
        if code.name == "GLOBAL" and not str(argument).startswith(("torch", "collections OrderedDict")):
            raise ValueError(f"it asks for {str(argument).replace(' ', '.')}, which is refused")
        if code.name.endswith("PUT"):
            memo[argument] = stack[-1]
            continue
        taken = len(code.stack_before)
        if pickletools.markobject in code.stack_before:
            below = code.stack_before.index(pickletools.markobject)
            taken = below + stack[::-1].index(MARK) + 1
        parts = [stack.pop() for _ in range(taken)]
        if code.name.startswith("TUPLE"):
            stack.append(1 + sum(part for part in parts if part != MARK))
        elif code.name.endswith("GET"):
            stack.append(memo[argument])
        else:
            stack += [MARK if kind is pickletools.markobject else 0 for kind in code.stack_after]
        if stack and stack[-1] > MOST_TUPLES:
            raise ValueError("it holds tuples in tuples without end")


def fits(found: Any, wanted: Tensor) -> bool:
    """Whether what a file holds in the place of a tensor can be copied into it."""
    return (
        isinstance(found, Tensor)
        and found.shape == wanted.shape
        and found.layout == torch.strided
        and not found.is_meta
        and found.is_floating_point() == wanted.is_floating_point()
    )
