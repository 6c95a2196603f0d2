"""From logits to figures: a confusion matrix kept on the device, and what is read from it.

Accuracies are in percent, the negative log-likelihood (nll) in nats. A figure that is not defined (an empty group, a
class without test images) is absent; it is never 0 or NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from glmc.errors import NonFiniteLoss

if TYPE_CHECKING:
    import torch

BINS = 15  # of the calibration error, as in Guo et al., ICML 2017, arXiv:1706.04599


class Tally:
    """What is counted while the test set goes by. Nothing reaches the host before `compute`.

    Per image it keeps two numbers (confidence, right or wrong), never the logits.

    Args:
        classes: C.
        device: where the logits are.
    """

    def __init__(self, classes: int, device: torch.device | str) -> None:
        import torch
        from torchmetrics.aggregation import MeanMetric
        from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

        self.classes = classes
        # Not torchmetrics' confusion matrix: it counts with bincount, which makes a GPU wait, or, where deterministic
        # algorithms are asked for, with a [B, C * C] comparison.
        self.confusion = torch.zeros(classes * classes, dtype=torch.int64, device=device)
        self.nll = MeanMetric(nan_strategy="disable").to(device)
        self.ece = MulticlassCalibrationError(classes, n_bins=BINS, norm="l1", validate_args=False).to(device)
        self.answers: list[tuple[torch.Tensor, torch.Tensor]] = []  # confidence and predicted class, [B] each
        self.top5 = None
        if classes > 5:
            self.top5 = MulticlassAccuracy(classes, top_k=5, average="micro", validate_args=False).to(device)

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add one batch.

        Args:
            logits: float [B, C], before softmax; bfloat16 and float16 are computed in float32.
            labels: int64 [B] in [0, C).
        """
        import torch
        from torch.nn import functional as F

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
        import torch

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


def scores(
    confusion: NDArray[np.int64],
    counts: NDArray[np.int64],
    *,
    few: Literal["<20", "<=20"] = "<20",
    extras: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """The figures of one evaluation, in the order in which tables show them.

    `balanced` is the mean recall of the classes, `macro_f1` the mean F1, `worst_class` the smallest recall; `many`,
    `medium` and `few` are mean recalls of the classes with n > 100, n between, and n below the border (`few`) training
    images. Classes without test images take part in none of these. Groups: Liu et al., CVPR 2019, arXiv:1904.05160
    (few < 20); the published GLMC code counts n = 20 as few ("<=20").

    Args:
        confusion: int64 [C, C], row = true class, column = predicted class.
        counts: int64 [C], training images per class.
        few: the border of the few-shot group.
        extras: `top5`, `ece`, `nll` as `Tally.compute` gives them.

    Returns:
        top1, top5, balanced, macro_f1, worst_class, many, medium, few, ece in percent, nll in nats; what is not defined
        is absent.
    """
    extras = extras or {}
    counts = np.asarray(counts)
    tested = confusion.sum(1) > 0
    if not tested.any():
        return {}
    hits, true, predicted = confusion.diagonal()[tested], confusion.sum(1)[tested], confusion.sum(0)[tested]
    recall = 100 * hits / true
    found: dict[str, float] = {"top1": float(100 * hits.sum() / true.sum())}
    found |= {"top5": extras["top5"]} if "top5" in extras else {}
    found["balanced"] = float(recall.mean())
    found["macro_f1"] = float((200 * hits / (true + predicted)).mean())
    found["worst_class"] = float(recall.min())
    for name, members in groups(counts[tested], few).items():
        if members.any():
            found[name] = float(recall[members].mean())
    return found | {name: extras[name] for name in ("ece", "nll") if name in extras}


def groups(counts: NDArray[np.int64], few: Literal["<20", "<=20"]) -> dict[str, NDArray[np.bool_]]:
    """Which classes are many-, medium- and few-shot: bool [C] each, every class in exactly one.

    Args:
        counts: int64 [C], training images per class.
        few: the border, "<20" (most papers) or "<=20" (published GLMC code). Many is n > 100 in both.
    """
    rare = {"<20": counts < 20, "<=20": counts <= 20}[few]
    many = counts > 100
    return {"many": many, "medium": ~many & ~rare, "few": rare}


def per_class(confusion: NDArray[np.int64], counts: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row per class, in label order: class, train, test (images), recall and precision in percent.

    `recall` is absent for a class without test images, `precision` for one that was never predicted.

    Args:
        confusion: int64 [C, C], row = true class, column = predicted class.
        counts: int64 [C], training images per class.
        classes: C names.
    """
    rows: list[dict[str, Any]] = []
    for c, name in enumerate(classes):
        hits, true, predicted = int(confusion[c, c]), int(confusion[c].sum()), int(confusion[:, c].sum())
        row: dict[str, Any] = {"class": name, "train": int(counts[c]), "test": true}
        row |= {"recall": 100 * hits / true} if true else {}
        row |= {"precision": 100 * hits / predicted} if predicted else {}
        rows.append(row)
    return rows
