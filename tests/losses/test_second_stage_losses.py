"""Balanced Softmax and the loss of Weight Balancing, against their formulas told slowly."""

import math

import pytest
import torch

from glmc.losses.balanced_softmax import balanced_softmax, log_counts
from glmc.losses.soft_cross_entropy import soft_cross_entropy
from glmc.losses.weighted_bce import softmax_bce

torch.manual_seed(0)


def slow_balanced(logits, labels, counts):
    """Ren et al., one image at a time, in Python floats."""
    odds = [[n * math.exp(x) for n, x in zip(counts, row, strict=True)] for row in logits.tolist()]
    return -sum(math.log(row[y] / sum(row)) for row, y in zip(odds, labels.tolist(), strict=True)) / len(odds)


@pytest.mark.parametrize("counts", [[5000, 50], [7, 7, 7], [1, 10, 100, 1000]])
def test_balanced_softmax_is_the_formula(counts):
    logits, labels = torch.randn(6, len(counts)), torch.randint(len(counts), (6,))
    loss = balanced_softmax(logits, labels, log_counts(torch.tensor(counts)))
    assert loss.item() == pytest.approx(slow_balanced(logits, labels, counts), rel=1e-5, abs=1e-6)


def test_equal_counts_give_cross_entropy_and_a_factor_changes_nothing():
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.randint(4, (6,))
    plain = torch.nn.functional.cross_entropy(logits, labels).item()
    assert balanced_softmax(logits, labels, log_counts(torch.full((4,), 9))).item() == pytest.approx(plain, rel=1e-6)
    a = balanced_softmax(logits, labels, log_counts(torch.tensor([1, 2, 3, 4])))
    b = balanced_softmax(logits, labels, log_counts(torch.tensor([10, 20, 30, 40])))
    assert a.item() == pytest.approx(b.item(), rel=1e-6)


def test_mixed_labels_are_a_mixture_of_losses():
    logits = torch.randn(5, 3, dtype=torch.float64)
    a, b, shift = torch.randint(3, (5,)), torch.randint(3, (5,)), log_counts(torch.tensor([50, 9, 2])).double()
    one_hot = torch.eye(3, dtype=torch.float64)
    mixed = balanced_softmax(logits, 0.3 * one_hot[a] + 0.7 * one_hot[b], shift)
    apart = 0.3 * balanced_softmax(logits, a, shift) + 0.7 * balanced_softmax(logits, b, shift)
    assert mixed.item() == pytest.approx(apart.item(), rel=1e-12)
    assert mixed.item() == pytest.approx(
        soft_cross_entropy(logits + shift, 0.3 * one_hot[a] + 0.7 * one_hot[b]).item(), rel=1e-12
    )


def test_an_empty_class_is_named():
    with pytest.raises(ValueError, match=r"empty classes: \[1\]"):
        log_counts(torch.tensor([3, 0]))


def test_softmax_bce_is_the_formula():
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.randint(4, (6,))
    weight = [0.1, 0.5, 1.0, 2.4]
    total = 0.0
    for row, y in zip(logits.tolist(), labels.tolist(), strict=True):
        norm = sum(math.exp(x) for x in row)
        for c, x in enumerate(row):
            p = math.exp(x) / norm
            total -= weight[y] * (math.log(p) if c == y else math.log(1 - p))
    loss = softmax_bce(logits, labels, torch.tensor(weight))
    assert loss.item() == pytest.approx(total / 24, rel=1e-6)


def test_softmax_bce_stays_finite_when_the_network_is_sure():
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    loss = softmax_bce(logits, torch.tensor([0, 0]), torch.ones(2))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
