"""Which recipe for one's own photographs, when none is named: a pretrained network where its weights can be had."""

import os
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import Request, urlopen

from glmc import recipe

SECONDS = 4  # to wait for the hub: whoever has no network should not wait for the library's retries


class Choice(NamedTuple):
    """A recipe, and why."""

    recipe: str
    reason: str


def choose() -> Choice:
    """`folder/finetune` if its weights lie in the hub's cache or the hub answers, else `folder/glmc`."""
    name = recipe.load("folder/finetune").model.name
    obstacle = None if in_cache(name) else no_hub()
    if obstacle is None:
        return Choice("folder/finetune", f"few images a class are rarely learnt from scratch, so {name} is fine-tuned")
    return Choice(
        "folder/glmc",
        f"the weights of {name} cannot be had ({obstacle}), so a network is trained from scratch; "
        f"folder/finetune model.pretrained=FILE takes weights that you have",
    )


def in_cache(name: str) -> bool:
    """Whether timm's weights of a model have been fetched before."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    found = config is not None and [
        try_to_load_from_cache(str(config.hf_hub_id), file) for file in ("model.safetensors", "pytorch_model.bin")
    ]
    return any(isinstance(path, str) for path in found or ())


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
