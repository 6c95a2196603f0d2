"""Contrastive systems against their formulas, told slowly in Python floats, and what they remember between steps."""

import copy
import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from glmc.errors import UserError
from glmc.losses.contrastive import (
    balanced_contrastive,
    instance_contrastive,
    parametric_contrastive,
    similarities,
    supervised_contrastive,
)
from glmc.methods.kcl import chosen
from glmc.methods.memory import Queue
from glmc.methods.tsc import simplex
from glmc.step import Batch

F64 = torch.float64
CONTRASTIVE = ("bcl", "supcon", "kcl", "tsc", "paco", "gpaco", "ssd")
LABELS = torch.tensor([0, 1, 0, 2, 0, 1])  # class 2 has one anchor


def embeddings(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 4, generator=generator, dtype=F64)).requires_grad_()


def slow(scores, wanted, weight):
    """-mean_i sum_j q_ij log(exp(s_ij) / sum_k w_ik exp(s_ik)), over lists of lists."""
    total = 0.0
    for row, q, w in zip(scores, wanted, weight, strict=True):
        denominator = sum(one * math.exp(score) for one, score in zip(w, row, strict=True))
        total -= sum(share * (score - math.log(denominator)) for share, score in zip(q, row, strict=True)) / (
            sum(q) or 1
        )
    return total / len(scores)


def test_supcon_is_its_formula_and_gathered_halves_give_the_gradient_of_the_whole():
    z, places = embeddings(6), torch.arange(6)
    whole = supervised_contrastive(z, LABELS, z, LABELS, places, 0.2)
    scores = (z @ z.T / 0.2).tolist()
    same = [[float(i != j and LABELS[i] == LABELS[j]) for j in range(6)] for i in range(6)]
    assert whole.item() == pytest.approx(slow(scores, same, [[float(i != j) for j in range(6)] for i in range(6)]))
    halves = [supervised_contrastive(z[p], LABELS[p], z, LABELS, p, 0.2) for p in places.chunk(2)]
    (wanted,), (found,) = torch.autograd.grad(whole, z), torch.autograd.grad(sum(halves) / 2, z)
    assert torch.allclose(found, wanted, atol=1e-12)


def test_ssd_tells_an_image_from_those_of_other_classes_only():
    queries, keys, pool = embeddings(6), embeddings(6, seed=1).detach(), embeddings(4, seed=2).detach()
    pool_labels = [0, 2, -1, 1]  # a place of the queue is empty
    everyone = [*LABELS.tolist(), *pool_labels]
    own = [[float(i == j) for j in range(10)] for i in range(6)]
    weight = [[float(i == j or 0 <= y != LABELS[i]) for j, y in enumerate(everyone)] for i in range(6)]
    scores = (queries @ torch.cat([keys, pool]).T / 0.2).tolist()
    loss = instance_contrastive(queries, keys, LABELS, pool, torch.tensor(pool_labels), 0.2)
    assert loss.item() == pytest.approx(slow(scores, own, weight))
    alone = instance_contrastive(queries, keys, torch.zeros(6, dtype=int), pool, torch.full((4,), -1), 0.2)
    assert alone.item() == pytest.approx(0, abs=1e-12)  # nobody to be told from


def test_bcl_divides_the_own_class_by_one_less_than_the_others():
    z, centres, labels = embeddings(4), embeddings(3, seed=1), torch.tensor([0, 0, 1, 0])
    pool_labels = [0, 0, 1, 0, 0, 1, 2]
    size = {0: 4, 1: 2, 2: 1}  # the centres are counted
    same = [[float(i != j and labels[i] == y) for j, y in enumerate(pool_labels)] for i in range(4)]
    weight = [
        [0 if i == j else 1 / (size[y] - (labels[i] == y).item()) for j, y in enumerate(pool_labels)] for i in range(4)
    ]
    scores = (z @ torch.cat([z, centres]).T / 0.5).tolist()
    loss = balanced_contrastive(z, labels, centres, 0.5)
    assert loss.item() == pytest.approx(slow(scores, same, weight))
    loss.backward()
    assert z.grad.isfinite().all()
    assert centres.grad.any(1).all()


