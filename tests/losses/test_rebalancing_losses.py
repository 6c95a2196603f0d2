"""Focal, CB-Focal, LDAM, VS and deferred re-weighting against their formulas told slowly, in Python floats."""

import math

import pytest
import torch
from torch.nn import functional as F

from glmc import LDAM, Deferred, Focal, LogitAdjusted, VectorScaling, class_weights
from glmc.errors import UserError
from glmc.recipe import choice

COUNTS = [40, 10, 3]
LT100 = [int(500 * 0.01 ** (i / 99)) for i in range(100)]
NOW = torch.tensor(0.5)


def softmax(row):
    odds = [math.exp(x) for x in row]
    return [x / sum(odds) for x in odds]


def slow_focal(row, y, gamma=2.0):
    p = softmax(row)[y]
    return -((1 - p) ** gamma) * math.log(p)


def slow_sigmoid_focal(row, y, gamma=0.5):
    right = [1 / (1 + math.exp(-x if c == y else x)) for c, x in enumerate(row)]  # probability of the right answer
    return sum(-((1 - p) ** gamma) * math.log(p) for p in right)


def slow_class_balanced_focal(row, y):
    rarity = [(1 - 0.99) / (1 - 0.99**n) for n in COUNTS]
    return rarity[y] / sum(rarity) * 3 * slow_sigmoid_focal(row, y, 1.0)


def slow_ldam(row, y):
    margin = 0.5 * (min(COUNTS) / COUNTS[y]) ** 0.25
    return -math.log(softmax([30 * (x - margin * (c == y)) for c, x in enumerate(row)])[y])


def slow_vs(row, y):
    share = [n / sum(COUNTS) for n in COUNTS]
    return -math.log(
        softmax([(n / max(COUNTS)) ** 0.2 * x + 1.2 * math.log(s) for n, s, x in zip(COUNTS, share, row, strict=True)])[
            y
        ]
    )


FORMULAS = [
    ({"name": "focal", "gamma": 2.0}, slow_focal),
    ({"name": "focal", "gamma": 0.5, "form": "sigmoid"}, slow_sigmoid_focal),
    ({"name": "class_balanced_focal", "beta": 0.99}, slow_class_balanced_focal),
    ({"name": "ldam"}, slow_ldam),
    ({"name": "vs"}, slow_vs),
]


@pytest.mark.parametrize(("settings", "slow"), FORMULAS)
def test_the_loss_is_the_formula_for_labels_and_for_mixtures(settings, slow):
    torch.manual_seed(0)
    cosines, labels, others = torch.rand(6, 3).double() * 2 - 1, torch.randint(3, (6,)), torch.randint(3, (6,))
    loss = choice.build("loss", settings, torch.tensor(COUNTS)).double()  # buffers rounded to float32
    alone, other = (
        sum(
            slow(
                row,
                y,
            )
            for row, y in zip(cosines.tolist(), which.tolist(), strict=True)
        )
        / 6
        for which in (labels, others)
    )
    assert loss(cosines, labels, NOW).item() == pytest.approx(alone, rel=1e-6)
    mixed = 0.3 * F.one_hot(labels, 3) + 0.7 * F.one_hot(others, 3)
    assert loss(cosines, mixed, NOW).item() == pytest.approx(0.3 * alone + 0.7 * other, rel=1e-6)


def test_class_weights_and_margins_have_their_published_values():
    counts = torch.tensor(LT100)
    for beta, head, tail in ((0.9999, 0.0449, 4.3783), (0.999, 0.0551, 4.3445)):
        weights = class_weights(counts, 1.0, beta)
        assert [weights[0].item(), weights[-1].item(), weights.mean().item()] == pytest.approx(
            [head, tail, 1], abs=6e-5
        )
    assert torch.equal(class_weights(counts, 1.0, 0.0), torch.ones(100))
    assert torch.allclose(class_weights(counts, 1.0, 1 - 1e-9), class_weights(counts, 1.0), rtol=1e-5)
    margins = LDAM(counts).margins
    assert [margins[LT100.index(n)].item() for n in (500, 48, 5)] == pytest.approx([0.1581, 0.2841, 0.5], abs=6e-5)


def test_limits_are_the_losses_they_come_from():
    logits, labels = torch.randn(5, 3).double(), torch.randint(3, (5,))
    plain, counts = F.cross_entropy(logits, labels).item(), torch.tensor(COUNTS)
    assert Focal(counts, gamma=0.0)(logits, labels, NOW).item() == pytest.approx(plain)
    one_against_all = F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 3).double(), reduction="sum") / 5
    sigmoid = Focal(counts, gamma=0.0, form="sigmoid")(logits, labels, NOW)
    assert sigmoid.item() == pytest.approx(one_against_all.item())
    adjusted = LogitAdjusted(counts, tau=0.7)(logits, labels, NOW).item()
    assert VectorScaling(counts, gamma=0.0, tau=0.7)(logits, labels, NOW).item() == pytest.approx(adjusted)
    assert VectorScaling(torch.tensor([7, 7, 7]))(logits, labels, NOW).item() == pytest.approx(plain)
    assert LDAM(counts, margin=0.0, scale=1.0)(logits, labels, NOW).item() == pytest.approx(plain)


