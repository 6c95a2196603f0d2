"""The samplers of an epoch."""

import numpy as np
import pytest
import torch
from scipy import stats

from glmc import recipe
from glmc.batches.sampling import resampled_rows, shuffled_rows
from glmc.random import Draws
from glmc.screen import Screen
from glmc.train.build import build

COUNTS = np.array([500, 48, 5, 20])
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), COUNTS))


def test_the_instance_stream_shows_every_image_once():
    assert sorted(shuffled_rows(Draws(0, "rows"), 573)) == list(range(573))


@pytest.mark.parametrize("exponent", [0.0, 0.2, 0.5, 1.0, 2.0])
def test_classes_are_drawn_with_the_power_of_their_counts(exponent):
    rows = resampled_rows(Draws(0, "rows", exponent), LABELS, exponent, 40_000)
    drawn = np.bincount(LABELS[rows], minlength=4)
    wanted = COUNTS ** (1 - exponent) / (COUNTS ** (1 - exponent)).sum()
    assert stats.chisquare(drawn, wanted * 40_000).pvalue > 1e-3


def test_images_of_a_class_are_drawn_evenly():
    rows = resampled_rows(Draws(5, "rows"), LABELS, 1.0, 40_000)
    rare = np.flatnonzero(LABELS == 3)
    drawn = np.bincount(rows, minlength=len(LABELS))[rare]
    assert stats.chisquare(drawn).pvalue > 1e-3


def test_the_documents_inverse_sampler_is_exponent_two():
    """Slides: P_i = w_i / sum_j w_j with w_i = N_max / N_i."""
    w = COUNTS.max() / COUNTS
    rows = resampled_rows(Draws(1, "rows"), LABELS, 2.0, 40_000)
    assert stats.chisquare(np.bincount(LABELS[rows]), w / w.sum() * 40_000).pvalue > 1e-3


def test_published_sampler_probabilities():
    """CIFAR-100-LT, imbalance 100, exponent 0.2: head class 0.0376, tail class 0.00094."""
    counts = np.array([int(500 * 0.01 ** (i / 99)) for i in range(100)])
    labels = np.repeat(np.arange(100), counts)
    share = np.bincount(labels[resampled_rows(Draws(0, "p"), labels, 0.2, 400_000)], minlength=100) / 400_000
    assert share[0] == pytest.approx(0.0376, rel=0.03)
    assert share[-1] == pytest.approx(0.00094, rel=0.2)


def test_a_class_without_images_is_never_drawn():
    labels = np.array([0, 0, 2, 2, 2])
    for exponent in (0.0, 1.0, 2.0):
        assert set(labels[resampled_rows(Draws(0, "e"), labels, exponent, 200)]) == {0, 2}


@pytest.mark.parametrize(("sampling", "exponent"), [(0.5, 0.5), (1.0, 0.0)])
def test_square_root_and_balanced_sampling_are_values_of_a_recipe(sampling, exponent):
    parts = build(recipe.load("digits_lt/ce", [f"method.sampling={sampling}", "train.step=eager"]), Screen(quiet=True))
    rows = torch.cat([parts.loader.epoch(epoch)["instance"].rows for epoch in range(30)])
    drawn = np.bincount(parts.data.train.labels[rows])
    wanted = parts.counts.numpy() ** exponent
    assert stats.chisquare(drawn, wanted / wanted.sum() * len(rows)).pvalue > 1e-3
