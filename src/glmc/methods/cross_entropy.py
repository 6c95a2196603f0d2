"""Plain cross entropy on instance-balanced batches: the baseline of every table."""

from torch import Tensor, nn
from torch.nn import functional as F

from glmc.methods.base import Method
from glmc.models import Backbone
from glmc.models.heads import linear
from glmc.step import Step


class CrossEntropy(Method):
    """Softmax cross entropy, one view, one linear classifier."""

    def __init__(self, backbone: Backbone, counts: Tensor) -> None:
        super().__init__(backbone, counts)
        self.classifier = linear(backbone.out_dim, self.classes)

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        batch = step.streams["instance"]
        return {"cross_entropy": F.cross_entropy(self.predict(batch.views[0]), batch.labels)}  # heads are in float32

    def head(self) -> nn.Linear:  # noqa: D102
        return self.classifier

    def predict(self, images: Tensor) -> Tensor:  # noqa: D102
        return self.classifier(self.backbone(images))
