"""Losses against the formula told slowly, in Python floats."""

import math

import pytest
import torch

from glmc import class_weights, negative_cosine, soft_cross_entropy
from glmc.errors import UserError
from glmc.losses import LOSSES
from glmc.recipe import choice

torch.manual_seed(0)


def slow_cross_entropy(logits, targets, weight):
    """One image at a time: -sum_c w_c p_c log softmax_c, mean over images."""
    total = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        norm = math.log(sum(math.exp(x) for x in row))
        total -= sum(w * p * (x - norm) for w, p, x in zip(weight, target, row, strict=True))
    return total / len(logits)


def mixed_targets(batch, classes):
    lam = torch.rand(batch, 1, dtype=torch.float64)
    one_hot = torch.eye(classes, dtype=torch.float64)
    return lam * one_hot[torch.randint(classes, (batch,))] + (1 - lam) * one_hot[torch.randint(classes, (batch,))]


@pytest.mark.parametrize("weight", [None, [0.1, 2.0, 0.9]])
def test_soft_cross_entropy_is_the_formula(weight):
    logits, targets = torch.randn(7, 3, dtype=torch.float64), mixed_targets(7, 3)
    given = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    wanted = slow_cross_entropy(logits, targets, weight or [1, 1, 1])
    assert soft_cross_entropy(logits, targets, given).item() == pytest.approx(wanted, rel=1e-12)


def test_weighting_a_mixture_is_mixing_weighted_labels():
    """The published code mixes weighted one-hot labels; the divisor is the batch, not the sum of weights."""
    logits, weight = torch.randn(5, 4, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    a, b, lam = torch.randint(4, (5,)), torch.randint(4, (5,)), 0.3
    one_hot = torch.eye(4, dtype=torch.float64)
    published = lam * weight[a, None] * one_hot[a] + (1 - lam) * weight[b, None] * one_hot[b]
    by_hand = -(published * logits.log_softmax(1)).sum(1).mean()
    ours = soft_cross_entropy(logits, lam * one_hot[a] + (1 - lam) * one_hot[b], weight)
    assert ours.item() == pytest.approx(by_hand.item(), rel=1e-12)


def test_half_precision_logits_are_computed_in_float32():
    logits = torch.randn(5, 4).bfloat16()
    targets = mixed_targets(5, 4).float()
    assert soft_cross_entropy(logits, targets).dtype == torch.float32
    assert soft_cross_entropy(logits, targets).item() == soft_cross_entropy(logits.float(), targets).item()


LT100 = [int(500 * 0.01 ** (i / 99)) for i in range(100)]
LT10 = [int(5000 * 0.01 ** (i / 9)) for i in range(10)]


@pytest.mark.parametrize(
    ("counts", "exponent", "head", "tail", "seen"),
    [
        (LT100, 1.2, 0.02044, 5.1345, 0.1556),
        (LT100, 1.0, 0.04382, 4.3820, 0.2020),
        (LT10, 1.2, 0.01827, 4.5905, 0.1219),
    ],
)
def test_class_weights_have_their_published_values(counts, exponent, head, tail, seen):
    counts = torch.tensor(counts)
    weights = class_weights(counts, exponent)
    assert weights.mean().item() == pytest.approx(1, rel=1e-6)
    assert weights[0].item() == pytest.approx(head, rel=1e-3)
    assert weights[-1].item() == pytest.approx(tail, rel=1e-4)
    assert ((weights * counts).sum() / counts.sum()).item() == pytest.approx(seen, rel=2e-3)


def test_exponent_zero_weighs_all_the_same():
    assert torch.equal(class_weights(torch.tensor([5, 1, 70]), 0.0), torch.ones(3))


@pytest.mark.parametrize("name", ["cross_entropy", "class_weighted", "logit_adjusted", "balanced_softmax"])
def test_equal_counts_give_cross_entropy(name):
    """Of those that differ from it by the counts alone."""
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.randint(4, (6,))
    loss = choice.build("loss", {"name": name}, torch.full((4,), 9))
    plain = torch.nn.functional.cross_entropy(logits, labels).item()
    assert loss(logits, labels, torch.tensor(0.5)).item() == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_labels_and_their_one_hot_rows_give_the_same(name):
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.randint(4, (6,))
    loss = choice.build("loss", {"name": name}, torch.tensor([40, 20, 6, 2]))
    rows = torch.eye(4, dtype=torch.float64)[labels]
    at = torch.tensor(0.5)
    assert loss(logits, labels, at).item() == pytest.approx(loss(logits, rows, at).item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_an_empty_class_is_named(name):
    with pytest.raises(UserError, match=rf"loss.name={name}: every class .* empty classes: \[1\]"):
        choice.build("loss", {"name": name}, torch.tensor([3, 0]))


def test_negative_cosine_is_the_formula_and_the_target_has_no_gradient():
    p = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    z = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    loss = negative_cosine(p, z)
    slow = -sum(
        sum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))
        for x, y in zip(p.tolist(), z.tolist(), strict=True)
    )
    assert loss.item() == pytest.approx(slow / 4, rel=1e-12)
    loss.backward()
    assert p.grad.abs().sum() > 0
    assert z.grad is None
    assert negative_cosine(p, p).item() == pytest.approx(-1)
