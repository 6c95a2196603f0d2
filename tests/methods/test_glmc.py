"""GLMC against the formulas of its documents, told slowly, and against each setting where text and code disagree."""

import math

import numpy as np
import pytest
import torch

from glmc.random import Draws

F64 = torch.float64


def pair(label_share="box", **settings):
    return {"name": "mixup_cutmix", "label_share": label_share, **settings}


def reference(method, step, *, gamma, alpha, box_label, two_nth):
    """L = alpha L_c + (1 - alpha) L_cb + gamma L_sim of one step, image by image, with loops for every sum.

    Du et al., CVPR 2023: p~ = lam p_i + (1 - lam) p_j; L_c = -1/2N sum(p~_g log f(x~_g) + p~_l log f(x~_l)),
    L_cb the same with weighted labels, L_sim = sim(u_g, sg(h_l)) + sim(u_l, sg(h_g)), sim the negative cosine.
    """
    head, tail, lam = step.streams["instance"], step.streams["rebalanced"], step.draws["lam"].item()
    batch, _, height, width = head.views[0].shape
    x_g = torch.stack([lam * a + (1 - lam) * b for a, b in zip(head.views[0], tail.views[0], strict=True)])
    x_l, half = head.views[1].clone(), math.ceil(height * math.sqrt(1 - lam)) // 2
    r_y, r_x = (math.floor(c * height) for c in step.draws["centre"].tolist())
    rows = range(max(0, r_y - half), min(height, r_y + half))
    columns = range(max(0, r_x - half), min(width, r_x + half))
    for y in rows:
        for x in columns:
            x_l[:, :, y, x] = tail.views[1][:, :, y, x]
    share = 1 - len(rows) * len(columns) / (height * width) if box_label else lam

    counts = [40, 10, 3]
    raw = [n**-1.2 for n in counts]
    weight = [w * len(raw) / sum(raw) for w in raw]
    outputs = []
    for x in (x_g, x_l):  # two passes, MixUp first
        h = method.backbone(x)
        z = method.projector(h)
        outputs.append((method.classifier(h), method.rebalanced(h), z, method.predictor(z)))
    l_c = l_cb = 0.0
    for (logits, logits_cb, _, _), s in zip(outputs, (lam, share), strict=True):
        for i in range(batch):
            log_f, log_cb = logits[i].log_softmax(0), logits_cb[i].log_softmax(0)
            for part, label in ((s, int(head.labels[i])), (1 - s, int(tail.labels[i]))):
                l_c = l_c - part * log_f[label]
                l_cb = l_cb - part * weight[label] * log_cb[label]
    divisor = 2 * batch if two_nth else batch
    (_, _, h_g, u_g), (_, _, h_l, u_l) = outputs
    l_sim = 0.0
    for u, h in ((u_g, h_l.detach()), (u_l, h_g.detach())):
        for i in range(batch):
            l_sim = l_sim - (u[i] @ h[i]) / (u[i].norm() * h[i].norm()) / batch
    return {
        "conventional": alpha * l_c / divisor,
        "rebalanced": (1 - alpha) * l_cb / divisor,
        "consistency": gamma * l_sim,
    }


