"""Whether pretrained weights can be had, asked before the hub's library begins its minute of retries."""

import os
from urllib.error import URLError
from urllib.request import Request, urlopen

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
