"""Learning rates of the documented schedules."""

import math

import pytest

from glmc.schedule import factor


def rates(epochs, schedule="cosine", warmup=0.0, milestones=(), decay=0.1):
    return [
        factor(e, epochs, schedule=schedule, warmup=warmup, milestones=milestones, decay=decay) for e in range(epochs)
    ]


def test_the_published_cosine():
    """Peak 0.01, 200 epochs: 0.01, 0.0085, 0.005, 0.0015, 6e-7 at epochs 0, 50, 100, 150, 199."""
    lr = [0.01 * f for f in rates(200)]
    assert [lr[e] for e in (0, 50, 100, 150)] == pytest.approx([0.01, 0.00853553, 0.005, 0.00146447], rel=1e-5)
    assert lr[199] == pytest.approx(6.2e-7, rel=0.01)


def test_the_schedule_of_ldam():
    """Cao et al.: 5 epochs of warm-up (e / 5, e from 1), x 0.01 from epoch 160, x 0.0001 from epoch 180 (0-based)."""
    f = rates(200, "step", warmup=0.025, milestones=(0.8, 0.9), decay=0.01)
    assert f[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert [f[159], f[160], f[179], f[180], f[199]] == pytest.approx([1, 0.01, 0.01, 1e-4, 1e-4])


def test_warm_up_multiplies_the_cosine():
    f = rates(10, warmup=0.2)
    assert f[0] == pytest.approx(0.5)
    assert f[5] == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))


def test_constant_stays():
    assert rates(4, "constant") == [1, 1, 1, 1]


def test_a_warm_up_shorter_than_an_epoch_is_none():
    assert rates(4, "constant", warmup=0.1) == [1, 1, 1, 1]
