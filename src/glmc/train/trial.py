"""One step tried before a run begins, so that what does not go together is refused in a sentence."""

import copy

import torch
from torch import Tensor

from glmc import ranks, runtime, trust
from glmc.batches.resident import ResidentLoader
from glmc.batches.resize import shrunk
from glmc.errors import UserError
from glmc.runs.trained import build_views
from glmc.step import Step
from glmc.train.build import Parts
from glmc.train.engine import draw, move
from glmc.train.returned import checked, refuse_logits, refuse_tables, refuse_terms


def try_one_step(parts: Parts) -> int:
    """Refuse a model that cannot take the images or the batches, or a batch too large for the memory, before training.

    Returns:
        About how many bytes of the device the run will take, its images included; 0 if unknown.

    Raises:
        UserError: any of these; names the value to change.
    """
    recipe, loader, device, method = parts.recipe, parts.loader, parts.device, parts.method
    tables = draw(method, loader, recipe.train.epochs // 2, recipe.train.epochs)
    refuse_tables(method, tables, loader.steps)
    draws = {name: table[0] for name, table in move(tables, device).items()}
    first = next(loader.parts(loader.epoch(0)))

    def loss_of(trial: torch.nn.Module, images: int, side: int = 0) -> Tensor:
        streams = {name: shrunk(loader.batch(part.part(slice(0, images))), side) for name, part in first.items()}
        with runtime.autocast(device, recipe.train.precision):
            terms = trial(Step(streams, draws, torch.tensor(0.5, device=device)))
        refuse_terms(method, terms)
        return torch.stack(list(terms.values())).sum()

    size = f"{parts.data.size} x {parts.data.size} pixels"
    image = torch.zeros(1, parts.data.size, parts.data.size, parts.data.channels, dtype=torch.uint8, device=device)
    try:
        with checked(method):
            here = ranks.here()
            own = here.images_of(recipe.data.batch_size, 0)  # images of each batch
            needed = runtime.check_memory(method, loss_of, own, device, here.world)
        (view,) = build_views(recipe, ("test",), device)
        method.eval()
        with torch.inference_mode(), runtime.autocast(device, recipe.train.precision):
            refuse_logits(method, method.predict(view(image, {})), 1)
        method.train()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{device} has no memory for two images of {size}; take a smaller model or data.size"
        ) from error
    except UserError:
        raise
    except Exception as error:
        line = trust.own_line(error)
        if line is not None:
            raise UserError(f"{line}: {type(error).__name__}: {error}; --debug shows the way there") from error
        if not isinstance(error, RuntimeError | AssertionError | ValueError):
            raise
        raise UserError(
            f"model.name={recipe.model.name} cannot take images of {size} ({str(error).splitlines()[0].rstrip('.')}); "
            f"choose another data.size or model"
        ) from error
    small = max(parts.sides)
    if small:
        try:
            loss_of(copy.deepcopy(method), 2, small)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UserError(
                f"train.progressive: {recipe.model.name} cannot take images of {small} x {small} pixels "
                f"({str(error).splitlines()[0].rstrip('.')}); set it to null"
            ) from error
    if len(parts.data.train) % recipe.data.batch_size == 1:  # BatchNorm may find no spread in the last, single image
        try:
            loss_of(copy.deepcopy(method), 1, small)
        except (RuntimeError, ValueError) as error:
            size = f"{small} x {small} pixels" if small else size
            raise UserError(
                f"data.batch_size={recipe.data.batch_size} leaves a last batch of one image, which "
                f"{recipe.model.name} cannot train on at {size}; take another data.batch_size"
            ) from error
    held = [images for images, _ in parts.sets.values()]
    held += [loader.images] if isinstance(loader, ResidentLoader) else []
    on_device = sum(images.nbytes for images in held if images.device.type == device.type)
    return needed + on_device if needed else 0
