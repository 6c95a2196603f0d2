"""The figures against scikit-learn and against formulas told slowly."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    top_k_accuracy_score,
)

from glmc.errors import NonFiniteLoss
from glmc.metrics import doubts, intervals, of_several_groups, per_class, reliability, scores, wilson
from glmc.runs.tally import Tally

ORDER = ["top1", "top5", "balanced", "macro_f1", "worst_class", "many", "medium", "few", "ece", "nll"]


def example(classes, images=400, seed=0):
    """Logits that are right about half the time, and uneven test labels."""
    rng = torch.Generator().manual_seed(seed)
    labels = (torch.rand(images, generator=rng).square() * classes).long()
    labels[:classes] = torch.arange(classes)
    logits = torch.randn(images, classes, generator=rng) * 2
    logits[torch.arange(images), labels] += 2
    return logits, labels


def tally(logits, labels, sizes=None, device="cpu"):
    counted = Tally(logits.shape[1], device)
    sizes = sizes or [len(labels)]
    for some, truth in zip(logits.split(sizes), labels.split(sizes), strict=True):
        counted.update(some, truth)
    return counted.compute()


def slow_ece(logits, labels, bins=15):
    """Guo et al. 2017: |accuracy - confidence| of each bin, weighted by its share of the images; in Python floats."""
    members = [[] for _ in range(bins)]
    for row, truth in zip(logits.double().tolist(), labels.tolist(), strict=True):
        odds = [math.exp(x - max(row)) for x in row]
        confidence = max(odds) / sum(odds)
        members[min(int(confidence * bins), bins - 1)].append((confidence, odds.index(max(odds)) == truth))
    gaps = [abs(sum(right for _, right in some) - sum(sure for sure, _ in some)) for some in members]
    return 100 * sum(gaps) / len(labels)


@pytest.mark.parametrize("classes", [2, 3, 5, 6, 10])
def test_agrees_with_scikit_learn(classes):
    logits, labels = example(classes)
    confusion, extras = tally(logits, labels)
    truth, guess, chances = labels.numpy(), logits.argmax(1).numpy(), logits.double().softmax(1).numpy()
    found = scores(confusion, np.full(classes, 50), extras=extras)

    assert confusion.dtype == np.int64
    assert (confusion == confusion_matrix(truth, guess, labels=range(classes))).all()
    expected = {
        "top1": 100 * (truth == guess).mean(),
        "balanced": 100 * balanced_accuracy_score(truth, guess),
        "macro_f1": 100 * f1_score(truth, guess, average="macro"),
        "worst_class": 100 * recall_score(truth, guess, average=None).min(),
        "medium": 100 * balanced_accuracy_score(truth, guess),
        "ece": slow_ece(logits, labels),
        "nll": log_loss(truth, chances, labels=range(classes)),
    }
    if classes > 5:
        expected["top5"] = 100 * top_k_accuracy_score(truth, chances, k=5, labels=range(classes))
    assert found == pytest.approx(expected, rel=1e-5)
    assert list(found) == [name for name in ORDER if name in expected]
    assert all(type(value) is float for value in found.values())


def test_uneven_batches_give_the_same_as_one():
    logits, labels = example(10)
    whole, extras = tally(logits, labels)
    parts, extras_of_parts = tally(logits, labels, sizes=[1, 200, 7, 191, 1])
    assert (whole == parts).all()
    assert extras_of_parts == pytest.approx(extras, rel=1e-5)


def test_bfloat16_logits_are_computed_in_float32():
    logits, labels = example(10)
    rough = logits.bfloat16()
    confusion, extras = tally(rough, labels)
    same_confusion, same_extras = tally(rough.float(), labels)
    assert (confusion == same_confusion).all()
    assert extras == same_extras
    chances = rough.double().softmax(1)
    assert extras["nll"] == pytest.approx(log_loss(labels.numpy(), chances.numpy()), rel=1e-5)
    assert extras["ece"] == pytest.approx(slow_ece(rough, labels), rel=1e-5)


def test_certain_answers_share_the_last_bin_of_the_calibration_error():
    """Confidences of exactly 1 (wrong) and of 0.95 (right) balance each other within one bin."""
    logits = torch.tensor([[200.0, 0.0], [math.log(19), 0.0]])
    labels = torch.tensor([1, 0])
    assert logits.softmax(1)[0, 0] == 1
    _, extras = tally(logits, labels)
    assert extras["ece"] == pytest.approx(slow_ece(logits, labels), rel=1e-5)
    assert extras["ece"] == pytest.approx(100 * (1.95 - 1) / 2, rel=1e-5)


def test_logits_between_zero_and_one_are_not_taken_for_probabilities():
    logits, labels = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.5]]), torch.tensor([0, 2])
    _, extras = tally(logits, labels)
    assert extras["ece"] == pytest.approx(slow_ece(logits, labels), rel=1e-5)


@pytest.mark.parametrize("few", ["<20", "<=20"])
def test_the_borders_of_the_groups(few):
    """Each class has a recall of its own, so that a class in the wrong group changes two figures."""
    counts = np.array([19, 20, 21, 100, 101])
    recalls = np.array([10, 20, 30, 40, 50])
    confusion = np.diag(recalls)
    confusion[:, 0] += 100 - recalls
    confusion[0] = [10, 90, 0, 0, 0]
    found = scores(confusion, counts, few=few)
    inside = {"<20": {"many": [50], "medium": [20, 30, 40], "few": [10]}}
    inside["<=20"] = {"many": [50], "medium": [30, 40], "few": [10, 20]}
    for name, members in inside[few].items():
        assert found[name] == pytest.approx(np.mean(members))
    assert found["worst_class"] == pytest.approx(10)


def test_an_unknown_border_is_refused():
    with pytest.raises(KeyError):
        scores(np.eye(2, dtype=np.int64), np.array([1, 2]), few="<10")


@pytest.mark.parametrize(("count", "present"), [(500, "many"), (50, "medium"), (5, "few")])
def test_empty_groups_are_absent(count, present):
    found = scores(np.eye(3, dtype=np.int64), np.full(3, count))
    assert {"many", "medium", "few"} & set(found) == {present}


def test_classes_without_test_images_are_left_out():
    """Class 1 has no test image but is predicted twice; class 3, the only rare one, has none and is never predicted."""
    confusion = np.array([[6, 2, 2, 0], [0, 0, 0, 0], [5, 0, 5, 0], [0, 0, 0, 0]])
    truth, guess = [0] * 10 + [2] * 10, [0] * 6 + [1] * 2 + [2] * 2 + [0] * 5 + [2] * 5
    found = scores(confusion, np.array([500, 50, 50, 5]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of predicted classes that are not in the truth
        balanced = balanced_accuracy_score(truth, guess)
    expected = {
        "top1": 55,
        "balanced": 100 * balanced,
        "macro_f1": 100 * f1_score(truth, guess, labels=[0, 2], average="macro"),
        "worst_class": 50,
        "many": 60,
        "medium": 50,
    }
    assert found == pytest.approx(expected)


def test_a_class_never_predicted_counts_as_zero():
    confusion = np.array([[4, 0], [6, 0]])
    found = scores(confusion, np.array([500, 5]))
    assert found["worst_class"] == found["few"] == 0
    assert found["macro_f1"] == pytest.approx(100 * (8 / 14 + 0) / 2)


def test_per_class_rows():
    logits, labels = example(4)
    confusion, _ = tally(logits, labels)
    rows = per_class(confusion, np.array([500, 50, 20, 5]), ["ant", "bee", "cat", "dog"])
    truth, guess = labels.numpy(), logits.argmax(1).numpy()
    assert [row["class"] for row in rows] == ["ant", "bee", "cat", "dog"]
    assert [row["train"] for row in rows] == [500, 50, 20, 5]
    assert [row["test"] for row in rows] == np.bincount(truth).tolist()
    assert [row["recall"] for row in rows] == pytest.approx(100 * recall_score(truth, guess, average=None))
    assert [row["precision"] for row in rows] == pytest.approx(100 * precision_score(truth, guess, average=None))


def test_undefined_recall_and_precision_are_absent():
    confusion = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 0]])
    rows = per_class(confusion, np.array([9, 8, 7]), ["a", "b", "c"])
    assert rows == [
        {"class": "a", "train": 9, "test": 4, "recall": 75, "precision": 60},
        {"class": "b", "train": 8, "test": 0, "precision": 0},
        {"class": "c", "train": 7, "test": 2, "recall": 0},
    ]


def test_without_any_image_nothing_is_defined():
    confusion, extras = Tally(6, "cpu").compute()
    assert extras == {}
    assert scores(confusion, np.full(6, 50), extras=extras) == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_not_finite_are_an_error(value):
    logits, labels = example(6)
    logits[3] = value
    with pytest.raises(NonFiniteLoss, match="not finite"):
        tally(logits, labels)


def test_update_reads_no_value_on_the_host():
    """Tensors of the meta device have shapes but no values: whatever asks for one fails, as the last lines show."""
    counted = Tally(6, "meta")
    counted.update(torch.zeros(8, 6, device="meta"), torch.zeros(8, dtype=torch.int64, device="meta"))
    with pytest.raises(NotImplementedError):
        counted.compute()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_update_does_not_wait_and_the_figures_agree():
    logits, labels = example(10)
    counted = Tally(10, "cuda")
    on_gpu = logits.cuda(), labels.cuda()
    counted.update(*on_gpu)  # the first call may load kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        counted.update(*on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    confusion, extras = counted.compute()
    expected, extras_on_cpu = tally(logits, labels)
    assert (confusion == 2 * expected).all()
    assert extras == pytest.approx(extras_on_cpu, rel=1e-4)


def test_updates_under_inference_mode_and_deterministic_algorithms():
    logits, labels = example(10)
    counted = Tally(10, "cpu")
    torch.use_deterministic_algorithms(True)
    try:
        with torch.inference_mode():
            counted.update(logits, labels)
    finally:
        torch.use_deterministic_algorithms(False)
    confusion, extras = counted.compute()
    expected, same = tally(logits, labels)
    assert (confusion == expected).all()
    assert extras == same


def test_the_calibration_error_is_that_of_the_definition():
    random = np.random.default_rng(3)
    confidence, right = random.uniform(0, 1, 1000), random.integers(0, 2, 1000)
    confidence[:3] = 0, 1, 1 / 15
    bins, error = reliability(confidence, right == 1)
    slow = 0.0
    for b in range(15):
        inside = [i for i in range(1000) if b / 15 <= confidence[i] < (b + 1) / 15 or (b == 14 and confidence[i] == 1)]
        assert bins[b, 0] == len(inside)
        mean = math.fsum(confidence[i] for i in inside) / len(inside)
        share = sum(right[i] for i in inside) / len(inside)
        assert bins[b, 1:].tolist() == pytest.approx([mean, share])
        slow += len(inside) * abs(mean - share) / 1000
    assert error == pytest.approx(100 * slow)
    bins, error = reliability(np.array([0.5]), np.array([True]))
    assert error == pytest.approx(50)
    assert np.isnan(bins[0, 1])


def test_intervals_are_wilsons_and_few_images_are_said_to_tell_little():
    hits, images, counts = np.array([40, 30, 0, 2]), np.array([50, 50, 0, 3]), np.array([500, 200, 60, 5])
    found = intervals(hits, images, counts, "<20")
    assert {name: each.images for name, each in found.items()} == {"top1": 103, "balanced": 103, "many": 100, "few": 3}
    for name, (right, of) in {"top1": (72, 103), "many": (70, 100), "few": (2, 3)}.items():
        expected = binomtest(right, of).proportion_ci(method="wilson")
        assert found[name][1:] == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-3)
    low, high = wilson((0.8 + 0.6 + 2 / 3) / 3, 9 / (1 / 50 + 1 / 50 + 1 / 3))  # as if of 24 images
    assert found["balanced"][1:] == pytest.approx((low, high))
    told = doubts(scores(np.diag([0, 0, 0, 0]) + np.diag(images), counts), {"few": found["few"], "many": found["many"]})
    assert "few 100.0 % on 3 images, where" in told
    assert "many" not in told
    assert intervals(hits, np.zeros(4, dtype=np.int64), counts, "<20") == {}


def test_a_class_that_changes_its_group_between_folds_is_named():
    counts = np.array([[300, 104, 30], [290, 88, 31]])
    said = of_several_groups(counts, ("ant", "bee", "cat"), "<20")
    assert said.startswith("The class 'bee' has 88 to 104 training images in the folds")
    assert of_several_groups(counts[:, [0, 2]], ("ant", "cat"), "<20") == ""
