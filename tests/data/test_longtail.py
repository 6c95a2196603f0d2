import hashlib

import numpy as np
import pytest

from glmc.data.longtail import class_order, longtail_rows, profile_counts, rate_of, subset
from glmc.errors import UserError

NAMES = [f"c{label}" for label in range(100)]
CIFAR = {10: np.arange(50_000) % 10, 100: np.arange(50_000) % 100}  # 50,000 labels, equally many of each class


def rows(labels, **options):
    defaults = {"imbalance": 100, "profile": "exponential", "n_max": None, "order": "given", "split": "cao"}
    classes = NAMES[: labels.max() + 1]
    return longtail_rows(labels, classes, **(defaults | options))


def slow_cao(labels, counts):
    """Cao et al. in words: seed 0 once; shuffle each class's list of indices in place, keep the first n_c."""
    np.random.seed(0)
    kept = []
    for label, count in enumerate(counts):
        indices = [row for row, own in enumerate(labels.tolist()) if own == label]
        np.random.shuffle(indices)
        kept += indices[:count]
    return kept


def slow_du(labels, counts, seed=3407):
    """The published GLMC code in words: one seed, once; choice without replacement of each class's rows."""
    np.random.seed(seed)
    kept = []
    for label, count in enumerate(counts):
        own = [row for row, value in enumerate(labels.tolist()) if value == label]
        kept += [own[place] for place in np.random.choice(len(own), count, replace=False)]
    return kept


SIZES = {
    (100, 100): 10_847,
    (100, 50): 12_608,
    (100, 10): 19_573,
    (10, 100): 12_406,
    (10, 50): 13_996,
    (10, 10): 20_431,
}
SMALLEST = {(100, 100): 5, (100, 50): 10, (100, 10): 50, (10, 100): 50, (10, 50): 100, (10, 10): 500}


@pytest.mark.parametrize(("classes", "imbalance"), SIZES)
@pytest.mark.parametrize("split", ["cao", "du"])
def test_sizes_of_the_published_sets(classes, imbalance, split):
    chosen = rows(CIFAR[classes], imbalance=imbalance, split=split)
    counts = np.bincount(CIFAR[classes][chosen])
    assert len(chosen) == len(set(chosen.tolist())) == SIZES[classes, imbalance]
    assert counts[0] == 50_000 // classes
    assert counts[-1] == SMALLEST[classes, imbalance]
    assert (np.diff(CIFAR[classes][chosen]) >= 0).all()  # concatenated by class


# sha256 of the row numbers as little-endian int64
GOLDEN = {
    ("cao", 10, 100): "563055e23a86ca16a1817853b5083e2cc07118f9307ecc8082d4fcdc922f6f6b",
    ("cao", 10, 50): "980b1ecb2f4bcfc0cde85f677d292b045e907c77beaac3b7697349d27e3e8877",
    ("cao", 10, 10): "b119a84a3556a73bf7de614ae2a9f3108a4e33701ba0f3ca5ca26814efb48af6",
    ("cao", 100, 100): "7ebcb6242d814b39233926ff2bf7384134fe218439f2616771d2a54baec405cb",
    ("cao", 100, 50): "eef4ef95f7d1acbcf3556429af9a15ef6a1c962a29b316253a083bc617d094ba",
    ("cao", 100, 10): "ba33221ce300fee41e252c44a1227f092570cd7e760adb9d8bf78f7f8ebf03b7",
    ("du", 10, 100): "a139e58fad4ba5ae49d16787fa54149ca65bad4202d321532e061d776ef4674f",
    ("du", 10, 50): "7ee22cef624b0121c45927fad1a073559ad11f5e3f86b29d286153a803a667fb",
    ("du", 10, 10): "e25d4b86f5b425a92ba680c9a284a59cfc2ffd94ea35d580dc696313de70e796",
    ("du", 100, 100): "8283e0e310f72fc36368b53d69890b8d7b224ad422be18cfc23cacd79fe95623",
    ("du", 100, 50): "0150fe6fa4934c82c590fedbb2e8d1df38de90ac24c940263e33721a5f34f841",
    ("du", 100, 10): "24b3b064525f42faecee1ab225246b31003dd93952f2e233fe05d0bac8518567",
}


@pytest.mark.parametrize(("split", "classes", "imbalance"), GOLDEN)
def test_rows_are_pinned(split, classes, imbalance):
    chosen = rows(CIFAR[classes], imbalance=imbalance, split=split)
    assert hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest() == GOLDEN[split, classes, imbalance]


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize(("split", "slow"), [("cao", slow_cao), ("du", slow_du)])
def test_rows_match_the_slow_rule(classes, split, slow):
    chosen = rows(CIFAR[classes], split=split)
    assert chosen.tolist() == slow(CIFAR[classes], np.bincount(CIFAR[classes][chosen]).tolist())
    assert chosen.dtype == np.int64