@pytest.mark.parametrize("label_share", ["box", "drawn"])
@pytest.mark.parametrize("view_reduction", ["mean", "sum"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_terms_and_gradients_are_the_formulas(make, label_share, view_reduction, seed):
    build, random_step = make
    settings = {"contrast_weight": 10.0, "view_reduction": view_reduction, "mixture": pair(label_share)}
    ours, slow = build("glmc", F64, **settings), build("glmc", F64, **settings)
    step = random_step(ours, progress=0.4, seed=seed, dtype=F64)
    terms = ours(step)
    wanted = reference(
        slow, step, gamma=10.0, alpha=1 - 0.4**2, box_label=label_share == "box", two_nth=view_reduction == "mean"
    )
    for name, value in wanted.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-6), name  # class weights are kept in float32
    sum(terms.values()).backward()
    sum(wanted.values()).backward()
    for (name, a), (_, b) in zip(ours.named_parameters(), slow.named_parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-5, atol=1e-7), name
    for (name, a), (_, b) in zip(ours.named_buffers(), slow.named_buffers(), strict=True):
        assert torch.allclose(a.double(), b.double(), atol=1e-12), name  # running averages: MixUp first, then CutMix


def test_label_share_box_and_drawn_differ(make):
    build, random_step = make
    box, drawn = build("glmc", mixture=pair("box")), build("glmc", mixture=pair("drawn"))
    step = random_step(box)
    assert box(step)["conventional"].item() != drawn(step)["conventional"].item()


def test_sum_is_twice_the_mean_and_leaves_consistency_alone(make):
    build, random_step = make
    mean, total = build("glmc", view_reduction="mean"), build("glmc", view_reduction="sum")
    step = random_step(mean)
    a, b = mean(step), total(step)
    assert b["conventional"].item() == pytest.approx(2 * a["conventional"].item())
    assert b["rebalanced"].item() == pytest.approx(2 * a["rebalanced"].item())
    assert b["consistency"].item() == a["consistency"].item()


@pytest.mark.parametrize(("epoch", "alpha"), [(0, 1.0), (50, 0.9375), (100, 0.75), (150, 0.4375), (199, 0.009975)])
def test_alpha_over_the_published_run(make, epoch, alpha):
    build, random_step = make
    method = build("glmc", F64)
    at_start = method(random_step(method, progress=0.0, dtype=F64))["conventional"].item()
    now = method(random_step(method, progress=epoch / 200, dtype=F64))["conventional"].item()
    assert now / at_start == pytest.approx(alpha, rel=1e-6)


def test_mix_alpha_sets_the_distribution_of_lambda(make):
    build, _ = make
    epoch = {"epoch": 0, "epochs": 1, "steps": 4000, "batch": 2}
    flat = build("glmc", mixture=pair(alpha=1.0)).tables(Draws(0, "m"), **epoch)["lam"]
    steep = build("glmc", mixture=pair(alpha=0.2)).tables(Draws(0, "m"), **epoch)["lam"]
    assert np.var(flat) == pytest.approx(1 / 12, rel=0.05)
    assert np.var(steep) == pytest.approx(1 / (4 * 1.4), rel=0.05)  # Beta(a, a) has variance 1 / (4 (2a + 1))


def test_the_rebalanced_classifier_learns_nothing_in_the_first_epoch(make):
    """alpha = 1: only weight decay acts on it, so it stays a multiple of its start."""
    build, random_step = make
    method = build("glmc", F64)
    start = method.rebalanced.weight.detach().clone()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, weight_decay=0.1, momentum=0.9)
    for seed in range(3):
        optimizer.zero_grad()
        sum(method(random_step(method, progress=0.0, seed=seed, dtype=F64)).values()).backward()
        optimizer.step()
    ratio = method.rebalanced.weight / start
    assert (ratio - ratio.mean()).abs().max() < 1e-12
    assert ratio.mean() < 1


def test_without_consistency_and_re_weighting_it_is_mixup_plus_cutmix(make):
    """gamma = 0, alpha = 1: exactly the cross entropy of a MixUp and of a CutMix batch."""
    build, random_step = make
    method = build("glmc", F64, contrast_weight=0.0, view_reduction="sum")
    step = random_step(method, progress=0.0, dtype=F64)
    terms = method(step)
    assert terms["rebalanced"].item() == terms["consistency"].item() == 0


def test_the_second_stream_follows_the_mixture(make):
    build, _ = make
    assert build("glmc", mixture=pair(sampling=0.2)).streams == {"instance": None, "rebalanced": 0.2}


def test_prediction_is_the_rebalanced_classifier(make):
    build, _ = make
    method = build("glmc").eval()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(method.predict(images), method.rebalanced(method.backbone(images)))


def test_balanced_softmax_in_place_of_class_weights(make):
    """The first reading of GLMC + BS: log n_c on the rebalanced logits, unweighted mixed labels, both views."""
    build, random_step = make
    method = build("glmc", F64, loss="balanced_softmax", mixture=pair("drawn"), view_reduction="mean")
    step = random_step(method, progress=1.0, dtype=F64)
    twin = build("glmc", F64, loss="cross_entropy", mixture=pair("drawn"), view_reduction="mean")
    with torch.no_grad():
        twin.rebalanced.bias += torch.tensor([40.0, 10.0, 3.0], dtype=F64).log()  # the prior, put into the bias
    assert method(step)["rebalanced"].item() == pytest.approx(twin(step)["rebalanced"].item(), rel=1e-6)


def test_without_mixtures_it_sees_the_images_themselves(make):
    build, random_step = make
    method = build("glmc", F64, mixture="none", contrast_weight=0.0, view_reduction="sum")
    step = random_step(method, progress=0.0, dtype=F64)
    head = step.streams["instance"]
    logits = [method.classifier(method.backbone(view)) for view in head.views]
    wanted = sum(torch.nn.functional.cross_entropy(each, head.labels) for each in logits)
    assert method(step)["conventional"].item() == pytest.approx(wanted.item(), rel=1e-9)


def test_without_rebalancing_the_conventional_classifier_learns_alone_and_answers(make):
    build, random_step = make
    method = build("glmc", rebalance=False)
    assert method(random_step(method, progress=0.9))["rebalanced"].item() == 0
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(method.eval().predict(images), method.classifier(method.backbone(images)))
