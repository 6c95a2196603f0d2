import itertools
import math

import numpy as np
import pytest
from scipy import stats

from glmc.report import significance


def test_over_seeds_is_welch():
    a, b = [94.1, 95.0, 93.2, 94.4], [96.0, 95.8, 96.5]
    found = significance.over_seeds(a, b)
    va, vb = np.var(a, ddof=1) / 4, np.var(b, ddof=1) / 3
    se, df = math.sqrt(va + vb), (va + vb) ** 2 / (va**2 / 3 + vb**2 / 2)
    points = np.mean(b) - np.mean(a)
    assert found.points == pytest.approx(points)
    assert found.p == pytest.approx(2 * stats.t.sf(points / se, df))
    half = stats.t.ppf(0.975, df) * se
    assert (found.low, found.high) == pytest.approx((points - half, points + half))
    assert "4 and 3 seeds" in found.how
    assert significance.over_seeds([90.0, 90.0], [91.0, 91.0]) is None


@pytest.mark.parametrize(("gained", "lost"), [(17, 7), (0, 0), (6, 0), (3, 5), (40, 12), (9, 9)])
def test_over_images_is_mcnemars_mid_p_and_its_interval_agrees(gained, lost):
    a = np.array([True] * lost + [False] * gained + [True] * 100 + [False] * 20)
    b = np.array([False] * lost + [True] * gained + [True] * 100 + [False] * 20)
    found = significance.over_images(a, b)
    apart, most = gained + lost, max(gained, lost)
    beyond = sum(math.comb(apart, k) for k in range(most + 1, apart + 1)) / 2**apart
    assert found.points == pytest.approx(100 * (gained - lost) / len(a))
    assert found.p == pytest.approx(2 * beyond + math.comb(apart, most) / 2**apart)
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
    assert found.low <= found.points <= found.high


def test_at_the_ends_of_the_paired_interval_the_score_is_a_normal_quantile():
    """Tango 1998, the likelihood of 9 gained, 3 lost of 40 maximised step by step; and by hand where none disagrees."""
    for end in np.ravel(significance.paired(9, 3, 40)):
        lost = np.linspace(max(0, -end), (1 - end) / 2, 1_000_001)[1:-1]  # shares that B could lose, if it gained `end`
        likeliest = lost[np.argmax(9 * np.log(lost + end) + 3 * np.log(lost) + 28 * np.log(1 - 2 * lost - end))]
        error = math.sqrt((2 * likeliest + end - end**2) / 40)
        assert abs(6 / 40 - end) / error == pytest.approx(1.96, abs=1e-3)
    low, high = significance.paired(0, 0, 10)
    assert high == -low == pytest.approx(1.96**2 / (10 + 1.96**2), abs=1e-4)


@pytest.mark.parametrize("images", [10, 50, 1000])
def test_the_paired_interval_holds_the_truth_in_95_of_100_samples(images):
    """Gaps of 0 to 60 points, B losing 5 of 100 images; 20,000 samples each, coverage in percent:

    | images | 0 | 10 | 20 | 30 | 40 | 50 | 60 |
    |---|---|---|---|---|---|---|---|
    | 10 | 99.9 | 99.5 | 98.9 | 97.1 | 97.1 | 96.7 | 96.8 |
    | 50 | 95.3 | 94.8 | 95.2 | 94.3 | 95.1 | 94.7 | 94.6 |
    | 1,000 | 95.0 | 94.7 | 95.0 | 95.1 | 94.9 | 94.9 | 94.8 |
    """
    random = np.random.default_rng(0)
    for gap in np.arange(0, 0.61, 0.1):
        drawn = random.multinomial(images, [gap + 0.05, 0.05, 0.9 - gap], 3000)
        low, high = significance.paired(drawn[:, 0], drawn[:, 1], images)
        covered = np.mean((low <= gap + 1e-9) & (gap <= high + 1e-9))
        assert 0.93 < covered <= (1 if images == 10 else 0.97), f"a gap of {100 * gap:.0f} points: {covered}"


def test_a_mean_over_classes_throws_a_coin_for_each_image():
    """Classes of different sizes: every outcome of the coins, one after the other."""
    strata = np.repeat([0, 1, 2], [10, 4, 2])
    a = np.zeros(16, dtype=bool)
    b = np.zeros(16, dtype=bool)
    a[[0, 1]] = True
    b[[2, 3, 4, 10, 11, 14]] = True
    found = significance.over_images(a, b, strata)
    weights = [0.1] * 5 + [0.25] * 2 + [0.5]
    seen = 0.1 * 3 - 0.1 * 2 + 0.25 * 2 + 0.5
    outcomes = [
        abs(sum(s * w for s, w in zip(signs, weights, strict=True))) for signs in itertools.product((-1, 1), repeat=8)
    ]
    exact = sum((outcome > seen + 1e-9) + (abs(outcome - seen) < 1e-9) / 2 for outcome in outcomes) / len(outcomes)
    assert found.points == pytest.approx(100 * seen / 3)
    assert found.p == pytest.approx(exact, abs=0.02)
    assert found.low < found.points < found.high


def test_a_mean_over_equal_classes_is_the_mean_over_images():
    random = np.random.default_rng(0)
    a, b = random.random(200) < 0.7, random.random(200) < 0.8
    whole, by_class = significance.over_images(a, b), significance.over_images(a, b, np.repeat(np.arange(10), 20))
    assert by_class[:4] == pytest.approx(whole[:4])


@pytest.mark.parametrize("gap", [0.0, 0.3])
def test_over_classes_of_different_sizes_the_image_test_is_honest(gap):
    """Equal networks are told apart in about 5 of 100 comparisons, and the interval holds the true gap in most."""
    random = np.random.default_rng(0)
    strata = np.repeat(np.arange(12), random.integers(1, 40, 12))
    false, covered = 0, 0
    for _ in range(80):
        a, b = (random.random(len(strata)) < share for share in (0.5 - gap / 2, 0.5 + gap / 2))
        found = significance.over_images(a, b, strata)
        false += found.p < 0.05
        covered += found.low <= 100 * gap <= found.high
    assert false <= 9 or gap
    assert covered >= 72


def test_over_classes():
    random = np.random.default_rng(0)
    a = random.uniform(20, 90, 40)
    better = significance.over_classes(a, a + random.normal(5, 4, 40))
    assert better.p < 0.001
    assert better.low > 0
    same = significance.over_classes(a, a + random.normal(0, 4, 40) * np.tile([-1, 1], 20))
    assert same.low < 0 < same.high
    assert same.p > 0.05
    assert significance.over_classes(a[:9], a[:9] + 5) is None
    a[31:] = np.nan
    assert "31 classes" in significance.over_classes(a, a + 1).how


def test_holm():
    assert significance.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert significance.holm([0.9, 0.5]) == pytest.approx([1.0, 1.0])
    assert significance.holm([]) == []


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (1.0, "practically every comparison"),
        (0.42, "about 42 of 100 comparisons"),
        (0.0042, "about 4 of 1,000 comparisons"),
        (1e-9, "fewer than 1 of 1,000 comparisons"),
    ],
)
def test_chance_in_words(p, words):
    assert significance.chance(p) == words
