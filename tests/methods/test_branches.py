"""BBN's two branches, and experts with a loss, a prior and a diversity of their own."""

import pytest
import torch
from torch.nn import functional as F

from glmc.errors import UserError
from glmc.models import build_backbone
from methods.conftest import COUNTS, build, random_step


def test_bbn_slides_from_one_branch_to_the_other():
    """Equations 2 and 3, with the branches computed one after the other by a network of their own each."""
    method = build("bbn", dtype=torch.float64)
    step = random_step(method, progress=0.5, dtype=torch.float64)
    first, second = step.streams["instance"], step.streams["rebalanced"]
    assert method.streams == {"instance": None, "rebalanced": 2.0}
    terms = method(step)

    alone = build("bbn", dtype=torch.float64)  # the same weights, running averages at their start
    features = [alone.backbone(torch.cat([batch.views[0]] * 2), groups=2, apart=True) for batch in (first, second)]
    share = 1 - 0.5**2
    mixed = 2 * torch.cat([share * features[0][0], (1 - share) * features[1][1]], 1)
    logits = mixed @ alone.classifier.weight.T + alone.classifier.bias
    assert torch.allclose(terms["conventional"], share * F.cross_entropy(logits, first.labels))
    assert torch.allclose(terms["reversed"], (1 - share) * F.cross_entropy(logits, second.labels))

    for branch, batch in enumerate((first, second)):  # a branch has seen its own batch, and that once
        own = [n for n, _ in method.backbone.named_buffers() if f"copies.{branch}." in n and "running_mean" in n]
        seen = method.backbone.state_dict()[own[0].replace("running_mean", "num_batches_tracked")]
        assert seen == 1
        assert batch.views[0].shape[0] == 6


def test_a_reversed_sampler_is_the_papers():
    """Probabilities of the head and the tail class of CIFAR-100-LT at imbalance 100."""
    counts = 500 * torch.tensor(0.01, dtype=torch.float64) ** (torch.arange(100) / 99)
    share = counts.floor() ** (1 - 2.0)
    share /= share.sum()
    assert share[[0, -1]].tolist() == pytest.approx([0.00044, 0.0438], rel=0.02)


def test_experts_are_trained_one_by_one_and_pushed_apart():
    settings = {"diversity": 0.45, "softening": 0.05, "taus": [0.0, 1.0, 2.0]}
    method = build("experts", dtype=torch.float64, **settings)
    step = random_step(method, progress=0.9, dtype=torch.float64)
    batch = step.streams["instance"]
    terms = method(step)

    logits = build("experts", dtype=torch.float64, **settings).logits(batch.views[0])
    prior = (COUNTS / COUNTS.sum()).double()
    losses = [F.cross_entropy(z + tau * prior.log(), batch.labels) for z, tau in zip(logits, (0, 1, 2), strict=True)]
    assert torch.allclose(terms["experts"], sum(losses), atol=1e-6)

    softened = 3 * prior * 0.05 + 0.95
    temperatures = softened / softened.max()
    mean = (logits.mean(0) / temperatures).softmax(1)
    apart = [(mean * (mean.log() - (z / temperatures).log_softmax(1))).sum(1).mean() for z in logits]
    assert torch.allclose(terms["diversity"], -0.45 * temperatures.mean() ** 2 * sum(apart), atol=1e-6)
    assert method.prior == "uniform"
    early = method.divergence(logits, torch.tensor(0.5))
    same = [F.kl_div(z.log_softmax(1), logits.mean(0).softmax(1), reduction="batchmean") for z in logits]
    assert torch.allclose(early, sum(same), atol=1e-6)


def test_temperatures_and_sizes_of_ride_are_the_published():
    counts = (500 * 0.01 ** (torch.arange(100, dtype=torch.float64) / 99)).floor()
    softened = 100 * counts / counts.sum() * 0.05 + 0.95
    assert (softened / softened.max())[[0, -1]].tolist() == pytest.approx([1.0, 0.8067], abs=1e-3)
    backbone = build_backbone("resnet32", experts=2, experts_from="last")  # of BBN: the last block held twice
    assert sum(p.numel() for p in backbone.parameters()) - 463_504 == 2 * 9 * 64 * 64 + 2 * 2 * 64


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("bbn", {"reversal": 11.0}, r"reversal must lie in \[0, 10\]"),
        ("experts", {"taus": [1.0]}, "taus must be one for each of the 3 experts, not 1"),
        ("experts", {"softening": 2.0}, r"softening must lie in \[0, 1\]"),
        ("experts", {"scale": 0.0}, "scale must be above 0"),
    ],
)
def test_what_does_not_fit_is_said(name, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        build(name, **settings)