@pytest.mark.parametrize("loss", [LDAM, lambda counts: Focal(counts, gamma=0.1)])
def test_a_sure_network_keeps_loss_and_gradient_finite_and_right(loss):
    """The label's class at cosine 1, the others at -1, in float32: all but nothing is left for them."""
    rows = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0]]) * (1 if loss is LDAM else 99)
    rows.requires_grad_()
    value = loss(torch.tensor(COUNTS))(rows, torch.tensor([0, 2]), NOW)
    value.backward()
    assert rows.grad.isfinite().all()
    slow = slow_ldam if loss is LDAM else lambda row, y: 0.0 if y == 0 else 198.0
    assert value.item() == pytest.approx(sum(slow(row, y) for row, y in zip(rows.tolist(), (0, 2), strict=True)) / 2)


def test_ldam_drw_is_a_product():
    """LDAM until epoch 160 of 200, then PyTorch's weighted cross entropy of scaled cosines less margins."""
    cosines, labels, counts = torch.rand(8, 3).double() * 2 - 1, torch.randint(3, (8,)), torch.tensor(COUNTS)
    ldam = LDAM(counts).double()
    drw = Deferred(counts, loss=ldam, start=0.8, beta=0.9999)
    before, after = (drw(cosines, labels, torch.tensor(epoch / 200)).item() for epoch in (159, 160))
    assert before == pytest.approx(ldam(cosines, labels, NOW).item(), rel=1e-12)
    scaled = 30 * (cosines - ldam.margins * F.one_hot(labels, 3))
    rarity = torch.tensor([1e-4 / (1 - 0.9999**n) for n in COUNTS], dtype=torch.float64)
    assert after == pytest.approx(F.cross_entropy(scaled, labels, weight=rarity).item(), rel=1e-6)
    assert (drw.classifier, drw.prior) == ("cosine", "uniform")


def test_vs_with_aligned_weights_and_truncated_adjustment_is_a_product():
    """VS until epoch 320 of 400, then logit adjustment with weights ~ share ** -exponent, told slowly."""
    logits, labels = torch.randn(8, 3).double(), torch.randint(3, (8,))
    settings = {"name": "deferred", "beta": 1.0, "exponent": 0.25, "loss": {"name": "vs", "gamma": 0.2, "tau": 1.2}}
    both = settings | {"late": {"name": "logit_adjusted", "tau": 0.75}}
    loss = choice.build("loss", both, torch.tensor(COUNTS)).double()
    before, after = (loss(logits, labels, torch.tensor(epoch / 400)).item() for epoch in (319, 320))
    rows = [*zip(logits.tolist(), labels.tolist(), strict=True)]
    assert before == pytest.approx(sum(slow_vs(row, y) for row, y in rows) / 8, rel=1e-6)
    weight, total = [(n / sum(COUNTS)) ** -0.25 for n in COUNTS], 0.0
    for row, y in rows:
        p = softmax([x + 0.75 * math.log(n / sum(COUNTS)) for x, n in zip(row, COUNTS, strict=True)])
        total -= weight[y] * math.log(p[y])
    assert after == pytest.approx(total / sum(weight[y] for _, y in rows), rel=1e-6)
    with pytest.raises(UserError, match="late is CrossEntropy, of a linear classifier, and loss is LDAM, of a cosine"):
        choice.build(
            "loss", settings | {"loss": {"name": "ldam"}, "late": {"name": "cross_entropy"}}, torch.tensor(COUNTS)
        )


def test_what_cannot_be_re_weighted_is_refused():
    for name in ("class_weighted", "softmax_bce"):
        with pytest.raises(UserError, match=r"loss is .* cannot be re-weighted"):
            choice.build("loss", {"name": "deferred", "loss": {"name": name}}, torch.tensor(COUNTS))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "focal", "gamma": -1.0}, "gamma must be at least 0"),
        ({"name": "class_weighted", "beta": 1.1}, r"beta must lie in \[0, 1\]"),
        ({"name": "ldam", "margin": -0.5}, "margin must be at least 0"),
        ({"name": "ldam", "scale": 0.0}, "scale must be above 0"),
        ({"name": "vs", "tau": -1.0}, "tau must be at least 0"),
        ({"name": "deferred", "start": 1.0}, r"start must lie in \[0, 1\)"),
        ({"name": "deferred", "exponent": -1.0}, "exponent must be at least 0"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        choice.build("loss", settings, torch.tensor(COUNTS))
