"""From a confusion matrix to figures.

Accuracies are in percent, the negative log-likelihood (nll) in nats. A figure that is not defined (an empty group, a
class without test images) is absent; it is never 0 or NaN.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

BINS = 15  # of the calibration error, as in Guo et al., ICML 2017, arXiv:1706.04599


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
