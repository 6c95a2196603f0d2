"""cRT: a new classifier on class-balanced batches. Kang et al., ICLR 2020, arXiv:1910.09217."""

from torch import Tensor
from torch.nn import functional as F

from glmc.methods.base import Method
from glmc.methods.second_stage import SecondStage
from glmc.step import Step


class CRT(SecondStage):
    """Re-trains the classifier from scratch; every class is drawn equally often."""

    streams = {"balanced": 1.0}  # noqa: RUF012

    def adopt(self, trained: Method) -> None:  # noqa: D102
        self.backbone.load_state_dict(trained.backbone.state_dict())  # not the classifier: it starts anew

    def forward(self, step: Step) -> dict[str, Tensor]:  # noqa: D102
        batch = step.streams["balanced"]
        return {"cross_entropy": F.cross_entropy(self.predict(batch.views[0]), batch.labels)}
