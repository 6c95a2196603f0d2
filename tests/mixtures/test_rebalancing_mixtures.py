"""Remix and CMO: the labels of pairs told slowly, and when nothing is mixed."""

import pytest
import torch

from glmc import CMO, Batch, CutMix, Remix
from glmc.errors import UserError
from glmc.random import Draws
from glmc.recipe import choice

COUNTS = torch.tensor([40, 10, 3])


def batch(labels, value):
    images = torch.full((len(labels), 1, 8, 8), float(value))
    return Batch(views=(images,), labels=torch.tensor(labels), rows=torch.arange(len(labels)))


def slow_share(lam, ours, theirs):
    """Chou et al., equation 10, with kappa 3 and tau 0.5."""
    if ours / theirs >= 3 and lam < 0.5:
        return 0.0
    if ours / theirs <= 1 / 3 and 1 - lam < 0.5:
        return 1.0
    return lam


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("per_image", [False, True])
def test_remix_labels_lean_to_the_rarer_class(lam, per_image):
    first, second = batch([0, 0, 1, 1, 2, 2], 1), batch([1, 0, 0, 2, 1, 0], 0)
    draws = {"lam": torch.full((6,), lam) if per_image else torch.tensor(lam)}
    images, targets = Remix(COUNTS, sampling=1.0, per_image=per_image)(first, second, draws)
    assert torch.allclose(images, torch.full_like(images, lam))
    for a, b, target in zip(first.labels.tolist(), second.labels.tolist(), targets, strict=True):
        wanted = torch.zeros(3)
        wanted[a] += slow_share(lam, COUNTS[a].item(), COUNTS[b].item())
        wanted[b] += 1 - slow_share(lam, COUNTS[a].item(), COUNTS[b].item())
        assert torch.allclose(target, wanted)


def test_cmo_pastes_boxes_of_the_re_sampled_stream():
    mixture = CMO(COUNTS)
    assert mixture.stream == 1.0
    draws = {"lam": torch.tensor(0.75), "centre": torch.tensor([0.5, 0.5])}
    images, targets = mixture(batch([0, 1], 0), batch([2, 2], 1), draws)
    assert images.mean().item() == 0.25  # a box of half the side
    assert targets.tolist() == [[0.75, 0.0, 0.25], [0.0, 0.75, 0.25]]


def test_cmo_mixes_half_of_the_steps_and_not_at_both_ends_of_a_run():
    def mixed(epoch, epochs):
        return (CMO(COUNTS).tables(Draws(0, "test"), epoch=epoch, epochs=epochs, steps=400, batch=2)["lam"] < 1).mean()

    assert [mixed(epoch, 200) > 0 for epoch in (3, 4, 196, 197)] == [False, True, True, False]  # 3 < epoch < 200 - 3
    assert all(mixed(epoch, 5) == pytest.approx(0.5, abs=0.1) for epoch in range(5))  # too short to leave some out


def test_more_is_mixed_in_longer_runs_if_wanted():
    mixture = CutMix(COUNTS, probability=0.8, growing=[10, 50])
    for epochs, wanted in ((5, 0.0), (10, 0.0), (20, 0.2), (30, 0.4), (50, 0.8), (200, 0.8)):
        lam = mixture.tables(Draws(0, "test"), epoch=0, epochs=epochs, steps=1000, batch=2)["lam"]
        assert (lam < 1).mean() == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "remix", "kappa": 0.5}, "kappa must be at least 1"),
        ({"name": "remix", "tau": 1.5}, "tau must lie in"),
        ({"name": "cmo", "late": -1}, r"late must lie in \[0, 0.5\)"),
        ({"name": "cutmix", "growing": [65, 15]}, "growing must be two ascending numbers of epochs"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        choice.build("mixture", settings, COUNTS)
