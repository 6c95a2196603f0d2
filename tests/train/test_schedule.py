"""Learning rates of the documented schedules."""

import itertools
import math

import pytest

from glmc import recipe
from glmc.recipe.sections import Progressive
from glmc.train.schedule import epochs_needed, factor, side_in


def rates(epochs, schedule="cosine", warmup=0.0, milestones=(), decay=0.1):
    return [
        factor(e, epochs, schedule=schedule, warmup=warmup, milestones=milestones, decay=decay) for e in range(epochs)
    ]


def test_the_published_cosine():
    """Peak 0.01, 200 epochs: 0.01, 0.0085, 0.005, 0.0015, 6e-7 at epochs 0, 50, 100, 150, 199."""
    lr = [0.01 * f for f in rates(200)]
    assert [lr[e] for e in (0, 50, 100, 150)] == pytest.approx([0.01, 0.00853553, 0.005, 0.00146447], rel=1e-5)
    assert lr[199] == pytest.approx(6.2e-7, rel=0.01)


def test_the_ten_rates_of_weight_balancing():
    """Its schedule is stepped before each epoch: .00976 .00905 .00794 .00655 .005 .00345 .00206 .00095 .00024 0."""
    lr = [0.01 * f for f in rates(10, "cosine_to_zero")]
    wanted = [0.00976, 0.00905, 0.00794, 0.00655, 0.005, 0.00345, 0.00206, 0.00095, 0.00024, 0]
    assert lr == pytest.approx(wanted, abs=6e-6)


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


def test_the_schedule_of_paco():
    """First GLMC code, peak 0.01: 0.001, 0.006, 0.011 at epochs 0, 5, 10, then a cosine."""
    lr = [0.01 * f for f in rates(200, "paco")]
    assert [lr[e] for e in (0, 5, 9, 10)] == pytest.approx([0.001, 0.006, 0.01, 0.011])
    assert lr[11] == pytest.approx(0.01 * 0.5 * (1 + math.cos(math.pi * 2 / 191)))
    assert all(later < earlier for earlier, later in itertools.pairwise(lr[10:]))


def test_the_schedule_of_the_published_imagenet_run():
    """Peak 0.1, 135 epochs: 0.1, then 0.01, 0.02 ... 0.11 in epochs 1 to 11, then from 0.0999 to 6e-5."""
    lr = [0.1 * f for f in rates(135, "paco_late")]
    assert lr[:12] == pytest.approx([0.1, *(0.01 * e for e in range(1, 12))])
    assert lr[12] == pytest.approx(0.0999, abs=5e-5)
    assert lr[134] == pytest.approx(6e-5, rel=0.05)


@pytest.mark.parametrize("schedule", ["paco", "paco_late"])
@pytest.mark.parametrize("epochs", range(1, 14))
def test_short_runs_of_paco_are_finite(schedule, epochs):
    assert all(0 < f <= 1.1 for f in rates(epochs, schedule))


def test_images_are_smaller_in_the_first_part_of_the_epochs():
    shape = Progressive(side=0.75, until=0.5)
    assert [side_in(epoch, 5, 32, shape) for epoch in range(5)] == [24, 24, 0, 0, 0]
    assert side_in(0, 1, 32, shape) == 0
    assert side_in(0, 5, 32, None) == 0


def test_a_phase_that_begins_late_takes_so_many_epochs():
    wanted = {name: epochs_needed(recipe.load(f"digits_lt/{name}")) for name in ("ce", "tsc", "ldam_drw", "ride")}
    assert wanted == {"ce": 1, "tsc": 2, "ldam_drw": 5, "ride": 5}