def test_rows_of_labels_in_any_order_match_the_slow_rule():
    labels = np.random.RandomState(1).permutation(np.repeat([0, 1, 2], [9, 5, 7]))
    for split, slow in (("cao", slow_cao), ("du", slow_du)):
        assert subset(labels, np.array([4, 5, 1]), split, NAMES).tolist() == slow(labels, [4, 5, 1])


def test_another_seed_draws_other_rows():
    chosen = rows(CIFAR[10], split="du", seed=5)
    assert chosen.tolist() == slow_du(CIFAR[10], np.bincount(CIFAR[10][chosen]).tolist(), seed=5)
    assert rows(CIFAR[10], split="du", seed=3407).tolist() == rows(CIFAR[10], split="du").tolist()
    assert rows(CIFAR[10], split="cao", seed=0).tolist() == rows(CIFAR[10], split="cao").tolist()
    assert rows(CIFAR[10], split="cao", seed=1).tolist() != rows(CIFAR[10], split="cao").tolist()


def test_the_global_generator_is_left_alone():
    np.random.seed(42)
    before = np.random.get_state()[1].copy()
    rows(CIFAR[10], split="cao")
    rows(CIFAR[10], split="du", order=5)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_exponential_profile():
    assert profile_counts(500, 100, 100, "exponential").tolist() == [int(500 * 0.01 ** (i / 99)) for i in range(100)]
    assert profile_counts(100, 3, 100, "exponential").tolist() == [100, 10, 1]
    assert profile_counts(7, 4, 1, "exponential").tolist() == [7, 7, 7, 7]
    assert profile_counts(7, 1, 5, "exponential").tolist() == [7]


def test_a_rate_is_the_reciprocal_unless_a_decimal_was_meant():
    for imbalance in (*range(1, 2000), 2.5, 28.57, 10 / 3, 1e6, 12345.678):
        assert rate_of(imbalance) == 1 / imbalance
    assert rate_of(1 / 0.055) == 0.055 > 1 / (1 / 0.055)


@pytest.mark.parametrize(("classes", "wanted"), [(4, [50, 50, 5, 5]), (5, [50, 50, 5, 5, 5])])
def test_step_profile(classes, wanted):
    assert profile_counts(50, classes, 10, "step").tolist() == wanted


def test_class_order():
    assert class_order(5, "given").tolist() == [0, 1, 2, 3, 4]
    first, second = class_order(100, 0), class_order(100, 1)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(100))
    assert first.tolist() != second.tolist()
    assert class_order(10, 0).tolist() == [0, 8, 9, 3, 7, 5, 1, 2, 6, 4]  # pinned


def test_the_order_says_which_class_is_large():
    place = class_order(10, 3)
    counts = np.bincount(CIFAR[10][rows(CIFAR[10], order=3)])
    np.testing.assert_array_equal(counts, profile_counts(5000, 10, 100, "exponential")[place])
    assert counts.argmax() != 0 or counts.argmin() != 9


@pytest.mark.parametrize("profile", ["exponential", "step"])
def test_too_few_images_names_the_largest_n_max_that_works(profile):
    labels = np.repeat([0, 1, 2], [90, 20, 60])
    with pytest.raises(UserError, match=r"class 'c1' has 20 training images but needs \d+ .*data.n_max=90") as caught:
        rows(labels, imbalance=2, profile=profile)
    # The slow way: try every n_max.
    place = profile_counts(90, 3, 2, profile)
    fits = [n for n in range(1, 91) if (profile_counts(n, 3, 2, profile) <= [90, 20, 60]).all()]
    assert f"the largest that works is data.n_max={max(fits)}" in str(caught.value)
    assert f"needs {place[1]} " in str(caught.value)
    assert len(rows(labels, imbalance=2, profile=profile, n_max=max(fits)))
    with pytest.raises(UserError):
        rows(labels, imbalance=2, profile=profile, n_max=max(fits) + 1)


def test_no_n_max_works():
    with pytest.raises(
        UserError, match=r"class 'c0' has 1 .* needs 50 .*no data.n_max works here: lower data.imbalance"
    ):
        rows(np.repeat([0, 1], [1, 50]), imbalance=10)


def test_a_profile_that_empties_a_class():
    with pytest.raises(UserError, match=r"class 'c1' would keep no image with data.n_max=50 and data.imbalance=100"):
        rows(np.repeat([0, 1], [50, 50]))


def test_subset_names_a_small_class():
    with pytest.raises(UserError, match="class 'c1' has 1 training images but should keep 2"):
        subset(np.array([0, 0, 1]), np.array([1, 2]), "cao", NAMES)


@pytest.mark.parametrize("imbalance", [0.5, 0.0, -3, float("nan"), float("inf")])
def test_imbalance_below_one(imbalance):
    with pytest.raises(UserError, match=r"data.imbalance=.* is not possible: it is n_max / n_min.*data.imbalance=100"):
        rows(CIFAR[10], imbalance=imbalance)


def test_other_impossible_values():
    with pytest.raises(UserError, match=r"data.n_max=0 is not possible"):
        rows(CIFAR[10], n_max=0)
    with pytest.raises(UserError, match=r"data.class_order=-1 is not possible"):
        rows(CIFAR[10], order=-1)
