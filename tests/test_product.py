"""Every two of a method, a loss and a mixture that go together take a step; what does not is refused in a sentence."""

from itertools import product

import pytest
import torch

from glmc.errors import UserError
from glmc.losses import LOSSES
from glmc.losses.base import Loss
from glmc.methods import METHODS
from glmc.mixtures import MIXTURES
from methods.conftest import build, fits, random_step

PAIRS = [
    *product(METHODS, LOSSES, ["mixup"]), *product(METHODS, ["cross_entropy"], MIXTURES),
    *product(["supervised"], LOSSES, MIXTURES), *product(["bcl", "bbn"], LOSSES, ["none"]),
    *product(["paco", "gpaco"], ["logit_adjusted", "balanced_softmax"], ["none"]),
]  # fmt: skip
REFUSED = {  # a bound on the rows of a linear classifier, and a loss of cosines; those that take a prior alone
    ("maxnorm", "ldam"), ("paco", "cross_entropy"), ("gpaco", "cross_entropy"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "loss", "mixture"),
    [case for case in dict.fromkeys(PAIRS) if case[:2] not in REFUSED and fits(*case[::2])],
)
def test_one_step_is_finite_and_reaches_every_parameter(method, loss, mixture):
    one = build(method, loss=loss, mixture=mixture)
    terms = one(random_step(one, batch=5))
    sum(terms.values()).backward()
    assert all(term.ndim == 0 and term.isfinite() for term in terms.values())
    unreached = [n for n, p in one.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not unreached


@pytest.mark.parametrize("loss", LOSSES)
def test_glmc_takes_any_loss_in_its_conventional_head_too(loss):
    one = build("glmc", conventional={"name": loss})
    terms = one(random_step(one))
    terms["conventional"].backward()
    assert one.classifier.weight.grad.any()


def test_a_bound_on_rows_needs_a_linear_classifier():
    with pytest.raises(UserError, match="MaxNorm needs a linear classifier, and LDAM has another"):
        build("maxnorm", loss="ldam")


class LabelsOnly(Loss):
    """Says that it takes no distributions."""

    mixed = False


def test_what_does_not_go_together_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setitem(LOSSES, "labels_only", f"{__name__}:LabelsOnly")
    with pytest.raises(UserError, match="the loss LabelsOnly takes labels, and MixUp mixes them"):
        build("supervised", loss="labels_only", mixture="mixup")
    assert build("supervised", loss="labels_only", mixture="none")
    with pytest.raises(UserError, match="KCL takes images as they are"):
        build("kcl", mixture="mixup")
    with pytest.raises(UserError, match="BCL classifies a single view: MixUpCutMix wants 2"):
        build("bcl", mixture="mixup_cutmix")
    with pytest.raises(UserError, match="GPaCo has one softmax over centres and embeddings"):
        build("gpaco", loss="cross_entropy")


def test_a_loss_for_labels_is_refused_in_glmc_s_conventional_head_too(monkeypatch):
    monkeypatch.setitem(LOSSES, "labels_only", f"{__name__}:LabelsOnly")
    with pytest.raises(UserError, match="the loss LabelsOnly takes labels, and MixUpCutMix mixes them"):
        build("glmc", conventional={"name": "labels_only"})


@pytest.mark.parametrize("mixture", ["mixup", "cutmix"])
def test_partners_come_from_the_batch_or_from_a_second_stream(mixture):
    within = build("supervised", mixture=mixture)
    assert within.streams == {"instance": None}
    beside = build("supervised", mixture={"name": mixture, "sampling": 1.0})
    assert beside.streams == {"instance": None, "rebalanced": 1.0}


def test_the_prior_of_the_logits_follows_from_the_factors():
    assert build("supervised").prior == "training"
    assert build("supervised", sampling=1.0).prior == "uniform"
    assert build("supervised", loss="logit_adjusted").prior == "uniform"
    assert build("supervised", loss={"name": "logit_adjusted", "tau": 0.0}).prior == "training"
    assert build("glmc").prior == "uniform"
    assert build("glmc", rebalance=False).prior == "training"


def test_a_last_batch_is_mixed_within_itself():
    one = build("supervised", mixture={"name": "mixup", "per_image": True})
    step = random_step(one, batch=6)
    small = step._replace(streams={"instance": step.streams["instance"]._replace(
        views=(step.streams["instance"].views[0][:4],), labels=step.streams["instance"].labels[:4]
    )})  # fmt: skip
    images, targets = one.mixture(small.streams["instance"], None, step.draws)
    assert images.shape == (4, 3, 8, 8)
    assert torch.allclose(targets.sum(1), torch.ones(4))
