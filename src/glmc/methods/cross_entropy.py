"""Plain cross entropy on instance-balanced batches: the baseline of every table."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glmc.methods.base import Method, Step
from glmc.models import Backbone
from glmc.models.heads import linear


class CrossEntropy(Method):
    """Softmax cross entropy, one view, one linear classifier."""

    def __init__(self, backbone: Backbone, counts: Tensor) -> None:
        super().__init__(backbone, counts)
        self.classifier = linear(backbone.out_dim, self.classes)

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        batch = step.streams["instance"]
        logits = self.predict(batch.views[0])
        dtype = torch.promote_types(logits.dtype, torch.float32)  # a bfloat16 log-softmax is too coarse
        return {"cross_entropy": F.cross_entropy(logits.to(dtype), batch.labels)}

    def head(self) -> nn.Linear:  # noqa: D102
        return self.classifier

    def predict(self, images: Tensor) -> Tensor:  # noqa: D102
        return self.classifier(self.backbone(images))