@pytest.mark.parametrize(("alpha", "smoothing"), [(0.05, 0.0), (0.0, 0.0), (0.05, 0.3)])
def test_paco_has_centres_and_embeddings_in_one_softmax(alpha, smoothing):
    z, keys, centres = embeddings(6), embeddings(4, seed=1), torch.randn(6, 3, dtype=F64)
    pool_labels = [*LABELS.tolist(), 0, 2, -1, -1]  # two places of the queue are empty
    own = [[(1 - smoothing) * (LABELS[i] == c).item() + smoothing / 3 for c in range(3)] for i in range(6)]
    same = [[alpha * (i != j and LABELS[i] == y) for j, y in enumerate(pool_labels)] for i in range(6)]
    weight = [[1.0] * 3 + [float(i != j and y >= 0) for j, y in enumerate(pool_labels)] for i in range(6)]
    similar = similarities(z, torch.cat([z, keys]), 0.1)
    loss = parametric_contrastive(centres, similar, LABELS, torch.tensor(pool_labels), alpha=alpha, smoothing=smoothing)
    scores = torch.cat([centres, similar], 1).tolist()
    assert loss.item() == pytest.approx(
        slow(scores, [a + float_row(b) for a, b in zip(own, same, strict=True)], weight)
    )
    if alpha == 0:  # the centre's term alone, and yet no cross entropy: embeddings stay in the denominator
        assert loss.item() > F.cross_entropy(centres, LABELS).item() + 0.1


def float_row(row):
    return [float(value) for value in row]


def test_paco_s_centres_carry_the_log_prior_of_the_training_images(make):
    build, _ = make
    assert build("paco").log_prior.tolist() == pytest.approx([math.log(n / 53) for n in (40, 10, 3)])
    assert build("gpaco", loss={"name": "logit_adjusted", "tau": 0.0}).log_prior.tolist() == pytest.approx(
        [-math.log(3)] * 3
    )


def test_kcl_has_the_other_view_and_k_others_of_the_class_each_equally_often():
    labels = torch.tensor([0, 1, 0, 0]).repeat(2)
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(8, 8)
    for _ in range(300):
        anchor, candidate = torch.rand(2, 8, generator=generator)
        positives = chosen(labels, anchor, candidate, 2)
        assert positives.sum(1).tolist() == [3, 1, 3, 3] * 2  # class 1 has its other view only
        total += positives
    assert total[0].tolist() == pytest.approx([0, 0, 150, 150, 300, 0, 150, 150], abs=40)
    everyone = chosen(labels, anchor, candidate, 6)
    assert torch.equal(everyone.bool(), (labels[:, None] == labels) & ~torch.eye(8, dtype=torch.bool))  # SupCon's


@pytest.mark.parametrize(("classes", "dimensions"), [(2, 1), (3, 5), (100, 128), (100, 99)])
def test_tsc_s_targets_are_a_simplex(classes, dimensions):
    targets = simplex(classes, dimensions).double()
    wanted = torch.full((classes, classes), -1 / (classes - 1), dtype=F64).fill_diagonal_(1)
    assert torch.allclose(targets @ targets.T, wanted, atol=1e-6)


def test_tsc_matches_its_targets_to_the_class_means_once_they_count(make):
    build, random_step = make
    method = build("tsc", start=0.5)
    step = random_step(method)
    batch = step.streams["instance"]
    assert method(step)["target"].item() == 0
    plain = build("kcl")(step)["contrast"].item()
    assert method(step)["contrast"].item() == pytest.approx(plain)  # points are not in the denominator yet
    method.before_epoch(4, 10, lambda view: iter([batch]))
    assert not method.aiming
    before = method.targets.clone()
    with torch.no_grad():
        method.before_epoch(5, 10, lambda view: iter([batch]))
    z = method.projector(method.backbone(batch.views[0]))
    means = F.normalize(torch.stack([z[batch.labels == c].sum(0) for c in range(3)]))
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    best = max(orders, key=lambda order: (means * before[list(order)]).sum().item())
    assert torch.equal(method.targets, before[list(best)])
    terms = method(step)
    assert terms["target"].item() > 0
    assert terms["contrast"].item() > plain


