"""Thresholds and sets keep on fresh images what they promise on held-out ones."""

import numpy as np
import pytest
from scipy.stats import binom

from glmc.errors import UserError
from glmc.inference import abstain
from glmc.runs.shapes import Measured, shaped

GROUP = np.array([0, 0, 1, 1, 2, 2])
FREQUENCY = np.array([0.45, 0.35, 0.08, 0.06, 0.04, 0.02])


def world(random, images, frequency=FREQUENCY):
    """Probabilities, float64 [N, 6], of a network that is too sure and unfair to rare classes; labels, int64 [N]."""
    labels = random.choice(6, images, p=frequency)
    logits = random.normal(0, 1, (images, 6)) + 1.5 * np.log(FREQUENCY)
    logits[np.arange(images), labels] += 3.5
    odds = np.exp(1.7 * logits)
    return odds / odds.sum(1, keepdims=True), labels


def test_sets_hold_the_true_class_as_often_as_asked_in_each_group_on_fresh_draws():
    random = np.random.default_rng(0)
    fresh, labels = world(random, 20_000)
    covered = []
    for _ in range(150):
        found = abstain.sets_for(0.8, abstain.kept(*world(random, 300)), GROUP).of(fresh)[np.arange(20_000), labels]
        covered.append([found[GROUP[labels] == place].mean() for place in range(3)])
    assert (np.mean(covered, axis=0) > 0.795).all()
    assert np.mean(covered, axis=0)[2] < 0.9, "about 18 held-out images of the rarest group: no more than needed"


def test_a_promised_error_is_kept_by_19_of_20_drawings_and_coverage_on_average():
    random = np.random.default_rng(1)
    fresh = abstain.kept(*world(random, 40_000))
    errors, shares, answered = [], [], []
    for _ in range(200):
        held = abstain.kept(*world(random, 500))
        threshold = abstain.for_error(held, 0.05)
        if threshold is not None:
            errors.append(np.mean(~fresh.right[fresh.first > threshold.value]))
            answered.append(np.mean(fresh.first > threshold.value))
        shares.append(np.mean(fresh.first > abstain.for_coverage(held, 0.7).value))
    assert len(errors) > 150
    assert np.mean(np.array(errors) > 0.05) <= 0.05
    assert np.mean(answered) > 0.3, "it does answer"
    assert np.mean(~fresh.right) > 0.1, "all images would be too many"
    assert np.mean(shares) == pytest.approx(0.7, abs=0.01)


def test_the_bound_is_clopper_and_pearsons():
    threshold = abstain.Threshold(0.5, 90, 3)
    assert binom.cdf(3, 90, threshold.bound(0.01)) == pytest.approx(0.01)
    assert abstain.Threshold(0.5, 0, 0).bound(0.01) == 1
    assert abstain.Threshold(0.0, 30, 0).bound(0.05) == pytest.approx(1 - 0.05 ** (1 / 30))


def test_groups_with_too_few_held_out_images_share_a_threshold_and_what_is_promised_is_said():
    labels = np.repeat([0, 2, 4], [40, 12, 3])
    held = abstain.Kept(labels, np.linspace(0.3, 0.9, 55), np.full(55, 0.9))
    for share, parts in (
        (0.7, [(("many",), 40), (("medium",), 12), (("few",), 3)]),
        (0.9, [(("many",), 40), (("medium", "few"), 15)]),
        (0.98, [(("many", "medium", "few"), 55)]),
    ):
        found = abstain.sets_for(share, held, GROUP)
        assert found.parts == parts
        assert np.mean(held.true >= found.least[labels]) >= share
    assert "many (40 held-out images); medium and few together (15 held-out images)" in abstain.promise(
        abstain.sets_for(0.9, held, GROUP), 0.9
    )
    assert (found.least <= abstain.sets_for(0.9, held, GROUP).least).all(), "who asks for more gets larger sets"


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (lambda held: abstain.threshold_for("error=0.1", held), r"these 20 held-out images can promise is 0.259"),
        (lambda held: abstain.threshold_for("error=5", held), "--unknown error=5: write error=0.05 or coverage=0.9"),
        (lambda held: abstain.threshold_for("errors=0.1", held), "--unknown errors=0.1: write"),
        (lambda held: abstain.threshold_for("coverage=nan", held), "--unknown coverage=nan: write"),
        (lambda held: abstain.sets_for(0.96, held, GROUP), "--sets 0.96: takes 24 held-out images, and there are 20"),
        (lambda _: abstain.refuse_no_share(90), "--sets 90: give a share between 0 and 1"),
    ],
)
def test_what_cannot_be_promised_is_refused_in_a_sentence(what, sentence):
    with pytest.raises(UserError, match=sentence):
        what(abstain.Kept(np.zeros(20, np.int64), np.full(20, 0.9), np.full(20, 0.9)))


def test_what_is_measured_on_test_images_also_says_how_it_is_at_the_held_out_frequencies():
    random = np.random.default_rng(2)
    held = abstain.kept(*world(random, 2000))
    found = abstain.measured(*world(random, 6000, np.full(6, 1 / 6)), held, GROUP)
    shaped(Measured, found, "")
    row = next(row for row in found["unknown"] if row["asked"] == "error=0.05")
    assert row["alike"]["wrong"] < 0.05 < row["wrong"]
    assert row["promised"] <= 0.05
    assert row["images"] == round(6000 * row["answered"])
    for row in found["sets"]:
        assert all(each["covered"] > row["asked"] - 0.08 for each in row["groups"].values())
    assert found["curves"]["all"][-1][0] == 1
