"""What every method is."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glmc.losses.base import Loss
from glmc.mixtures.base import Mixture
from glmc.models import Backbone
from glmc.models.heads import Cosine
from glmc.random import Draws
from glmc.step import Batch, Step

Look = Callable[[str], Iterator[Batch]]  # name of a view -> the training set in order, in that view alone


class Method(nn.Module):
    """A backbone, heads, and the program that trains them. All state is parameters and buffers, of finite numbers.

    Subclasses take their settings as keyword-only arguments with annotations and defaults: these are the keys that a
    recipe may write under `method`. An argument annotated as `Loss` is a section of its own, like `loss`.

    Args:
        backbone: images -> features.
        counts: int64 [C], training images per class.
        loss: the recipe's.
        mixture: the recipe's.

    Raises:
        ValueError: these do not go together, or a setting is out of its range.
    """

    views: tuple[str, ...] = ("train",)  # names of augmentations in the recipe, one for each view of a batch
    prior: Literal["training", "uniform"] = "training"  # class frequencies that `predict` is meant for
    second_stage = False  # whether it can only start from a trained run
    drifting = False  # whether the running averages of a frozen backbone follow the batches
    takes_experts = False  # whether it wants several networks on a shared stem
    takes_mixtures = True  # whether images may be mixed
    takes_sharpness = True  # whether a step may look at the batch twice, as SAM does

    # Streams of images by name: "instance", and perhaps "rebalanced". r draws with P(class c) ~ n_c ** (1 - r), and
    # None takes every image once an epoch.
    streams: dict[str, float | None] = {"instance": None}  # noqa: RUF012

    def __init__(self, backbone: Backbone, counts: Tensor, loss: Loss, mixture: Mixture) -> None:
        super().__init__()
        self.backbone, self.classes = backbone, len(counts)
        self.loss, self.mixture = loss, mixture
        self.refuse_mixed(loss)
        if type(mixture) is not Mixture and not self.takes_mixtures:
            raise ValueError(f"{type(self).__name__} takes images as they are: set mixture.name=none")
        if backbone.experts > 1 and not self.takes_experts:
            raise ValueError(
                f"{type(self).__name__} trains a single expert: set model.experts to 1, model.experts_from to null"
            )

    def refuse_mixed(self, loss: Loss) -> None:
        """Raise a `ValueError` if a loss takes labels only and the mixture makes distributions of them."""
        if self.mixture.mixes and not loss.mixed:
            raise ValueError(
                f"the loss {type(loss).__name__} takes labels, and {type(self.mixture).__name__} mixes them: set "
                f"mixture.name=none, or take another loss"
            )

    # --- training -----------------------------------------------------------------------------------------------------

    def tables(self, rng: Draws, *, epoch: int, epochs: int, steps: int, batch: int) -> dict[str, NDArray[Any]]:
        """Random numbers of an epoch by name: [steps, ...], of any dtype (float64 reaches the step as float32).

        It is called from a thread while the epoch before is running: a function of its arguments, with numpy alone.

        Args:
            rng: the same numbers for the same seed and epoch; the order of calls counts.
            epoch, epochs: 0-based, of how many.
            steps, batch: of the epoch, and images of a step; the last step may have fewer.
        """
        return self.mixture.tables(rng, epoch=epoch, epochs=epochs, steps=steps, batch=batch)

    def before_epoch(self, epoch: int, epochs: int, look: Look) -> None:
        """What is gathered from the training set before an epoch, in evaluation mode; nothing by default.

        Results go into buffers, in place, so that a run resumes in the middle of the epoch without a second look.

        Args:
            epoch, epochs: 0-based, of how many.
            look: `look("test")` goes through the training images in order, without augmentation.
        """

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms of the loss by name, already weighted: float [] each, and their sum is the loss.

        With `optim.sharpness` uphill it is called twice; of its buffers only BatchNorm's are kept from the second call.
        """
        raise TypeError(f"{type(self).__name__} must say what its loss is: define forward")

    def after_step(self) -> None:
        """What follows the optimizer's step, such as a momentum encoder or a queue; nothing by default.

        It is part of what is recorded as a CUDA graph: tensors only, changed in place.
        """

    def after_epoch(self) -> None:
        """What happens to the weights after the last step of an epoch and before evaluation; nothing by default."""

    def rates(self, progress: float) -> dict[str, float]:
        """Factor of the learning rate of a group in an epoch; 1 where none is named.

        Groups are "backbone", "heads", and whichever module of the method is named at progress 0, by its attribute;
        "heads" is then the rest.

        Args:
            progress: epoch / epochs, in [0, 1).
        """
        return {}

    # --- answering ----------------------------------------------------------------------------------------------------

    def predict(self, images: Tensor) -> Tensor:
        """Float [B, ch, H, W] -> logits float [B, C]."""
        raise TypeError(f"{type(self).__name__} must say what it predicts: define predict")

    def head(self) -> nn.Linear | None:
        """The linear classifier that turns features of the backbone into the logits of `predict`; none if none does."""
        return None

    # --- what is trained ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def adopt(self, trained: "Method", what: Literal["backbone", "all"]) -> None:
        """Start from a trained method: from its backbone, and if `what` is "all", from the classifier it answers with.

        Raises:
            ValueError: there is no linear classifier to take over, or none to put it into.
            RuntimeError: the backbones differ.
        """
        self.backbone.load_state_dict(trained.backbone.state_dict())
        if what == "all":
            head = trained.head()
            if head is None:
                raise ValueError(
                    f"{type(trained).__name__} has no linear classifier to take over: starts_from=backbone"
                )
            self.adopt_head(head)

    def adopt_head(self, head: nn.Linear | Cosine) -> None:
        """Start from this classifier of as many classes."""
        raise ValueError(f"{type(self).__name__} cannot start from a classifier: set starts_from=backbone")

    def freeze_backbone(self, statistics: Literal["frozen", "drifting"], *, adapters: bool = False) -> None:
        """Train the heads alone, or the adapters of the backbone, too.

        Args:
            statistics: "frozen" keeps the backbone's running averages, too; "drifting" lets them follow the batches.
            adapters: whether these learn.
        """
        self.backbone.freeze(adapters)
        self.drifting = statistics == "drifting"

    def train(self, mode: bool = True) -> "Method":
        """Training mode for what is trained; a frozen backbone stays as it is at test time, unless it is to drift."""
        super().train(mode)
        if self.backbone.frozen and not self.drifting:  # adapters are the same in both modes
            self.backbone.eval()
        return self
