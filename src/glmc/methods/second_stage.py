"""What second stages share: the backbone of a trained run, frozen, under a classifier that is trained once more."""

from typing import Literal

from torch import Tensor, nn

from glmc.methods.base import Method
from glmc.models import Backbone
from glmc.models.heads import linear


class SecondStage(Method):
    """A frozen backbone and one linear classifier. Kang et al., ICLR 2020, arXiv:1910.09217, call this decoupling.

    Args:
        statistics: "frozen" keeps the running averages of stage 1; "drifting" lets them follow the batches of stage 2,
            as the released code of Weight Balancing does by leaving the frozen network in training mode.
    """

    answers_prior = "uniform"

    def __init__(
        self, backbone: Backbone, counts: Tensor, *, statistics: Literal["frozen", "drifting"] = "frozen"
    ) -> None:
        super().__init__(backbone, counts)
        self.classifier = linear(backbone.out_dim, self.classes)
        self.drifting = statistics == "drifting"
        self.freeze_backbone()

    def adopt(self, trained: Method) -> None:
        """Start from a trained method: its backbone, and the classifier that it answers with."""
        self.backbone.load_state_dict(trained.backbone.state_dict())
        self.classifier.load_state_dict(trained.head().state_dict())

    def train(self, mode: bool = True) -> "SecondStage":
        """Training mode for the classifier; for the backbone's BatchNorm only if it is to drift."""
        super().train(mode)
        self.backbone.train(mode and self.drifting)
        return self

    def head(self) -> nn.Linear:  # noqa: D102
        return self.classifier

    def predict(self, images: Tensor) -> Tensor:  # noqa: D102
        return self.classifier(self.backbone(images))
