"""Class names as rows of a classifier, by the text encoder that an image encoder was trained beside; see open_clip."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glmc.errors import UserError
from glmc.models.weights import no_hub

PROMPT = "a photo of a {}."


def prompts(classes: Sequence[str]) -> list[str]:
    """What a text encoder reads for each class; underscores and hyphens count as spaces, capitals do not count.

    >>> prompts(["Sea_lion", "ox"])
    ['a photo of a sea lion.', 'a photo of a ox.']

    Raises:
        UserError: two classes have the same prompt, or a name has no letter.
    """
    written: dict[str, str] = {}
    for name in classes:
        words = " ".join(name.lower().replace("_", " ").replace("-", " ").split())
        if not any(letter.isalpha() for letter in words):
            raise UserError(
                f"model.heads=class_names: the class {name!r} is not a word, and a text encoder reads words; rename "
                "the classes, or take model.heads=class_means"
            )
        prompt = PROMPT.format(words)
        if prompt in written:
            raise UserError(
                f"model.heads=class_names: {written[prompt]!r} and {name!r} are the same prompt, {prompt!r}; rename "
                "one of the two, or take model.heads=class_means"
            )
        written[prompt] = name
    return list(written)


@torch.no_grad()
def class_names(classes: Sequence[str], name: str, encoder: str | None) -> Tensor:
    """For each class the image feature that its prompt would be nearest to: float32 [C, D], on the CPU.

    A text feature t is compared with image features P'x after their projection P [D, E], so the row is P t. Shi et al.,
    ICML 2024, arXiv:2309.10019.

    Args:
        classes: their names.
        name: of the timm model that gives image features x.
        encoder: a folder with open_clip_config.json and its weights, or a model of open_clip's on the hub; None: the
            place on the hub that the timm model's own weights come from.

    Raises:
        UserError: open_clip is not installed, there is no such encoder, or names cannot be told apart; see `prompts`.
    """
    texts = prompts(classes)
    model, tokenize = _opened(encoder or _home(name))
    features = torch.cat([model.encode_text(tokenize(some), normalize=True) for some in _chunks(texts, 256)])
    return features.float() @ _projection(model.visual, features.shape[1]).T


def _home(name: str) -> str:
    """Where timm's weights of a model lie on the hub."""
    import timm

    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None or not config.hf_hub_id:
        raise UserError(
            f"model.heads=class_names: no text encoder is known for {name}; set model.text to open_clip's folder or "
            "name of one, or take model.heads=class_means"
        )
    return str(config.hf_hub_id)


def _opened(encoder: str) -> tuple[Any, Any]:
    """Both encoders of a model, in evaluation mode, and what makes tokens of a text."""
    try:
        import open_clip
    except ImportError as error:
        raise UserError(
            "model.heads=class_names needs open_clip: pip install 'glmc[open_clip]', or take model.heads=class_means"
        ) from error
    folder = Path(encoder).expanduser()
    reason = None if folder.is_dir() else no_hub()
    if reason is not None:
        raise UserError(
            f"model.text={encoder}: no such folder, and it cannot be had from the hub ({reason}); give a folder with "
            "open_clip_config.json and its weights, or take model.heads=class_means"
        )
    address = f"local-dir:{folder}" if folder.is_dir() else f"hf-hub:{encoder}"
    try:
        model = open_clip.create_model(address, require_pretrained=True)
        return model.eval(), open_clip.get_tokenizer(address)
    except Exception as error:  # each of its readers has its own for a folder that is missing, foreign or damaged
        raise UserError(
            f"model.text={encoder}: not a text encoder that open_clip reads ({error}); give a "
            "folder with open_clip_config.json and its weights, or take model.heads=class_means"
        ) from error


def _projection(visual: nn.Module, width: int) -> Tensor:
    """The matrix [D, E] that image features of an open_clip model are multiplied by, a unit matrix if there is none."""
    own = getattr(visual, "proj", None)
    if isinstance(own, Tensor):
        return own.float()
    ends = (getattr(visual, "head", None), getattr(getattr(visual, "trunk", None), "head", None))
    layers = [layer for end in ends if end is not None for layer in end.modules() if isinstance(layer, nn.Linear)]
    if len(layers) > 1:
        raise UserError(
            "model.heads=class_names: the text encoder was trained beside images whose features pass several layers, "
            "so its texts have no place among the features before them; take model.heads=class_means"
        )
    return layers[0].weight.T.float() if layers else torch.eye(width)


def _chunks(texts: Sequence[str], size: int) -> list[Sequence[str]]:
    return [texts[start : start + size] for start in range(0, len(texts), size)]
