"""What methods, losses and mixtures give back, looked at in a trial step: whoever wrote one is told what is wrong.

Without it, nonsense is only noticed further on, by a line that is right.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from glmc.errors import UserError
from glmc.losses.base import Loss
from glmc.methods.base import Method
from glmc.mixtures.base import Mixture


def wrong(module: nn.Module, function: str, returned: str, remedy: str) -> UserError:
    """The sentence about a function of a method, loss or mixture, with the file and line of its definition."""
    code = inspect.unwrap(getattr(type(module), function)).__code__
    name = f"{type(module).__name__}.{function}"
    return UserError(f"{code.co_filename}:{code.co_firstlineno}: {name} returns {returned}; {remedy}")


def described(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


@contextlib.contextmanager
def checked(method: Method) -> Iterator[None]:
    """What losses and mixtures return is looked at as long as this lasts, in copies of the method, too.

    Raises:
        UserError: from within the method's forward, if it is not what a loss or a mixture has to return.
    """

    def of_loss(module: nn.Module, _arguments: Any, value: Any) -> None:
        if not is_scalar(value):
            raise wrong(module, "forward", described(value), "a loss is a float [], such as a mean over the batch")

    def of_mixture(module: nn.Module, arguments: Any, value: Any) -> None:
        remedy = "a mixture returns images [B, ch, H, W], and labels int64 [B] or distributions float [B, C]"
        if not isinstance(value, tuple) or len(value) != 2 or not all(isinstance(part, Tensor) for part in value):
            raise wrong(module, "forward", described(value), remedy)
        images, targets = value
        batch, classes = len(arguments[0].labels), method.classes
        fits = targets.shape == ((batch, classes) if targets.is_floating_point() else (batch,))
        if len(images) != batch or not images.is_floating_point() or not fits:
            raise wrong(module, "forward", f"{described(images)} and {described(targets)}", remedy)

    hooks = [m.register_forward_hook(of_loss) for m in method.modules() if isinstance(m, Loss)]
    hooks += [m.register_forward_hook(of_mixture) for m in method.modules() if isinstance(m, Mixture)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def is_scalar(value: Any) -> bool:
    """Whether something can be a term of a loss."""
    return isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()


def refuse_terms(method: Method, terms: Any) -> None:
    """Raise a `UserError` unless a method's forward has returned the named terms of a loss."""
    remedy = "it must be a dict of named terms, a float [] tensor each, that the weights have gone into"
    if not isinstance(terms, Mapping) or not terms:
        raise wrong(method, "forward", f"{described(terms)}", remedy)
    for name, term in terms.items():
        if not is_scalar(term):
            raise wrong(method, "forward", f"the term {name!r} as {described(term)}", remedy)
    if not any(term.requires_grad for term in terms.values()):
        raise wrong(method, "forward", "terms without a gradient", remedy)


def refuse_tables(method: Method, tables: Any, steps: int) -> None:
    """Raise a `UserError` unless these are a method's tables of an epoch of so many steps."""
    remedy = f"it must be a dict of numpy arrays with a row for each of {steps} steps"
    if not isinstance(tables, Mapping):
        raise wrong(method, "tables", described(tables), remedy)
    for name, table in tables.items():
        if not isinstance(table, np.ndarray) or len(table) != steps:
            raise wrong(method, "tables", f"{name!r} as {described(table)}", remedy)


def refuse_logits(method: Method, logits: Any, images: int) -> None:
    """Raise a `UserError` unless a method's predict has returned logits for so many images."""
    if not isinstance(logits, Tensor) or logits.shape != (images, method.classes) or not logits.is_floating_point():
        remedy = f"for {images} images it must be logits, float {[images, method.classes]}"
        raise wrong(method, "predict", described(logits), remedy)
