"""Balanced Softmax and the loss of Weight Balancing, against their formulas told slowly."""

import math

import pytest
import torch

from glmc import BalancedSoftmax, LabelAwareSmoothing, LogitAdjusted, SoftmaxBCE, soft_cross_entropy

torch.manual_seed(0)
AT = torch.tensor(0.5)


def slow_balanced(logits, labels, counts):
    """Ren et al., one image at a time, in Python floats."""
    odds = [[n * math.exp(x) for n, x in zip(counts, row, strict=True)] for row in logits.tolist()]
    return -sum(math.log(row[y] / sum(row)) for row, y in zip(odds, labels.tolist(), strict=True)) / len(odds)


@pytest.mark.parametrize("counts", [[5000, 50], [7, 7, 7], [1, 10, 100, 1000]])
def test_balanced_softmax_is_the_formula(counts):
    logits, labels = torch.randn(6, len(counts)), torch.randint(len(counts), (6,))
    loss = BalancedSoftmax(torch.tensor(counts))(logits, labels, AT)
    assert loss.item() == pytest.approx(slow_balanced(logits, labels, counts), rel=1e-5, abs=1e-6)


def test_a_common_factor_of_the_counts_changes_nothing():
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.randint(4, (6,))
    a, b = (LogitAdjusted(counts, tau=0.7) for counts in (torch.tensor([1, 2, 3, 4]), torch.tensor([10, 20, 30, 40])))
    assert a(logits, labels, AT).item() == pytest.approx(b(logits, labels, AT).item(), rel=1e-6)


def test_mixed_labels_are_a_mixture_of_losses():
    logits, loss = torch.randn(5, 3, dtype=torch.float64), BalancedSoftmax(torch.tensor([50, 9, 2]))
    a, b = torch.randint(3, (5,)), torch.randint(3, (5,))
    one_hot = torch.eye(3, dtype=torch.float64)
    mixed = loss(logits, 0.3 * one_hot[a] + 0.7 * one_hot[b], AT)
    apart = 0.3 * loss(logits, a, AT) + 0.7 * loss(logits, b, AT)
    assert mixed.item() == pytest.approx(apart.item(), rel=1e-12)
    shifted = soft_cross_entropy(logits + loss.shift, 0.3 * one_hot[a] + 0.7 * one_hot[b])
    assert mixed.item() == pytest.approx(shifted.item(), rel=1e-12)


def test_softmax_bce_is_the_formula():
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.randint(4, (6,))
    weight = [0.1, 0.5, 1.0, 2.4]
    total = 0.0
    for row, y in zip(logits.tolist(), labels.tolist(), strict=True):
        norm = sum(math.exp(x) for x in row)
        for c, x in enumerate(row):
            p = math.exp(x) / norm
            total -= weight[y] * (math.log(p) if c == y else math.log(1 - p))
    bce = SoftmaxBCE(torch.tensor([40, 20, 6, 2]))
    bce.weights = torch.tensor(weight)
    loss = bce(logits, labels, AT)
    assert loss.item() == pytest.approx(total / 24, rel=1e-6)


def test_softmax_bce_stays_finite_when_the_network_is_sure():
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    loss = SoftmaxBCE(torch.tensor([5, 5]))(logits, torch.tensor([0, 0]), AT)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("counts", [[40, 10, 3], [7, 7, 7]])
def test_label_aware_smoothing_is_the_formula(counts):
    logits, labels = torch.randn(6, 3, dtype=torch.float64), torch.randint(3, (6,))
    total = 0.0
    for row, y in zip(logits.tolist(), labels.tolist(), strict=True):
        wrong = [math.log(sum(map(math.exp, row))) - x for x in row]
        share = (counts[y] - min(counts)) / (max(counts) - min(counts)) if max(counts) > min(counts) else 1.0
        e = 0.1 + (0.4 - 0.1) * math.sin(math.pi / 2 * share)
        total += (1 - e) * wrong[y] + e * sum(wrong) / 3
    loss = LabelAwareSmoothing(torch.tensor(counts))
    assert loss(logits, labels, AT).item() == pytest.approx(total / 6, rel=1e-6)
    assert loss(logits, torch.eye(3)[labels], AT).item() == pytest.approx(total / 6, rel=1e-6)


def test_label_aware_smoothing_has_the_published_values_and_a_limit():
    counts = torch.tensor([int(500 * 0.01 ** (i / 99)) for i in range(100)])
    smoothing = LabelAwareSmoothing(counts, head=0.4, tail=0.1).smoothing
    assert [round(smoothing[c].item(), 4) for c in (0, int((counts == 48).nonzero()), 99)] == [0.4, 0.1408, 0.1]
    logits, labels = torch.randn(4, 100), torch.randint(100, (4,))
    plain = LabelAwareSmoothing(counts, head=0.0, tail=0.0)(logits, labels, AT)
    assert torch.allclose(plain, soft_cross_entropy(logits, labels))
    with pytest.raises(ValueError, match=r"tail must lie in \[0, 1\), not 1"):
        LabelAwareSmoothing(counts, tail=1.0)
