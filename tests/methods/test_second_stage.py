"""Second stages: what they start from, what they train, what they leave alone."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from glmc.errors import UserError
from glmc.train.build import build_optimizer

STAGES = {  # method, its factors, what it starts from
    "maxnorm": ("maxnorm", {"loss": "softmax_bce"}, "all"),
    "crt": ("supervised", {"sampling": 1.0}, "backbone"),
    "lws": ("lws", {}, "all"),
    "mislas": ("lws", {"loss": "label_aware_smoothing", "classifier_rate": 0.2}, "all"),
    "balanced_softmax": ("supervised", {"loss": "balanced_softmax"}, "all"),
}


def begin(stage, first, build, statistics="frozen", **settings):
    name, factors, what = STAGES[stage]
    method = build(name, **factors, **settings)
    method.freeze_backbone(statistics)
    method.adopt(first, what)
    return method


def two_steps(method, random_step, learning_rate=0.1):
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=learning_rate)
    method.train()
    for seed in range(2):
        optimizer.zero_grad()
        sum(method(random_step(method, seed=seed)).values()).backward()
        optimizer.step()
    method.after_epoch()


@pytest.fixture
def first(make):
    build, random_step = make
    trained = build("glmc")
    trained(random_step(trained))  # moves the running averages
    return trained


@pytest.mark.parametrize("name", STAGES)
def test_it_starts_where_stage_one_ended_and_leaves_the_backbone_alone(name, first, make):
    build, random_step = make
    method = begin(name, first, build)
    images = torch.randn(4, 3, 8, 8)
    same = torch.equal(method.eval().predict(images), first.eval().predict(images))
    assert same == (name != "crt")  # cRT alone forgets the classifier
    before = {key: value.clone() for key, value in method.backbone.state_dict().items()}
    classifier = method.classifier.weight.clone()
    two_steps(method, random_step)
    assert all(torch.equal(value, before[key]) for key, value in method.backbone.state_dict().items())
    assert torch.equal(method.classifier.weight, classifier) == (name == "lws")  # LWS learns scales only


def test_drifting_batch_norm_follows_the_batches_but_no_weight_moves(first, make):
    build, random_step = make
    method = begin("maxnorm", first, build, statistics="drifting")
    before = {key: value.clone() for key, value in method.backbone.state_dict().items()}
    two_steps(method, random_step)
    moved = {key for key, value in method.backbone.state_dict().items() if not torch.equal(value, before[key])}
    assert moved
    assert all("running" in key or "num_batches" in key for key in moved)


def test_max_norm_fixes_its_bound_at_stage_one_and_holds_it(first, make):
    build, random_step = make
    with torch.no_grad():
        first.rebalanced.weight.mul_(torch.tensor([[3.0], [1.0], [0.5]]))
    norms = first.rebalanced.weight.norm(dim=1)
    method = begin("maxnorm", first, build, threshold=0.1)
    assert method.limit.item() == pytest.approx((norms.min() + 0.1 * (norms.max() - norms.min())).item())
    two_steps(method, random_step)
    assert (method.classifier.weight.norm(dim=1) <= method.limit * (1 + 1e-6)).all()


def test_what_cannot_be_taken_over_is_said(first, make):
    build, _ = make
    with pytest.raises(ValueError, match="GLMC cannot start from a classifier: set starts_from=backbone"):
        build("glmc").adopt(first, "all")
    build("glmc").adopt(first, "backbone")


@pytest.mark.parametrize("stage", ["lws", "mislas"])
def test_lws_scales_the_biased_output(stage, first, make):
    build, _ = make
    method = begin(stage, first, build)
    with torch.no_grad():
        method.scale.copy_(torch.tensor([1.0, 2.0, 0.5]))
    images = torch.randn(2, 3, 8, 8)
    logits = method.eval().predict(images)
    assert torch.allclose(logits, first.eval().predict(images) * torch.tensor([1.0, 2.0, 0.5]))
    head = method.head()  # the scales are in the classifier that others go on from
    assert torch.allclose(head(method.backbone(images)), logits, atol=1e-6)
    assert torch.allclose(method.predict(images), logits, atol=1e-6)


def test_a_classifier_that_learns_more_slowly_has_a_group_of_its_own(first, make):
    build, _ = make
    optim = SimpleNamespace(name="sgd", lr=0.1, backbone_lr=None, momentum=0.0, nesterov=False, weight_decay=0.0)
    method = begin("mislas", first, build)
    groups = build_optimizer(method, SimpleNamespace(optim=optim)).param_groups
    assert [(group["name"], len(group["params"])) for group in groups] == [("classifier", 2), ("heads", 1)]
    assert method.rates(0.3) == {"classifier": 0.2}
    groups = build_optimizer(begin("lws", first, build), SimpleNamespace(optim=optim)).param_groups
    assert [(group["name"], len(group["params"])) for group in groups] == [("heads", 1)]
    with pytest.raises(UserError, match="classifier_rate must be at least 0, not -1"):
        build("lws", classifier_rate=-1.0)


def test_distillation_imitates_a_teacher_that_never_changes_and_starts_anew(first, make):
    build, random_step = make
    student = build("distillation", weight=0.5, temperature=2.0)
    fresh = {key: value.clone() for key, value in student.state_dict().items() if not key.startswith("teacher")}
    student.adopt(first, "all")
    assert all(torch.equal(value, student.state_dict()[key]) for key, value in fresh.items())
    images = torch.randn(4, 3, 8, 8)
    student.train()
    teacher = student.teacher["classifier"](student.teacher["backbone"](images))
    assert torch.equal(teacher, first.eval().predict(images))
    before = {key: value.clone() for key, value in student.teacher.state_dict().items()}
    two_steps(student, random_step)
    assert all(torch.equal(value, before[key]) for key, value in student.teacher.state_dict().items())
    batch = random_step(student, seed=5)
    images, labels, _ = batch.streams["instance"]
    terms, features = student(batch), student.backbone(images[0])
    p, q = ((logits / 2).softmax(1) for logits in (first.predict(images[0]), student.soft(features)))
    wanted = sum((a * (a / b).log()).sum() for a, b in zip(p, q, strict=True)) / len(p)  # KL, one image at a time
    assert terms["distillation"].item() == pytest.approx(0.5 * 4 * wanted.item(), rel=1e-4)
    assert terms["loss"].item() == pytest.approx(F.cross_entropy(student.classifier(features), labels).item())


def test_a_teacher_needs_one_classifier_for_the_frequencies_that_are_told(first, make):
    build, _ = make
    with pytest.raises(ValueError, match="BBN has no linear classifier, which a teacher needs"):
        build("distillation").adopt(build("bbn"), "all")
    plain = build("supervised")
    with pytest.raises(ValueError, match=r"suit other class frequencies: set method.teacher_prior=training"):
        build("distillation").adopt(plain, "all")
    build("distillation", teacher_prior="training").adopt(plain, "all")
    with pytest.raises(UserError, match="temperature must be above 0, not 0"):
        build("distillation", temperature=0.0)