def test_a_queue_replaces_the_oldest():
    queue = Queue(5, 1)
    for first in (0, 3, 6):
        queue.put(torch.arange(first, first + 3.0)[:, None], torch.arange(first, first + 3))
    assert queue.labels.tolist() == queue.entries.flatten().tolist() == [5, 6, 7, 8, 4]


def test_paco_s_second_encoder_begins_as_the_first_and_follows_it(make):
    build, random_step = make
    method = build("paco", keep=0.9)
    torch.nn.init.normal_(method.projector[0].weight)  # such as `model.heads` draws anew
    method.before_epoch(0, 2, None)
    assert torch.equal(method.slow["projector"][0].weight, method.projector[0].weight)
    method(random_step(method))
    before = method.slow["projector"][0].weight.clone()
    torch.nn.init.zeros_(method.projector[0].weight)
    method.after_step()
    assert torch.allclose(method.slow["projector"][0].weight, 0.9 * before)
    assert (method.queue.labels >= 0).sum() == 6


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_a_resumed_run_goes_on_with_the_same_bits(name, make):
    build, random_step = make

    def begin():
        method = build(name).train()
        trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
        return method, torch.optim.SGD(trained, lr=0.1, momentum=0.9)

    def steps(method, optimizer, seeds):
        for seed in seeds:
            optimizer.zero_grad()
            sum(method(random_step(method, seed=seed)).values()).backward()
            optimizer.step()
            method.after_step()

    whole, resumed = begin(), begin()
    steps(*whole, range(2))
    for one, other in zip(resumed, whole, strict=True):
        one.load_state_dict(copy.deepcopy(other.state_dict()))
    for each in (whole, resumed):
        steps(*each, range(2, 4))
    for (key, a), b in zip(whole[0].state_dict().items(), resumed[0].state_dict().values(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("ssd", {"contrast_weight": 0.0}, "contrast_weight must be above 0, not 0"),
        ("paco", {"queue": 54}, r"queue must lie in \[1, 53\], the number of training images, not 54"),
        ("kcl", {"positives": 79}, r"positives must lie in \[1, 78\], the views of other images in the largest class"),
        ("tsc", {"embedding": 1}, "embedding must be at least 2 for evenly spread targets of 3 classes, not 1"),
        ("gpaco", {"smoothing": 1.0}, r"smoothing must lie in \[0, 1\), not 1.0"),
        ("bcl", {"temperature": 0.0}, "temperature must be above 0, not 0.0"),
    ],
)
def test_what_is_impossible_is_said(name, settings, words, make):
    build, _ = make
    with pytest.raises(UserError, match=words):
        build(name, **settings)


@pytest.mark.parametrize("name", [name for name in CONTRASTIVE if name != "kcl"])  # which is in TSC
def test_it_learns_to_tell_digits_apart(name, make):
    """Fifty steps on twenty images each of three digits; most others are told apart then."""
    build, random_step = make
    digits = load_digits(n_class=3)
    images = torch.tensor(digits.images / 8 - 1, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1)
    of_class = [(torch.from_numpy(digits.target) == c).nonzero().flatten() for c in range(3)]
    rows, labels = torch.cat([where[:20] for where in of_class]), torch.arange(3).repeat_interleave(20)
    even = {"loss": {"name": "logit_adjusted", "tau": 0.0}, "temperature": 0.2}  # no prior; that of ImageNet-LT
    settings = {"tsc": {"start": 0.0}, "paco": even, "gpaco": even}
    method = build(name, **settings.get(name, {}))
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    with torch.no_grad():
        method.before_epoch(0, 1, lambda view: iter([Batch((images[rows],), labels, rows)]))
    for seed in range(50):
        shifts = [(seed % 3 - 1, (seed // 3 + view) % 3 - 1) for view in range(len(method.views))]
        views = tuple(images[rows].roll(shift, (2, 3)) for shift in shifts)
        step = random_step(method, batch=60, seed=seed)._replace(streams={"instance": Batch(views, labels, rows)})
        optimizer.zero_grad()
        sum(method(step).values()).backward()
        optimizer.step()
        method.after_step()
    others = torch.cat([where[-100:] for where in of_class])
    right = method.eval().predict(images[others]).argmax(1) == torch.arange(3).repeat_interleave(100)
    assert right.float().mean() > 0.6
