"""RISDA against its formulas told slowly, and what its second part may and may not change."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from glmc.errors import UserError
from glmc.step import Batch
from methods.conftest import COUNTS, build, random_step

F64 = torch.float64


def switched(**settings):
    """A method at the beginning of its second part, and the images it was shown."""
    method = build("risda", dtype=F64, **settings)
    images, labels = torch.randn(9, 3, 8, 8, dtype=F64), torch.tensor([0, 1, 2] * 3)
    method.eval()
    with torch.no_grad():
        method.classifier.bias.sub_(method.predict(images).mean(0))  # answers differ
    look = lambda view: (Batch((images[rows],), labels[rows], rows) for rows in torch.arange(9).split(4))  # noqa: E731
    with torch.no_grad():
        method.before_epoch(79, 100, look)
        assert not method.late
        method.before_epoch(80, 100, look)
        method.before_epoch(81, 100, pytest.fail)  # one look is enough
    return method.train(), images, labels


def test_graph_and_shifts_are_those_of_the_training_images():
    method, images, labels = switched(borrowers=0.67)
    with torch.no_grad():
        features = method.eval().backbone(images)
        said = method.logits(features).argmax(1)
    graph = np.zeros((3, 3))
    for truth, answer in zip(labels, said, strict=True):
        graph[truth, answer] += 1 / 3
    assert len(set(said.tolist())) > 1
    means = torch.stack([features[labels == c].mean(0) for c in range(3)])
    assert torch.allclose(method.shifts, torch.from_numpy(graph) @ means - means)
    graph[0] = [1, 0, 0]  # the largest class keeps its own
    assert torch.allclose(method.lending, torch.from_numpy(graph))


@pytest.mark.parametrize("compounding", [False, True])
def test_two_steps_are_the_formula(compounding):
    method, *_ = switched(alpha=0.7, beta=0.9, borrowers=0.67, compounding=compounding)
    method.lending.copy_(torch.tensor([[1, 0, 0], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5]], dtype=F64))
    twin = copy.deepcopy(method)
    w, b = (p.detach().numpy() for p in (method.classifier.weight, method.classifier.bias))
    shifts, lending = method.shifts.numpy(), method.lending.numpy()
    weight = [1e-4 / (1 - 0.9999**n) for n in COUNTS.tolist()]
    seen = [[], [], []]
    kept = [(0, np.zeros(16), np.zeros((16, 16)))] * 3  # number, mean, covariance
    for seed in range(2):
        step = random_step(method, progress=0.9, seed=seed, dtype=F64)
        labels = step.streams["instance"].labels.tolist()
        features = twin.backbone(step.streams["instance"].views[0]).detach().numpy()
        for c in range(3):
            new = features[[y == c for y in labels]]
            seen[c] += [*new]
            if len(new):
                n, mean, covariance = kept[c]
                share, apart = len(new) / (n + len(new)), mean - new.mean(0)
                covariance = (1 - share) * covariance + share * np.cov(new.T, bias=True)
                covariance = covariance + share * (1 - share) * np.outer(apart, apart)
                kept[c] = (n + len(new), (1 - share) * mean + share * new.mean(0), covariance)
        lent = [sum(lending[c, k] * kept[k][2] for k in range(3)) for c in range(3)]
        if compounding:
            kept = [(n, mean, lent[c]) for c, (n, mean, _) in enumerate(kept)]
        total = 0.0
        for f, y in zip(features, labels, strict=True):
            z = [
                w[j] @ f + b[j] + 0.7 * 0.9 * w[j] @ shifts[y] + 0.9 * 0.9 / 2 * (w[j] - w[y]) @ lent[y] @ (w[j] - w[y])
                for j in range(3)
            ]
            total += weight[y] * (np.log(sum(np.exp(z))) - z[y])
        loss = method(step)["loss"]
        assert loss.item() == pytest.approx(total / sum(weight[y] for y in labels), rel=1e-6)
    if not compounding:
        for c in range(3):
            assert torch.allclose(method.covariances[c], torch.from_numpy(np.cov(np.array(seen[c]).T, bias=True)))
    loss.backward()
    assert method.classifier.weight.grad.any()
    assert not any(parameter.grad.any() for parameter in method.backbone.parameters())
    assert (method.rates(0.79), method.rates(0.8)) == ({}, {"backbone": 0.0})


def test_before_the_second_part_it_is_plain_training():
    method, plain = build("risda"), build("supervised")
    before = copy.deepcopy(method.covariances)
    step = random_step(method)
    plain.load_state_dict({name: value for name, value in method.state_dict().items() if name in plain.state_dict()})
    assert torch.allclose(method(step)["loss"], plain(step)["loss"])
    assert torch.equal(method.covariances, before)


def test_a_shift_of_the_features_and_of_the_logits_is_twice_the_shift():
    """Why the released code's alpha is doubled: a softmax does not see the part that all logits share."""
    method, *_ = switched(alpha=1.0, beta=0.0)
    features, labels, at = torch.randn(6, 16, dtype=F64), torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor(0.9, dtype=F64)
    once = method.augmented(features, labels, method.covariances, at)
    rows, shift = method.classifier.weight, method.shifts[labels]
    twice = method.logits(features + 0.5 * at * shift)
    twice = twice + 0.5 * at * ((rows - rows[labels][:, None]) @ shift[:, :, None])[..., 0]
    assert F.cross_entropy(once, labels).item() == pytest.approx(F.cross_entropy(twice, labels).item())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"start": 1.0}, r"start must lie in \[0, 1\)"),
        ({"borrowers": 1.1}, r"borrowers must lie in \[0, 1\]"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"loss": "ldam"}, "RISDA needs a linear classifier, and LDAM has another"),
    ],
)
def test_what_is_impossible_is_said(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        build("risda", **settings)


def test_covariances_that_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr("glmc.methods.risda.MOST_BYTES", 3 * 16 * 16 * 4 - 1)
    with pytest.raises(UserError, match=r"RISDA keeps a covariance of 16 x 16 for each of 3 classes, 0\.0 GiB where 1"):
        build("risda")
