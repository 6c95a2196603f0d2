"""From logits to counts, on the device."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from glmc import ranks
from glmc.errors import NonFiniteLoss
from glmc.metrics import reliability


class Tally:
    """What is counted while the test set goes by. Nothing reaches the host before `compute`.

    Per image it keeps three numbers (true and predicted class, confidence), never the logits.

    Args:
        classes: C.
        device: where the logits are.
    """

    def __init__(self, classes: int, device: torch.device | str) -> None:
        from torchmetrics.aggregation import MeanMetric
        from torchmetrics.classification import MulticlassAccuracy

        self.classes = classes
        # Not torchmetrics' confusion matrix: it counts with bincount, which makes a GPU wait, or, where deterministic
        # algorithms are asked for, with a [B, C * C] comparison.
        self.confusion = torch.zeros(classes * classes, dtype=torch.int64, device=device)
        # Several processes put theirs together in `gather`, not whenever one of them computes.
        alone: dict[str, Any] = {"sync_on_compute": False}
        self.nll = MeanMetric(nan_strategy="disable", **alone).to(device)
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []  # true and predicted class, confidence, [B] each
        self.top5 = None
        if classes > 5:
            self.top5 = MulticlassAccuracy(classes, top_k=5, average="micro", validate_args=False, **alone).to(device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add one batch.

        Args:
            logits: float [B, C], before softmax; bfloat16 and float16 are computed in float32.
            labels: int64 [B] in [0, C).
        """
        logits = logits.detach().float()
        cells = labels * self.classes + logits.argmax(1)
        self.confusion.index_add_(0, cells, torch.ones_like(cells))
        self.nll.update(F.cross_entropy(logits, labels, reduction="none"))
        confidence, predicted = logits.softmax(1).max(1)
        self.seen.append((labels, predicted, confidence))
        if self.top5 is not None and len(labels):
            self.top5.update(logits, labels)

    def gather(self, images: int) -> None:
        """Put together what the ranks have seen, each the positions r, r + W, ... of so many images, on every rank."""
        true, predicted, confidence = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
        self.seen = [
            (ranks.in_order(true, images), ranks.in_order(predicted, images), ranks.in_order(confidence, images))
        ]
        # Counted anew, from less than all cells of the matrix.
        cells = self.seen[0][0] * self.classes + self.seen[0][1]
        self.confusion = torch.zeros_like(self.confusion).index_add(0, cells, torch.ones_like(cells))
        for metric in (self.nll, self.top5):
            for name in () if metric is None else metric._defaults:
                dist.all_reduce(getattr(metric, name))

    def predictions(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """True and predicted class int64 [N], and the latter's probability float32 [N], in the order seen.

        One wait for the device.
        """
        true, predicted, confidence = (torch.cat(batches).cpu().numpy() for batches in zip(*self.seen, strict=True))
        return true, predicted, confidence

    def compute(self) -> tuple[NDArray[np.int64], dict[str, float]]:
        """Fetch the result: one wait for the device.

        Returns:
            int64 [C, C], row = true class, column = predicted class; and top5 in percent (absent when C <= 5), ece in
            percent, nll in nats (all absent when no image was seen).

        Raises:
            NonFiniteLoss: a logit was NaN or infinite.
        """
        confusion = self.confusion.view(self.classes, self.classes).cpu().numpy()
        if not confusion.any():
            return confusion, {}
        nll = float(self.nll.compute())
        if not np.isfinite(nll):
            raise NonFiniteLoss(
                "the network's outputs for the evaluated images are not finite (NaN or infinity); "
                "train with a smaller optim.lr or with optim.clip"
            )
        true, predicted, confidence = self.predictions()
        extras = {} if self.top5 is None else {"top5": 100 * float(self.top5.compute())}
        return confusion, extras | {"ece": reliability(confidence, true == predicted)[1], "nll": nll}
