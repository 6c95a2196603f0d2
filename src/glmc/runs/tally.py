"""From logits to counts, on the device."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from glmc.errors import NonFiniteLoss
from glmc.metrics import BINS


class Tally:
    """What is counted while the test set goes by. Nothing reaches the host before `compute`.

    Per image it keeps two numbers (confidence, right or wrong), never the logits.

    Args:
        classes: C.
        device: where the logits are.
    """

    def __init__(self, classes: int, device: torch.device | str) -> None:
        from torchmetrics.aggregation import MeanMetric
        from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

        self.classes = classes
        # Not torchmetrics' confusion matrix: it counts with bincount, which makes a GPU wait, or, where deterministic
        # algorithms are asked for, with a [B, C * C] comparison.
        self.confusion = torch.zeros(classes * classes, dtype=torch.int64, device=device)
        self.nll = MeanMetric(nan_strategy="disable").to(device)
        self.ece = MulticlassCalibrationError(classes, n_bins=BINS, norm="l1", validate_args=False).to(device)
        self.answers: list[tuple[Tensor, Tensor]] = []  # confidence and predicted class, [B] each
        self.top5 = None
        if classes > 5:
            self.top5 = MulticlassAccuracy(classes, top_k=5, average="micro", validate_args=False).to(device)

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
        probabilities = logits.softmax(1)
        confidence, predicted = probabilities.max(1)
        self.answers.append((confidence, predicted))
        # torchmetrics gives a confidence of exactly 1 a bin of its own; just below 1 it falls into the last of the 15.
        self.ece.update(probabilities.clamp(max=1 - 2**-24), labels)
        if self.top5 is not None:
            self.top5.update(logits, labels)

    def predictions(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Predicted class int64 [N] and its probability float32 [N], in the order seen: one wait for the device."""
        confidence, predicted = (torch.cat(parts).cpu().numpy() for parts in zip(*self.answers, strict=True))
        return predicted, confidence

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
        extras = {} if self.top5 is None else {"top5": 100 * float(self.top5.compute())}
        return confusion, extras | {"ece": 100 * float(self.ece.compute()), "nll": nll}
