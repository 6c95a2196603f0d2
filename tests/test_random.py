"""Draws: a pure function of seed and path, with the distributions it promises."""

import numpy as np
import pytest
from scipy import stats

from glmc.random import Draws


def test_the_same_place_gives_the_same_numbers():
    a, b = Draws(3, "rows", "instance", 5), Draws(3, "rows", "instance", 5)
    assert (a.bits(10) == b.bits(10)).all()
    assert (a.uniform(4, 2) == b.uniform(4, 2)).all()


@pytest.mark.parametrize("path", [("rows", "instance", 6), ("rows", "rebalanced", 5), ("view", "instance", 5)])
def test_another_place_gives_other_numbers(path):
    assert (Draws(3, "rows", "instance", 5).bits(8) != Draws(3, *path).bits(8)).all()
    assert (Draws(4, *path).bits(8) != Draws(3, *path).bits(8)).all()


def test_the_numbers_stay_what_they_were():
    """A pinned value: a change of it would silently change every run of every recipe."""
    assert Draws(0, "golden").bits(2).tolist() == [1704948706383669554, 3434561314530711067]
    assert Draws(0, "golden").permutation(6).tolist() == [2, 0, 1, 3, 4, 5]


def test_uniform_numbers_are_uniform():
    assert stats.kstest(Draws(0, "u").uniform(20_000), "uniform").pvalue > 1e-3


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.5, 0.5), (2.0, 2.0), (0.2, 3.0)])
def test_beta_numbers_follow_beta(a, b):
    drawn = Draws(1, "beta").beta(a, b, 5000)
    assert stats.kstest(drawn, stats.beta(a, b).cdf).pvalue > 1e-3


def test_below_reaches_every_number_evenly():
    drawn = np.bincount(Draws(2, "below").below(7, 14_000), minlength=7)
    assert len(drawn) == 7
    assert stats.chisquare(drawn).pvalue > 1e-3


def test_a_permutation_holds_every_row_once():
    assert sorted(Draws(0, "p").permutation(1000)) == list(range(1000))
